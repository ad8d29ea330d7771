"""What a prior needs of images, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["svf", "ddf", "momentum", "affine"]
KINDS = ("svf", "ddf", "momentum", "affine")


@dataclass(frozen=True)
class PriorSpec:
    """What a prior needs and gives.

    Args:
        kind: what it predicts: ``"svf"``, a stationary velocity; ``"ddf"``, a displacement; ``"momentum"``, to be
            smoothed into a velocity; ``"affine"``, a matrix.
        spatial_dims: 2 or 3.
        in_channels: channels of each image.
        divisor: sizes must be multiples of it; images are padded with their background and cropped back.
        native_shape: the one size that it takes; images and velocities are resampled. ``None``: any.
        native_spacing: mm between voxels that it was trained at, along every axis; images are brought to it first.
            ``None``: any.
        trained_shape: size of the images that it was trained on: what is not background is shown in the middle of
            as many voxels (of more where it is larger), so that borders elsewhere change nothing. ``None``: images are
            shown whole, padded to the divisor.
        max_batch: subjects at once at most.
        antisymmetric: predict half the difference of both directions, so that equal images stay where they are and
            exchanging the images inverts the map. Not for ``"affine"`` and ``"ddf"``.
        needs_names: whether ``predict`` takes the subjects' names, as what reads files does.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> PriorSpec("svf", spatial_dims=3).divisor
        16
    """

    kind: Kind
    spatial_dims: int
    in_channels: int = 1
    divisor: int | tuple[int, ...] = 16
    native_shape: tuple[int, ...] | None = None
    native_spacing: float | None = None
    trained_shape: tuple[int, ...] | None = None
    max_batch: int = 1
    antisymmetric: bool = True
    needs_names: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if self.kind not in KINDS or self.spatial_dims not in (2, 3):
            raise ValueError(
                f"PriorSpec: 'kind' must be one of {', '.join(KINDS)} and 'spatial_dims' 2 or 3, got {self.kind!r} and "
                f"{self.spatial_dims}"
            )
        if min(self.divisors) < 1 or self.in_channels < 1 or self.max_batch < 1:
            raise ValueError(f"PriorSpec: 'divisor', 'in_channels' and 'max_batch' must be at least 1, got {self}")
        if self.native_shape is not None and len(self.native_shape) != self.spatial_dims:
            raise ValueError(f"PriorSpec: 'native_shape' must have {self.spatial_dims} sizes, got {self.native_shape}")
        if self.native_spacing is not None and not 0 < self.native_spacing < float("inf"):
            raise ValueError(f"PriorSpec: 'native_spacing' must be positive, in mm, got {self.native_spacing}")
        if self.native_spacing is not None and self.native_shape is not None:
            raise ValueError("PriorSpec: give 'native_shape' or 'native_spacing', not both")
        if self.trained_shape is not None:
            self._check_trained_shape(self.trained_shape)

    def _check_trained_shape(self, shape: tuple[int, ...]) -> None:
        is_fit = len(shape) == self.spatial_dims and self.native_shape is None
        if not is_fit or any(n < 1 or n % divisor for n, divisor in zip(shape, self.divisors, strict=True)):
            raise ValueError(
                f"PriorSpec: 'trained_shape' must have {self.spatial_dims} sizes, multiples of {self.divisors}, "
                f"and no 'native_shape' beside it, got {shape}"
            )

    @property
    def divisors(self) -> tuple[int, ...]:
        """One divisor for each axis."""
        given = self.divisor
        return (given,) * self.spatial_dims if isinstance(given, int) else tuple(given)
