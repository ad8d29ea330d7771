"""Losses that need no clean image: Stein's unbiased risk estimate, and the error at blind spots."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SteinLoss(nn.Module):
    r"""Stein's unbiased risk estimate: the mean squared error to the clean image, without the clean image.

    .. math:: \frac 1 N \|f(y) - y\|^2 - \frac 1 N \sum_i \sigma_i^2
        + \frac 2 N \sum_i \sigma_i^2 \frac{\partial f_i}{\partial y_i}

    Its expectation over white Gaussian noise of known standard deviation is the mean squared error. The divergence is
    estimated with one more pass, :math:`\sum_i \sigma_i b_i (f(y + \epsilon \sigma b) - f(y))_i / \epsilon`, where b is
    -1 or 1 at random from torch's own generator. The value may be negative: it is an estimate.

    Source: Ramani, Blu, Unser, IEEE Transactions on Image Processing 2008, doi:10.1109/TIP.2008.2001404; for networks,
    Soltanayev and Chun, NeurIPS 2018. MONAI's ``SURELoss`` multiplies data term and divergence and knows no sigma, so
    that its expectation is not the error.

    Differs: b has two values instead of a normal distribution, which lowers the variance; sigma may be a map.

    Checked: against closed forms of linear denoisers, in ``tests/denoise/test_losses.py``.

    Args:
        network: the denoiser in training; it is called, not held: its parameters do not become the loss's.
        sigma: standard deviation in units of the image; ``None``: the last channel of ``target`` is a map of it.
        noise_map: whether the network takes that map as its last channel.
        epsilon: size of the step in units of sigma.

    Raises:
        ValueError: if a number is not positive, or ``noise_map`` with a fixed sigma.

    Example:
        >>> half = torch.nn.Conv2d(1, 1, 1)
        >>> noisy = torch.randn(1, 1, 8, 8)
        >>> SteinLoss(half, sigma=1.0)(half(noisy), noisy).shape
        torch.Size([])
    """

    def __init__(
        self, network: nn.Module, sigma: float | None = None, noise_map: bool = False, epsilon: float = 0.05
    ) -> None:
        super().__init__()
        if sigma is not None and not sigma > 0:
            raise ValueError(f"SteinLoss: 'sigma' must be positive, got {sigma}")
        if noise_map and sigma is not None:
            raise ValueError("SteinLoss: 'sigma' must be None with noise_map=True: the target has the map")
        if not epsilon > 0:
            raise ValueError(f"SteinLoss: 'epsilon' must be positive, got {epsilon}")
        self._network = (network,)  # in a tuple, so that it is no part of this module
        self.sigma, self.noise_map, self.epsilon = sigma, noise_map, epsilon

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Estimate the mean squared error.

        Args:
            pred: what the network made of the noisy image, ``(B, C, *S)``.
            target: the same noisy image, ``(B, C, *S)``; without a fixed sigma ``(B, C + 1, *S)``.

        Returns:
            Scalar, float32, square of the image's unit.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        n_channels = pred.shape[1]
        wanted = (pred.shape[0], n_channels + (self.sigma is None), *pred.shape[2:])
        if tuple(target.shape) != wanted:
            raise ValueError(
                f"SteinLoss: 'target' must be {wanted} for 'pred' {tuple(pred.shape)}"
                f"{', with a map of sigma at the end' if self.sigma is None else ''}, got {tuple(target.shape)}"
            )
        noisy = target[:, :n_channels].detach()
        sigma = target[:, n_channels:].detach() if self.sigma is None else torch.full_like(noisy[:, :1], self.sigma)
        step = sigma * (2 * torch.randint(0, 2, noisy.shape, device=noisy.device) - 1)
        moved = noisy + self.epsilon * step
        moved_pred = self._network[0](torch.cat([moved, sigma], 1) if self.noise_map else moved)
        with torch.autocast(pred.device.type, enabled=False):
            error = (pred.float() - noisy.float()).square().mean() - sigma.float().square().mean()
            return error + 2 * (step.float() * (moved_pred.float() - pred.float())).mean() / self.epsilon


class BlindSpotLoss(nn.Module):
    """Mean error at the pixels that :class:`BlindSpotd` hid.

    Args:
        norm: 2: mean squared error, whose best guess is the mean of what the pixel may be; 1: mean absolute error, the
            median, which differs from the mean where noise is skewed (Rician, few counts).

    Raises:
        ValueError: if ``norm`` is neither.
    """

    def __init__(self, norm: int = 2) -> None:
        super().__init__()
        if norm not in (1, 2):
            raise ValueError(f"BlindSpotLoss: 'norm' must be 1 or 2, got {norm}")
        self.norm = norm

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            pred: what the network made of the image with blind spots, ``(B, C, *S)``.
            target: ``(B, C + 1, *S)``: the noisy image, then 1 where it was hidden.

        Returns:
            Scalar, float32; 0 where nothing was hidden.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        n_channels = pred.shape[1]
        wanted = (pred.shape[0], n_channels + 1, *pred.shape[2:])
        if tuple(target.shape) != wanted:
            raise ValueError(
                f"BlindSpotLoss: 'target' must be {wanted}, the noisy image and the blind spots, for 'pred' "
                f"{tuple(pred.shape)}, got {tuple(target.shape)}"
            )
        mask = target[:, n_channels:].float()
        error = (pred.float() - target[:, :n_channels].float()).abs()
        error = error.square() if self.norm == 2 else error
        return (error * mask).sum() / (mask.sum() * n_channels).clamp(min=1)
