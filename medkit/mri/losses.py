"""The contrastive reconstruction loss: near the reference, and nearer to it than to the zero-filled image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from medkit.mri.channels import channels_to_magnitude, check_target
from medkit.mri.features import FeatureExtractor, GradientFeatures
from medkit.ops import center_crop

FORMS = ("ratio", "bounded")
# Floor of denominators, in units of features of images scaled to 1: decides only where reference or image is empty.
_FLOOR = 1e-5


def _structural_similarity(x: Tensor, y: Tensor, window: int = 7) -> Tensor:
    """SSIM of images (B, 1, H, W) with data range 1 and a uniform window, (B,); sample covariance as fastMRI's."""
    mean_x, mean_y = avg_pool2d(x, window, 1), avg_pool2d(y, window, 1)
    unbias = window**2 / (window**2 - 1)
    var_x = unbias * (avg_pool2d(x * x, window, 1) - mean_x * mean_x)
    var_y = unbias * (avg_pool2d(y * y, window, 1) - mean_y * mean_y)
    cov = unbias * (avg_pool2d(x * y, window, 1) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    return (ssim / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


def _mean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of each sample, (B,)."""
    return (a - b).abs().flatten(1).mean(1)


class ContrastiveReconstructionLoss(nn.Module):
    r"""L1 to the reference plus a contrastive regulariser: pulled to the reference, pushed from the undersampled image.

    .. math:: L = |\hat x - x^*|_1 + \beta \sum_i w_i \, r_i + \lambda \, (1 - SSIM), \qquad
        a_i = |\phi_i(\hat x) - \phi_i(x^*)|_1, \quad n_i = |\phi_i(\hat x) - \phi_i(x_0)|_1

    with :math:`r_i = a_i / (n_i + \epsilon_i)` (``"ratio"``) or :math:`a_i / (a_i + n_i + \epsilon_i)`
    (``"bounded"``, between 0 and 1), means over the features of each sample, averaged over samples.
    :math:`\epsilon_i` is a thousandth of the mean of :math:`|\phi_i(x^*)|`. Features see magnitudes, divided by the
    largest of the reference. The bounded form is divided by the sum of the weights.

    Source: the form of the ratio, AECR-Net (Wu et al., CVPR 2021, doi:10.1109/CVPR46437.2021.01041); the pairing of
    reference and undersampled image, CLGNet (arXiv 2111.15200), whose formula could not be read.

    Differs: each decision is ours.
        - :math:`\epsilon` follows the reference instead of 1e-7: an untrained network returns :math:`x_0`, where the
          ratio would be without bound; :math:`\beta` grows linearly over ``warmup_steps`` for the same reason.
        - Distances and ratios of each sample, instead of one ratio of the batch, since samples of another acceleration
          lie at another distance.
        - Reference and zero-filled image pass no gradient; no further negatives are kept.

    Checked: by the laws in ``tests/mri/test_losses.py``.

    Calls that need a gradient of ``pred`` count as steps of the warm-up. The count is a buffer, so a loss that is saved
    with a checkpoint resumes where it was.

    Args:
        beta: :math:`\beta`, final weight of the regulariser; 0 leaves plain L1.
        form: ``"ratio"`` or ``"bounded"``.
        warmup_steps: steps over which :math:`\beta` grows from 0; a tenth of the training is a good value.
        features: :math:`\phi` with its weights :math:`w_i`; default :class:`GradientFeatures`, which needs no file.
        ssim_weight: :math:`\lambda`, weight of the SSIM term (uniform window 7, data range: largest of the reference).
        crop_size: height and width in pixels about the centre to which images are cropped first; ``None``: whole
            images.
        target: ``"sense"``: Re and Im are compared with those of the reference; ``"rss"``: magnitudes, since a root
            sum of squares has no phase.

    Attributes:
        parts: of the last call, detached: ``l1``, ``contrast``, ``ssim_loss`` and ``beta`` (0-dim), ``d_ap`` and
            ``d_an`` (one value for each level: :math:`a_i`, :math:`n_i`, averaged over samples).

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> loss = ContrastiveReconstructionLoss(warmup_steps=100)
        >>> loss(torch.rand(1, 2, 32, 32), torch.rand(1, 4, 32, 32)).shape
        torch.Size([])
    """

    n_steps: Tensor

    def __init__(
        self,
        beta: float = 0.1,
        form: str = "ratio",
        warmup_steps: int = 0,
        features: FeatureExtractor | None = None,
        ssim_weight: float = 0.0,
        crop_size: Sequence[int] | None = None,
        target: str = "sense",
    ):
        super().__init__()
        name = "ContrastiveReconstructionLoss"
        check_target(name, target)
        if beta < 0 or ssim_weight < 0:
            raise ValueError(f"{name}: 'beta' and 'ssim_weight' must be at least 0, got {beta} and {ssim_weight}")
        if form not in FORMS:
            raise ValueError(f"{name}: 'form' must be one of {FORMS}, got {form!r}")
        if warmup_steps < 0:
            raise ValueError(f"{name}: 'warmup_steps' must be at least 0, got {warmup_steps}")
        self.beta = float(beta)
        self.form = form
        self.warmup_steps = warmup_steps
        self.features = GradientFeatures() if features is None else features
        self.ssim_weight = float(ssim_weight)
        self.crop_size = None if crop_size is None else tuple(crop_size)
        self.is_rss = target == "rss"
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.int64))
        self.parts: dict[str, Tensor] = {}

    @property
    def current_beta(self) -> Tensor:
        """Weight of the regulariser in the next call, 0-dim; a tensor, so that a GPU is not waited for."""
        return self.beta * (self.n_steps / max(self.warmup_steps, 1)).clamp(int(self.warmup_steps == 0), 1)

    def set_step(self, n_steps: int) -> None:
        """Say how many training steps were done, for instance from ``engine.state.iteration``.

        Args:
            n_steps: number of steps, at least 0.

        Raises:
            ValueError: if ``n_steps`` is negative.
        """
        if n_steps < 0:
            raise ValueError(f"ContrastiveReconstructionLoss.set_step: 'n_steps' must be at least 0, got {n_steps}")
        self.n_steps.fill_(n_steps)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            pred: reconstruction, real, ``(B, 2, H, W)``: Re and Im, bright tissue near 1.
            target: real, ``(B, 4, H, W)``: Re and Im of the reference, then of the zero-filled image.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        if pred.ndim != 4 or pred.shape[1] != 2 or target.shape != (pred.shape[0], 4, *pred.shape[2:]):
            raise ValueError(
                "ContrastiveReconstructionLoss: 'pred' must be (B, 2, H, W) and 'target' (B, 4, H, W), "
                f"got {tuple(pred.shape)} and {tuple(target.shape)}"
            )
        if self.crop_size is not None:
            pred, target = center_crop(pred, self.crop_size), center_crop(target, self.crop_size)
        with torch.autocast(pred.device.type, enabled=False):
            return self._loss(pred.float(), target.detach().float())

    def _loss(self, pred: Tensor, target: Tensor) -> Tensor:
        reference, zero_filled = target[:, :2], target[:, 2:]
        # The small number keeps the gradient of the magnitude finite where the image is 0.
        images = [channels_to_magnitude(x, epsilon=1e-12) for x in (pred, reference, zero_filled)]
        loss = (images[0] - images[1] if self.is_rss else pred - reference).abs().mean()
        parts = {"l1": loss}
        beta = self.current_beta
        if self.beta > 0 or self.ssim_weight > 0:
            peak = images[1].amax((1, 2, 3), keepdim=True).clamp(min=1e-3)
            anchor, positive, negative = (image / peak for image in images)
            if self.beta > 0:
                parts["contrast"], parts["d_ap"], parts["d_an"] = self._contrast(anchor, positive, negative)
                loss = loss + beta * parts["contrast"]
            if self.ssim_weight > 0:
                parts["ssim_loss"] = (1 - _structural_similarity(anchor, positive)).mean()
                loss = loss + self.ssim_weight * parts["ssim_loss"]
        self.parts = {key: value.detach() for key, value in parts.items()}
        self.parts["beta"] = beta
        if pred.requires_grad:
            self.n_steps += 1
        return loss

    def _contrast(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Regulariser (0-dim), and the distances to the positive and to the negative, (level,) each."""
        with torch.no_grad():
            fixed = [f.chunk(2) for f in self.features(torch.cat([positive, negative]))]
        terms, to_positive, to_negative = [], [], []
        for weight, own, (pos, neg) in zip(self.features.level_weights, self.features(anchor), fixed, strict=True):
            d_ap, d_an = _mean_distance(own, pos), _mean_distance(own, neg)
            epsilon = (1e-3 * pos.abs().flatten(1).mean(1)).clamp(min=_FLOOR)
            denominator = d_an + epsilon if self.form == "ratio" else d_ap + d_an + epsilon
            terms.append(weight * (d_ap / denominator).mean())
            to_positive.append(d_ap.mean())
            to_negative.append(d_an.mean())
        regulariser = torch.stack(terms).sum()
        if self.form == "bounded":
            regulariser = regulariser / sum(self.features.level_weights)
        return regulariser, torch.stack(to_positive), torch.stack(to_negative)
