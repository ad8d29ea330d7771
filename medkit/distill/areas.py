"""Distinctive areas: boxes that a small detector, shared by student and teacher, proposes on their feature maps."""

from __future__ import annotations

from math import expm1, log
from typing import NamedTuple

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, softplus

from medkit.distill.contract import check_same_shape

SUPERVISIONS = ("teacher_saliency", "none")


class AreaMaps(NamedTuple):
    """What the detector says of a feature map.

    Attributes:
        heat: logits of "an area lies here", ``(B, 1, *S)``.
        size: sides of that area in voxels, at least 0, ``(B, d, *S)``.
        offset: from the voxel to the area's centre in voxels, at least 0, ``(B, d, *S)``.
    """

    heat: Tensor
    size: Tensor
    offset: Tensor


class AreaProposal(NamedTuple):
    """Areas of a batch and what the detector learns from.

    Attributes:
        mask: 1 inside the union of a sample's areas, else 0, ``(B, 1, *S)``, without gradient.
        boxes: int64, see :func:`peak_boxes`.
        consistency: mean squared difference of the detector's maps of student and teacher, 0-dim.
        saliency: cross entropy of the teacher's heat map and its saliency, 0-dim; 0 without supervision.
    """

    mask: Tensor
    boxes: Tensor
    consistency: Tensor
    saliency: Tensor


def peak_boxes(maps: AreaMaps, n_areas: int) -> Tensor:
    """Boxes about the highest peaks of a heat map; a peak is the largest of its 3×3 or 3×3×3 neighbours.

    Args:
        maps: of the detector.
        n_areas: boxes of each sample, at least 1; where there are fewer peaks, the highest one is repeated.

    Returns:
        int64, ``(B, n_areas, d, 2)``: first voxel and one past the last along each axis; at least one voxel, all
        inside the map.

    Example:
        >>> heat, sides = torch.zeros(1, 1, 9, 9), torch.full((1, 2, 9, 9), 3.0)
        >>> heat[..., 4, 4] = 1
        >>> peak_boxes(AreaMaps(heat, sides, 0 * sides), 1).tolist()
        [[[[3, 6], [3, 6]]]]
    """
    heat, size, offset = (x.detach() for x in maps)
    grid = torch.tensor(heat.shape[2:], device=heat.device)
    peaks = Pool["max", len(grid)](3, stride=1, padding=1)(heat)
    # Of the logits: far from 0 the sigmoid is flat.
    score = torch.where(heat == peaks, heat, -torch.inf).flatten(1)
    n_found = min(n_areas, score.shape[1])
    values, index = score.topk(n_found, 1)
    index = torch.where(values > -torch.inf, index, index[:, :1])
    index = torch.cat([index, index[:, :1].expand(-1, n_areas - n_found)], 1)

    def at_peaks(x: Tensor) -> Tensor:
        rows = x.flatten(2).gather(2, index[:, None].expand(-1, len(grid), -1))
        return rows.movedim(1, 2)

    voxel = torch.stack(torch.unravel_index(index, tuple(heat.shape[2:])), -1)
    centre, half = voxel + 0.5 + at_peaks(offset), at_peaks(size) / 2
    low = (centre - half).round().clamp(min=0).minimum(grid - 1).long()
    high = (centre + half).round().minimum(grid).long().maximum(low + 1)
    return torch.stack([low, high], -1)


def box_masks(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """Fill boxes.

    Args:
        boxes: int64, ``(B, P, d, 2)``: first voxel and one past the last along each axis.
        size: of the map, d numbers.

    Returns:
        bool, ``(B, P, *size)``.
    """
    n_axes = len(size)
    inside = torch.ones(*boxes.shape[:2], *[1] * n_axes, dtype=torch.bool, device=boxes.device)
    for axis, n in enumerate(size):
        places = torch.arange(n, device=boxes.device)
        along = (places >= boxes[:, :, axis, :1]) & (places < boxes[:, :, axis, 1:])
        inside = inside & along.view(*boxes.shape[:2], *[n if i == axis else 1 for i in range(n_axes)])
    return inside


class DistinctiveArea(nn.Module):
    r"""Where a student should learn from its teacher, SoKD's DAM: a detector of three branches on feature maps.

    Heat, size and offset are each 3×3 convolution, ReLU, 1×1 convolution. The same weights see the student's adapted
    map and the teacher's; the student's peaks become boxes, their union is the mask. The detector :math:`D` learns by

    .. math:: L_D = \mathrm{mean} \, |D(\Phi(F_s)) - D(F_t)|^2

    over the concatenated maps, the heat as probability. Boxes are of whole voxels and the mask passes no gradient: size
    and offset learn from :math:`L_D` alone.

    Source: Shen et al. 2024, arXiv 2409.18785.

    Differs:
        - One heat map, not one for each class: the class of a peak is never used.
        - No ReLU before the sigmoid of the heat, which flattens it to 0.5; softplus, not ReLU, on the size, which
          starts near ``first_size`` instead of near 0.
        - :math:`L_D` alone is best served by a constant detector; the teacher's saliency, the channels' mean magnitude
          scaled to [0, 1], supervises its heat. ``supervision="none"`` leaves that out, as published.
        - The union of the boxes, not their sum: where boxes overlap, a voxel counts once.
        - Also 3-D.

    Checked: by the laws in ``tests/distill/test_areas.py``; there is no official code.

    Args:
        spatial_dims: 2 or 3.
        channels: of the maps.
        n_areas: boxes of each sample.
        supervision: ``"teacher_saliency"`` or ``"none"``.
        first_size: sides of the boxes at the start, in voxels, above 0.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> areas = DistinctiveArea(2, 16)
        >>> areas(torch.rand(2, 16, 8, 8), torch.rand(2, 16, 8, 8)).mask.shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        n_areas: int = 8,
        supervision: str = "teacher_saliency",
        first_size: float = 4.0,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"DistinctiveArea: 'spatial_dims' must be 2 or 3, got {spatial_dims}")
        if channels < 1 or n_areas < 1 or not first_size > 0:
            raise ValueError(
                "DistinctiveArea: wanted 'channels' and 'n_areas' of at least 1 and 'first_size' above 0, "
                f"got {channels}, {n_areas} and {first_size}"
            )
        if supervision not in SUPERVISIONS:
            raise ValueError(f"DistinctiveArea: 'supervision' must be one of {SUPERVISIONS}, got {supervision!r}")
        self.spatial_dims, self.channels, self.n_areas, self.supervision = spatial_dims, channels, n_areas, supervision
        conv = Conv["conv", spatial_dims]

        def branch(n_out: int) -> nn.Sequential:
            return nn.Sequential(conv(channels, channels, 3, padding=1), nn.ReLU(), conv(channels, n_out, 1))

        self.heat, self.size, self.offset = branch(1), branch(spatial_dims), branch(spatial_dims)
        # The inverse of softplus, for large sizes without overflow.
        start = log(expm1(first_size)) if first_size < 30 else first_size
        nn.init.constant_(self.size[-1].bias, start)  # type: ignore[arg-type]

    def maps(self, feature: Tensor) -> AreaMaps:
        """Look at a feature map.

        Args:
            feature: ``(B, channels, *S)``.

        Returns:
            Heat, size and offset on the same grid.

        Raises:
            ValueError: if the map has other channels or axes.
        """
        if feature.ndim != self.spatial_dims + 2 or feature.shape[1] != self.channels:
            raise ValueError(
                f"DistinctiveArea: maps must be (B, {self.channels}, *S) with {self.spatial_dims} spatial axes, "
                f"got {tuple(feature.shape)}"
            )
        return AreaMaps(self.heat(feature), softplus(self.size(feature)), self.offset(feature).relu())

    def forward(self, student: Tensor, teacher: Tensor) -> AreaProposal:
        """Propose areas.

        Args:
            student: adapted to the teacher's channels and grid, ``(B, channels, *S)``.
            teacher: the same shape; passes no gradient.

        Returns:
            Mask, boxes and the detector's two losses.

        Raises:
            ValueError: if the shapes differ, or are not those of the detector.
        """
        check_same_shape("DistinctiveArea", student, teacher)
        teacher = teacher.detach()
        own, other = self.maps(student), self.maps(teacher)
        boxes = peak_boxes(own, self.n_areas)
        mask = box_masks(boxes, tuple(student.shape[2:])).any(1, keepdim=True).to(student)
        saliency = student.new_zeros(())
        if self.supervision == "teacher_saliency":
            saliency = binary_cross_entropy_with_logits(other.heat, _saliency(teacher))
        return AreaProposal(mask, boxes, mse_loss(_joined(own), _joined(other)), saliency)


def _joined(maps: AreaMaps) -> Tensor:
    return torch.cat([maps.heat.sigmoid(), maps.size, maps.offset], 1)


def _saliency(feature: Tensor) -> Tensor:
    """Mean magnitude of the channels, from 0 to 1 in each sample; a flat one is 0 everywhere."""
    magnitude = feature.abs().mean(1, keepdim=True)
    rows = magnitude.flatten(1)
    low, high = (x.view(-1, *[1] * (feature.ndim - 1)) for x in (rows.amin(1), rows.amax(1)))
    return (magnitude - low) / torch.where(high > low, high - low, torch.ones_like(high))
