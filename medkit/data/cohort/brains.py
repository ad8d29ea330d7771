"""The simulated brain cohort: subjects of known anatomy, drawn from a seed and cached on disk."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.data.cohort.anatomy import Shape, tissue_shares
from medkit.data.cohort.contrast import CONTRASTS, draw_relaxation, draw_sequence, render, slow_variation
from medkit.data.cohort.deformation import displacement_on, draw_velocity, flow, velocity_on
from medkit.data.cohort.geometry import Geometry, load_geometry
from medkit.data.cohort.labels import BRAIN, LABELS, TISSUES
from medkit.data.cohort.lattice import Grid, generator, lattice_noise, spread, uniform
from medkit.data.cohort.lesions import draw_lesions
from medkit.data.cohort.ranges import RANGES, SPLITS, Range, Ranges

VERSION = 1  # of the generator: any change of what it draws counts it up, so that no cache mixes two of them
BEND_STEP = 5.0  # mm between the coefficients of the folding displacement

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
    """

    name: str
    affine: np.ndarray
    images: dict[str, Tensor]
    labels: Tensor
    velocity: Tensor
    mask: Tensor


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
        lesions: whether to add lesions, some seen by all contrasts (label 24), some by one alone.
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
            "lesions": self.lesions,
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
        gen = generator("template")
        grid = self.grid
        shape = Shape(variation=0.0)
        still = torch.zeros(3, *grid.shape)
        shares = tissue_shares(self._geometry, _positions(grid), shape, grid, gen)
        images = {}
        for contrast in self.contrasts:
            sequence = draw_sequence(contrast, _middle(self.ranges), TISSUES["csf"].t1, generator("template", 1))
            images[contrast] = render(
                shares, TISSUES, sequence, self.ranges, torch.zeros(3, 1, 1, 1), grid, gen, texture=0.0, bias=0.0
            )
        return self._finish("template", images, shares, still)

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
        grid, ranges, key = self.grid, self.ranges, (self.seed, self.split, i)
        velocity = self._raw_velocity(i) - self._mean_velocity
        bend = self._draw(ranges.bend, i, "bend") * lattice_noise(
            BEND_STEP, self._draw(ranges.bend_wavelength, i, "bend wavelength"), generator(*key, "bend field"), 3
        )
        position = _positions(grid)
        position += displacement_on(grid, flow(velocity))
        position += spread(bend, BEND_STEP, grid)
        shape = Shape(
            **{
                field.name: self._draw(getattr(ranges, field.name), i, field.name)
                for field in dataclasses.fields(Shape)
                if field.name != "variation"
            }
        )
        common, alone = None, {}
        if self.lesions:
            hull = self._geometry.sample(position)["hull"]
            common = draw_lesions(hull, position, grid, generator(*key, "lesions"), (2, 7), (2.0, 8.0))
            for contrast in self.contrasts:
                gen = generator(*key, "lesions", contrast)
                spots = draw_lesions(hull, position, grid, gen, (1, 2), (2.0, 5.0))
                alone[contrast] = [
                    (spots, uniform(0.3, 0.7, gen) if uniform(0, 1, gen) < 0.5 else uniform(1.3, 2, gen))
                ]
        shares = tissue_shares(self._geometry, position, shape, grid, generator(*key, "anatomy"), common)
        tissues = draw_relaxation(ranges, generator(*key, "relaxation"))
        variation = slow_variation(grid, generator(*key, "variation"))
        images = {}
        for contrast in self.contrasts:
            gen = generator(*key, contrast)
            sequence = draw_sequence(contrast, ranges, tissues["csf"].t1, gen)
            images[contrast] = render(
                shares, tissues, sequence, ranges, variation, grid, gen, uniform(*ranges.texture, gen),
                uniform(*ranges.bias, gen), alone.get(contrast, ()),
            )  # fmt: skip
            if self.misalignment and contrast != self.contrasts[0]:
                shift = [uniform(-self.misalignment, self.misalignment, gen) / grid.spacing for _ in range(3)]
                images[contrast] = _shift(images[contrast], shift)
        return self._finish(self.name(i), images, shares, velocity_on(grid, velocity))

    def _finish(self, name: str, images: dict[str, Tensor], shares: dict[str, Tensor], velocity: Tensor) -> Subject:
        best = torch.zeros(self.grid.shape)
        labels = torch.zeros(self.grid.shape, dtype=torch.uint8)
        brain = torch.zeros(self.grid.shape)
        for tissue, share in shares.items():
            labels[share > best] = LABELS[tissue]
            best = torch.maximum(best, share)
            if tissue in BRAIN:
                brain += share
        return Subject(name, self.affine, {k: _quantize(v) for k, v in images.items()}, labels, velocity, brain > 0.5)

    def datalist(self) -> list[dict[str, str]]:
        """List the cohort's files, generating the missing ones; NIfTI, uncompressed, so that a slice is read lazily.

        Returns:
            For each subject ``{"case": name, "<contrast>": path, ..., "labels": path}``.
        """
        from tqdm import tqdm

        names = [self.name(i) for i in range(self.n_subjects)]
        missing = [i for i, name in enumerate(names) if not (self.folder / name).is_dir()]
        for i in tqdm(missing, desc=f"brain cohort ({self.split})", disable=not missing or not sys.stderr.isatty()):
            self._write(self.subject(i))
        parts = (*self.contrasts, "labels")
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
            nibabel.save(
                nibabel.Nifti1Image(subject.labels.numpy(), subject.affine), temporary / f"{subject.name}_labels.nii"
            )
            try:
                temporary.rename(self.folder / subject.name)
            except OSError:  # another process was faster, with the same numbers
                if not (self.folder / subject.name).is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _positions(grid: Grid) -> Tensor:
    return torch.stack(torch.meshgrid(*grid.axes(), indexing="ij"))


def _quantize(image: Tensor) -> Tensor:
    """Round to the 15 bits that the files keep."""
    return (image * 32767).round_().div_(32767)


def _middle(ranges: Ranges) -> Ranges:
    """Replace every range by its middle."""
    return dataclasses.replace(
        ranges,
        **{
            f.name: ((sum(getattr(ranges, f.name)) / 2,) * 2)
            for f in dataclasses.fields(ranges)
            if f.name != "amplitude"
        },
    )


def _shift(image: Tensor, shift: Sequence[float]) -> Tensor:
    """Move an image by a fraction of a voxel along each axis, by linear interpolation; the border is repeated."""
    for axis, amount in enumerate(shift):
        whole = int(np.floor(amount))
        part = amount - whole
        n = image.shape[axis]
        index = torch.arange(n)
        low, high = (index - whole).clamp(0, n - 1), (index - whole - 1).clamp(0, n - 1)
        image = (1 - part) * image.index_select(axis, low) + part * image.index_select(axis, high)
    return image
