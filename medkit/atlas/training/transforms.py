"""Pairs of subjects to train priors on, among them the blurred templates that a prior meets in the first rounds."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import GaussianFilter
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from medkit.data.keys import AFFINE, CASE, FIXED, I_FIXED, I_MOVING, IMAGE, LABELS, MOVING, SEG_FIXED, SEG_MOVING
from medkit.ops import warp

MODES_OF_RESIZING = {2: "bilinear", 3: "trilinear"}


class AntiAliasd(MapTransform):
    """Smooth images before they are resampled to a coarser grid, by half a new voxel along each axis that coarsens.

    Reads and writes ``keys``, ``MetaTensor`` ``(C, *S)`` with their spacing. Not invertible.

    Args:
        keys: of the images.
        spacing: mm of the grid to come, one number or one for each axis.
        allow_missing_keys: whether a sample may lack some.

    Raises:
        ValueError: if ``spacing`` is not positive.

    Example:
        >>> AntiAliasd("image", 4.0)({"image": MetaTensor(torch.ones(1, 8, 8, 8))})["image"].shape
        torch.Size([1, 8, 8, 8])
    """

    def __init__(
        self, keys: KeysCollection, spacing: Sequence[float] | float, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        steps = [float(spacing)] if isinstance(spacing, int | float) else [float(h) for h in spacing]
        if not steps or min(steps) <= 0:
            raise ValueError(f"AntiAliasd: 'spacing' must be positive numbers of mm, got {spacing}")
        self.steps = steps

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Smooth."""
        out = dict(data)
        for key in self.key_iterator(out):
            image: MetaTensor = out[key]
            old = [float(h) for h in image.pixdim[: image.ndim - 1]]
            new = self.steps * len(old) if len(self.steps) == 1 else self.steps
            sigma = [0.5 * n / o if n > 1.01 * o else 0.0 for n, o in zip(new, old, strict=True)]
            if any(sigma):
                smooth = GaussianFilter(len(old), sigma)
                values = image.as_tensor().float()[None]
                blurred = smooth(values) / smooth(torch.ones_like(values[:, :1]))
                out[key] = MetaTensor(blurred[0], meta=image.meta, applied_operations=image.applied_operations)
        return out


def subject_pairs(subjects: Sequence[Any], each_pair: bool = False, n_pairs: int | None = None) -> list[dict[str, int]]:
    """List the pairs that :class:`RandPaird` makes.

    Args:
        subjects: at least two.
        each_pair: ``False``: an entry for each subject, whose partner is drawn; ``True``: one for each pair.
        n_pairs: at most so many of the pairs, spread evenly; ``None``: all.

    Returns:
        Entries with ``i_moving`` and, for fixed pairs, ``i_fixed``.

    Raises:
        ValueError: if there are fewer than two subjects, or no pair is wanted.

    Example:
        >>> subject_pairs("abc", each_pair=True)[0]
        {'i_moving': 0, 'i_fixed': 1}
    """
    n = len(subjects)
    if n < 2 or (n_pairs is not None and n_pairs < 1):
        raise ValueError(f"subject_pairs: 'subjects' must be at least two and 'n_pairs' one, got {n} and {n_pairs}")
    if not each_pair:
        return [{I_MOVING: i} for i in range(n)]
    pairs = [{I_MOVING: i, I_FIXED: j} for i, j in itertools.combinations(range(n), 2)]
    if n_pairs is None or n_pairs >= len(pairs):
        return pairs
    return [pairs[k * len(pairs) // n_pairs] for k in range(n_pairs)]


class RandPaird(Randomizable, Transform):
    """Make a pair of a subject and another one, or of a subject and a blurred template.

    A template in its first rounds is a mean of subjects that are aligned affinely, and looks like none of them: half of
    the pairs have the mean of 2 to 16 subjects as ``fixed``. Half of those stand for later rounds instead,
    when registration has partly succeeded: one other subject, and the mean of so many copies of it, each moved by a
    small smooth displacement, such as velocities leave that are not yet right.

    Reads ``i_moving`` and, where the pair is given, ``i_fixed``. Writes ``moving`` and ``fixed``, float32 ``(C, *S)``,
    0 to 1; ``seg_moving`` and ``seg_fixed``, where both have ``labels``; ``case`` and ``affine``. Not invertible.

    Args:
        subjects: samples with ``case``, ``image`` ``(C, *S)`` on one grid, and perhaps ``labels``.
        blurred: share of the pairs whose ``fixed`` is a template, 0 to 1.
        registered: share of the templates that stand for later rounds, 0 to 1.
        n_members: fewest and most images in a mean.
        residual: largest root mean square of what those displacements leave, in voxels, at least 0.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> people = [{"case": str(i), "image": torch.full((1, 8, 8), float(i))} for i in range(3)]
        >>> sorted(RandPaird(people, blurred=0.0)({"i_moving": 0, "i_fixed": 2}))
        ['affine', 'case', 'fixed', 'moving']
    """

    def __init__(
        self,
        subjects: Sequence[Mapping[str, Any]],
        blurred: float = 0.5,
        registered: float = 0.5,
        n_members: tuple[int, int] = (2, 16),
        residual: float = 0.75,
    ) -> None:
        low, high = n_members
        if not 0 <= blurred <= 1 or not 0 <= registered <= 1 or residual < 0 or not 2 <= low <= high:
            raise ValueError(
                "RandPaird: 'blurred' and 'registered' must be in 0 to 1, 'residual' at least 0 and 'n_members' from 2 "
                f"up, got {blurred}, {registered}, {residual} and {n_members}"
            )
        if len(subjects) < 2:
            raise ValueError(f"RandPaird: 'subjects' must be at least two, got {len(subjects)}")
        self.subjects = subjects
        self.blurred, self.registered, self.residual = blurred, registered, residual
        self.n_members = (low, high)

    def __call__(self, data: Mapping[str, int]) -> dict[str, Any]:
        """Make the pair."""
        i = int(data[I_MOVING])
        moving = self.subjects[i]
        out: dict[str, Any] = {MOVING: _plain(moving[IMAGE]), AFFINE: getattr(moving[IMAGE], "affine", None)}
        if out[AFFINE] is None:
            out[AFFINE] = torch.eye(4, dtype=torch.float64)
        if I_FIXED not in data and self.R.random() < self.blurred:
            name, out[FIXED] = self._template(i)
        else:
            fixed = self.subjects[int(data[I_FIXED]) if I_FIXED in data else self._other(i)]
            name, out[FIXED] = str(fixed[CASE]), _plain(fixed[IMAGE])
            if LABELS in moving and LABELS in fixed:
                out[SEG_MOVING], out[SEG_FIXED] = _plain(moving[LABELS]), _plain(fixed[LABELS])
        if out[FIXED].shape != out[MOVING].shape:
            raise ValueError(
                f"RandPaird: 'subjects' must lie on one grid, got {tuple(out[MOVING].shape)} of {moving[CASE]} and "
                f"{tuple(out[FIXED].shape)} of {name}"
            )
        out[CASE] = f"{moving[CASE]}_to_{name}"
        return out

    def _other(self, i: int) -> int:
        j = int(self.R.randint(len(self.subjects) - 1))
        return j + (j >= i)

    def _template(self, i: int) -> tuple[str, Tensor]:
        n = int(self.R.randint(self.n_members[0], self.n_members[1] + 1))
        if self.R.random() < self.registered:
            other = self.subjects[self._other(i)]
            image = _plain(other[IMAGE])
            fields = self._residuals(n, tuple(image.shape[1:]))
            return f"{n}_of_{other[CASE]}", warp(image[None], fields).mean(0)
        members = self.R.choice(len(self.subjects), min(n, len(self.subjects)), replace=False)
        return f"mean_of_{len(members)}", torch.stack([_plain(self.subjects[int(k)][IMAGE]) for k in members]).mean(0)

    def _residuals(self, n: int, size: tuple[int, ...]) -> Tensor:
        """``n`` smooth displacements ``(n, D, *size)`` of mean 0: so small that none folds, with no exponential."""
        coarse = [max(2, round(s / 8)) for s in size]
        noise = torch.from_numpy(self.R.standard_normal((n, len(size), *coarse))).float()
        fields = F.interpolate(noise, size, mode=MODES_OF_RESIZING[len(size)], align_corners=True)
        fields = fields - fields.mean(0)
        return fields * (self.R.uniform(0, self.residual) / fields.square().sum(1).mean().sqrt().clamp(min=1e-6))


def _plain(image: Tensor) -> Tensor:
    values = image.as_tensor() if isinstance(image, MetaTensor) else image
    return values.float()
