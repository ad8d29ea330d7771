"""One level of the pyramid: subjects on its grid, velocities improved one by one, and the template that follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.building.settings import AtlasSettings
from medkit.atlas.building.velocities import Velocities, load, rounded, store
from medkit.atlas.descent import FIRST_STEP, regulariser
from medkit.atlas.priors import RegistrationPrior, predict_velocity
from medkit.atlas.pyramid import Grid, downsampled
from medkit.atlas.registration import PairEnergy, RegistrationModel, velocity_step
from medkit.atlas.template import TemplateSums, data_term

logger = logging.getLogger(__name__)

MAX_BLOCKS = 16
SMALLEST_START = 0.05  # voxels, of a round's first step: the template has changed since the last one
FOREGROUND = 0.05  # of intensities from 0 to 1
LARGEST_RISE = 1.02  # of the energy, by which centring may change the interpolation
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0)  # of the mean; what it raises the energy by falls with their square


def blocks_of(names: Sequence[str]) -> dict[str, Sequence[str]]:
    """Split subjects into at most 16 blocks of neighbours, whose sums are added in this order whoever makes them."""
    size = -(-len(names) // MAX_BLOCKS)
    return {f"block-{i // size:02d}": names[i : i + size] for i in range(0, len(names), size)}


@dataclass
class Level:
    """One level of the pyramid.

    Args:
        jobs: runs the pieces.
        name: of the level; phases are called after it.
        settings: of the atlas.
        grid: of the images.
        images: folder of the subjects on this grid, ``<name>.npy``, ``(C, *S)``, and ``<name>_weight.npy`` where not
            all counts fully.
        names: of the subjects.
        device: where it is computed.
    """

    jobs: Jobs
    name: str
    settings: AtlasSettings
    grid: Grid
    images: Path
    names: Sequence[str]
    device: torch.device

    @property
    def model(self) -> RegistrationModel:
        """The energy."""
        return self.settings.model

    def subject(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Return images and weight of a subject, ``(1, C, *grid.size)``."""
        image = load(self.images / f"{name}.npy")[None].to(self.device)
        path = self.images / f"{name}_weight.npy"
        return image, load(path)[None].to(self.device) if path.exists() else None

    def problem(self, name: str, template: Tensor) -> PairEnergy:
        """Return the energy of a subject as a function of its velocity."""
        image, weight = self.subject(name)
        return PairEnergy(self.model, self.grid, template.to(self.device), image, weight)

    # Velocities

    def improve(
        self,
        phase: str,
        template: Path,
        velocities: Velocities,
        n_steps: int,
        steps: Mapping[str, float],
        prior: RegistrationPrior | None,
    ) -> tuple[Velocities, dict[str, Record]]:
        """Improve the velocity of each subject, the template being fixed.

        Args:
            phase: its name.
            template: file of the template on this grid.
            velocities: where they are.
            n_steps: gradient steps.
            steps: lengths of their first steps, in voxels, by subject; 0.5 where there is none.
            prior: asked for each subject; ``None``: none.

        Returns:
            Where they are now, and the records: ``energy``, ``data``, ``step``, ``begun`` and
            ``motion_mm``, how far points of the foreground moved on average.
        """
        folder = self.jobs.folder(phase)
        size = self.model.metric(self.grid).size

        def work(name: str) -> Record:
            problem = self.problem(name, load(template))
            start = velocities.of(name, size).to(self.device)
            guess = None
            if prior is not None:
                guess = predict_velocity(prior, problem.template, problem.subject, problem.metric, name)
            weight = self.settings.prior_weight if self.settings.mode == "map" else 0.0
            found, begun = velocity_step(
                problem, start, n_steps, steps.get(name, FIRST_STEP), guess, weight, name, rounded
            )
            store(folder / f"{name}.npy", found.velocity[0].half().cpu())
            moved = problem.metric.to_mm(found.velocity - start).square().sum(1, keepdim=True).sqrt()
            seen = downsampled(problem.template.amax(1, keepdim=True), size) > FOREGROUND
            motion = float(moved[seen].mean()) if bool(seen.any()) else 0.0
            cost = float(regulariser(problem.metric, found.velocity))
            return {
                "energy": found.data + cost,
                "data": found.data,
                "step": max(found.step, SMALLEST_START),
                "begun": begun,
                "motion_mm": motion,
            }

        records = self.jobs.each(phase, self.names, work, lambda record: f"E={record['energy']:.5g} {record['begun']}")
        return Velocities(folder), records

    def mean(self, phase: str, velocities: Velocities) -> tuple[Path, Record]:
        """Average the velocities; the record holds ``bias_mm``, the mean's mean length."""
        path = self.jobs.folder(phase) / "mean.npy"
        metric = self.model.metric(self.grid)

        def work() -> Record:
            total = torch.zeros(1, len(metric.size), *metric.size, dtype=torch.float64)
            for name in self.names:
                total += velocities.of(name, metric.size)
            mean = (total / len(self.names)).float()
            if self.settings.symmetric:  # a template that mirrors itself may be shifted by mirrored fields alone
                mean = 0.5 * (mean + mirrored(mean))
            store(path, mean)
            length = metric.to_mm(mean).square().sum(1).sqrt().mean()
            return {"bias_mm": float(length)}

        return path, self.jobs.once(phase, work)

    # Template

    def pull(self, phase: str, velocities: Velocities, previous: Path | None) -> Path:
        """Make the template that minimises the energy for given velocities, and return its file."""
        folder, blocks = self.jobs.folder(phase), blocks_of(self.names)
        size = self.model.metric(self.grid).size

        def work(block: str) -> Record:
            sums = TemplateSums.zeros(self.subject(blocks[block][0])[0])
            for name in blocks[block]:
                image, weight = self.subject(name)
                problem = PairEnergy(self.model, self.grid, image, image, weight)
                moved = problem.displacement(velocities.of(name, size).to(self.device))
                sums.add_pulled(image, moved, weight, self.model.sigma, self.model.form)
            self._store_sums(folder / f"{block}.npy", sums)
            return {}

        self._each_block(phase, work)
        path = folder / "template.npy"

        def reduce() -> Record:
            before = None if previous is None else load(previous)
            store(path, self._summed(folder, blocks).template(before))
            return {}

        self.jobs.once(phase, reduce)
        self._drop(folder, blocks)
        return path

    def judge(
        self, phase: str, templates: Sequence[Path], velocities: Velocities, sharpen: bool
    ) -> tuple[Path, float, Path | None]:
        """Find the template of least energy, and the next majorise-minimise step from it.

        Args:
            phase: its name.
            templates: files of the candidates.
            velocities: of the subjects.
            sharpen: whether to make the step.

        Returns:
            File of the best, its energy, and the file after the step; ``None`` without one.
        """
        folder, blocks = self.jobs.folder(phase), blocks_of(self.names)
        metric, model = self.model.metric(self.grid), self.model
        sharpen = sharpen and model.form == "subject"

        @torch.no_grad()
        def work(block: str) -> Record:
            candidates = [load(path).to(self.device) for path in templates]
            energies = [0.0] * len(candidates)
            sums = [TemplateSums.zeros(c) for c in candidates]
            for name in blocks[block]:
                v = velocities.of(name, metric.size).to(self.device)
                problem = self.problem(name, candidates[0])
                moved = problem.displacement(v, inverse=model.form == "subject")
                for i, candidate in enumerate(candidates):
                    term = (candidate, problem.subject, moved, problem.weight, model.sigma)
                    energies[i] += float(data_term(*term, self.grid.voxel_volume, model.form)[0])
                    energies[i] += float(regulariser(metric, v))
                    if sharpen:
                        sums[i].add_residual(candidate, problem.subject, moved, problem.weight, model.sigma)
            if sharpen:
                for i, each in enumerate(sums):
                    self._store_sums(folder / f"{block}-{i}.npy", each)
            return {"energies": energies}

        records = self._each_block(phase, work)
        path = folder / "template.npy"

        def reduce() -> Record:
            energies = [sum(float(r["energies"][i]) for r in records.values()) for i in range(len(templates))]
            best = min(range(len(templates)), key=energies.__getitem__)
            if sharpen:
                store(path, self._summed(folder, blocks, f"-{best}").majorised(load(templates[best])))
            return {"best": best, "energy": energies[best]}

        found = self.jobs.once(phase, reduce)
        self._drop(folder, [f"{block}-{i}" for block in blocks for i in range(len(templates))])
        return templates[found["best"]], float(found["energy"]), path if sharpen else None

    def follow(
        self, phase: str, velocities: Velocities, previous: Path | None, n_template_steps: int
    ) -> tuple[Path, float]:
        """Make the best template for given velocities: the closed form or the one before, then sharpened.

        Returns:
            Its file, and the energy before the sharpening, which can only lower it.
        """
        pulled = self.pull(f"{phase}-pull", velocities, previous)
        candidates = [pulled] if previous is None else [pulled, previous]
        best, energy, sharper = self.judge(f"{phase}-judge", candidates, velocities, n_template_steps > 0)
        for k in range(1, n_template_steps):
            if sharper is None:
                break
            best, sharper = sharper, self.judge(f"{phase}-judge-{k + 1}", [sharper], velocities, True)[2]
        return (best if sharper is None else sharper), energy

    def centre(
        self, phase: str, velocities: Velocities, previous: Path, energy: float, n_template_steps: int
    ) -> tuple[Path, Velocities, Record]:
        """Subtract the mean of the velocities, make the template anew from the images, and take less if that fails.

        Args:
            phase: its name.
            velocities: of the subjects.
            previous: file of the template before.
            energy: before it.
            n_template_steps: see :meth:`follow`.

        Returns:
            File of the template, the velocities, and a record: ``energy``, ``share``, ``bias_mm``.
        """
        mean, record = self.mean(f"{phase}-mean", velocities)
        for share in SHARES:
            centred = Velocities(velocities.folder, velocities.n_axes, mean, share)
            label = f"{phase}-centred-{round(100 * share)}"
            template, after = self.follow(label, centred, previous, n_template_steps)
            # Other similarities than the squared difference are not what the template minimises: nothing to compare.
            if self.model.similarity != "ssd" or after <= LARGEST_RISE * energy:
                break
            rise = 100 * (after / energy - 1)
            logger.info("%s: taking out %g of the mean would raise the energy by %.1f %%", phase, share, rise)
        return template, centred, {**record, "energy": after, "share": share}

    def _each_block(self, phase: str, work: Callable[[str], Record]) -> dict[str, Record]:
        return self.jobs.each(phase, list(blocks_of(self.names)), work)

    def _store_sums(self, path: Path, sums: TemplateSums) -> None:
        store(path, torch.cat([sums.numerator, sums.denominator]).cpu())

    def _summed(self, folder: Path, blocks: Mapping[str, Sequence[str]], ending: str = "") -> TemplateSums:
        """Add the sums of all blocks, in their order; mirrored for a symmetric template."""
        total = torch.zeros((), dtype=torch.float64)
        for block in blocks:
            total = total + load(folder / f"{block}{ending}.npy")
        if self.settings.symmetric:
            total = total + total.flip(2)
        return TemplateSums(total[:1], total[1:])

    def _drop(self, folder: Path, names: Mapping[str, object] | Sequence[str]) -> None:
        """Delete sums that nobody needs any more; another process may have been faster."""
        for name in names:
            (folder / f"{name}.npy").unlink(missing_ok=True)


def mirrored(field: Tensor) -> Tensor:
    """Return a field ``(B, D, *S)`` seen in a mirror across the first axis."""
    flipped = field.flip(2).clone()
    flipped[:, 0] = -flipped[:, 0]
    return flipped
