"""A finished atlas judged: how well it explains its subjects and new ones, and how near it is to a known truth."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from medkit.atlas.adding import ALIGNMENTS, aligned_scans, files_of
from medkit.atlas.known_images import digests_of, known_as, refuse_known
from medkit.atlas.outputs.known_truth import (
    Truth,
    against_truth,
    label_agreement,
    read_truth,
    simulated_cohort,
    truth_on,
)
from medkit.atlas.outputs.label_atlas import LABELS, PROBABILITIES, VALUES
from medkit.atlas.outputs.label_bridge import bridge_scores
from medkit.atlas.outputs.label_maps import check_labels, dice_scores, load_labels
from medkit.atlas.outputs.label_propagation import propagate_labels
from medkit.atlas.outputs.measures import FOREGROUND, bias, sharpness, subject_measures
from medkit.atlas.outputs.new_subject import add_subject
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import draw_layers
from medkit.atlas.outputs.planes import Planes
from medkit.atlas.outputs.saved_transforms import read_forward
from medkit.atlas.result import RECORD, AtlasFolder, Member, bring, template_name
from medkit.atlas.subjects import AtlasSubject, Files, list_subjects, with_files
from medkit.atlas.volumes import load_volume
from medkit.workflow import atomic_path, is_shown, write_metrics

logger = logging.getLogger(__name__)

TEMPLATE = "template"  # the case of what is measured of the atlas as a whole
UNSEEN, ADDED = "unseen", "added"
Row = dict[str, Any]


class AtlasEvaluator:
    """Judge a finished atlas, which stays as it is.

    Into the folder of the evaluation go ``metrics.json`` and ``metrics.csv`` (see
    :func:`medkit.workflow.write_metrics`), and ``preview.png``. Their cases are

    - each subject of the atlas, by ``atlas``, all of its transformations, and by ``affine``, the affine map alone:
      correlation, PSNR and ``residual`` (root of the mean squared difference of template and subject, intensities
      being 0 to 1) in the foreground; of the warp the smallest and largest Jacobian, ``folded_percent`` and
      ``log_jacobian_std``; and ``bridge_dice``, the overlap of its labels with those of other subjects, carried to it
      through the template;
    - each subject of ``images``, by ``unseen`` and ``unseen_affine``: the same, and ``dice``, how well the template's
      labels, brought to it, agree with its own. They are registered to the template anew, into the folder ``unseen``;
    - each subject that was added to the atlas before, by ``added`` and ``added_affine``: the same, as it was added.
      None of them has gone into the template either. Who is one of ``images`` too counts there alone;
    - ``template``: ``bias_mm``, the mean length of the mean velocity; ``sharpness_per_mm``, to look at and not to
      score, for noise raises it; and where the true template is known, ``truth_ncc``, ``truth_rmse``,
      ``truth_log_sharpness`` (0 is best) and ``truth_dice`` of the labels; beside it ``voxel_mean``, the mean of the
      aligned subjects.

    Args:
        folder: of the atlas.
        output_dir: folder of the evaluation.
        images: of unseen subjects, see :func:`list_subjects`; ``None``: of an atlas of the simulated cohort simulated
            ones, else none.
        masks: of the unseen subjects.
        weights: of the unseen subjects.
        labels: label maps of the unseen subjects; without ``images`` of those of the atlas, if it does not know theirs.
        alignment: what goes before the registration of ``images``: ``"affine"``, ``"rigid"`` or ``"none"``.
        truth: NIfTI file of the true template, in the space of the subjects; ``None``: that of the simulated cohort.
        n_bridges: from how many others each subject gets labels.
        n_unseen: simulated subjects.
        exclude_failed: whether to go on without those of ``images`` whose alignment failed.

    Raises:
        FileNotFoundError: if there is no finished atlas.
        ValueError: if an argument is out of its range.

    Example:
        >>> AtlasEvaluator("my_atlas", "my_atlas/evaluate", images="new/*.nii.gz", labels="new_labels/*.nii.gz").run()
    """

    def __init__(
        self,
        folder: str | Path,
        output_dir: str | Path,
        images: Files | Mapping[str, Files] | None = None,
        masks: Files | None = None,
        weights: Files | None = None,
        labels: Files | None = None,
        alignment: str = "affine",
        truth: str | Path | None = None,
        n_bridges: int = 5,
        n_unseen: int = 2,
        exclude_failed: bool = False,
    ):
        if alignment not in ALIGNMENTS:
            raise ValueError(f"AtlasEvaluator: 'alignment' must be one of {', '.join(ALIGNMENTS)}, got {alignment!r}")
        for name, number, least in (("n_bridges", n_bridges, 1), ("n_unseen", n_unseen, 0)):
            if number < least:
                raise ValueError(f"AtlasEvaluator: '{name}' must be at least {least}, got {number}")
        self.atlas, self.folder = AtlasFolder(folder), Path(output_dir)
        self.images, self.masks, self.weights, self.labels = images, masks, weights, labels
        self.alignment, self.truth, self.n_bridges, self.n_unseen = alignment, truth, n_bridges, n_unseen
        self.exclude_failed = exclude_failed

    def run(self) -> dict[str, dict[str, float | None]]:
        """Judge the atlas, and write what was found.

        Returns:
            For each method the mean of each metric.

        Raises:
            FileNotFoundError: if a file of the atlas or an image is gone.
            ValueError: if a file is bad, an unseen subject is one of the atlas, or labels belong to nobody.
        """
        template = self.atlas.template()
        truth = read_truth(self.atlas, self.truth)
        placed = None if truth is None else truth_on(self.atlas, truth)
        unseen = self._unseen()
        for subject in (*unseen, *(member.subject for member in self.atlas.members)):
            if subject.labels is not None:
                check_labels(subject.labels, load_volume(next(iter(subject.images.values())))[1])
        n, known = len(self.atlas.members), self._labelled([*self.atlas.members, *self._only_added(unseen)])
        members, added = known[:n], known[n:]
        cases = self._seen(members, template)
        cases += [self._new(self.atlas, member, template, ADDED) for member in added]
        shown, matched = added[-1:], self.atlas
        if unseen:
            matched = self._shadow()
            kind = "none" if self.images is None else self.alignment
            maps = aligned_scans(matched, unseen, kind, self.exclude_failed)
            for subject in tqdm([s for s in unseen if s.name in maps], UNSEEN, disable=not is_shown()):
                member = add_subject(matched, subject, maps[subject.name])
                cases.append(self._new(matched, member, template, UNSEEN))
                shown = [member]
        cases.append(self._whole(template, placed))
        self._draw(template, placed, shown, matched)
        summary = write_metrics(self.folder, cases)
        for method, values in summary.items():
            logger.info("%s: %s", method, ", ".join(f"{k} {v:.4g}" for k, v in values.items() if v is not None))
        return summary

    def _labelled(self, members: list[Member]) -> list[Member]:
        """Subjects of the atlas, with labels that were given."""
        if self.labels is None or self.images is not None:
            return members
        subjects = {s.name: s for s in with_files([m.subject for m in members], "labels", self.labels)}
        return [replace(member, subject=subjects[member.name]) for member in members]

    def _unseen(self) -> list[AtlasSubject]:
        """Subjects that the atlas was not built of."""
        if self.images is None:
            known = simulated_cohort(self.atlas, max(self.n_unseen, 1), "validation") if self.n_unseen else None
            found = [] if known is None else list_subjects(None, cohort=known)
            names = {member.name for member in self.atlas.members}
            return [subject for subject in found if subject.name not in names]
        first = self.atlas.contrasts[0]
        images = {first: self.images} if isinstance(self.images, (str, Path)) and self._is_files() else self.images
        found = list_subjects(images, self.masks, self.weights, self.labels, like=files_of(self.atlas))
        built = copy(self.atlas)
        built.added = ()
        refuse_known(built, found, "AtlasEvaluator")
        return found

    def _only_added(self, unseen: Sequence[AtlasSubject]) -> list[Member]:
        """Who was added before, and is none of the subjects that are registered anew."""
        left = {member.name: member for member in self.atlas.added}
        for subject in unseen:
            for name in [m.name for m in known_as(self.atlas, subject, digests_of(subject)) if m.name in left]:
                logger.info("%s was added before; it counts once, as %s of 'images'", name, subject.name)
                del left[name]
            if subject.name in left:
                raise ValueError(
                    f"AtlasEvaluator: {subject.name!r} of 'images' has the name of another subject, which was added "
                    "before; give its file another name"
                )
        return list(left.values())

    def _is_files(self) -> bool:
        """Whether the images are files of one contrast, and not a list with columns."""
        return not str(self.images).lower().endswith((".json", ".csv", ".tsv"))

    def _shadow(self) -> AtlasFolder:
        """Return a folder with the template and its labels, and without subjects: it takes the unseen ones."""
        folder = self.folder / UNSEEN
        folder.mkdir(parents=True, exist_ok=True)
        record = json.loads((self.atlas.folder / RECORD).read_text(encoding="utf-8"))
        names = [template_name(contrast, self.atlas.contrasts) for contrast in self.atlas.contrasts]
        for name in (*names, LABELS, PROBABILITIES, VALUES):
            if (self.atlas.folder / name).is_file():
                with atomic_path(folder / name) as temporary:
                    shutil.copyfile(self.atlas.folder / name, temporary)
        with atomic_path(folder / RECORD) as temporary:
            temporary.write_text(json.dumps({**record, "members": [], "added": []}, indent=1), encoding="utf-8")
        return AtlasFolder(folder)

    def _seen(self, members: list[Member], template: Tensor) -> list[Row]:
        """Measure the subjects of the atlas."""
        labelled = [member for member in members if member.subject.labels is not None]
        bridged = bridge_scores(self.atlas, labelled, self.n_bridges) if len(labelled) > 1 else {}
        cases = []
        for member in tqdm(members, "subjects", disable=not is_shown()):
            found = subject_measures(self.atlas, member, template)
            for method, value in bridged.get(member.name, {}).items():
                found[method]["bridge_dice"] = value
            cases.append({"case": member.name, **{method: _with_residual(row) for method, row in found.items()}})
        return cases

    def _new(self, atlas: AtlasFolder, member: Member, template: Tensor, method: str) -> Row:
        """Measure a subject that the template was not made of."""
        dice = None
        if member.subject.labels is not None and (atlas.folder / LABELS).is_file():
            own, grid = load_labels(member.subject.labels)
            dice = dice_scores(propagate_labels(atlas, member, grid), own)
        found = subject_measures(atlas, member, template, dice)
        return {"case": member.name, f"{method}_affine": _with_residual(found["affine"]),
                method: _with_residual(found["atlas"])}  # fmt: skip

    def _whole(self, template: Tensor, truth: Truth | None) -> Row:
        """Measure the template as a whole, and the mean of the aligned subjects beside it."""
        spacing = self.atlas.frame.grid.spacing
        total, count = torch.zeros_like(template, dtype=torch.float64), torch.zeros_like(template, dtype=torch.float64)
        for member in self.atlas.members:
            images, weight = bring(member, self.atlas.contrasts, self.atlas.frame)
            counted = torch.ones_like(images) if weight is None else weight
            total, count = total + images.double() * counted, count + counted
        mean = (total / count.clamp(min=1e-6)).float()
        rows: dict[str, Row] = {}
        for method, image in (("atlas", template), ("voxel_mean", mean)):
            rows[method] = {"sharpness_per_mm": sharpness(image, spacing)}
            if truth is not None:
                compared = against_truth(image[:, :1], truth.image, spacing)
                rows[method] |= {f"truth_{name}": value for name, value in compared.items()}
        rows["atlas"]["bias_mm"] = bias(self.atlas)
        if truth is not None and truth.labels is not None and (self.atlas.folder / LABELS).is_file():
            own = load_volume(self.atlas.folder / LABELS)[0]
            rows["atlas"]["truth_dice"] = label_agreement(own, truth.labels)
        return {"case": TEMPLATE, **rows}

    def _draw(self, template: Tensor, truth: Truth | None, added: list[Member], atlas: AtlasFolder) -> None:
        """Draw the template, the truth beside it, and an unseen subject on the template."""
        planes = Planes.through_middle(template[0].amax(0), self.atlas.frame.affine, FOREGROUND)
        high = max(float(template[0, 0].max()), 1e-3)
        layers = [Layer("template", template[0, 0], high=high)]
        if truth is not None:
            x, y = template[0, 0].double(), truth.image[0, 0].double()
            slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
            mapped = slope * (x - x.mean()) + y.mean()
            top = float(y.max())
            layers.append(Layer("true template", truth.image[0, 0], high=top))
            layers.append(Layer("template − truth", (mapped - y).float(), "RdBu_r", -top / 2, top / 2, True))
        for member in added:
            placed, forward = read_forward(atlas, member)
            pulled, _ = bring(placed, atlas.contrasts, atlas.frame, forward)
            layers.append(Layer(member.name, pulled[0, 0], high=high))
        with atomic_path(self.folder / "preview.png") as temporary:
            temporary.write_bytes(png(draw_layers(layers, planes)))


def _with_residual(row: Mapping[str, float]) -> Row:
    """Add the root of the mean squared difference of the template, pushed to the subject, and the subject."""
    return {**row, "residual": 10 ** (-row["psnr_to_subject"] / 20)}
