"""A report of a finished atlas in one file that opens in any browser without a network, and a picture to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medkit.atlas.known_images import copies
from medkit.atlas.outputs.measures import CASES, FOREGROUND, WHOLE
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import checkerboard, draw_energies, draw_layers, draw_preview, draw_subject
from medkit.atlas.outputs.planes import Planes
from medkit.atlas.outputs.report_parts import (
    alignment_part,
    intensity_part,
    measure_table,
    picture,
    settings_table,
    volume_part,
    warning_list,
)
from medkit.atlas.outputs.saved_transforms import log_jacobian, read_forward
from medkit.atlas.result import AtlasFolder, Member, bring, template_name
from medkit.atlas.subject_names import lookalikes
from medkit.workflow import atomic_path

REPORT = "report.html"
PREVIEW = "preview.png"
N_SHOWN = 24  # subjects
N_WORST = 5
N_PREVIEW = 4
DARKER = 0.75
UNLIKE = 6.0  # deviations from the median, in the median of all
BIAS = 0.05  # voxels

STYLE = """
body { background: #101214; color: #e8e8e8; font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #444 } h3 { font-size: 1rem; margin-bottom: .2rem }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto } td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #333; white-space: nowrap }
td:first-child, th:first-child { text-align: left } img { max-width: 100%; display: block; margin: .3rem 0 } p.note { color: #aaa; font-size: .85rem; margin: .2rem 0 }
summary { cursor: pointer } ul.warnings { border-left: 4px solid #ffb300; padding: .5rem 2rem; background: #2a2410 }
"""  # noqa: E501


def write_report(atlas: AtlasFolder) -> None:
    """Write ``report.html``, one file that needs no other and no network, and ``preview.png``.

    The report shows the settings, what to be wary of, the template with its standard deviation and weight in three
    planes, the energy from round to round, how subjects were aligned and what was done to their intensities, their
    numbers, the volumes of labels, and subjects on the template: the difference,
    the grid as the warp moves it, and the logarithm of its Jacobian; of those that fit worst also checkerboards.

    Args:
        atlas: the finished atlas, its template and measures written.

    Raises:
        FileNotFoundError: if they were not.

    Example:
        >>> write_report(AtlasFolder("my_atlas"))
    """
    path = atlas.folder / CASES
    if not path.is_file():
        raise FileNotFoundError(f"write_report: there is no {path}; write the measures first")
    record = json.loads(path.read_text(encoding="utf-8"))
    template = atlas.template()
    planes = Planes.through_middle(template[0].amax(0), atlas.frame.affine, FOREGROUND)
    ranked = _ranked(atlas, record["cases"])
    summary = _read_summary(atlas.folder / WHOLE)
    energies = draw_energies(atlas.trace)
    parts = [
        f"<h1>Atlas of {len(atlas.members)} subjects</h1>",
        f'<p class="note">{escape(str(atlas.folder.resolve()))}</p>',
        warning_list(found_warnings(atlas, record["cases"], summary)),
        "<h2>Settings</h2>",
        settings_table(atlas, summary),
        "<h2>Template</h2>",
        '<p class="note">The patient\'s right is on the left. Standard deviation: of the subjects on the template. '
        "Weight: how many subjects count, each with its change of volume.</p>",
        *(picture(png(draw_layers(layers, planes)), "template") for layers in _template_layers(atlas, template)),
        "<h2>Energy</h2>" + picture(png(energies), "energy of each round") if energies is not None else "",
        "<h2>Alignment</h2>",
        alignment_part(atlas),
        *_section("Intensities", intensity_part(atlas, ranked[:N_SHOWN])),
        "<h2>Measures</h2>",
        measure_table(record),
        *_section("Volumes of labels", volume_part(atlas)),
        "<h2>Subjects that fit worst</h2>",
        '<p class="note">By the correlation of the template, pushed to the subject, with it. Checkerboards of template '
        "and subject, the subject's squares darker: where edges go on from square to square, both agree.</p>",
        *(_subject(atlas, member, template, planes, boards=True) for member in ranked[:N_WORST]),
    ]
    others = sorted(ranked[N_WORST:N_SHOWN], key=lambda m: m.name)
    if others:
        n_left = len(ranked) - N_WORST - len(others)
        parts += [f"<h2>Other subjects{f' ({n_left} more are not shown)' if n_left else ''}</h2>"]
        parts += [_subject(atlas, member, template, planes, boards=False) for member in others]
    with atomic_path(atlas.folder / REPORT) as temporary:
        text = (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Atlas of {len(atlas.members)} '
            f"subjects</title><style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
        )
        temporary.write_text(text, encoding="utf-8")
    _write_preview(atlas, template, planes)


def found_warnings(atlas: AtlasFolder, cases: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[str]:
    """Say what to be wary of: folded warps, subjects that were left out or are unlike the others, a biased template.

    Args:
        atlas: the atlas.
        cases: of ``metrics.json``.
        summary: of ``summary.json``.
    """
    found = [f"{name} was left out: {reason}" for name, reason in atlas.excluded.items()]
    found += copies({member.name: member.digests for member in atlas.members})
    found += lookalikes([member.name for member in atlas.members])
    own = [(case["case"], case["atlas"]) for case in cases if "atlas" in case]
    for name, measures in own:
        if measures["folded_percent"]:
            found.append(f"The warp of {name} folds in {measures['folded_percent']:.3g} % of the voxels.")
    known = [(name, m["ncc_to_subject"]) for name, m in own if m["ncc_to_subject"] is not None]
    if len(known) > 4:
        middle = median(ncc for _, ncc in known)
        spread = max(median(abs(ncc - middle) for _, ncc in known), 1e-3)
        found += [
            f"{name} is unlike the others: the template explains it with a correlation of {ncc:.3f}, the median is "
            f"{middle:.3f}. Is it aligned, and what it should be?"
            for name, ncc in known
            if ncc < middle - UNLIKE * spread
        ]
    bias = summary.get("bias_mm")
    if bias is not None and bias > BIAS * min(atlas.frame.grid.spacing):
        found.append(f"The template leans to one side by {bias:.3g} mm on average: more rounds would centre it.")
    return found


def _read_summary(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _section(title: str, text: str) -> list[str]:
    return [f"<h2>{title}</h2>", text] if text else []


def _ranked(atlas: AtlasFolder, cases: Sequence[Mapping[str, Any]]) -> list[Member]:
    """Members, the one that fits worst first."""
    fit = {case["case"]: case["atlas"]["ncc_to_subject"] for case in cases if "atlas" in case}
    known = {name: float(ncc) for name, ncc in fit.items() if ncc is not None}
    return sorted(atlas.members, key=lambda m: known.get(m.name, -2.0))


def _stored(path: Path) -> Tensor:
    """A map that was written, which may be 0 everywhere."""
    return torch.from_numpy(np.asarray(nib.load(path).dataobj, dtype=np.float32))


def _template_layers(atlas: AtlasFolder, template: Tensor) -> list[list[Layer]]:
    """For each contrast the template, its standard deviation and its weight."""
    found = []
    for k, contrast in enumerate(atlas.contrasts):
        std, weight = (
            _stored(atlas.folder / template_name(contrast, atlas.contrasts, part)) for part in ("std", "weight")
        )
        image = template[0, k]
        found.append([
            Layer(contrast, image, high=_bright(image)),
            Layer("standard deviation", std, "inferno", high=_bright(std), has_bar=True),
            Layer("weight", weight, "viridis", high=max(float(weight.max()), 1e-3), has_bar=True),
        ])  # fmt: skip
    return found


def _bright(image: Tensor) -> float:
    """What is shown as white."""
    seen = image[image > 0.01 * float(image.max())]
    return max(float(torch.quantile(seen[:: len(seen) // 100_000 + 1], 0.995)) if len(seen) else 1.0, 1e-3)


def _first_channel(atlas: AtlasFolder, member: Member) -> int:
    return next(k for k, contrast in enumerate(atlas.contrasts) if contrast in member.subject.images)


def _subject(atlas: AtlasFolder, member: Member, template: Tensor, planes: Planes, boards: bool) -> str:
    placed, forward = read_forward(atlas, member)
    images, _ = bring(placed, atlas.contrasts, atlas.frame, forward)
    k = _first_channel(atlas, member)
    warped, own = images[0, k], template[0, k]
    logarithm = log_jacobian(forward, atlas.frame)[0, 0]
    parts = [f"<h3>{escape(member.name)}</h3>"]
    parts.append(picture(png(draw_subject(own, warped, forward[0], logarithm, planes)), f"{member.name}, axial"))
    if boards:
        board = Layer("checkerboard", checkerboard(own, DARKER * warped), high=_bright(own))
        parts.append(picture(png(draw_layers([board], planes)), f"{member.name}, checkerboards"))
    return "\n".join(parts)


def _write_preview(atlas: AtlasFolder, template: Tensor, planes: Planes) -> None:
    """Write the template and a few subjects on it."""
    shown = []
    for member in atlas.members[:N_PREVIEW]:
        placed, forward = read_forward(atlas, member)
        images, _ = bring(placed, atlas.contrasts, atlas.frame, forward)
        k = _first_channel(atlas, member)
        shown.append(Layer(member.name, images[0, k], high=_bright(template[0, k])))
    layers = [layers[0] for layers in _template_layers(atlas, template)]
    with atomic_path(atlas.folder / PREVIEW) as temporary:
        temporary.write_bytes(png(draw_preview(layers, shown, planes)))
