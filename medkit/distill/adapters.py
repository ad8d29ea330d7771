"""Adapters: a student's feature map brought to the channels and the grid of a teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch.nn.functional as F
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn

ADAPTERS = ("conv1", "convreg3", "none")


def resized(feature: Tensor, size: Sequence[int]) -> Tensor:
    """Bring a map to a grid: means over areas where it shrinks, else linear interpolation.

    Args:
        feature: ``(B, C, *S)``, two or three spatial axes.
        size: the grid, one number for each spatial axis.

    Returns:
        ``(B, C, *size)``; ``feature`` itself where the grid is that already.
    """
    size = tuple(size)
    if tuple(feature.shape[2:]) == size:
        return feature
    # Axes that shrink first: no sample is passed over; then those that grow.
    smaller = [min(a, b) for a, b in zip(feature.shape[2:], size, strict=True)]
    feature = F.interpolate(feature, smaller, mode="area")
    if tuple(smaller) == size:
        return feature
    return F.interpolate(feature, size, mode="bilinear" if len(size) == 2 else "trilinear", align_corners=False)


class ResizingAdapter(nn.Module):
    """Resize to the teacher's grid, then a convolution of one pixel, norm and activation; 2-D, 3-D, and vectors.

    Args:
        spatial_dims: 2 or 3; 0 for vectors ``(B, C)``, which get a linear layer alone.
        in_channels: channels of the student.
        out_channels: channels of the teacher.
        size: grid of the teacher.
        norm: ``"batch"``, ``"instance"``, or ``None``; ``"auto"``: batch in 2-D, and instance in 3-D, where batches are
            small.
        use_activation: end with a ReLU. Set ``False`` for a teacher's map that can be negative.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> ResizingAdapter(3, 8, 16, (4, 4, 4))(torch.rand(2, 8, 8, 8, 8)).shape
        torch.Size([2, 16, 4, 4, 4])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        size: Sequence[int] = (),
        norm: str | None = "auto",
        use_activation: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in (0, 2, 3) or len(size) != spatial_dims:
            raise ValueError(
                f"ResizingAdapter: 'spatial_dims' must be 0, 2 or 3 with as many numbers in 'size', "
                f"got {spatial_dims} and {tuple(size)}"
            )
        if norm not in ("auto", "batch", "instance", None):
            raise ValueError(f"ResizingAdapter: 'norm' must be 'auto', 'batch', 'instance' or None, got {norm!r}")
        self.size = tuple(size)
        if spatial_dims == 0:
            self.layers = nn.Sequential(nn.Linear(in_channels, out_channels))
            return
        if norm == "auto":
            norm = "batch" if spatial_dims == 2 else "instance"
        layers: list[nn.Module] = [Conv["conv", spatial_dims](in_channels, out_channels, 1, bias=norm is None)]
        if norm == "batch":
            layers.append(Norm["batch", spatial_dims](out_channels))
        elif norm == "instance":
            # Of one voxel nothing would be left: there the channels are normalised together.
            layers.append(nn.GroupNorm(1 if prod(size) == 1 else out_channels, out_channels))
        if use_activation:
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor) -> Tensor:
        """Adapt.

        Args:
            feature: of the student, ``(B, C, *S)``, or ``(B, C)``.

        Returns:
            ``(B, out_channels, *size)``, or ``(B, out_channels)``.
        """
        return self.layers(resized(feature, self.size) if self.size else feature)


class ConvRegression3(nn.Module):
    """The adapter of SoKD's released experiments, 2-D: a strided convolution to the teacher's grid, then two more.

    3×3 with stride 2 where the student's grid is twice the teacher's; 4×4 transposed with stride 2 where it is half;
    else, where it is larger or equal, a convolution without padding, of kernel one plus the difference. Batch norm and
    ReLU follow; then twice a 3×3 convolution, batch norm and ReLU.

    Args:
        student_shape: shape of the student's map, ``(B, C, H, W)``.
        teacher_shape: shape of the teacher's, ``(B, C, H, W)``.

    Raises:
        ValueError: if a shape is no ``(B, C, H, W)``, or no rule fits.
    """

    def __init__(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> None:
        super().__init__()
        student, teacher = tuple(student_shape), tuple(teacher_shape)
        if len(student) != 4 or len(teacher) != 4:
            raise ValueError(f"ConvRegression3: shapes must be (B, C, H, W), got {student} and {teacher}; use 'conv1'")
        (inputs, *own), (channels, *other) = student[1:], teacher[1:]
        first: nn.Module
        if all(a == 2 * b for a, b in zip(own, other, strict=True)):
            first = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        elif all(2 * a == b for a, b in zip(own, other, strict=True)):
            first = nn.ConvTranspose2d(inputs, channels, 4, stride=2, padding=1)
        elif all(a >= b for a, b in zip(own, other, strict=True)):
            first = nn.Conv2d(inputs, channels, (1 + own[0] - other[0], 1 + own[1] - other[1]))
        else:
            raise ValueError(
                f"ConvRegression3: no rule leads from the grid {tuple(own)} to {tuple(other)}; use the adapter 'conv1'"
            )
        layers: list[nn.Module] = [first, nn.BatchNorm2d(channels), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, feature: Tensor) -> Tensor:
        """Adapt.

        Args:
            feature: of the student, ``(B, C, H, W)``.

        Returns:
            A map of the teacher's channels and grid.
        """
        return self.layers(feature)


def build_adapter(kind: str, student_shape: Sequence[int], teacher_shape: Sequence[int], **options: Any) -> nn.Module:
    """Build an adapter from the shapes that :func:`probe_taps` tells.

    Args:
        kind: ``"conv1"``: :class:`ResizingAdapter`; ``"convreg3"``: :class:`ConvRegression3`; ``"none"``: the identity,
            which wants equal shapes.
        student_shape: ``(B, C, *S)`` or ``(B, C)``.
        teacher_shape: of the same number of axes.
        options: for ``"conv1"``: ``norm`` and ``use_activation``.

    Returns:
        A module from the student's map to the teacher's shape.

    Raises:
        ValueError: if ``kind`` is unknown or the shapes do not fit it.

    Example:
        >>> build_adapter("conv1", (1, 8, 8, 8), (1, 16, 4, 4))(torch.rand(2, 8, 8, 8)).shape
        torch.Size([2, 16, 4, 4])
    """
    student, teacher = tuple(student_shape), tuple(teacher_shape)
    if kind not in ADAPTERS:
        raise ValueError(f"build_adapter: 'kind' must be one of {ADAPTERS}, got {kind!r}")
    if len(student) != len(teacher) or len(student) not in (2, 4, 5):
        raise ValueError(
            f"build_adapter: shapes must both be (B, C), (B, C, H, W) or (B, C, H, W, D), got {student} and {teacher}"
        )
    if kind == "convreg3":
        return ConvRegression3(student, teacher)
    if kind == "none":
        if student[1:] != teacher[1:]:
            raise ValueError(f"build_adapter: 'none' wants equal shapes, got {student} and {teacher}; use 'conv1'")
        return nn.Identity()
    return ResizingAdapter(len(student) - 2, student[1], teacher[1], teacher[2:], **options)
