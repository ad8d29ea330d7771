"""What comes before the pyramid: subjects are brought into one frame, and written on its grid."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from medkit.atlas.affine_mean import without_mean
from medkit.atlas.affine_registration import register_affine
from medkit.atlas.building.inputs import Looks
from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.building.settings import AtlasSettings
from medkit.atlas.building.velocities import load, store
from medkit.atlas.frame import Frame, common_frame, resampled
from medkit.atlas.misalignment import misaligned
from medkit.atlas.outputs.failed_alignment import draw_failure
from medkit.atlas.result import Member, bring, stripped
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import Appearance, load_volume, scaled

logger = logging.getLogger(__name__)

Reader = Callable[[str], tuple[torch.Tensor, Frame]]
COARSEST = 2.0  # mm, of the images that affine maps are found on


class Preparation:
    """Align subjects, and write them on the frame of the atlas.

    Args:
        jobs: runs the pieces.
        settings: of the atlas.
        subjects: its subjects.
        looks: what is known of their images.
        spacing: of the frame, mm; ``None``: the median of the subjects'.
        reference: NIfTI file whose grid is the frame; ``None``: one that holds all subjects.
        exclude_failed: whether to leave out subjects whose alignment failed; otherwise they end the run.
    """

    def __init__(
        self,
        jobs: Jobs,
        settings: AtlasSettings,
        subjects: Sequence[AtlasSubject],
        looks: Looks,
        spacing: float | None = None,
        reference: str | Path | None = None,
        exclude_failed: bool = False,
    ):
        self.jobs, self.settings, self.exclude_failed = jobs, settings, exclude_failed
        self.subjects = {subject.name: subject for subject in subjects}
        self.contrasts = tuple(sorted({contrast for subject in subjects for contrast in subject.images}))
        self.spacing, self.reference = spacing, reference
        self.looks, self._seen = looks, {n: {c: look.seen for c, look in of.items()} for n, of in looks.items()}
        self.excluded: dict[str, str] = {}
        self._fits: dict[str, dict[str, float]] = {}

    @property
    def images(self) -> Path:
        """Folder of the subjects' images on the frame, ``<name>.npy`` and ``<name>_weight.npy``."""
        return self.jobs.root / "images"

    def align(self) -> tuple[Frame, tuple[Member, ...]]:
        """Align all subjects, and write their images on the frame.

        Returns:
            The frame, and the subjects with their maps, without those that were left out.

        Raises:
            ValueError: if a file is bad, or the alignment of a subject failed.
        """
        looks = self._seen
        frame = self._frame(looks)
        matrices = {name: np.eye(4) for name in self.subjects}
        if self.settings.alignment != "none":
            matrices = self._aligned(looks, frame)
        members = tuple(
            Member(
                self.subjects[name],
                matrix,
                {contrast: (look.low, look.high) for contrast, look in looks[name].items()},
                {contrast: look.is_whole for contrast, look in looks[name].items()},
                digests={contrast: look.digest for contrast, look in self.looks[name].items()},
                alignment=self._fits.get(name, {}),
            )
            for name, matrix in matrices.items()
        )
        self._write({member.name: member for member in members}, frame)
        return frame, members

    def _frame(self, looks: Mapping[str, Mapping[str, Appearance]]) -> Frame:
        """Return the grid of the atlas."""
        if self.reference is not None:
            return load_volume(self.reference)[1]
        spacings = [look.spacing for of in self.looks.values() for look in of.values()]
        spacing = float(np.median(spacings)) if self.spacing is None else self.spacing
        together = self.settings.alignment == "none"
        boxes = [(look.lowest, look.highest) for each in looks.values() for look in each.values()]
        if together and self.spacing is None:
            frame = self._shared_grid(boxes)
            if frame is not None:
                return frame
        frame = common_frame(boxes, spacing, self.settings.margin, centred=not together)
        if together:
            return frame
        # The template's space is that of the subject that the others are first brought to.
        affine = frame.affine.copy()
        affine[:3, 3] += _middle(looks[self._first(looks)]) - frame.centre
        return Frame(frame.size, affine)

    def _shared_grid(self, boxes: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Frame | None:
        """Return the grid of all images, with a margin around what they show; ``None`` if they do not share one.

        So that images that need no interpolation get none.
        """
        frames = [load_volume(path)[1] for s in self.subjects.values() for path in s.images.values()]
        if not all(frame.shares_grid_with(frames[0]) for frame in frames):
            return None
        inverse = np.linalg.inv(frames[0].affine)
        corners = np.array(boxes)
        ends = np.stack(np.meshgrid(*np.stack([corners[:, 0].min(0), corners[:, 1].max(0)]).T, indexing="ij"), -1)
        indices = ends.reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]
        low, high = np.round(indices.min(0)).astype(int), np.round(indices.max(0)).astype(int)
        size, margin = np.array(frames[0].size), self.settings.margin
        # Grown where the margin is too narrow, never cut: the template has at least the voxels of the images.
        before, after = np.maximum(margin - low, 0), np.maximum(margin - (size - 1 - high), 0)
        after += (size + before + after) % 2
        return frames[0].padded(list(zip(before.tolist(), after.tolist(), strict=True)))

    def _first(self, looks: Mapping[str, Mapping[str, Appearance]]) -> str:
        """Return the subject of median size: the first target of the others, without being the largest or smallest."""
        sizes = {
            name: float(np.mean([np.prod(np.subtract(look.highest, look.lowest)) for look in each.values()]))
            for name, each in looks.items()
        }
        return sorted(sizes, key=lambda name: (sizes[name], name))[len(sizes) // 2]

    def _aligned(self, looks: Mapping[str, Mapping[str, Appearance]], frame: Frame) -> dict[str, np.ndarray]:
        """Register all subjects to their mean in some rounds, and take the mean of the maps out in each.

        Who does not fit at the end of a round is in neither mean: noise would be part of what the others are judged by.
        """
        scan = self.contrasts[0]
        names = list(self.subjects)
        coarse = frame.grid.coarser(max(1.0, COARSEST / min(frame.grid.spacing)))
        grid = _frame_of(frame, coarse.size)

        def image_of(name: str) -> tuple[torch.Tensor, Frame]:
            volume, source = stripped(self.subjects[name], scan)
            return scaled(volume, looks[name][scan].low, looks[name][scan].high), source

        first, homes = self._first(looks), {}
        for name, each in looks.items():
            homes[name] = np.eye(4)
            homes[name][:3, 3] = _middle(each) - frame.centre
        matrices = {name: np.eye(4) for name in names}
        for k in range(self.settings.n_alignment_rounds):
            phase, kind = f"alignment-{k + 1}", "rigid" if k == 0 else self.settings.alignment

            def work(name: str, k: int = k, kind: str = kind, before: Mapping[str, np.ndarray] = matrices) -> Record:
                moving, source = image_of(name)
                if k == 0 and name == first:
                    return {"matrix": np.eye(4).tolist(), "score": 1.0, "overlap": 1.0}
                if k == 0:
                    fixed, target = image_of(first)
                else:
                    fixed, target = load(self.jobs.root / f"alignment-{k}-mean" / "mean.npy")[None], grid
                start = None if k == 0 else before[name]
                found = register_affine(fixed[0, 0], target.affine, moving[0, 0], source.affine, kind=kind, start=start)
                return {"matrix": found.matrix.tolist(), "score": found.score, "overlap": found.overlap}

            records = self.jobs.each(phase, names, work, lambda record: f"score {record['score']:.3f}")
            # Scanners have origins of their own: shifts are averaged from the middle of each head, not from there.
            maps = np.stack([np.linalg.inv(homes[name]) @ np.array(records[name]["matrix"]) for name in names])
            trusted = _trusted([records[name] for name in names])
            _, mean = without_mean(torch.from_numpy(maps[trusted]), torch.from_numpy(frame.centre))
            centred = maps @ np.linalg.inv(mean.numpy())
            matrices = {name: homes[name] @ matrix for name, matrix in zip(names, centred, strict=True)}
            if k + 1 < self.settings.n_alignment_rounds:
                self._mean(f"{phase}-mean", image_of, {names[i]: matrices[names[i]] for i in trusted}, grid)
        scores, overlaps = ([float(records[name][key]) for name in names] for key in ("score", "overlap"))
        bad = misaligned(scores, [matrices[name] for name in names], overlaps)
        self._fits = {
            name: {"score": score, "overlap": o} for name, score, o in zip(names, scores, overlaps, strict=True)
        }
        failed = {names[i]: reason for i, reason in bad}
        pictures = self._draw(list(failed), image_of, matrices, grid, first)
        for name, reason in failed.items():
            logger.warning("the alignment of %s failed: %s; look at %s", name, reason, pictures[name])
        if failed and not self.exclude_failed:
            raise ValueError(
                f"HybridAtlas: the alignment of {', '.join(map(repr, failed))} failed; look at "
                f"{', '.join(map(str, pictures.values()))}, then align or leave them out, or set exclude_failed"
            )
        self.excluded = failed
        if len(matrices) - len(failed) < 2:
            raise ValueError(
                f"HybridAtlas: at least two subjects must be aligned, all but {len(matrices) - len(failed)} failed"
            )
        return {name: matrix for name, matrix in matrices.items() if name not in failed}

    def _draw(
        self, failed: Sequence[str], image_of: Reader, matrices: Mapping[str, np.ndarray], grid: Frame, first: str
    ) -> dict[str, Path]:
        """Write pictures of subjects whose alignment failed, beside what they were aligned to."""

        def placed(name: str) -> torch.Tensor:
            image, source = image_of(name)
            return resampled(image, source, grid, matrices[name], padding="zeros")

        mean = self.jobs.root / f"alignment-{self.settings.n_alignment_rounds - 1}-mean" / "mean.npy"
        found = {}
        for name in failed:
            reference = load(mean)[None] if mean.exists() else placed(first)
            found[name] = draw_failure(self.jobs.root.parent, name, reference, placed(name), grid)
        return found

    def _mean(self, phase: str, image_of: Reader, matrices: Mapping[str, np.ndarray], grid: Frame) -> None:
        """Average all subjects as they are aligned now."""

        def work() -> Record:
            total = torch.zeros(1, 1, *grid.size, dtype=torch.float64)
            for name, matrix in matrices.items():
                image, source = image_of(name)
                total += resampled(image, source, grid, matrix, padding="zeros")
            store(self.jobs.folder(phase) / "mean.npy", (total / len(matrices)).float()[0])
            return {}

        self.jobs.once(phase, work)

    def _write(self, members: Mapping[str, Member], frame: Frame) -> None:
        """Write images and weights of all subjects on the frame."""

        def work(name: str) -> Record:
            image, weight = bring(members[name], self.contrasts, frame)
            store(self.images / f"{name}.npy", image[0])
            if weight is not None:
                store(self.images / f"{name}_weight.npy", weight[0])
            return {}

        self.jobs.each("images", list(members), work)


def _trusted(records: Sequence[Record]) -> list[int]:
    """Return which subjects fit so far; all, if hardly any does: it is the first one then that is unlike the others."""
    scores, overlaps, maps = ([record[key] for record in records] for key in ("score", "overlap", "matrix"))
    named = {i for i, _ in misaligned(scores, maps, overlaps)}
    fitting = [i for i in range(len(records)) if i not in named]
    return fitting if len(fitting) > max(1, len(records) // 2) else list(range(len(records)))


def _middle(looks: Mapping[str, Appearance]) -> np.ndarray:
    """Middle of a subject's foreground, RAS mm."""
    return np.mean([np.add(look.lowest, look.highest) / 2 for look in looks.values()], axis=0)


def _frame_of(frame: Frame, size: tuple[int, ...]) -> Frame:
    """Return a frame over the same box with other voxels."""
    ratio = np.array(frame.size) / np.array(size)
    affine = frame.affine.copy()
    affine[:3, :3] = frame.affine[:3, :3] * ratio
    affine[:3, 3] += frame.affine[:3, :3] @ ((ratio - 1) / 2)
    return Frame(size, affine)
