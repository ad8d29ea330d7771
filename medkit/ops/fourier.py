"""Centred and plain orthonormal Fourier transforms, as FFT or as products with real matrices.

Two families, one normalisation (orthonormal, so that each transform is unitary):

* ``centered_fft`` and ``centered_ifft`` take and return complex tensors whose zero frequency and image origin lie at
  index ``n // 2``: the convention of scanners, fastMRI and MONAI.
* ``fft_real``, ``ifft_real``, ``rfft2_real`` and ``irfft2_real`` are un-centred and work on pairs of real tensors: the
  form for layers inside networks. They can be scripted, and with ``backend="matmul"`` contain no complex number, so
  that ONNX runtimes without a discrete Fourier transform compute them exactly.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor


def _check(name: str, x: Tensor, spatial_dims: int, backend: str) -> None:
    if spatial_dims not in (1, 2, 3):
        raise ValueError(f"{name}: 'spatial_dims' must be 1, 2 or 3, got {spatial_dims}")
    if x.ndim < spatial_dims:
        raise ValueError(f"{name}: the input must have at least {spatial_dims} axes, got shape {tuple(x.shape)}")
    if not x.is_complex():
        raise ValueError(
            f"{name}: the input must be complex, got {x.dtype} {tuple(x.shape)}; "
            "convert a trailing axis of size 2 with torch.view_as_complex"
        )
    if backend not in ("fft", "matmul"):
        raise ValueError(f"{name}: 'backend' must be 'fft' or 'matmul', got {backend!r}")


@lru_cache(maxsize=32)
def _checkerboard(size: tuple[int, ...], negate: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Signs (-1)^(i+j+...) over ``size``, each written twice along the last axis to multiply interleaved re, im."""
    with torch.inference_mode(False):
        parity = torch.full((), int(negate), device=device)
        for i, n in enumerate(size):
            index = torch.arange(n, device=device).reshape([-1 if i == j else 1 for j in range(len(size))])
            parity = parity + index
        signs = 1 - 2 * (parity % 2)
        return signs.to(dtype)[..., None].expand(*size, 2).reshape(*size[:-1], 2 * size[-1]).contiguous()


def _flip_signs(x: Tensor, signs: Tensor, in_place: bool) -> Tensor:
    """Multiply a complex tensor by real signs, as one pass over contiguous real memory."""
    flat = torch.view_as_real(x).flatten(-2)
    flat = flat.mul_(signs) if in_place else flat * signs
    return torch.view_as_complex(flat.unflatten(-1, (-1, 2)))


def _centered(x: Tensor, spatial_dims: int, backend: str, inverse: bool) -> Tensor:
    dims = tuple(range(-spatial_dims, 0))
    if backend == "matmul":
        for dim in dims:
            x = (x.transpose(dim, -1) @ _centered_matrix(x.shape[dim], inverse, x.dtype, x.device)).transpose(dim, -1)
        return x
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    size = tuple(x.shape[-spatial_dims:])
    if any(n % 2 for n in size):
        x = torch.fft.ifftshift(x, dim=dims)
        return torch.fft.fftshift(transform(x, dim=dims, norm="ortho"), dim=dims)
    # Even sizes: a shift by n/2 in one space is the sign (-1)^k in the other, cheaper than moving memory.
    real = torch.empty((), dtype=x.dtype).real.dtype
    x = _flip_signs(x.resolve_conj(), _checkerboard(size, False, real, x.device), in_place=False)
    y = transform(x, dim=dims, norm="ortho")
    negate = sum(n // 2 for n in size) % 2 == 1
    return _flip_signs(y, _checkerboard(size, negate, real, x.device), in_place=not y.requires_grad)


def _centered_matrix(n: int, inverse: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    index = torch.arange(n, device=device) - n // 2
    phase = (index[:, None] * index[None, :]).remainder(n).to(torch.float64) * (2 * math.pi / n)
    magnitude = torch.full_like(phase, 1 / math.sqrt(n))
    return torch.polar(magnitude, phase if inverse else -phase).to(dtype)


def centered_fft(image: Tensor, spatial_dims: int = 2, backend: str = "fft") -> Tensor:
    r"""Centred orthonormal Fourier transform of the last axes: image to k-space.

    .. math:: y_k = \frac{1}{\sqrt{N}} \sum_n x_n \, e^{-2\pi i (k-c)\cdot(n-c)/N}, \qquad c = \lfloor N/2 \rfloor

    The transform is unitary: :func:`centered_ifft` is both its inverse and its adjoint.

    Args:
        image: complex, ``(..., *S)`` with ``spatial_dims`` trailing spatial axes. Any unit.
        spatial_dims: number of trailing axes to transform: 1, 2 or 3.
        backend: ``"fft"``, or ``"matmul"`` for products with exact Fourier matrices (slower, same values).

    Returns:
        K-space, same shape, dtype and device as ``image``.

    Raises:
        ValueError: if ``image`` is not complex or has too few axes, or ``backend`` is unknown.

    Example:
        >>> centered_fft(torch.ones(4, 4, dtype=torch.complex64))[2, 2]
        tensor(4.+0.j)
    """
    _check("centered_fft", image, spatial_dims, backend)
    return _centered(image, spatial_dims, backend, inverse=False)


def centered_ifft(kspace: Tensor, spatial_dims: int = 2, backend: str = "fft") -> Tensor:
    """Centred orthonormal inverse Fourier transform of the last axes: k-space to image.

    Args:
        kspace: complex, ``(..., *S)``, zero frequency at index ``n // 2``.
        spatial_dims: number of trailing axes to transform: 1, 2 or 3.
        backend: ``"fft"`` or ``"matmul"``, see :func:`centered_fft`.

    Returns:
        Image, same shape, dtype and device as ``kspace``.

    Raises:
        ValueError: if ``kspace`` is not complex or has too few axes, or ``backend`` is unknown.

    Example:
        >>> x = torch.randn(5, 6, dtype=torch.complex64)
        >>> torch.allclose(centered_ifft(centered_fft(x)), x, atol=1e-6)
        True
    """
    _check("centered_ifft", kspace, spatial_dims, backend)
    return _centered(kspace, spatial_dims, backend, inverse=True)


def _dft_pair(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine matrices (n, n) of the orthonormal transform; angles reduced to one turn before rounding."""
    index = torch.arange(n, device=like.device)
    # The size as a tensor, and a floor in double precision for the remainder: ONNX then takes sizes known at run time.
    size = torch.full([], n, dtype=torch.float64, device=like.device)
    turns = (index.unsqueeze(1) * index.unsqueeze(0)).to(torch.float64) / size
    angle = ((turns - torch.floor(turns)) * (2.0 * math.pi)).to(torch.float32)
    scale = torch.rsqrt(size).to(torch.float32)
    return torch.cos(angle) * scale, torch.sin(angle) * scale


def _dft_axis(re: Tensor, im: Tensor, dim: int, inverse: bool) -> tuple[Tensor, Tensor]:
    cos, sin = _dft_pair(re.shape[dim], re)
    if inverse:
        sin = -sin
    re, im = re.transpose(dim, -1), im.transpose(dim, -1)
    return (re @ cos + im @ sin).transpose(dim, -1), (im @ cos - re @ sin).transpose(dim, -1)


def fft_real(re: Tensor, im: Tensor, spatial_dims: int = 2, backend: str = "fft") -> tuple[Tensor, Tensor]:
    """Un-centred orthonormal Fourier transform of the complex tensor ``re + i im``, kept as two real tensors.

    Args:
        re: real part, float32, ``(..., *S)``.
        im: imaginary part, same shape.
        spatial_dims: number of trailing axes to transform.
        backend: ``"fft"``, or ``"matmul"`` to use real matrix products only (for ONNX).

    Returns:
        Real and imaginary part of the transform, zero frequency at index 0.

    Example:
        >>> fft_real(torch.ones(2, 2), torch.zeros(2, 2))[0][0, 0]
        tensor(2.)
    """
    if backend == "matmul":
        for axis in range(1, spatial_dims + 1):
            re, im = _dft_axis(re, im, -axis, False)
        return re, im
    dims = [-1 - axis for axis in range(spatial_dims)]
    y = torch.fft.fftn(torch.complex(re, im), dim=dims, norm="ortho")
    return torch.real(y), torch.imag(y)


def ifft_real(re: Tensor, im: Tensor, spatial_dims: int = 2, backend: str = "fft") -> tuple[Tensor, Tensor]:
    """Inverse (and adjoint) of :func:`fft_real`; arguments and shapes are the same.

    Args:
        re: real part, float32, ``(..., *S)``.
        im: imaginary part, same shape.
        spatial_dims: number of trailing axes to transform.
        backend: ``"fft"`` or ``"matmul"``.

    Returns:
        Real and imaginary part of the image.

    Example:
        >>> ifft_real(torch.ones(2, 2), torch.zeros(2, 2))[0][0, 0]
        tensor(2.)
    """
    if backend == "matmul":
        for axis in range(1, spatial_dims + 1):
            re, im = _dft_axis(re, im, -axis, True)
        return re, im
    dims = [-1 - axis for axis in range(spatial_dims)]
    y = torch.fft.ifftn(torch.complex(re, im), dim=dims, norm="ortho")
    return torch.real(y), torch.imag(y)


def rfft2_real(x: Tensor, backend: str = "fft") -> tuple[Tensor, Tensor]:
    """Un-centred orthonormal 2-D transform of a real tensor: the half spectrum as two real tensors.

    Args:
        x: real, float32, ``(..., H, W)``.
        backend: ``"fft"`` or ``"matmul"`` (real matrix products only).

    Returns:
        Real and imaginary part, each ``(..., H, W // 2 + 1)``.

    Example:
        >>> rfft2_real(torch.ones(4, 4))[0].shape
        torch.Size([4, 3])
    """
    if backend == "matmul":
        half = x.shape[-1] // 2 + 1
        cos, sin = _dft_pair(x.shape[-1], x)
        return _dft_axis(x @ cos[:, :half], -(x @ sin[:, :half]), -2, False)
    y = torch.fft.rfftn(x, dim=[-2, -1], norm="ortho")
    return torch.real(y), torch.imag(y)


def irfft2_real(re: Tensor, im: Tensor, height: int, width: int, backend: str = "fft") -> Tensor:
    """Inverse of :func:`rfft2_real` for an image of ``height`` by ``width`` pixels.

    What a real image cannot have (the imaginary part of column 0, and of the last column when ``width`` is even, after
    the inverse transform along the height) is ignored, as ``torch.fft.irfft2`` does.

    Args:
        re: real part, ``(..., height, width // 2 + 1)``.
        im: imaginary part, same shape.
        height: rows of the image; needed by no formula here, checked by the FFT.
        width: columns of the image; odd and even differ, so it must be said.
        backend: ``"fft"`` or ``"matmul"``.

    Returns:
        Real image, ``(..., height, width)``.

    Example:
        >>> irfft2_real(*rfft2_real(torch.ones(3, 5)), 3, 5).shape
        torch.Size([3, 5])
    """
    if backend == "matmul":
        re, im = _dft_axis(re, im, -2, True)
        half = width // 2 + 1
        cos, sin = _dft_pair(width, re)
        index = torch.arange(half, device=re.device)
        # Every column but the first (and the last, of an even width) stands for itself and its mirror image.
        alone = (index * (2 * index - width) == 0).to(re.dtype)
        weight = (2.0 - alone).unsqueeze(1)
        return re @ (cos[:half] * weight) - im @ (sin[:half] * weight)
    return torch.fft.irfftn(torch.complex(re, im), s=[height, width], dim=[-2, -1], norm="ortho")
