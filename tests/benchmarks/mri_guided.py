"""What a second contrast is worth: T2 restored with T1, FLAIR or PD of the same subject, of another one, and alone.

Each network is what a training of the bundle mc_cdic left. Each slice is measured once by each sampling pattern of the
protocol beside this file; each network then restores it with the right reference, with the reference of the next
subject of the set, and with none (zeros). Prints PSNR (dB) and SSIM, mean over slices, and writes JSON with each slice:

    python -m tests.benchmarks.mri_guided --run mc_cdic=bundles/mc_cdic/runs/guided --run unet=bundles/mc_cdic/runs/unet
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from torch import Tensor
from tqdm import tqdm

from medkit.data import BrainCohort
from medkit.mri import (
    CoilCombined,
    PackMultiContrastd,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    Undersampled,
    open_acquisition,
    psnr,
    ssim,
)
from tests.benchmarks.mri_recon import REAL_DATA, Method, named_networks

Sample = dict[str, Any]
Subjects = dict[str, dict[str, Path]]
REFERENCES = ("right", "wrong", "none")


def simulated_subjects(protocol: dict[str, Any]) -> Subjects:
    """Return the files of each contrast of simulated test subjects."""
    options = protocol["simulated"]
    contrasts = [protocol["target"], *options["guides"]]
    cohort = BrainCohort(
        options["n_subjects"], "test", protocol["seed"], contrasts=contrasts, lesions=True, misalignment=0.5
    )
    return {entry["case"]: {name: Path(entry[name]) for name in contrasts} for entry in cohort.datalist()}


def real_subjects(protocol: dict[str, Any]) -> Subjects:
    """Return the files of each contrast of the patients that are there."""
    there: Subjects = {}
    for name, files in protocol["real"]["subjects"].items():
        paths = {contrast: REAL_DATA / file for contrast, file in files.items()}
        if all(path.exists() for path in paths.values()):
            there[name] = paths
        else:
            sys.stderr.write(f"skipped {name}: not all of {', '.join(str(path) for path in paths.values())} exist\n")
    return there


def slices_of(
    subjects: Subjects, name: str, guide: str, target: str, options: dict[str, Any], noise: float
) -> Iterator[Sample]:
    """Yield fully sampled k-space of equally spaced central slices, with the right reference and that of another."""
    exam, right = (open_acquisition(subjects[name][contrast]) for contrast in (target, guide))
    names = list(subjects)
    others = [*names[names.index(name) + 1 :], *names[: names.index(name)]]
    wrong = None
    for other in others:
        if guide in subjects[other]:
            found = open_acquisition(subjects[other][guide])
            if (found.shape, found.n_slices) == (exam.shape, exam.n_slices):
                wrong = found
                break
    simulate = SimulateKspaced(n_coils=(1,), noise=(noise, noise), seed_key="case")
    margin = (1 - options["central_fraction"]) / 2
    for i in np.unique(np.linspace(margin, 1 - margin, options["slices"]) * (exam.n_slices - 1)).round().astype(int):
        sample = simulate({"case": f"{name}_{i}", "magnitude": exam.read_slice(int(i))})
        for key, source in (("right", right), ("wrong", wrong)):
            if source is not None:
                sample[key] = source.read_slice(int(i))
        yield sample


def measured(sample: Sample, mask: Any) -> Sample:
    """Return fully sampled k-space measured with a mask, ready to be packed with a reference."""
    chain = Compose(
        [
            Undersampled(keys="kspace", mask=mask, seed_key="case"),
            SensitivityMapsd("auto"),
            CoilCombined(),
            ScaleByPercentiled(),
        ]
    )
    return dict(chain(dict(sample)))


def restored(sample: Sample, guide: Tensor, method: Method) -> Tensor:
    """Return the magnitude (H, W) that a network restores with a reference."""
    packed = PackMultiContrastd()({**sample, "guide": guide})
    return method(packed)


def measure(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Return PSNR and SSIM of one slice."""
    x, y = image[None].numpy(), reference[None].numpy()
    return {"psnr": psnr(x, y), "ssim": ssim(x, y)}


def run(protocol: dict[str, Any], methods: dict[str, Method], only: str | None) -> list[dict[str, Any]]:
    """Return a row for each slice, reference contrast, pattern, method and kind of reference."""
    parser = ConfigParser({"patterns": protocol["patterns"]})
    sets = {} if only == "real" else {"simulated": (simulated_subjects(protocol), protocol["simulated"])}
    if only in (None, "real"):
        sets["real"] = (real_subjects(protocol), protocol["real"])
    rows = []
    for data, (subjects, options) in sets.items():
        guides = [(name, guide) for name in subjects for guide in subjects[name] if guide != protocol["target"]]
        for name, guide in tqdm(guides, desc=data, disable=None):
            for sample in slices_of(subjects, name, guide, protocol["target"], options, protocol["noise"]):
                for pattern in protocol["patterns"]:
                    mask = parser.get_parsed_content(f"patterns::{pattern}")
                    ready = measured(sample, mask)
                    truth = ready["reference"].abs()[0]
                    facts = {"data": data, "subject": name, "guide": guide, "pattern": pattern, "case": sample["case"]}
                    rows.append({**facts, "method": "zero_filled", **measure(ready["zero_filled"].abs()[0], truth)})
                    for kind in REFERENCES:
                        reference = torch.zeros_like(sample["right"]) if kind == "none" else ready.get(kind)
                        if reference is None:
                            continue
                        for method, restore in methods.items():
                            metrics = measure(restored(ready, reference, restore), truth)
                            rows.append({**facts, "method": method, "reference": kind, **metrics})
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return lines of a table: mean PSNR and SSIM over slices."""
    groups: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in rows:
        keys = ("data", "subject", "guide", "pattern", "method", "reference")
        groups.setdefault(tuple(str(row.get(key, "")) for key in keys), []).append((row["psnr"], row["ssim"]))
    lines = ["| data | subject | guide | pattern | method | reference | PSNR (dB) | SSIM |", "|" + "---|" * 8]
    for group, values in groups.items():
        mean = np.mean(values, axis=0)
        lines.append(f"| {' | '.join(group)} | {mean[0]:.2f} | {mean[1]:.4f} |")
    return lines


def main() -> None:
    """Run the protocol, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--run", action="append", required=True, metavar="NAME=FOLDER", help="what a training left")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("simulated", "real"))
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    protocol = json.loads(options.protocol.read_text())
    rows = run(protocol, named_networks(parser, options.run, options.device), options.only)
    print("\n".join(table(rows)))  # noqa: T201
    if options.output:
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.output.write_text(json.dumps({"protocol": protocol, "machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
