"""Parts of an atlas's report: its settings, alignment, intensities, measures and volumes as tables and sentences."""

from __future__ import annotations

import base64
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

import medkit
from medkit.atlas.frame import Frame
from medkit.atlas.outputs.measures import VOLUMES
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import draw_layers
from medkit.atlas.outputs.planes import Planes
from medkit.atlas.result import AtlasFolder, Member
from medkit.atlas.volumes import load_volume

OBJECT = 0.05  # of the brightest, of what is not background
MOST_COLUMNS = 12  # subjects with a column of their own
FAILED = "failed_"


def warning_list(found: Sequence[str]) -> str:
    """What to be wary of."""
    if not found:
        return '<p class="note">No warnings.</p>'
    return '<ul class="warnings">' + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>"


def picture(data: bytes, text: str) -> str:
    """A PNG file, in the page itself."""
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(data).decode("ascii")}">'


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of text."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th') if head else ''}{''.join(line(row, 'td') for row in rows)}</table>"


def settings_table(atlas: AtlasFolder, summary: Mapping[str, Any]) -> str:
    """How the atlas was built, and what was measured of it as a whole."""
    grid, model = atlas.frame.grid, atlas.model
    rows = [
        ("contrasts", ", ".join(atlas.contrasts)),
        ("grid", f"{' × '.join(map(str, grid.size))} voxels of {' × '.join(f'{h:.4g}' for h in grid.spacing)} mm"),
        ("path", {"svf": "stationary velocity", "lddmm": "geodesic (LDDMM)"}[model.path]),
        ("noise σ", f"{model.sigma:g}"),
        ("smoothness α, γ, power", f"{model.alpha:g} mm², {model.gamma:g}, {model.power:g}"),
        ("form of the data term", model.form),
        ("final steps", str(atlas.n_final_steps)),
        ("left-right symmetric", "yes" if atlas.symmetric else "no"),
        ("bias correction", "N4" if atlas.intensities.bias_correction else "none"),
        ("intensities matched", ", ".join(atlas.intensities.reference) or "no"),
        *((name.replace("_", " "), f"{value:.4g}") for name, value in summary.items()),
        ("added later", ", ".join(m.name for m in atlas.added) or "nobody"),
        ("medkit", medkit.__version__),
    ]
    return table(rows)


def measure_table(record: Mapping[str, Any]) -> str:
    """Measures of each subject and their means."""
    summary = {method: values for method, values in record["summary"].items() if method in ("atlas", "added")}
    metrics = list(dict.fromkeys(name for values in summary.values() for name in values))

    def cells(values: Mapping[str, Any]) -> list[str]:
        return ["" if values.get(name) is None else f"{values[name]:.4g}" for name in metrics]

    rows = [
        [case["case"] + (" (added)" if method == "added" else ""), *cells(case[method])]
        for case in record["cases"]
        for method in summary
        if method in case
    ]
    rows += [[f"mean, {method}", *cells(values)] for method, values in summary.items()]
    if "affine" in record["summary"]:
        rows.append(["mean, affine map alone", *cells(record["summary"]["affine"])])
    return table(rows, ["subject", *(name.replace("_", " ") for name in metrics)])


def alignment_part(atlas: AtlasFolder) -> str:
    """How well subjects were aligned, by what maps, and pictures of those for whom it failed."""
    members = [m for m in (*atlas.members, *atlas.added) if m.alignment]
    pictures = {path.stem.removeprefix(FAILED): path for path in sorted(atlas.folder.glob(f"{FAILED}*.png"))}
    if not members and not pictures and not atlas.excluded:
        return '<p class="note">Images were taken as aligned with each other.</p>'
    parts = []
    if members:
        parts.append(
            '<p class="note">Score: mutual information with what a subject was aligned to, more is better. Overlap: '
            "Dice of both objects. Turn, shift of the middle, and least and largest stretch are those of the map from "
            "the template to the subject's file.</p>"
        )
        head = ["subject", "score", "overlap", "turn, °", "shift, mm", "stretch"]
        parts.append(table([_alignment_row(atlas, member) for member in members], head))
    for name in dict.fromkeys((*atlas.excluded, *pictures)):
        reason = (
            f"was left out: {atlas.excluded[name]}" if name in atlas.excluded else "could not be aligned to be added"
        )
        parts.append(f"<h3>{escape(name)} {escape(reason)}</h3>")
        if name in pictures:
            parts.append(picture(pictures[name].read_bytes(), f"{name}, alignment failed"))
    return "\n".join(parts)


def _alignment_row(atlas: AtlasFolder, member: Member) -> list[str]:
    left, stretches, right = np.linalg.svd(member.matrix[:3, :3])
    cosine = (float(np.trace(left @ right)) - 1) / 2
    turn = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
    centre = atlas.frame.centre
    shift = float(np.linalg.norm(member.matrix[:3, :3] @ centre + member.matrix[:3, 3] - centre))
    added = "" if any(member is m for m in atlas.members) else " (added)"
    numbers = [f"{member.alignment.get(key, math.nan):.3f}" for key in ("score", "overlap")]
    stretch = f"{stretches[-1]:.2f} to {stretches[0]:.2f}"
    return [member.name + added, *numbers, f"{turn:.1f}", f"{shift:.1f}", stretch]


def intensity_part(atlas: AtlasFolder, members: Sequence[Member]) -> str:
    """What N4 and the matching of intensities changed, and the subject that they changed most."""
    done = atlas.intensities
    if done.does_nothing:
        return ""
    said = ["N4 took slow changes of brightness out of each image."] if done.bias_correction else []
    said += ["All images got the median of their quantiles."] if done.reference else []
    rows, worst, most = [], None, -1.0
    for member in sorted(members, key=lambda m: m.name):
        for contrast in member.subject.images:
            found = _before_and_after(atlas, member, contrast)
            if found is None:
                continue
            before, after, seen, frame = found
            ratio = torch.where(seen, after.clamp(min=1e-6) / before.clamp(min=1e-6), 1.0).log()
            change = float(ratio[seen].std())
            rows.append([member.name, contrast, f"{100 * change:.1f}"])
            if change > most:
                worst, most = (
                    (f"{member.name}, {contrast}", before, after, ratio - ratio[seen].median(), seen, frame),
                    change,
                )
    note = (
        f'<p class="note">{" ".join(said)} Change: standard deviation of the logarithm of after / before in the '
        "object, %. The picture is of the image that changed most.</p>"
    )
    head = ["subject", "contrast", "change, %"]
    return "\n".join([note, table(rows, head), "" if worst is None else _changed_picture(*worst)])


def _before_and_after(atlas: AtlasFolder, member: Member, contrast: str) -> tuple[Tensor, Tensor, Tensor, Frame] | None:
    """An image before and after, its brightest being 1, where its object is, and its grid; ``None`` if one is gone."""
    paths = (atlas.intensities.originals.get(member.name, {}).get(contrast), member.subject.images[contrast])
    if any(path is None or not Path(path).is_file() for path in paths):
        return None
    (before, frame), (after, _) = (load_volume(str(path)) for path in paths)
    kept = before > 0
    if member.subject.mask is not None:
        mask, grid = load_volume(member.subject.mask)
        kept = kept & (mask > 0) if grid.shares_grid_with(frame) else kept
    tops = [max(float(x[kept].quantile(0.99)) if int(kept.sum()) < 2**24 else float(x[kept].max()), 1e-9)
            for x in (before, after)]  # fmt: skip
    seen = kept & (before > OBJECT * tops[0]) & (after > 0)
    return (before * kept / tops[0])[0, 0], (after * kept / tops[1])[0, 0], seen[0, 0], frame


def _changed_picture(name: str, before: Tensor, after: Tensor, ratio: Tensor, seen: Tensor, frame: Frame) -> str:
    planes = Planes.through_middle(seen.float(), frame.affine, 0.5)
    shown = torch.where(seen, ratio, 0.0)
    limit = max(float(shown.abs().max()), 0.05)
    layers = [
        Layer("before", before),
        Layer("after", after),
        Layer("log of after / before", shown, "RdBu_r", -limit, limit, True),
    ]
    return f"<h3>{escape(name)}</h3>" + picture(png(draw_layers(layers, planes)), f"{name}, before and after")


def volume_part(atlas: AtlasFolder) -> str:
    """Volumes of labels, of the template and of the subjects."""
    path = atlas.folder / VOLUMES
    if not path.is_file():
        return ""
    template, subjects = _volumes(path)
    own = [m.name for m in atlas.members if m.name in subjects]
    added = [m.name for m in atlas.added if m.name in subjects]
    shown = [*own, *added] if len(own) + len(added) <= MOST_COLUMNS else []
    head = ["label", "template", "mean", "SD", "least", "largest"]
    head += [name if name in own else f"{name} (added)" for name in shown]
    rows = []
    for label, of_template in template.items():
        values = [subjects[name][label] for name in own]
        spread = stdev(values) if len(values) > 1 else math.nan
        numbers = (
            [of_template, mean(values), spread, min(values), max(values)] if values else [of_template] + [math.nan] * 4
        )
        rows.append([label, *(f"{x:.4g}" for x in numbers), *(f"{subjects[name][label]:.4g}" for name in shown)])
    rest = "" if shown else f" Each subject's are in {VOLUMES}."
    opened = " open" if len(rows) <= MOST_COLUMNS else ""
    return (
        '<p class="note">In ml, of the template and of its labels moved to the subjects; mean, SD, least and largest '
        f"are of the atlas's own subjects. {VOLUMES} has them in mm³.{rest}</p>"
        f"<details{opened}><summary>{len(rows)} labels</summary>{table(rows, head)}</details>"
    )


def _volumes(path: Path) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Volume of each label, ml, of the template, and of each subject."""
    template: dict[str, float] = {}
    subjects: dict[str, dict[str, float]] = {}
    for row in _rows(path):
        template[row["label"]] = float(row["template_mm3"]) / 1000
        subjects.setdefault(row["subject"], {})[row["label"]] = float(row["subject_mm3"]) / 1000
    return template, subjects


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
