"""Templates of medkit and of ANTs from the same aligned volumes: quality against CPU-seconds.

Part ``phantom``: cohorts of a known template. Part ``brains``: real brains, aligned once, and labels brought through
the template to brains that it has not seen. The protocol beside this file was fixed before it was run. Each cell is one
line of a JSON file, so that a second start goes on where the first one was:

    python -m tests.benchmarks.atlas_vs_ants phantom --output phantom.jsonl
    python -m tests.benchmarks.atlas_vs_ants brains --output brains.jsonl

ANTs needs ``pip install medkit[peers]``; without it its cells are left out. ``--full`` adds its SyNCC, which takes
hours. A verdict counts CPU-seconds twice: to the end of the run, and to the template and the transformations on disk,
for ANTs makes no measures and pictures.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medkit.atlas import AtlasSettings, RegistrationModel, list_subjects
from medkit.atlas.outputs.known_truth import against_truth
from medkit.atlas.outputs.measures import bias
from medkit.atlas.volumes import load_volume
from tests.atlas.phantom import cohort
from tests.benchmarks.ants_side import run_ants
from tests.benchmarks.atlas_measures import field_measures, template_on, timed_build
from tests.benchmarks.atlas_vs_ants_brains import brain_cells, brain_table

Row = dict[str, Any]
Cell = tuple[str, Callable[[], list[Row]]]
COLUMNS = {
    "CPU-s": ("cpu_s", ".1f"),
    "to velocities": ("velocities_cpu_s", ".1f"),
    "to template": ("template_cpu_s", ".1f"),
    "NCC": ("ncc", ".5f"),
    "RMSE": ("rmse", ".5f"),
    "abs log sharpness": ("log_sharpness", ".4f"),
    "mean v (voxels)": ("bias_voxels", ".5f"),
    "folded voxels": ("folded", ".1f"),
}


def make_settings(options: dict[str, Any], model: dict[str, Any]) -> AtlasSettings:
    """Return settings of medkit for volumes that are aligned already."""
    return AtlasSettings(model=RegistrationModel(**model), alignment="none", **options)


def write_phantoms(folder: Path, protocol: Row, seed: int) -> Tensor:
    """Write the subjects of a cohort, on one grid of 1 mm, and return the true template."""
    options = {key: protocol[key] for key in ("n", "amplitude", "width", "noise")}
    truth, subjects, _ = cohort(protocol["size"], seed=seed, **options)
    (folder / "subjects").mkdir(parents=True)
    for i, image in enumerate(subjects):
        nib.save(nib.Nifti1Image(image[0].numpy(), np.eye(4)), folder / "subjects" / f"s{i}.nii.gz")
    return truth


def phantom_medkit(folder: Path, truth: Tensor, settings: AtlasSettings) -> list[Row]:
    """Build with medkit, and compare with the truth."""
    atlas, spent = timed_build(folder / "atlas", settings, list_subjects(folder / "subjects"))
    frame = load_volume(folder / "subjects" / "s0.nii.gz")[1]
    spacing = atlas.frame.grid.spacing
    fields = field_measures((atlas.displacement(member) for member in atlas.members), spacing)
    quality = against_truth(template_on(atlas, frame), truth)
    return [{**spent, **quality, "bias_voxels": bias(atlas) / min(spacing), "folded": fields["folded"]}]


def phantom_ants(folder: Path, truth: Tensor, options: Row, iterations: int, threads: int) -> list[Row]:
    """Build with ANTs, and compare each round with the truth."""
    images = sorted(str(path) for path in (folder / "subjects").iterdir())
    task = {"images": images, "options": options, "iterations": iterations, "threads": threads}
    rounds = run_ants(task, folder / "ants")["rounds"]
    return [
        {"round": k + 1, "cpu_s": found["cpu_s"], **against_truth(load_volume(found["template"])[0], truth)}
        for k, found in enumerate(rounds)
    ]


def phantom_mean(folder: Path, truth: Tensor) -> list[Row]:
    """Compare the mean of the subjects with the truth."""
    images = [load_volume(path)[0] for path in sorted((folder / "subjects").iterdir())]
    return [{"cpu_s": 0.0, **against_truth(torch.cat(images).mean(0, keepdim=True), truth)}]


def phantom_cells(protocol: Row, full: bool, with_ants: bool) -> Iterator[Cell]:
    """Yield the name of each cell, and what computes its rows."""

    def cell(seed: int, tool: str, name: str, measure: Callable[[Path, Tensor], list[Row]]) -> Cell:
        def rows() -> list[Row]:
            with tempfile.TemporaryDirectory() as place:
                found = measure(Path(place), write_phantoms(Path(place), protocol, seed))
            return [{"seed": seed, "tool": tool, "method": name, **row} for row in found]

        return f"{seed}/{tool}/{name}", rows

    for seed in protocol["seeds"]:
        yield cell(seed, "mean", "voxel mean", phantom_mean)
        for name, options in protocol["medkit"].items():
            settings = make_settings(options, protocol["model"])
            yield cell(seed, "medkit", name, lambda folder, truth, s=settings: phantom_medkit(folder, truth, s))
        for name, spec in protocol["ants"].items() if with_ants else ():
            if full or not spec.get("slow"):
                yield cell(
                    seed, "ants", name,
                    lambda folder, truth, s=spec: phantom_ants(
                        folder, truth, s["options"], s["iterations"], protocol["threads"]
                    ),
                )  # fmt: skip


def phantom_means(rows: list[Row], seeds: set[int] | None = None) -> dict[tuple[str, str, int], Row]:
    """Return the mean over seeds of each measure, by tool, method and round."""
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if seeds is None or row["seed"] in seeds:
            groups.setdefault((row["tool"], row["method"], row.get("round", 0)), []).append(row)
    measures = [key for key, _ in COLUMNS.values()]
    return {
        key: {"n": len(group), **{m: float(np.mean([r[m] for r in group])) for m in measures if m in group[0]}}
        for key, group in groups.items()
    }


def phantom_table(rows: list[Row], protocol: Row) -> list[str]:
    """Return lines of the table and the verdict."""
    names = ["tool", "method", "round", "seeds", *COLUMNS]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for (tool, method, k), row in phantom_means(rows).items():
        values = [format(row[key], form) if key in row else "" for key, form in COLUMNS.values()]
        lines.append(f"| {tool} | {method} | {k or ''} | {row['n']} | {' | '.join(values)} |")
    return [*lines, "", *phantom_verdict(rows, protocol["verdict"])]


def phantom_verdict(rows: list[Row], rule: Row) -> list[str]:
    """Say whether medkit is as good at a share of the peer's CPU time; only seeds that have both count."""
    of_peer = {row["seed"] for row in rows if (row["method"], row.get("round")) == (rule["peer"], rule["round"])}
    seeds = of_peer & {row["seed"] for row in rows if row["tool"] == "medkit"}
    if not seeds:
        return ["Verdict: none yet, no seed has both tools."]
    means = phantom_means(rows, seeds)
    other = means["ants", rule["peer"], rule["round"]]
    limit = rule["share"] * other["cpu_s"]
    lines = [
        f"Verdict on {len(seeds)} seeds: mean NCC at least {other['ncc']:.5f} and RMSE at most {other['rmse']:.5f} "
        f"within {limit:.1f} CPU-s, {rule['share']:g} of those of {rule['peer']} with {rule['round']} rounds"
    ]
    for clock, words in (("cpu_s", "to the end"), ("template_cpu_s", "to the template")):
        ours = {name: m for (tool, name, _), m in means.items() if tool == "medkit" and m["n"] == len(seeds)}
        cheap = {name: m for name, m in ours.items() if m[clock] <= limit}
        good = [name for name, m in cheap.items() if m["ncc"] >= other["ncc"] and m["rmse"] <= other["rmse"]]
        found = f"met by {', '.join(good)}" if good else "missed"
        if not good and cheap:
            best = max(cheap, key=lambda name: cheap[name]["ncc"])
            found += f", the best is {best} with {cheap[best]['ncc']:.5f} and {cheap[best]['rmse']:.5f}"
        elif not cheap and ours:
            found += f", the fastest takes {min(m[clock] for m in ours.values()):.1f} CPU-s"
        lines.append(f"- {words}: {found}")
    return lines


def finished(path: Path) -> dict[str, list[Row]]:
    """Read the cells that a run left; a line that was cut off by its end is left out."""
    cells: dict[str, list[Row]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        cells[found["cell"]] = found["rows"]
    return cells


def main() -> None:
    """Run the cells that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("phantom", "brains"))
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--output", type=Path, required=True, help="file of one JSON line for each finished cell")
    parser.add_argument("--full", action="store_true", help="methods that the protocol calls slow, too")
    parser.add_argument("--only", help="cells whose name contains this")
    parser.add_argument("--prior", type=Path, help="weights of the bundle hybrid_atlas, for its modes on brains")
    parser.add_argument("--work", type=Path, help="folder of the aligned brains; default: beside the output")
    options = parser.parse_args()
    protocol = json.loads(options.protocol.read_text())[options.part]
    with_ants = importlib.util.find_spec("ants") is not None
    if not with_ants:
        sys.stderr.write("skipped ANTs: there is no module ants; pip install medkit[peers]\n")
    torch.set_num_threads(protocol["threads"])
    if options.part == "phantom":
        cells = phantom_cells(protocol, options.full, with_ants)
    else:
        work = options.work or options.output.with_suffix("")
        cells = brain_cells(protocol, work, options.full, with_ants, options.prior)
    known = finished(options.output)
    with options.output.open("a") as file:
        for name, compute in cells:
            if name in known or (options.only and options.only not in name):
                continue
            known[name] = compute()
            file.write(f"\n{json.dumps({'cell': name, 'rows': known[name]})}")
            file.flush()
            sys.stderr.write(f"{name}: {known[name][-1]['cpu_s']:.1f} CPU-s\n")
    rows = [row for found in known.values() for row in found]
    print("\n".join(phantom_table(rows, protocol) if options.part == "phantom" else brain_table(rows)))  # noqa: T201


if __name__ == "__main__":
    main()
