"""Quality control on the simulated cohort: slices of four contrasts, clean or with one of seven artefacts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medkit.data import BrainCohort, smooth_phase
from medkit.distill.physics import acquire_moving, add_ghosts, add_spike, lower_resolution, shade, wrap_around
from medkit.workflow import atomic_path, is_shown

VERSION = 1  # counts up with any change of what is drawn, so that no cache mixes two generators
CONTRASTS = {"t1": "T1", "t2": "T2", "pd": "PD", "flair": "FLAIR"}
ARTEFACTS = ("clean", "motion", "ghosting", "spike", "wrap-around", "bias field", "noise", "blur")

Range = tuple[float, float]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArtefactRanges:
    """Lowest and highest value of what varies from slice to slice; of an artefact's strength at severity 0 and 1.

    Args:
        motion: largest shift in pixels; the largest turn is as many degrees.
        ghosting: amplitude of the pulsation.
        spike: height of the spark in units of the largest sample of k-space.
        wrap: rows of the head that leave the field of view.
        bias: standard deviation of the bias field's logarithm.
        noise: standard deviation of the noise's real part that is added to ``floor``, in units of the bright tissue.
        blur: standard deviation of the smoothing in pixels, beside ``sharpness``.
        floor: of every slice: standard deviation of its noise.
        sharpness: of every slice: standard deviation of its smoothing in pixels.
        view: of every slice: side of the field of view in mm.
        turn: of every slice: largest turn in degrees.
        window: of every slice: factor from bright tissue to the end of the grey scale.
    """

    motion: Range = (0.7, 6.0)
    ghosting: Range = (0.08, 0.7)
    spike: Range = (0.08, 0.8)
    wrap: Range = (1.5, 16.0)
    bias: Range = (0.25, 0.9)
    noise: Range = (0.008, 0.13)
    blur: Range = (0.35, 1.5)
    floor: Range = (0.006, 0.025)
    sharpness: Range = (0.0, 0.4)
    view: Range = (225.0, 260.0)
    turn: float = 12.0
    window: Range = (1.1, 1.6)


RANGES = {
    "train": ArtefactRanges(),
    "validation": dataclasses.replace(ArtefactRanges(), view=(230.0, 255.0), floor=(0.008, 0.022)),
    "test": dataclasses.replace(
        ArtefactRanges(),
        view=(222.0, 262.0),
        turn=15.0,
        floor=(0.006, 0.03),
        window=(1.05, 1.65),
        sharpness=(0.0, 0.45),
    ),
}


class ArtefactSlices:
    """Simulated MR slices with their contrast and artefact: 32 classes, equally many of each.

    A class is a contrast (T1, T2, PD, FLAIR) with an artefact (motion, ghosting, spike, wrap-around, bias field, noise,
    blur) or none. Both parts are facts of the acquisition, where a border between a mild and a strong artefact would be
    a convention. The severity is continuous and uniform in 0 to 1; at 0 an artefact is hardly visible, so no classifier
    is right always. Every slice goes the same way (one interpolation, phase, k-space and back, noise, magnitude, one
    normalisation, 8 bits), so that no class is given away by how it was computed. Subjects, and the ranges of the
    parameters, differ between the splits.

    Args:
        n_per_class: slices of each class.
        split: ``train``, ``validation`` or ``test``.
        n_subjects: subjects of the cohort.
        size: height and width in pixels.
        spacing: of the cohort in mm.
        seed: replays the slices.
        cache_dir: where the file goes; ``None`` takes ``$MEDKIT_CACHE``, else ``~/.cache/medkit``.

    Attributes:
        CLASSES: their names, contrast first: ``"T1 clean"``, ``"T1 motion"``, …

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> slices = ArtefactSlices(2, split="test", n_subjects=1, spacing=8.0)
        >>> image, severity = slices.draw(0)
        >>> image.shape
        (64, 64)
    """

    CLASSES = tuple(f"{contrast} {artefact}" for contrast in CONTRASTS.values() for artefact in ARTEFACTS)

    def __init__(
        self,
        n_per_class: int,
        split: str = "train",
        n_subjects: int = 40,
        size: int = 64,
        spacing: float = 3.0,
        seed: int = 0,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if n_per_class < 1 or size < 16:
            raise ValueError(
                f"ArtefactSlices: 'n_per_class' must be at least 1 and 'size' at least 16, got {n_per_class} and {size}"
            )
        self.cohort = BrainCohort(n_subjects, split, seed, spacing, tuple(CONTRASTS), cache_dir=cache_dir)
        self.n_per_class, self.split, self.size, self.seed = n_per_class, split, size, seed
        self.ranges = RANGES[split]

    def __len__(self) -> int:
        return self.n_per_class * len(self.CLASSES)

    @property
    def path(self) -> Path:
        """The file that holds the slices once :meth:`write` was called; its name hashes every parameter."""
        parameters = {
            "version": VERSION,
            "cohort": self.cohort.folder.name,
            "n_per_class": self.n_per_class,
            "size": self.size,
            "seed": self.seed,
            "ranges": dataclasses.asdict(self.ranges),
        }
        digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
        return self.cohort.cache_dir / f"artefact-slices-v{VERSION}-{self.split}-{digest}.npz"

    @cached_property
    def _volumes(self) -> list[dict[str, Tensor]]:
        entries = self.cohort.datalist()
        return [
            {c: torch.from_numpy(np.asarray(nibabel.load(entry[c]).dataobj, dtype=np.float32)) for c in CONTRASTS}
            for entry in entries
        ]

    def subject(self, i: int) -> int:
        """Return the number of the subject that slice ``i`` shows."""
        return int(_generator(self.seed, self.split, i, "subject").integers(self.cohort.n_subjects))

    def draw(self, i: int) -> tuple[np.ndarray, float]:
        """Draw slice ``i``; the same one every time. Its class is ``i % 32``.

        Args:
            i: 0 to ``len(self) - 1``.

        Returns:
            The slice, uint8, ``(size, size)``, anterior at the top and the subject's left at the right; and the
            severity of its artefact, 0 to 1, ``nan`` for a clean one.

        Raises:
            ValueError: if there is no such slice.
        """
        if not 0 <= i < len(self):
            raise ValueError(f"ArtefactSlices.draw: 'i' must be 0 to {len(self) - 1}, got {i}")
        contrast, artefact = divmod(i % len(self.CLASSES), len(ARTEFACTS))
        volume = self._volumes[self.subject(i)][tuple(CONTRASTS)[contrast]]
        return _Exam(self, volume, _generator(self.seed, self.split, i)).acquire(ARTEFACTS[artefact])

    def write(self) -> Path:
        """Write all slices into one file, unless it is there; the cohort is generated first where it is missing.

        Returns:
            :attr:`path`, a ``.npz`` with ``images`` (uint8, ``(N, size, size)``), ``labels`` (uint8, ``(N,)``),
            ``class_names``, ``cases``, ``subjects`` and ``severities``.
        """
        if not self.path.is_file():
            drawn = [self.draw(i) for i in tqdm(range(len(self)), f"slices ({self.split})", disable=not is_shown())]
            subjects = [self.cohort.name(self.subject(i)) for i in range(len(self))]
            with atomic_path(self.path) as temporary:
                np.savez_compressed(
                    temporary,
                    images=np.stack([image for image, _ in drawn]),
                    labels=(np.arange(len(self)) % len(self.CLASSES)).astype(np.uint8),
                    class_names=np.array(self.CLASSES),
                    cases=np.array([f"{name}_{i:05d}" for i, name in enumerate(subjects)]),
                    subjects=np.array(subjects),
                    severities=np.array([severity for _, severity in drawn], dtype=np.float32),
                )
        return self.path


class _Exam:
    """One slice of one volume, with everything that is drawn for it."""

    def __init__(self, slices: ArtefactSlices, volume: Tensor, rng: np.random.Generator) -> None:
        self.rng, self.ranges, self.size = rng, slices.ranges, slices.size
        level = round(volume.shape[2] * rng.uniform(0.42, 0.72))
        # Rows run from anterior to posterior, columns from right to left, as radiologists look at it.
        self.slice = volume[:, :, level].flip(0, 1).T / max(float(torch.quantile(volume[:, :, level], 0.99)), 1e-3)
        self.scale = rng.uniform(*self.ranges.view) / (slices.size * slices.cohort.grid.spacing)
        self.angle = rng.uniform(-self.ranges.turn, self.ranges.turn)
        self.is_turned = rng.random() < 0.5  # whether phase is encoded along the columns
        seed = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self.phase = smooth_phase((self.size, self.size), seed)
        field = smooth_phase((self.size, self.size), seed, polynomial=1.0, field=0.5, width=0.3, offset=False)
        self.field = (field - field.mean()) / field.std()
        # No slice leaves the field of view but by wrap-around, and each lies anywhere inside it.
        rows, columns = (_extent(self.pose((0.0, 0.0), 0.0), axis) for axis in (0, 1))
        self.room = [(-float(low), float(self.size - 1 - high)) for low, high in (rows, columns)]
        self.shift = tuple(rng.uniform(low, high) if low < high else (low + high) / 2 for low, high in self.room)

    def pose(self, shift: tuple[float, ...], turn: float) -> Tensor:
        """The slice, moved by pixels and degrees beside its own angle, float32, ``(size, size)``."""
        angle = math.radians(self.angle + turn)
        height, width = self.slice.shape
        steps = torch.arange(self.size) - (self.size - 1) / 2
        row, column = (steps - shift[0])[:, None] * self.scale, (steps - shift[1])[None] * self.scale
        place_row = math.cos(angle) * row - math.sin(angle) * column
        place_column = math.sin(angle) * row + math.cos(angle) * column
        grid = torch.stack([place_column / ((width - 1) / 2), place_row / ((height - 1) / 2)], dim=-1)[None]
        return torch.nn.functional.grid_sample(self.slice[None, None], grid, align_corners=True)[0, 0]

    def strength(self, span: Range, severity: float) -> float:
        """Between the ends of a range, in equal ratios for equal steps of severity."""
        return span[0] * (span[1] / span[0]) ** severity

    def acquire(self, artefact: str) -> tuple[np.ndarray, float]:
        rng, ranges = self.rng, self.ranges
        severity = float(rng.random())
        strength = self.strength(getattr(ranges, _RANGE_OF[artefact]), severity) if artefact in _RANGE_OF else 0.0
        poses = [self.pose(self.shift, 0.0)]
        if artefact == "motion":
            poses += [self._moved(strength) for _ in range(int(rng.integers(1, 5)))]
        objects = torch.stack(poses) * torch.exp(1j * self.phase)
        if self.is_turned:
            objects = objects.transpose(1, 2)
        image = acquire_moving(objects, self._pose_of_line(len(poses)))
        if artefact == "ghosting":
            image = add_ghosts(image, strength, rng.uniform(2, 9), rng.uniform(0, 2 * math.pi))
        elif artefact == "spike":
            image = add_spike(image, strength, self._spark(), rng.uniform(0, 2 * math.pi))
        elif artefact == "wrap-around":
            axis = int(self.is_turned)
            low, high = (edge - self.shift[axis] for edge in self.room[axis])
            image = wrap_around(image, high + strength if rng.random() < 0.5 else low - strength)
        elif artefact == "bias field":
            image = shade(image, self.field.T if self.is_turned else self.field, strength)
        smoothing = rng.uniform(*ranges.sharpness)
        image = lower_resolution(image, math.hypot(smoothing, strength) if artefact == "blur" else smoothing)
        sigma = rng.uniform(*ranges.floor) + (strength if artefact == "noise" else 0.0)
        noise = torch.from_numpy(rng.standard_normal((2, *image.shape), dtype=np.float32))
        image = image + sigma * torch.complex(noise[0], noise[1])
        magnitude = (image.T if self.is_turned else image).abs()
        bright = float(torch.quantile(magnitude, 0.99)) * rng.uniform(*ranges.window)
        return (255 * magnitude / bright).clamp(0, 255).round().byte().numpy(), severity if strength else math.nan

    def _moved(self, strength: float) -> Tensor:
        direction = self.rng.uniform(0, 2 * math.pi)
        reach = strength * self.rng.uniform(0.5, 1.0)
        step = (reach * math.sin(direction), reach * math.cos(direction))
        shift = tuple(own + more for own, more in zip(self.shift, step, strict=True))
        return self.pose(shift, strength * self.rng.uniform(-1, 1))

    def _pose_of_line(self, n_poses: int) -> Tensor:
        """The first pose holds at the centre of k-space; the others each fill a stretch of lines outside it.

        The head moves while the middle 60 % of the lines are acquired: later it would hardly show.
        """
        line = np.zeros(self.size, dtype=np.int64)
        if n_poses > 1:
            edge = self.size // 5
            starts = np.sort(self.rng.integers(edge, self.size - edge, n_poses - 1))
            line = np.searchsorted(starts, np.arange(self.size), side="right")
            centre = line[self.size // 2]
            line = np.where(line == centre, 0, np.where(line == 0, centre, line))
        return torch.from_numpy(line)

    def _spark(self) -> tuple[int, int]:
        """A sample neither so near the centre that it shades nor outside k-space."""
        angle, radius = self.rng.uniform(0, 2 * math.pi), self.rng.uniform(0.12, 0.45) * self.size
        return round(radius * math.sin(angle)), round(radius * math.cos(angle))


_RANGE_OF = {
    "motion": "motion",
    "ghosting": "ghosting",
    "spike": "spike",
    "wrap-around": "wrap",
    "bias field": "bias",
    "noise": "noise",
    "blur": "blur",
}


def _extent(image: Tensor, axis: int) -> tuple[int, int]:
    """First and last index along an axis where the image is not empty."""
    lit = (image.amax(1 - axis) > 0.08).nonzero()[:, 0]
    return (int(lit[0]), int(lit[-1])) if len(lit) else (0, image.shape[axis] - 1)


def _generator(*words: object) -> np.random.Generator:
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
