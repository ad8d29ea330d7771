"""The simulated brain cohort: subjects of known anatomy, drawn from a seed and cached on disk."""

import dataclasses
import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.data.cohort.anatomy import AnatomyFields, tissue_shares
from medkit.data.cohort.contrast import CONTRASTS, Look, draw_relaxation, render
from medkit.data.cohort.deformation import (
    VELOCITY_STEP,
    damp_outside,
    displacement_on,
    draw_velocity,
    flow,
    shift_image,
    velocity_on,
)
from medkit.data.cohort.geometry import Geometry, load_geometry
from medkit.data.cohort.labels import BRAIN, LABELS, TISSUES, Tissue
from medkit.data.cohort.lattice import Field, Grid, band_field, generator, lattice_shape, smooth_field, uniform
from medkit.data.cohort.lesions import LESION_LABELS, Lesions
from medkit.data.cohort.ranges import RANGES, SPLITS, Range, Ranges
from medkit.data.cohort.shape import Shape

VERSION = 7  # of the generator: any change of what it draws counts it up, so that no cache mixes two of them
BLOCK = (24, 1024, 32)  # voxels computed at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subject:
    """One simulated head.

    Args:
        name: its name, ``train-0003``; the template's is ``template``.
        affine: voxel to mm, RAS, float64, ``(4, 4)``.
        images: for each contrast the noise-free magnitude, float32, ``(X, Y, Z)``, 0 to 1.
        labels: the tissue with the largest share, uint8, ``(X, Y, Z)``; meaning in ``BrainCohort.LABELS``.
        velocity: stationary velocity on the same grid in voxels, channel k along axis k, float32, ``(3, X, Y, Z)``:
            the subject at ``x`` shows the template at ``exp(velocity)(x)``, but for its folding.
        mask: brain with its fluid, bool, ``(X, Y, Z)``.
        lesions: where lesions are and who sees them, uint8, ``(X, Y, Z)``; meaning in ``BrainCohort.LESION_LABELS``.
    """

    name: str
    affine: np.ndarray
    images: dict[str, Tensor]
    labels: Tensor
    velocity: Tensor
    mask: Tensor
    lesions: Tensor


class BrainCohort:
    """Simulated heads made from the MNI152 template, for training and testing without any patient's data.

    Each subject is the hardened template seen through a random diffeomorphism (stationary velocity, zero mean over
    the cohort) with its own folding, ventricles, skull and scalp, tissue parameters, sequences, texture and bias.
    The images are free of noise and phase. The voxel grid is fixed by the spacing: 192 x 232 x 192 mm, sides a
    multiple of 8 voxels; anatomy is drawn in mm, so a subject is the same at every spacing but for its fine texture.

    Args:
        n_subjects: number of subjects.
        split: ``train``, ``validation`` or ``test``: other random numbers and other ranges of the parameters.
        seed: replays the cohort.
        spacing: edge of a voxel in mm, 0.5 to 8.
        contrasts: any of ``t1``, ``t2``, ``pd``, ``flair``.
        lesions: whether to add lesions, some seen by all contrasts (label 24), some by one alone; their map is written
            beside the contrasts.
        cache_dir: where files go; ``None`` takes ``$MEDKIT_CACHE``, else ``~/.cache/medkit``.
        misalignment: largest shift in mm between the contrasts of one subject, along each axis; the labels lie on the
            first contrast.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> cohort = BrainCohort(2, spacing=4.0, contrasts=("t2",))
        >>> cohort.subject(0).images["t2"].shape
        torch.Size([48, 64, 48])
    """

    LABELS = LABELS
    LESION_LABELS = LESION_LABELS

    def __init__(
        self,
        n_subjects: int,
        split: str = "train",
        seed: int = 0,
        spacing: float = 1.0,
        contrasts: Sequence[str] = CONTRASTS,
        lesions: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        misalignment: float = 0.0,
    ) -> None:
        if n_subjects < 1:
            raise ValueError(f"BrainCohort: 'n_subjects' must be at least 1, got {n_subjects}")
        if split not in SPLITS:
            raise ValueError(f"BrainCohort: 'split' must be one of {SPLITS}, got {split!r}")
        if not 0.5 <= spacing <= 8:
            raise ValueError(f"BrainCohort: 'spacing' must be 0.5 to 8 mm, got {spacing}")
        if isinstance(contrasts, str) or not contrasts or not set(contrasts) <= set(CONTRASTS):
            raise ValueError(f"BrainCohort: 'contrasts' must be a sequence out of {CONTRASTS}, got {contrasts!r}")
        if not 0 <= misalignment <= 5:
            raise ValueError(f"BrainCohort: 'misalignment' must be 0 to 5 mm, got {misalignment}")
        self.n_subjects, self.split, self.seed = n_subjects, split, seed
        self.contrasts, self.lesions, self.misalignment = tuple(contrasts), lesions, float(misalignment)
        self.grid = Grid(float(spacing))
        self.ranges: Ranges = RANGES[split]
        self.cache_dir = Path(cache_dir or os.environ.get("MEDKIT_CACHE") or Path.home() / ".cache" / "medkit")

    def __len__(self) -> int:
        return self.n_subjects

    @property
    def affine(self) -> np.ndarray:
        """Voxel to mm, RAS, float64, ``(4, 4)``."""
        out = np.diag([self.grid.spacing] * 3 + [1.0])
        out[:3, 3] = self.grid.origin
        return out

    @property
    def folder(self) -> Path:
        """Where the files of this cohort lie; its name hashes every parameter and the generator's version."""
        parameters = {
            "version": VERSION,
            "n_subjects": self.n_subjects,
            "split": self.split,
            "seed": self.seed,
            "spacing": self.grid.spacing,
            "contrasts": self.contrasts,
            "lesions": "with a map of them" if self.lesions else False,
            "misalignment": self.misalignment,
            "ranges": dataclasses.asdict(self.ranges),
            "tissues": {name: dataclasses.asdict(tissue) for name, tissue in TISSUES.items()},
        }
        digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
        return self.cache_dir / f"brain-cohort-v{VERSION}-{self.split}-{digest}"

    def name(self, i: int) -> str:
        """Return the name of subject ``i``."""
        return f"{self.split}-{i:04d}"

    @cached_property
    def _geometry(self) -> Geometry:
        return load_geometry(self.cache_dir, VERSION)

    def _draw(self, span: Range, i: int, *words: object) -> float:
        return uniform(*span, generator(self.seed, self.split, i, *words))

    def _raw_velocity(self, i: int) -> Tensor:
        amplitudes = [self._draw(span, i, "amplitude", k) for k, span in enumerate(self.ranges.amplitude)]
        return draw_velocity((amplitudes[0], amplitudes[1]), self.seed, self.split, i)

    @cached_property
    def _mean_velocity(self) -> Tensor:
        total = self._raw_velocity(0)
        for i in range(1, self.n_subjects):
            total += self._raw_velocity(i)
        return total / self.n_subjects

    @cached_property
    def template(self) -> Subject:
        """The hardened template: no deformation, no random folding, no texture, no bias; the cohort's true atlas."""
        middle = dataclasses.replace(
            self.ranges,
            **{
                field.name: (sum(getattr(self.ranges, field.name)) / 2,) * 2
                for field in dataclasses.fields(self.ranges)
                if field.name != "amplitude"
            },
        )
        shape, still = Shape(variation=0.0), torch.zeros(3, *lattice_shape(VELOCITY_STEP))
        looks = {c: Look.draw(c, TISSUES, middle, self.grid, generator("template")) for c in self.contrasts}
        fields = AnatomyFields.draw(shape, generator("template"))
        return self._assemble("template", still, None, shape, fields, dict(TISSUES), looks, None, None, {})

    def subject(self, i: int) -> Subject:
        """Draw subject ``i``; the same numbers every time.

        Args:
            i: 0 to ``n_subjects - 1``.

        Returns:
            The subject, computed anew (nothing is read from or written to its cache).

        Raises:
            ValueError: if there is no such subject.
        """
        if not 0 <= i < self.n_subjects:
            raise ValueError(f"BrainCohort.subject: 'i' must be 0 to {self.n_subjects - 1}, got {i}")
        ranges, key = self.ranges, (self.seed, self.split, i)
        shape = Shape(
            **{
                field.name: self._draw(getattr(ranges, field.name), i, field.name)
                for field in dataclasses.fields(Shape)
                if field.name != "variation"
            }
        )
        bend = band_field(self._draw(ranges.bend_wavelength, i, "bend wavelength"), generator(*key, "bend field"), 3)
        bend = Field(bend.coefficients * self._draw(ranges.bend, i, "bend"), bend.step)
        tissues = draw_relaxation(ranges, generator(*key, "relaxation"))
        common = Lesions.draw(generator(*key, "lesions"), (2, 7), (2.0, 8.0)) if self.lesions else None
        alone = {}
        for contrast in self.contrasts if self.lesions else ():
            gen = generator(*key, "lesions", contrast)
            value = uniform(0.3, 0.7, gen) if uniform(0, 1, gen) < 0.5 else uniform(1.3, 2.0, gen)
            alone[contrast] = (Lesions.draw(gen, (1, 2), (2.0, 5.0)), value)
        return self._assemble(
            self.name(i),
            self._raw_velocity(i) - self._mean_velocity,
            bend,
            shape,
            AnatomyFields.draw(shape, generator(*key, "anatomy")),
            tissues,
            {c: Look.draw(c, tissues, ranges, self.grid, generator(*key, c)) for c in self.contrasts},
            (smooth_field(18.0, generator(*key, "slow"), 3), smooth_field(6.0, generator(*key, "less slow"), 3)),
            common,
            alone,
        )

    def _assemble(
        self,
        name: str,
        velocity: Tensor,
        bend: Field | None,
        shape: Shape,
        fields: AnatomyFields,
        tissues: Mapping[str, Tissue],
        looks: Mapping[str, Look],
        variation: tuple[Field, Field] | None,
        common: Lesions | None,
        alone: Mapping[str, tuple[Lesions, float]],
    ) -> Subject:
        """Compute the voxels block by block: a block stays in the processor's cache, and memory stays small."""
        grid, geometry = self.grid, self._geometry
        moved = flow(velocity)
        damped = None if bend is None else damp_outside(bend, moved, geometry)
        images = {c: torch.zeros(grid.shape) for c in looks}
        labels, mask = torch.zeros(grid.shape, dtype=torch.uint8), torch.zeros(grid.shape, dtype=torch.bool)
        lesions = torch.zeros(grid.shape, dtype=torch.uint8)
        in_brain = torch.tensor([float(name in BRAIN) for name in TISSUES])
        for block, here, keep in _blocks(grid):
            position = block.positions() + displacement_on(block, moved)
            if damped is not None:
                position += displacement_on(block, damped)
            level = geometry.sample(position)
            lesion = common.share(level["hull"], position, block) if common else None
            shares = tissue_shares(level, position, shape, fields, block, lesion)
            slow = None if variation is None else 0.8 * variation[0].on(block) + 0.6 * variation[1].on(block)
            extra = {
                contrast: (spots.share(level["hull"], position, block), value)
                for contrast, (spots, value) in alone.items()
            }
            for contrast, image in render(shares, tissues, looks, slow, block, extra).items():
                images[contrast][here] = image[keep]
            brain = (in_brain @ shares.flatten(1)).reshape(block.shape)
            best, dominant = torch.zeros(block.shape), torch.zeros(block.shape, dtype=torch.uint8)
            for tissue, share in zip(TISSUES.values(), shares, strict=True):
                dominant.masked_fill_(share > best, tissue.label)
                torch.maximum(best, share, out=best)
            labels[here], mask[here] = dominant[keep], brain[keep] > 0.5
            seen = (dominant == TISSUES["lesion"].label).byte() * LESION_LABELS["all"]
            for contrast, (spots_share, _) in extra.items():
                seen.masked_fill_((spots_share > 0.5) & (brain > 0.5), LESION_LABELS[contrast])
            lesions[here] = seen[keep]
        for k, contrast in enumerate(images):
            if k and bend is not None and self.misalignment:
                images[contrast] = self._misaligned(images[contrast], name, contrast)
            images[contrast] = _normalize(images[contrast])
        return Subject(name, self.affine, images, labels, velocity_on(grid, velocity), mask, lesions)

    def _misaligned(self, image: Tensor, *words: object) -> Tensor:
        gen = generator(self.seed, "misalignment", *words)
        span = self.misalignment / self.grid.spacing
        return shift_image(image, [uniform(-span, span, gen) for _ in range(3)])

    def datalist(self) -> list[dict[str, str]]:
        """List the cohort's files, generating the missing ones; NIfTI, uncompressed, so that a slice is read lazily.

        Returns:
            For each subject ``{"case": name, "<contrast>": path, ..., "labels": path}``, and with lesions also
            ``"lesions": path``.
        """
        from tqdm import tqdm

        names = [self.name(i) for i in range(self.n_subjects)]
        missing = [i for i, name in enumerate(names) if not (self.folder / name).is_dir()]
        for i in tqdm(missing, desc=f"brain cohort ({self.split})", disable=not missing or not sys.stderr.isatty()):
            self._write(self.subject(i))
        parts = (*self.contrasts, "labels", *(("lesions",) if self.lesions else ()))
        return [{"case": n, **{p: str(self.folder / n / f"{n}_{p}.nii") for p in parts}} for n in names]

    def _write(self, subject: Subject) -> None:
        import nibabel

        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".part-"))
        try:
            for contrast, image in subject.images.items():
                nifti = nibabel.Nifti1Image((image.numpy() * 32767).round().astype(np.int16), subject.affine)
                nifti.header.set_slope_inter(1 / 32767, 0)
                nibabel.save(nifti, temporary / f"{subject.name}_{contrast}.nii")
            maps = {"labels": subject.labels, **({"lesions": subject.lesions} if self.lesions else {})}
            for part, volume in maps.items():
                nifti = nibabel.Nifti1Image(volume.numpy(), subject.affine)
                nibabel.save(nifti, temporary / f"{subject.name}_{part}.nii")
            try:
                temporary.rename(self.folder / subject.name)
            except OSError:  # another process was faster, with the same numbers
                if not (self.folder / subject.name).is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _blocks(grid: Grid) -> Iterator[tuple[Grid, tuple[slice, ...], tuple[slice, ...]]]:
    """Cut a grid into blocks with one more voxel on each side, for gradients.

    Yields:
        The block, where its core lies in the whole grid, and where its core lies in the block.
    """
    for start in itertools.product(*(range(0, n, size) for n, size in zip(grid.shape, BLOCK, strict=True))):
        stop = [min(n, k + size) for n, k, size in zip(grid.shape, start, BLOCK, strict=True)]
        low = [max(0, k - 1) for k in start]
        high = [min(n, k + 1) for n, k in zip(grid.shape, stop, strict=True)]
        count = tuple(b - a for a, b in zip(low, high, strict=True))
        block = dataclasses.replace(grid, first=(low[0], low[1], low[2]), count=(count[0], count[1], count[2]))
        here = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        yield block, here, tuple(slice(h.start - a, h.stop - a) for h, a in zip(here, low, strict=True))


def _normalize(image: Tensor) -> Tensor:
    """Scale bright tissue to about 0.75, cut at 1, and round to the 15 bits that the files keep."""
    step = max(1, round((image.numel() / 300_000) ** (1 / 3)))
    part = image[::step, ::step, ::step]
    scale = torch.quantile(part[part > 0.05 * part.max()], 0.995)
    return (image / (1.3 * scale)).clamp_(0, 1).mul_(32767).round_().div_(32767)
