"""Real brains: templates of medkit and ANTs, and labels brought through them to brains that neither has seen."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.atlas import (
    AtlasSettings,
    AtlasSubject,
    Frame,
    Member,
    RegistrationModel,
    RegistrationPrior,
    add_subject,
    list_subjects,
    read_displacement,
    register_affine,
    resampled,
)
from medkit.atlas.building.jobs import Jobs
from medkit.atlas.building.preparation import Preparation
from medkit.atlas.outputs.label_maps import dice_scores, load_labels, smallest_type
from medkit.atlas.outputs.measures import bias, likeness
from medkit.atlas.outputs.saved_transforms import subject_path
from medkit.atlas.result import bring, stripped
from medkit.atlas.volumes import appearance, load_volume
from medkit.ops import warp
from medkit.workflow import write_nifti
from tests.benchmarks.ants_side import cpu_seconds, run_ants
from tests.benchmarks.atlas_measures import dice_table, field_measures, template_on, timed_build
from tests.benchmarks.mri_recon import REAL_DATA

Row = dict[str, Any]
BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "hybrid_atlas"
SEEN, UNSEEN = "seen", "unseen"


def align_brains(protocol: Row, folder: Path) -> None:
    """Align brains affinely, those of the template with their mean and the others with that mean; once.

    Writes ``seen/<name>.nii.gz`` and ``seen_labels/<name>.nii.gz``, the same of ``unseen``, all on one grid, images 0
    to 1, and ``structures.json``: the labels of the table that all subjects have on that grid.
    """
    if (folder / "structures.json").exists():
        return
    source = REAL_DATA / protocol["folder"]
    brains = list_subjects(str(source / protocol["images"]), labels=str(source / protocol["labels"]))
    by_name = {subject.name: subject for subject in brains}
    seen = [subject for subject in brains if subject.name not in protocol["unseen"]][: protocol["n_seen"]]
    jobs = Jobs(folder / "alignment")
    settings = AtlasSettings(margin=protocol["margin"])
    frame, members = Preparation(jobs, settings, seen, protocol["spacing"]).align()
    mean = torch.stack([bring(member, ("image",), frame)[0] for member in members]).mean(0)
    placed = [(SEEN, member) for member in members]
    for name in protocol["unseen"]:
        volume, grid = stripped(by_name[name], "image")
        found = register_affine(mean[0, 0], frame.affine, volume[0, 0], grid.affine)
        look = appearance(volume, grid)
        placed.append(
            (UNSEEN, Member(by_name[name], found.matrix, {"image": (look.low, look.high)}, {"image": look.is_whole}))
        )
    there = set(known_structures(source / protocol["table"]))
    for part, member in placed:
        image, _ = bring(member, ("image",), frame)
        write_nifti(folder / part / f"{member.name}.nii.gz", image[0, 0], frame.affine)
        labels, grid = load_labels(str(member.subject.labels))
        moved = resampled(
            torch.from_numpy(labels)[None, None].double(), grid, frame, member.matrix, mode="nearest", padding="zeros"
        )[0, 0]
        there &= {int(value) for value in moved.unique()}
        write_nifti(folder / f"{part}_labels" / f"{member.name}.nii.gz", moved.to(smallest_type(labels)), frame.affine)
    shutil.rmtree(folder / "alignment")
    (folder / "structures.json").write_text(json.dumps(sorted(there)))


def known_structures(table: Path) -> list[int]:
    """Return the labels of a table ``Label Number, Label Name, ...`` that name something."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file))[1:]
    return [int(row[0]) for row in rows if row[1].strip().lower() not in ("", "unlabeled")]


def load_prior(weights: Path, device: str = "cpu") -> RegistrationPrior:
    """Make the prior of the bundle hybrid_atlas with given weights."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    parser["bundle_root"], parser["ckpt_path"], parser["device"] = str(BUNDLE), str(weights), device
    prior: RegistrationPrior = parser.get_parsed_content("prior")
    return prior


def aligned_subjects(folder: Path, part: str) -> list[AtlasSubject]:
    """Return the aligned subjects of a part, with their labels."""
    files = sorted((folder / part).glob("*.nii.gz"))
    return [
        AtlasSubject(path.name.split(".")[0], {"image": str(path)}, labels=str(folder / f"{part}_labels" / path.name))
        for path in files
    ]


def overlap(labels: Sequence[str | Path], subjects: Sequence[AtlasSubject], structures: Sequence[int]) -> Row:
    """Compare labels that were brought to subjects with their own, on one grid."""
    scores = [
        dice_scores(load_labels(path)[0], load_labels(str(subject.labels))[0])
        for path, subject in zip(labels, subjects, strict=True)
    ]
    return dice_table(scores, structures)


def residual(images: Sequence[Tensor], subjects: Sequence[AtlasSubject]) -> float:
    """Mean correlation of the template, moved to subjects, with them."""
    found = [
        likeness(image, load_volume(subject.images["image"])[0]).correlation
        for image, subject in zip(images, subjects, strict=True)
    ]
    return float(np.mean(found))


def brains_medkit(
    folder: Path, target: Path, settings: AtlasSettings, n_steps: Sequence[int], prior: RegistrationPrior | None
) -> Row:
    """Build with medkit, label the unseen, and measure."""
    shutil.rmtree(target, ignore_errors=True)
    seen, unseen = (aligned_subjects(folder, part) for part in (SEEN, UNSEEN))
    frame = load_volume(seen[0].images["image"])[1]
    structures = json.loads((folder / "structures.json").read_text())
    atlas, spent = timed_build(target, settings, seen, prior)
    built = cpu_seconds()
    for subject in unseen:
        add_subject(atlas, replace(subject, labels=None), n_steps=n_steps, prior=prior)
    labelled = cpu_seconds()
    added = [atlas.member(subject.name) for subject in unseen]
    template = atlas.template()
    pushed = [template_on(atlas, frame, warp(template, atlas.displacement(m, inverse=True))) for m in added]
    spacing = atlas.frame.grid.spacing
    own = field_measures((atlas.displacement(member) for member in atlas.members), spacing)
    new = field_measures((atlas.displacement(member, inverse=True) for member in added), spacing)
    return {
        **spent,
        "labelling_cpu_s": labelled - built,
        **overlap([subject_path(atlas, m.name, "labels.nii.gz") for m in added], unseen, structures),
        "ncc": residual(pushed, unseen),
        "folded": own["folded"] + new["folded"],
        "mean_shift_mm": own["mean_shift_mm"],
        "bias_mm": bias(atlas),
    }


def brains_ants(folder: Path, target: Path, spec: Row, threads: int) -> Row:
    """Build with ANTs, label the unseen, and measure."""
    seen, unseen = (aligned_subjects(folder, part) for part in (SEEN, UNSEEN))
    frame: Frame = load_volume(seen[0].images["image"])[1]
    structures = json.loads((folder / "structures.json").read_text())
    task = {
        "images": [subject.images["image"] for subject in seen],
        "labels": [subject.labels for subject in seen],
        "unseen": [subject.images["image"] for subject in unseen],
        "options": spec["options"],
        "iterations": spec["iterations"],
        "threads": threads,
    }
    answer = run_ants(task, target)
    own = field_measures((read_displacement(path)[0] for path in answer["warps"]), frame.grid.spacing)
    new = field_measures((read_displacement(found["warp"])[0] for found in answer["unseen"]), frame.grid.spacing)
    return {
        "cpu_s": answer["rounds"][-1]["cpu_s"],
        "labelling_cpu_s": answer["labelling_cpu_s"],
        **overlap([found["labels"] for found in answer["unseen"]], unseen, structures),
        "ncc": residual([load_volume(found["image"])[0] for found in answer["unseen"]], unseen),
        "folded": own["folded"] + new["folded"],
        "mean_shift_mm": own["mean_shift_mm"],
    }


def brain_cells(
    protocol: Row, work: Path, full: bool, with_ants: bool, weights: Path | None
) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Yield the name of each cell, and what computes its rows; aligns the brains before the first one."""
    folder = work / "aligned"
    align_brains(protocol, folder)
    prior = None if weights is None else load_prior(weights)
    for name, options in protocol["medkit"].items():
        mode = options.get("mode", "iterative")
        if mode != "iterative" and prior is None:
            sys.stderr.write(f"skipped medkit/{name}: it needs --prior WEIGHTS\n")
            continue
        settings = AtlasSettings(model=RegistrationModel(**protocol["model"]), alignment="none", **options)

        def ours(name: str = name, settings: AtlasSettings = settings, guess: Any = prior) -> list[Row]:
            if settings.mode == "iterative":
                guess = None
            found = brains_medkit(folder, work / f"medkit-{name}", settings, protocol["n_steps_unseen"], guess)
            return [{"tool": "medkit", "method": name, **found}]

        yield f"medkit/{name}", ours
    for name, spec in protocol["ants"].items() if with_ants else ():
        if full or not spec.get("slow"):

            def theirs(name: str = name, spec: Row = spec) -> list[Row]:
                found = brains_ants(folder, work / f"ants-{name.replace(' ', '-')}", spec, protocol["threads"])
                return [{"tool": "ants", "method": name, **found}]

            yield f"ants/{name}", theirs


def brain_table(rows: list[Row]) -> list[str]:
    """Return lines of the table."""
    names = ["tool", "method", "CPU-s template", "CPU-s labels", "Dice of the unseen", "95 % interval", "structures",
             "NCC",
             "folded voxels", "mean shift (mm)", "mean v (mm)"]  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        mean, low, high = row["dice"]
        own_bias = f"{row['bias_mm']:.4f}" if "bias_mm" in row else ""
        lines.append(
            f"| {row['tool']} | {row['method']} | {row['cpu_s']:.1f} | {row['labelling_cpu_s']:.1f} | {mean:.4f} | "
            f"{low:.4f} to {high:.4f} | {len(row['structures'])} | {row['ncc']:.4f} | {row['folded']} | "
            f"{row['mean_shift_mm']:.4f} | {own_bias} |"
        )
    return lines
