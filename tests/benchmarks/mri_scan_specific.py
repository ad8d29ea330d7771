"""Adaptation of trained weights to one under-sampled scan, judged by samples that no part of the training saw.

A tenth of the samples outside the centre is held back, as in ``mri_prospective``. What is left becomes a scan of its
own, on which the bundle ``clgnet`` trains on without a reference (``ssdu.json``), choosing its best epoch by further
samples of that scan. The released and the adapted weights then reconstruct it, and are measured anew on the samples
it had and on those held back. Prints a table, and writes JSON:

    python -m tests.benchmarks.mri_scan_specific --epochs 5 --steps 10 --output scan_specific.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.mri_prospective import EXAM, Sample, prepared, reconstructed, residual
from tests.benchmarks.mri_recon import ROOT, packed_network

BUNDLE = ROOT / "bundles" / "clgnet"
RELEASED = BUNDLE / "models" / "model.pt"


def adapted(sample: Sample, folder: Path, options: argparse.Namespace) -> Path:
    """Train on what is left of the exam, and return the folder of the run."""
    np.save(folder / "scan.npy", sample["measured"].numpy())
    configs = [str(BUNDLE / "configs" / f"{name}.json") for name in ("train", "ssdu")]
    arguments = {
        "bundle_root": BUNDLE,
        "dataset_dir": folder / "scan.npy",
        "domain": "kspace",
        "output_dir": folder,
        "run_name": "adapted",
        "ckpt_path": RELEASED,
        "batch_size": 1,
        "num_workers": 0,
        "n_coils": sample["measured"].shape[0],
        "max_epochs": options.epochs,
        "samples_per_epoch": options.steps,
        "learning_rate": options.learning_rate,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), *words], check=True)
    return folder / "adapted"


def main() -> None:
    """Adapt, measure, print the table and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", type=Path, default=EXAM, help="under-sampled k-space, as inference takes it")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of an epoch")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    sample = prepared(options.exam, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = adapted(sample, Path(folder), options)
        seconds = time.perf_counter() - start
        nets = {
            "released": packed_network(BUNDLE / "configs" / "train.json", RELEASED),
            "adapted": packed_network(run / "config.json", run / "model.pt"),
        }
    values = {}
    lines = ["| weights | residual, samples given | residual, samples held back |", "|---|---|---|"]
    for name, net in nets.items():
        image = reconstructed(net, sample)
        pairs = (("mask", "measured"), ("held_mask", "held_measured"))
        values[name] = [residual(image, sample, *pair) for pair in pairs]
        lines.append(f"| {name} | {values[name][0]:.4f} | {values[name][1]:.4f} |")
    print("\n".join(lines))  # noqa: T201
    if options.output:
        settings = {"steps": options.epochs * options.steps, "learning_rate": options.learning_rate}
        options.output.write_text(json.dumps({**settings, "seconds": seconds, "values": values}, indent=1))


if __name__ == "__main__":
    main()
