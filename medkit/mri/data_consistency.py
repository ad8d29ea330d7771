"""Data consistency: pull an estimate back to what was measured, hard, soft or by conjugate gradients.

The measurement enters as the zero-filled image :math:`x_0 = A^H y` alone, so that no k-space has to travel with a
sample. Source: Schlemper et al. 2018, doi:10.1109/TMI.2017.2760978 (hard, soft); Aggarwal et al. 2019,
doi:10.1109/TMI.2018.2865356 (conjugate gradients).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from medkit.mri.conjugation import solve_hermitian
from medkit.mri.physics import sense_normal


def _check(name: str, image: Tensor, zero_filled: Tensor) -> None:
    if image.shape != zero_filled.shape or not (image.is_complex() and zero_filled.is_complex()):
        raise ValueError(
            f"{name}: 'image' and 'zero_filled' must be complex and of one shape (B, 1, H, W), got "
            f"{image.dtype} {tuple(image.shape)} and {zero_filled.dtype} {tuple(zero_filled.shape)}"
        )


def soft_data_consistency(
    image: Tensor,
    zero_filled: Tensor,
    mask: Tensor,
    sens_maps: Tensor | None = None,
    noise_weight: Tensor | float = 0.0,
    spatial_dims: int = 2,
) -> Tensor:
    r"""Move an estimate towards the measured samples, the less the noisier they are.

    .. math:: \hat x = x - \frac{A^H A x - x_0}{1 + \nu}

    With one coil the sampled points become :math:`(y + \nu F x) / (1 + \nu)` and the others stay; :math:`\nu = 0`
    replaces them. With several coils it is one gradient step of length :math:`1 / (1 + \nu)`, which never diverges
    while :math:`\sum_c |S_c|^2 \le 1`.

    Args:
        image: current estimate, complex, ``(B, 1, H, W)``.
        zero_filled: :math:`A^H y`, complex, ``(B, 1, H, W)``, same unit.
        mask: bool, broadcastable to ``(B, 1, H, W)``, true where sampled, centred.
        sens_maps: complex ``(B, coil, H, W)``; ``None``: one uniform coil.
        noise_weight: :math:`\nu \ge 0`, scalar.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Returns:
        New estimate, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if the shapes do not fit together or a plain ``noise_weight`` is negative.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> everything = torch.ones(1, 1, 1, 4, dtype=torch.bool)
        >>> torch.allclose(soft_data_consistency(torch.zeros_like(x0), x0, everything), x0)
        True
    """
    _check("soft_data_consistency", image, zero_filled)
    if not isinstance(noise_weight, Tensor) and noise_weight < 0:
        raise ValueError(f"soft_data_consistency: 'noise_weight' must be at least 0, got {noise_weight}")
    return image - (sense_normal(image, mask, sens_maps, spatial_dims) - zero_filled) / (1 + noise_weight)


def hard_data_consistency(
    image: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None, spatial_dims: int = 2
) -> Tensor:
    r"""Put the measured samples back: :math:`\hat x = x - (A^H A x - x_0)`, exact for one coil.

    Args:
        image: current estimate, complex, ``(B, 1, H, W)``.
        zero_filled: :math:`A^H y`, complex, ``(B, 1, H, W)``.
        mask: bool, broadcastable to ``(B, 1, H, W)``, centred.
        sens_maps: complex ``(B, coil, H, W)``; ``None``: one uniform coil.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Returns:
        New estimate, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if the shapes do not fit together.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> hard_data_consistency(x0, x0, torch.ones(1, 1, 1, 4, dtype=torch.bool)).shape
        torch.Size([1, 1, 4, 4])
    """
    return soft_data_consistency(image, zero_filled, mask, sens_maps, 0.0, spatial_dims)


def conjugate_gradient_data_consistency(
    image: Tensor,
    zero_filled: Tensor,
    mask: Tensor,
    sens_maps: Tensor | None = None,
    weight: Tensor | float = 0.05,
    n_iterations: int = 10,
    spatial_dims: int = 2,
) -> Tensor:
    r"""Balance the data against an estimate exactly, by conjugate gradients from that estimate.

    .. math:: (A^H A + \nu) \, \hat x = x_0 + \nu \, x

    With a zero ``image`` and a small ``weight`` this is CG-SENSE. Differentiable through all iterations.

    Args:
        image: estimate :math:`x` to stay near, complex, ``(B, 1, H, W)``.
        zero_filled: :math:`x_0 = A^H y`, complex, ``(B, 1, H, W)``.
        mask: bool, broadcastable to ``(B, 1, H, W)``, centred.
        sens_maps: complex ``(B, coil, H, W)``; ``None``: one uniform coil.
        weight: :math:`\nu \ge 0`, scalar; 0 solves for the data alone.
        n_iterations: number of steps, at least 1.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Returns:
        Solution, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if the shapes do not fit together, ``n_iterations < 1`` or a plain ``weight`` is negative.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> everything = torch.ones(1, 1, 1, 4, dtype=torch.bool)
        >>> conjugate_gradient_data_consistency(torch.zeros_like(x0), x0, everything, weight=1.0)[0, 0, 0, 0]
        tensor(0.5000+0.j)
    """
    name = "conjugate_gradient_data_consistency"
    _check(name, image, zero_filled)
    if n_iterations < 1:
        raise ValueError(f"{name}: 'n_iterations' must be at least 1, got {n_iterations}")
    if not isinstance(weight, Tensor) and weight < 0:
        raise ValueError(f"{name}: 'weight' must be at least 0, got {weight}")
    # From x = image the term nu * x cancels in the first residual.
    residual = zero_filled - sense_normal(image, mask, sens_maps, spatial_dims)

    def system(direction: Tensor) -> Tensor:
        return sense_normal(direction, mask, sens_maps, spatial_dims) + weight * direction

    return solve_hermitian(system, image, residual, n_iterations)


def _positive_parameter(name: str, argument: str, initial: float, learned: bool) -> nn.Parameter:
    """Return the free parameter whose softplus is ``initial``."""
    if not 0 < initial < math.inf:
        raise ValueError(f"{name}: '{argument}' must be positive and finite, got {initial}")
    return nn.Parameter(torch.tensor(initial + math.log(-math.expm1(-initial))), requires_grad=learned)


class HardDataConsistency(nn.Module):
    """Module over :func:`hard_data_consistency`; holds no parameter.

    Args:
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> HardDataConsistency()(x0, x0, torch.ones(1, 1, 1, 4, dtype=torch.bool)).shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, spatial_dims: int = 2):
        super().__init__()
        self.spatial_dims = spatial_dims

    def forward(self, image: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Complex ``(B, 1, H, W)`` in, complex ``(B, 1, H, W)`` out; see :func:`hard_data_consistency`."""
        return hard_data_consistency(image, zero_filled, mask, sens_maps, self.spatial_dims)


class SoftDataConsistency(nn.Module):
    """Module over :func:`soft_data_consistency` with a noise weight that stays positive while it is learned.

    Args:
        noise_weight: initial value, greater than 0; for 0 use :class:`HardDataConsistency`.
        learned: whether training changes it.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Raises:
        ValueError: if ``noise_weight`` is not positive.

    Example:
        >>> round(SoftDataConsistency(0.1).noise_weight.item(), 3)
        0.1
    """

    def __init__(self, noise_weight: float = 0.1, learned: bool = True, spatial_dims: int = 2):
        super().__init__()
        self.raw_weight = _positive_parameter("SoftDataConsistency", "noise_weight", noise_weight, learned)
        self.spatial_dims = spatial_dims

    @property
    def noise_weight(self) -> Tensor:
        """Current weight, a positive 0-dim tensor."""
        return softplus(self.raw_weight)

    def forward(self, image: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Complex ``(B, 1, H, W)`` in, complex ``(B, 1, H, W)`` out; see :func:`soft_data_consistency`."""
        return soft_data_consistency(image, zero_filled, mask, sens_maps, self.noise_weight, self.spatial_dims)


class ConjugateGradientDataConsistency(nn.Module):
    """Module over :func:`conjugate_gradient_data_consistency` with a weight that stays positive while it is learned.

    Args:
        n_iterations: number of conjugate-gradient steps, at least 1.
        weight: initial value, greater than 0.
        learned: whether training changes it.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Raises:
        ValueError: if ``weight`` is not positive or ``n_iterations < 1``.

    Example:
        >>> sum(p.numel() for p in ConjugateGradientDataConsistency(n_iterations=5).parameters())
        1
    """

    def __init__(self, n_iterations: int = 10, weight: float = 0.05, learned: bool = True, spatial_dims: int = 2):
        super().__init__()
        if n_iterations < 1:
            raise ValueError(f"ConjugateGradientDataConsistency: 'n_iterations' must be >= 1, got {n_iterations}")
        self.n_iterations = n_iterations
        self.raw_weight = _positive_parameter("ConjugateGradientDataConsistency", "weight", weight, learned)
        self.spatial_dims = spatial_dims

    @property
    def weight(self) -> Tensor:
        """Current weight, a positive 0-dim tensor."""
        return softplus(self.raw_weight)

    def forward(self, image: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Complex ``(B, 1, H, W)`` in and out; see :func:`conjugate_gradient_data_consistency`."""
        return conjugate_gradient_data_consistency(
            image, zero_filled, mask, sens_maps, self.weight, self.n_iterations, self.spatial_dims
        )
