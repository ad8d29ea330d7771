"""Super-resolution as a measurement: the small image is the centre of the large one's k-space."""

import torch
from torch import Tensor

from medkit.ops import kspace_crop, kspace_pad


class KspaceCropOperator:
    r"""Low resolution by keeping the centre of k-space, :math:`A = \tfrac1s F_h^H C F_H`, and its exact adjoint.

    The level of intensities is kept: A of a constant is the same constant. Since
    :math:`A^H A = s^{-2} F_H^H M F_H` with the 0/1 mask M of the kept centre, an interpolated image
    :math:`s^2 A^H y` is to super-resolution what the zero-filled image is to reconstruction: with it and
    :meth:`mask`, the data terms of reconstruction serve super-resolution as well.

    Args:
        size: (H, W) of the large image, in pixels, divisible by ``factor``.
        factor: s, how many pixels of the large image make one of the small image's edge.

    Raises:
        ValueError: if ``factor`` is less than 1 or does not divide ``size``.

    Example:
        >>> operator = KspaceCropOperator((8, 8), 2)
        >>> operator.forward(torch.ones(1, 1, 8, 8, dtype=torch.complex64)).shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, size: tuple[int, int], factor: int):
        if factor < 1 or any(n < 1 or n % factor for n in size):
            raise ValueError(
                f"KspaceCropOperator: 'factor' must be at least 1 and divide 'size' {tuple(size)}, got {factor}"
            )
        self.size = (int(size[0]), int(size[1]))
        self.factor = int(factor)
        self.small_size = (self.size[0] // factor, self.size[1] // factor)

    def forward(self, image: Tensor) -> Tensor:
        """Large image, complex ``(..., H, W)``, to small image ``(..., H/s, W/s)``, centred convention."""
        self._check("forward", image, self.size)
        return kspace_crop(image, self.small_size)

    def adjoint(self, image: Tensor) -> Tensor:
        """Small image, complex ``(..., H/s, W/s)``, to large image ``(..., H, W)``; a constant becomes 1 / s² of it."""
        return self.zero_filled(image) / self.factor**2

    def normal(self, image: Tensor) -> Tensor:
        """Large image to large image: :math:`A^H A x`."""
        return self.adjoint(self.forward(image))

    def zero_filled(self, image: Tensor) -> Tensor:
        """Small image to large image, interpolated by zeros in k-space, level kept: the input of a network."""
        self._check("zero_filled", image, self.small_size)
        return kspace_pad(image, self.size)

    def mask(self, centered: bool = False) -> Tensor:
        """Return which samples of the large k-space are kept.

        Args:
            centered: frequency 0 at index n // 2 (as medkit.mri.physics) instead of 0 (as networks take it).

        Returns:
            0/1, float32, ``(1, 1, H, W)``.
        """
        mask = torch.zeros(1, 1, *self.size)
        sizes = zip(self.size, self.small_size, strict=True)
        rows, columns = (slice(n // 2 - m // 2, n // 2 - m // 2 + m) for n, m in sizes)
        mask[..., rows, columns] = 1
        return mask if centered else torch.fft.ifftshift(mask, dim=(-2, -1))

    def _check(self, method: str, image: Tensor, size: tuple[int, int]) -> None:
        if image.ndim < 2 or tuple(image.shape[-2:]) != size or not image.is_complex():
            raise ValueError(
                f"KspaceCropOperator.{method}: 'image' must be complex (..., {size[0]}, {size[1]}), "
                f"got {image.dtype} {tuple(image.shape)}"
            )
