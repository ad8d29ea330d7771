"""Gaussians with diagonal covariance, predicted from pooled features, and their divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medkit.distill.adapters import resized
from medkit.distill.voxels import or_one

# Of log variances: beyond it, variances under- and overflow 16-bit numbers, and the divergence has no bound.
LOG_VARIANCE_BOUND = 6.0


def gaussian_divergence(
    student_mean: Tensor, student_log_variance: Tensor, teacher_mean: Tensor, teacher_log_variance: Tensor
) -> Tensor:
    r"""Divergence of the teacher's Gaussian from the student's, the mean over the dimensions.

    .. math:: KL(N_t \| N_s) = \frac{1}{2 d} \sum_d \log\frac{\sigma_s^2}{\sigma_t^2}
        + \frac{\sigma_t^2 + (\mu_t - \mu_s)^2}{\sigma_s^2} - 1

    Args:
        student_mean: ``(N, d)``.
        student_log_variance: ``(N, d)``.
        teacher_mean: ``(N, d)``.
        teacher_log_variance: ``(N, d)``.

    Returns:
        ``(N,)``, at least 0; gradient to all four.
    """
    difference = teacher_log_variance - student_log_variance
    square = (teacher_mean - student_mean).square() * (-student_log_variance).exp()
    return (difference.exp() - 1 - difference + square).mean(1) / 2


def pooled_regions(feature: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a map in each region.

    Args:
        feature: ``(B, C, *S)``; or a vector ``(B, C)``, which is its own mean.
        regions: membership in [0, 1], ``(B, K, *R)``, brought to the map's grid by means over areas; or ``(B, K)``, of
            whole samples.

    Returns:
        Means ``(B, K, C)``, 0 where a region is empty, and whether a region has any place, ``(B, K)``, 0 or 1.
    """
    feature_rows = feature.reshape(*feature.shape[:2], -1)
    if regions.ndim > 2 and feature.ndim > 2:
        weights = resized(regions, feature.shape[2:]).flatten(2)
    else:
        weights = regions.reshape(*regions.shape[:2], -1).amax(2, keepdim=True).expand(-1, -1, feature_rows.shape[2])
    total = weights.sum(2)
    means = torch.einsum("bcs,bks->bkc", feature_rows, weights) / or_one(total)[..., None]
    return means, (total > 0).to(feature)


class DistributionHead(nn.Module):
    """From a feature vector the mean and the log variance of a Gaussian with diagonal covariance.

    Args:
        channels: of the vector.
        dim: of the Gaussian.

    Example:
        >>> mean, log_variance = DistributionHead(8, 4)(torch.rand(2, 8))
        >>> mean.shape
        torch.Size([2, 4])
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(channels, dim)
        self.log_variance = nn.Linear(channels, dim)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            feature: ``(..., channels)``.

        Returns:
            Mean and log variance, ``(..., dim)``; the latter within ±6.
        """
        bounded = self.log_variance(feature).clamp(-LOG_VARIANCE_BOUND, LOG_VARIANCE_BOUND)
        return self.mean(feature), bounded
