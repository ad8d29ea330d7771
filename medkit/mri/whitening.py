"""Noise prewhitening: mix coils such that their noise is independent and of one strength."""

import torch
from torch import Tensor

# Smallest eigenvalue of the correlations between coils below which a coil is taken for a copy of others.
_INDEPENDENT = 1e-6


def noise_covariance(noise: Tensor) -> Tensor:
    r"""Covariance of the noise of coils, from a scan without signal: :math:`\frac{1}{n} \sum_i n_i \, n_i^H`.

    Args:
        noise: complex, ``(coil, *)``, samples of noise, any unit.

    Returns:
        Hermitian, complex128, ``(coil, coil)``, in squared units of ``noise``.

    Raises:
        ValueError: if ``noise`` is not complex or not finite, or has not more samples than coils.

    Example:
        >>> noise_covariance(torch.tensor([[1.0 + 0j, -1, 1], [1, 1, 1]]))[0, 0].real
        tensor(1., dtype=torch.float64)
    """
    if not noise.is_complex() or noise.ndim < 2:
        raise ValueError(
            f"noise_covariance: 'noise' must be complex (coil, samples), got {noise.dtype} {tuple(noise.shape)}"
        )
    flat = noise.flatten(1).to(torch.complex128)
    if flat.shape[1] <= flat.shape[0]:
        raise ValueError(
            f"noise_covariance: 'noise' must have more samples than coils, got {flat.shape[1]} of {flat.shape[0]} coils"
        )
    if not bool(torch.isfinite(torch.view_as_real(flat)).all()):
        raise ValueError("noise_covariance: 'noise' must be finite, it holds NaN or infinity; repair the noise scan")
    return flat @ flat.mH / flat.shape[1]


def prewhiten(kspace: Tensor, covariance: Tensor) -> Tensor:
    r"""Mix coils so that noise of the given covariance becomes white: :math:`L^{-1} y` with :math:`L L^H = \Sigma`.

    The noise of each coil then has variance 1, half of it in the real part. Whatever is linear in coils, such as
    sensitivity maps, must be estimated afterwards.

    Args:
        kspace: complex, ``(B, coil, *S)``.
        covariance: complex, ``(coil, coil)``, of :func:`noise_covariance`, in squared units of ``kspace``.

    Returns:
        K-space in units of the noise's standard deviation, same shape and dtype.

    Raises:
        ValueError: if the two do not fit together, or ``covariance`` is not finite, not Hermitian or singular.

    Example:
        >>> prewhiten(torch.ones(1, 2, 4, 4, dtype=torch.complex64), 4 * torch.eye(2))[0, 0, 0, 0]
        tensor(0.5000+0.j)
    """
    n_coils = kspace.shape[1] if kspace.ndim > 1 else 0
    if not kspace.is_complex() or tuple(covariance.shape) != (n_coils, n_coils):
        raise ValueError(
            "prewhiten: 'covariance' must be (coil, coil) for complex 'kspace' (B, coil, ...), got "
            f"{tuple(covariance.shape)} and {kspace.dtype} {tuple(kspace.shape)}"
        )
    wide = covariance.to(torch.complex128)
    if not bool(torch.isfinite(torch.view_as_real(wide)).all()):
        raise ValueError("prewhiten: 'covariance' must be finite, it holds NaN or infinity; repair the noise scan")
    deviation = wide.diagonal().real.clamp(min=0).sqrt()
    silent = torch.nonzero(deviation == 0).flatten().tolist()
    if silent:
        raise ValueError(f"prewhiten: 'covariance' must have noise in every coil, coils {silent} have none; drop them")
    correlation = wide / (deviation[:, None] * deviation)
    if float((correlation - correlation.mH).abs().max()) > _INDEPENDENT:
        raise ValueError("prewhiten: 'covariance' must be Hermitian, got one that differs from its adjoint")
    if float(torch.linalg.eigvalsh(correlation)[0]) < _INDEPENDENT:
        raise ValueError(
            "prewhiten: 'covariance' must not be singular, some coil is a mixture of others; compress coils first or "
            "take a longer noise scan"
        )
    mixture = torch.linalg.inv(torch.linalg.cholesky(wide)).to(kspace.device)
    return torch.einsum("dc,bc...->bd...", mixture.to(kspace.dtype), kspace)
