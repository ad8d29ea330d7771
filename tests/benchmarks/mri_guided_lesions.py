"""Whether a second contrast helps or harms lesions: kept, erased, or copied into an image that has none.

Simulated test subjects have lesions that all contrasts see, and others that one alone sees. Each is measured in the
slice that shows most of it, restored by each network, and its contrast is compared (see ``region_metrics``):

* seen by both, and seen by the target alone: the share kept is the slope of its contrast in the restored image by
  that in the fully sampled one; 1 is right, 0 is erased;
* seen by the reference alone: the share copied is the slope of its contrast in the restored image, less that in the
  fully sampled target, by that in the reference; 0 is right.

    python -m tests.benchmarks.mri_guided_lesions --run mc_cdic=bundles/mc_cdic/runs/guided
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor
from tqdm import tqdm

from medkit.data import BrainCohort
from medkit.mri import SimulateKspaced, find_regions, open_acquisition, region_metrics
from tests.benchmarks.mri_guided import measured, restored
from tests.benchmarks.mri_recon import Method, named_networks

N_SUBJECTS = 8
REFERENCES = ("right", "none")


def slices_with_lesions(labels: Tensor, wanted: list[int]) -> list[int]:
    """Return, for each lesion with a wanted label, the slice that shows most of it."""
    kept = torch.where(torch.isin(labels, torch.tensor(wanted, dtype=labels.dtype)), labels, 0)
    return sorted({region.i_slice for region in find_regions(kept)})


def lesion_rows(
    labels: Tensor, images: dict[str, Tensor], truth: Tensor, guide: Tensor, kinds: dict[int, str]
) -> list[dict[str, Any]]:
    """Return, for each lesion of a slice and each image, its contrast there, in the target and in the reference."""
    kept = torch.where(torch.isin(labels, torch.tensor(list(kinds), dtype=labels.dtype)), labels, 0)
    regions = find_regions(kept)
    in_target = {row["lesion"]: row["contrast"] for row in region_metrics(regions, {}, truth)}
    in_guide = {row["lesion"]: row["contrast"] for row in region_metrics(regions, {}, guide)}
    return [
        {
            "kind": kinds[row["label"]],
            "method": row["method"],
            "contrast": row["contrast"],
            "target": in_target[row["lesion"]],
            "guide": in_guide[row["lesion"]],
        }
        for row in region_metrics(regions, images, truth)
        if row["method"] in images
    ]


def run(protocol: dict[str, Any], methods: dict[str, Method]) -> list[dict[str, Any]]:
    """Return a row for each lesion, reference contrast, pattern, method and kind of reference."""
    target = protocol["target"]
    contrasts = [target, *protocol["simulated"]["guides"]]
    cohort = BrainCohort(N_SUBJECTS, "test", protocol["seed"], contrasts=contrasts, lesions=True, misalignment=0.5)
    simulate = SimulateKspaced(n_coils=(1,), noise=(protocol["noise"],) * 2, seed_key="case")
    parser = ConfigParser({"patterns": protocol["patterns"]})
    rows = []
    for entry in tqdm(cohort.datalist(), disable=None):
        volumes = {name: open_acquisition(entry[name]) for name in (*contrasts, "lesions")}
        labels = volumes["lesions"].read_volume().round().to(torch.uint8)[0]
        for guide in protocol["simulated"]["guides"]:
            seen = BrainCohort.LESION_LABELS
            kinds = {seen["all"]: "both", seen[target]: "target alone", seen[guide]: "reference alone"}
            for i in slices_with_lesions(labels, list(kinds)):
                sample = simulate({"case": f"{entry['case']}_{i}", "magnitude": volumes[target].read_slice(i)})
                right = volumes[guide].read_slice(i)
                for pattern in protocol["patterns"]:
                    ready = measured(sample, parser.get_parsed_content(f"patterns::{pattern}"))
                    truth = ready["reference"].abs()[0]
                    images = {("zero_filled", ""): ready["zero_filled"].abs()[0]}
                    for kind in REFERENCES:
                        reference = right if kind == "right" else torch.zeros_like(right)
                        images |= {(name, kind): restored(ready, reference, use) for name, use in methods.items()}
                    named = {f"{name}|{kind}": image for (name, kind), image in images.items()}
                    facts = {"case": sample["case"], "guide_contrast": guide, "pattern": pattern}
                    for row in lesion_rows(labels[..., i], named, truth, right[0], kinds):
                        method, _, reference_kind = row.pop("method").partition("|")
                        rows.append({**facts, **row, "method": method, "reference": reference_kind})
    return rows


def slope(y: np.ndarray, x: np.ndarray) -> float:
    """Return the slope through the origin of y by x."""
    return float(y @ x / (x @ x))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return lines of a table: share of contrast kept, or copied, over all lesions of a kind."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        keys = ("pattern", "guide_contrast", "kind", "method", "reference")
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    lines = ["| pattern | guide | lesion seen by | method | reference | lesions | share kept or copied |"]
    lines.append("|" + "---|" * 7)
    for group, own in groups.items():
        contrast, in_target, in_guide = (
            np.array([row[key] for row in own], dtype=float) for key in ("contrast", "target", "guide")
        )
        known = np.isfinite(contrast) & np.isfinite(in_target) & np.isfinite(in_guide)
        contrast, in_target, in_guide = contrast[known], in_target[known], in_guide[known]
        is_copy = group[2] == "reference alone"
        share = slope(contrast - in_target, in_guide) if is_copy else slope(contrast, in_target)
        lines.append(f"| {' | '.join(group)} | {len(contrast)} | {share:+.2f} |")
    return lines


def main() -> None:
    """Run, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_name("mri_guided.json"))
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER", help="what a training left")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    protocol = json.loads(options.protocol.read_text())
    rows = run(protocol, named_networks(parser, options.run, options.device))
    print("\n".join(table(rows)))  # noqa: T201
    if options.output:
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.output.write_text(json.dumps({"protocol": protocol, "machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
