"""The forward model of Cartesian MRI, mask · Fourier · coils, with its adjoint and normal operator.

Everything here is centred (frequency 0 and image origin at index ``n // 2``), orthonormal, batched and differentiable.
"""

import torch
from torch import Tensor

from medkit.ops import centered_fft, centered_ifft


def _fits(shape: torch.Size | tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(n in (1, m) for n, m in zip(shape, wanted, strict=True))


def _check(
    name: str, argument: str, x: Tensor, mask: Tensor | None, sens_maps: Tensor | None, spatial_dims: int
) -> None:
    """Check ``x``, one channel for an image and one per coil for k-space, against the mask and the maps."""
    if spatial_dims not in (1, 2, 3):
        raise ValueError(f"{name}: 'spatial_dims' must be 1, 2 or 3, got {spatial_dims}")
    space = "(H, W)" if spatial_dims == 2 else f"{spatial_dims} spatial axes"
    if not x.is_complex() or x.ndim != spatial_dims + 2:
        channel = "1" if argument == "image" else "coil"
        raise ValueError(
            f"{name}: '{argument}' must be complex (B, {channel}, then {space}), got {x.dtype} {tuple(x.shape)}"
        )
    n_coils = 1 if sens_maps is None else sens_maps.shape[1]
    n_channels = 1 if argument == "image" else n_coils
    if x.shape[1] != n_channels:
        hint = "" if sens_maps is not None or argument == "image" else "; several coils need 'sens_maps'"
        raise ValueError(f"{name}: '{argument}' must have {n_channels} on axis 1, got {tuple(x.shape)}{hint}")
    size = tuple(x.shape[2:])
    if sens_maps is not None and not (sens_maps.is_complex() and _fits(sens_maps.shape, (x.shape[0], n_coils, *size))):
        raise ValueError(
            f"{name}: 'sens_maps' must be complex {(x.shape[0], 'coil', *size)} like '{argument}', "
            f"got {sens_maps.dtype} {tuple(sens_maps.shape)}"
        )
    if mask is not None and (mask.is_complex() or not _fits(mask.shape, (x.shape[0], 1, *size))):
        raise ValueError(
            f"{name}: 'mask' must be real and broadcast to {(x.shape[0], 1, *size)}, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )


def _expand(image: Tensor, sens_maps: Tensor | None) -> Tensor:
    return image if sens_maps is None else image * sens_maps


def _reduce(coil_images: Tensor, sens_maps: Tensor | None) -> Tensor:
    return coil_images if sens_maps is None else (coil_images * sens_maps.conj()).sum(1, keepdim=True)


def sense_forward(
    image: Tensor, mask: Tensor | None = None, sens_maps: Tensor | None = None, spatial_dims: int = 2
) -> Tensor:
    r"""Measure an image: weight it by each coil, transform, keep what the mask samples.

    .. math:: y_c = M \, F \, S_c \, x

    Args:
        image: complex, ``(B, 1, H, W)``, any unit.
        mask: bool or real, broadcastable to ``(B, 1, H, W)``, true where k-space is sampled, centred; ``None``: all.
        sens_maps: complex coil sensitivities ``(B, coil, H, W)``; ``None``: one coil that sees everything alike.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Returns:
        K-space, complex, ``(B, coil, H, W)``, zero where not sampled.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.

    Example:
        >>> sense_forward(torch.ones(1, 1, 4, 4, dtype=torch.complex64))[0, 0, 2, 2]
        tensor(4.+0.j)
    """
    _check("sense_forward", "image", image, mask, sens_maps, spatial_dims)
    kspace = centered_fft(_expand(image, sens_maps), spatial_dims)
    return kspace if mask is None else kspace * mask


def sense_adjoint(
    kspace: Tensor, mask: Tensor | None = None, sens_maps: Tensor | None = None, spatial_dims: int = 2
) -> Tensor:
    r"""Adjoint of :func:`sense_forward`: the zero-filled, coil-combined image of what was measured.

    .. math:: x_0 = \sum_c \bar S_c \, F^H M \, y_c

    Args:
        kspace: complex, ``(B, coil, H, W)``.
        mask: as for :func:`sense_forward`.
        sens_maps: complex ``(B, coil, H, W)``; ``None`` is allowed for one coil only.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Returns:
        Image, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.

    Example:
        >>> sense_adjoint(torch.ones(1, 1, 4, 4, dtype=torch.complex64))[0, 0, 2, 2]
        tensor(4.+0.j)
    """
    _check("sense_adjoint", "kspace", kspace, mask, sens_maps, spatial_dims)
    return _reduce(centered_ifft(kspace if mask is None else kspace * mask, spatial_dims), sens_maps)


def sense_normal(
    image: Tensor, mask: Tensor | None = None, sens_maps: Tensor | None = None, spatial_dims: int = 2
) -> Tensor:
    r"""Measure and go back: :math:`A^H A x`, at most the identity where :math:`\sum_c |S_c|^2 \le 1`.

    Args:
        image: complex, ``(B, 1, H, W)``.
        mask: as for :func:`sense_forward`.
        sens_maps: as for :func:`sense_forward`.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Returns:
        Image, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.

    Example:
        >>> x = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> torch.allclose(sense_normal(x), x)
        True
    """
    _check("sense_normal", "image", image, mask, sens_maps, spatial_dims)
    if mask is None:
        return _reduce(_expand(image, sens_maps), sens_maps)
    weight = mask if mask.dtype == torch.bool else mask * mask
    # Along an axis that the mask does not vary on, there and back is nothing. Shifts of the image are phases in
    # k-space, which cancel; those of k-space move the mask.
    dims = [dim for dim in range(-spatial_dims, 0) if mask.shape[dim] > 1]
    coil_images = _expand(image, sens_maps)
    if not dims:
        return _reduce(coil_images * weight, sens_maps)
    kspace = torch.fft.fftn(coil_images, dim=dims, norm="ortho") * torch.fft.ifftshift(weight, dim=dims)
    return _reduce(torch.fft.ifftn(kspace, dim=dims, norm="ortho"), sens_maps)


class CartesianOperator:
    """The forward model with its mask and maps held fixed, for iterative reconstruction.

    Args:
        mask: bool or real, broadcastable to ``(B, 1, H, W)``, centred; ``None``: everything is sampled.
        sens_maps: complex ``(B, coil, H, W)``; ``None``: one uniform coil.
        spatial_dims: 2, or 3 for ``(…, H, W, D)``.

    Example:
        >>> operator = CartesianOperator(torch.ones(1, 1, 1, 4, dtype=torch.bool))
        >>> operator.forward(torch.ones(2, 1, 4, 4, dtype=torch.complex64)).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, mask: Tensor | None = None, sens_maps: Tensor | None = None, spatial_dims: int = 2):
        self.mask = mask
        self.sens_maps = sens_maps
        self.spatial_dims = spatial_dims

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(B, 1, H, W)`` to k-space ``(B, coil, H, W)``: :func:`sense_forward`."""
        return sense_forward(image, self.mask, self.sens_maps, self.spatial_dims)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """K-space ``(B, coil, H, W)`` to image ``(B, 1, H, W)``: :func:`sense_adjoint`."""
        return sense_adjoint(kspace, self.mask, self.sens_maps, self.spatial_dims)

    def normal(self, image: Tensor) -> Tensor:
        """Image to image ``(B, 1, H, W)``: :func:`sense_normal`."""
        return sense_normal(image, self.mask, self.sens_maps, self.spatial_dims)
