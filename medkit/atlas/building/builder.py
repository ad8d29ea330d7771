"""The atlas of a cohort: alignment, a pyramid of rounds, and a template that follows from the last transformations."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medkit.atlas.building.claiming import (
    INPUTS,
    WORK,
    check_cohort,
    check_reference,
    claim,
    given_up_when_refused,
    is_claimed,
)
from medkit.atlas.building.finishing import finish_atlas
from medkit.atlas.building.initial import check_initial, write_initial
from medkit.atlas.building.inputs import look_at
from medkit.atlas.building.intensity_work import prepare_intensities
from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.building.level import Level
from medkit.atlas.building.preparation import Preparation
from medkit.atlas.building.settings import AtlasSettings
from medkit.atlas.building.velocities import Velocities, load, store
from medkit.atlas.frame import Frame
from medkit.atlas.itk_images import simple_itk
from medkit.atlas.known_images import copies
from medkit.atlas.priors import RegistrationPrior
from medkit.atlas.pyramid import downsampled
from medkit.atlas.result import RECORD, AtlasFolder, Member, write_record
from medkit.atlas.subjects import AtlasSubject

logger = logging.getLogger(__name__)


class HybridAtlas:
    """Build an unbiased template of a cohort, and the transformations between it and each subject.

    All of it minimises one energy: how far the template, moved to each subject, is from it, and how much the
    transformations bend. In turn each subject's velocity is improved, from where a prior says if that is better; the
    mean is taken out of the velocities; and the template follows in closed form from the images. The template is never
    warped or sharpened by a filter.

    Subjects are read from disk one at a time, and each step's results are files: a run that is killed goes on where it
    was when it is started again, to the same atlas bit for bit (on one machine, the CPU, with the same number of
    threads); several processes that are started on one folder share the work, with the same result.

    Re-implemented from the published idea of Wu et al. 2022, "Hybrid Atlas Building with Deep Registration Priors"
    (arXiv 2112.06406). Differs: stationary velocities by default (geodesics by ``RegistrationModel(path="lddmm")``);
    the prior starts the transformations and does not replace them; the template is sharpened by majorise-minimise
    steps.

    Args:
        output_dir: folder of the atlas.
        settings: how it is built; ``None``: the defaults.
        prior: where transformations start, for the modes ``"hybrid"``, ``"amortized"`` and ``"map"``.
        spacing: of the template's grid, mm; ``None``: the median of the subjects'.
        reference: NIfTI file whose grid the template takes; ``None``: one along the RAS axes that holds all subjects.
        initial: the template to begin with: name of a subject, or NIfTI file of the first contrast that looks as the
            subjects do, aligned with them as they are with each other; ``None``: the mean of the subjects. The atlas
            hardly depends on it.
        device: where it is computed.
        shared: whether other processes work in the same folder.
        exclude_failed: whether to go on without subjects whose alignment failed.
        keep_work: whether to keep the files of intermediate steps.
        report: whether to write measures, pictures and the report, which :func:`finish_atlas` can do later.
        composite: whether to write each transformation also as one file for ITK, ``<name>_Composite.h5``.
        jacobian_smoothing: of the maps of the Jacobian, standard deviation of a Gaussian, mm.

    Raises:
        ValueError: if the mode needs a prior and there is none, or the spacing or the smoothing is out of its range.

    Example:
        >>> HybridAtlas("my_atlas").build(list_subjects("brains/*.nii.gz"))
    """

    def __init__(
        self,
        output_dir: str | Path,
        settings: AtlasSettings | None = None,
        prior: RegistrationPrior | None = None,
        spacing: float | None = None,
        reference: str | Path | None = None,
        initial: str | Path | None = None,
        device: str | torch.device = "cpu",
        shared: bool = False,
        exclude_failed: bool = False,
        keep_work: bool = False,
        report: bool = True,
        composite: bool = False,
        jacobian_smoothing: float = 0.0,
    ):
        self.folder = Path(output_dir)
        self.settings = AtlasSettings() if settings is None else settings
        if self.settings.mode != "iterative" and prior is None:
            raise ValueError(
                f"HybridAtlas: the mode {self.settings.mode!r} needs a 'prior'; without one take 'iterative'"
            )
        if spacing is not None and not (isinstance(spacing, (int, float)) and 0 < spacing < math.inf):
            raise ValueError(f"HybridAtlas: 'spacing' must be a positive number of mm, got {spacing!r}")
        if not (isinstance(jacobian_smoothing, (int, float)) and 0 <= jacobian_smoothing < math.inf):
            raise ValueError(f"HybridAtlas: 'jacobian_smoothing' must be at least 0 mm, got {jacobian_smoothing!r}")
        self.prior = None if self.settings.mode == "iterative" else prior
        self.spacing, self.reference = spacing, reference
        self.initial = None if initial is None else str(initial)  # of a command line, 1001 comes as a number
        self.exclude_failed, self.keep_work, self.report = exclude_failed, keep_work, report
        self.composite, self.jacobian_smoothing = composite, jacobian_smoothing
        self.device, self.shared = torch.device(device), shared

    def build(self, subjects: Sequence[AtlasSubject]) -> AtlasFolder:
        """Build the atlas, or go on building it.

        Args:
            subjects: at least two.

        Returns:
            The finished atlas.

        Raises:
            FileNotFoundError: if the initial template is neither a file nor a subject.
            ValueError: if a subject's file is bad, subjects do not fit together, or the folder holds an atlas of other
                subjects or settings.
        """
        began = time.monotonic()
        simple_itk("HybridAtlas")  # before hours of work, whose results need it
        digest = self._begin(subjects)
        jobs = Jobs(self.folder / WORK, self.shared)
        if (self.folder / RECORD).exists() and (
            not jobs.root.exists() or (jobs.root / "outputs" / "result.json").exists()
        ):
            logger.info("%s is finished; nothing is left to do", self.folder)
            return AtlasFolder(self.folder)
        refusing = partial(given_up_when_refused, self.folder, digest, self.settings, subjects, jobs)
        with refusing():
            prepared, frame, members = self._prepare(jobs, subjects)
        logger.info(
            "%d subjects on %s voxels of %s mm", len(members), "x".join(map(str, frame.size)),
            " x ".join(f"{h:g}" for h in frame.grid.spacing),
        )  # fmt: skip
        names = [member.name for member in members]
        velocities = Velocities()
        trace: list[dict[str, Any]] = []
        used: list[str] = []
        records: Mapping[str, Record] = {}
        smallest_motion = self.settings.smallest_motion * min(frame.grid.spacing)
        for i, factor in enumerate(self.settings.factors):
            grid = frame.grid.coarser(factor)
            label = f"level-{i + 1}"
            images = prepared.images
            if grid.size != frame.size:
                images = self._downsampled(jobs, f"{label}-images", prepared.images, names, grid.size)
            level = Level(jobs, label, self.settings, grid, images, names, self.device)
            first, before = level.follow(f"{label}-start", velocities, None, self.settings.n_template_steps[i])
            if i == 0 and self.initial is not None:
                with refusing():
                    first = write_initial(
                        jobs, f"{label}-initial", self.initial, self.settings, frame, members, prepared.contrasts,
                        prepared.images, first,
                    )  # fmt: skip
                before = level.judge(f"{label}-initial-judge", [first], velocities, False)[1]
            trace.append({"level": i + 1, "round": 0, "step": "template", "energy": before})
            velocities, records, phases = self._run_level(level, i, velocities, first, before, smallest_motion, trace)
            self._clean(jobs, used)  # the last level's files, once this one has velocities of its own
            used = phases
        energies = {name: float(record["energy"]) for name, record in records.items()}
        self._finish(jobs, velocities, prepared, frame, members, energies, trace)
        logger.info("%s is finished after %.0f s", self.folder, time.monotonic() - began)
        if not self.keep_work and self.shared:  # other processes may still wait for records, which are small
            for path in jobs.root.rglob("*.npy"):
                path.unlink(missing_ok=True)
        elif not self.keep_work:
            shutil.rmtree(jobs.root, ignore_errors=True)
        return AtlasFolder(self.folder)

    def _run_level(
        self,
        level: Level,
        i: int,
        velocities: Velocities,
        template: Path,
        before: float,
        smallest_motion: float,
        trace: list[dict[str, Any]],
    ) -> tuple[Velocities, Mapping[str, Record], list[str]]:
        """Alternate between the subjects and the template until nothing moves any more."""
        settings = self.settings
        steps: dict[str, float] = {}
        records: Mapping[str, Record] = {}
        for k in range(settings.n_rounds[i]):
            label = f"{level.name}-round-{k + 1}"
            asked = self.prior if k == 0 else None
            velocities, records = level.improve(
                f"{label}-velocities", template, velocities, settings.steps[i], steps, asked
            )
            steps = {name: float(record["step"]) for name, record in records.items()}
            energy = sum(float(record["energy"]) for record in records.values())
            motion = sum(float(record["motion_mm"]) for record in records.values()) / len(records)
            from_prior = sum(record["begun"] in ("prior", "half_prior") for record in records.values())
            at = {"level": i + 1, "round": k + 1}
            trace.append({**at, "step": "velocities", "energy": energy, "motion_mm": motion, "from_prior": from_prior})
            template, velocities, found = level.centre(
                label, velocities, template, energy, settings.n_template_steps[i]
            )
            after = float(found["energy"])
            trace.append({**at, "step": "template", **found})
            logger.info(
                "level %d of %d, round %d of %d: energy %.6g, %.3g mm of motion, %.3g mm of bias",
                i + 1, len(settings.factors), k + 1, settings.n_rounds[i], after, motion, found["bias_mm"],
            )  # fmt: skip
            settled = before - after < settings.tolerance * before or motion < smallest_motion
            before = after
            if settled:
                break
        phases = [p.name for p in level.jobs.root.iterdir() if p.name.startswith(f"{level.name}-")]
        return velocities, records, phases

    def _downsampled(self, jobs: Jobs, phase: str, source: Path, names: Sequence[str], size: tuple[int, ...]) -> Path:
        """Bring all subjects to a coarser grid."""
        folder = jobs.folder(phase)

        def work(name: str) -> Record:
            image, path = load(source / f"{name}.npy")[None], source / f"{name}_weight.npy"
            if path.exists():
                weight = load(path)[None]
                coarse = downsampled(weight, size)
                store(folder / path.name, coarse[0])
                image = downsampled(image * weight, size) / coarse.clamp(min=1e-6)
            else:
                image = downsampled(image, size)
            store(folder / f"{name}.npy", image[0])
            return {}

        jobs.each(phase, names, work)
        return folder

    def _clean(self, jobs: Jobs, phases: Sequence[str]) -> None:
        """Delete what earlier levels left; their records stay, so that a run that goes on does not do them again."""
        if not self.keep_work:
            for phase in phases:
                for path in jobs.folder(phase).glob("*.npy"):
                    path.unlink(missing_ok=True)

    def _finish(
        self,
        jobs: Jobs,
        velocities: Velocities,
        prepared: Preparation,
        frame: Frame,
        members: Sequence[Member],
        energies: Mapping[str, float],
        trace: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write the velocities and the record, and all that is a function of them."""
        size = self.settings.model.metric(frame.grid).size

        def work() -> Record:
            for member in members:
                velocity = velocities.of(member.name, size)[0].half()
                store(self.folder / "velocities" / f"{member.name}.npy", velocity)
            record = {
                "size": frame.size,
                "affine": frame.affine.tolist(),
                "contrasts": prepared.contrasts,
                "model": asdict(self.settings.model),
                "n_final_steps": self.settings.n_final_steps,
                "symmetric": self.settings.symmetric,
                "trace": list(trace),
                "excluded": prepared.excluded,
                "intensities": asdict(self.intensities),
            }
            write_record(self.folder, record, tuple(replace(m, energy=energies[m.name]) for m in members))
            return {}

        jobs.once("record", work)
        finish_atlas(self.folder, self.composite, self.jacobian_smoothing, self.report, jobs)
        jobs.once("outputs", dict)

    def _begin(self, subjects: Sequence[AtlasSubject]) -> str:
        """Refuse subjects that do not make a cohort, and a folder that holds another atlas; return a word for it."""
        check_cohort(subjects, self.settings)
        files = [asdict(subject) for subject in subjects]
        prior = None if self.prior is None else repr(self.prior.spec)
        more = {"reference": str(self.reference), "initial": self.initial, "prior": prior}
        digest = self.settings.digest(subjects=files, spacing=self.spacing, **more)
        if not is_claimed(self.folder, digest, self.settings, subjects):
            if self.reference is not None:
                check_reference(self.reference)
            if self.initial is not None:
                check_initial(self.initial, subjects)
        if not (self.folder / RECORD).exists():
            claim(self.folder, digest, self.settings, subjects)
        return digest

    def _prepare(self, jobs: Jobs, subjects: Sequence[AtlasSubject]) -> tuple[Preparation, Frame, tuple[Member, ...]]:
        """Read, prepare and align the subjects."""
        looks = look_at(jobs, INPUTS, subjects)
        words = {name: {contrast: look.digest for contrast, look in of.items()} for name, of in looks.items()}
        for sentence in copies(words):
            logger.warning("%s Leave all but one out.", sentence)
        cohort, self.intensities = prepare_intensities(jobs, self.settings, subjects, self.folder)
        if not self.intensities.does_nothing:
            looks = {
                name: {contrast: replace(look, digest=words[name][contrast]) for contrast, look in of.items()}
                for name, of in look_at(jobs, "look", cohort).items()
            }
        prepared = Preparation(jobs, self.settings, cohort, looks, self.spacing, self.reference, self.exclude_failed)
        return prepared, *prepared.align()
