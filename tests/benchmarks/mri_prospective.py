"""Reconstruction of a scan that was under-sampled by the scanner, judged by samples that were held back.

No fully sampled image exists of such a scan. A tenth of its samples outside the centre is held back, each method
reconstructs from the others, and is measured anew at both: the residual ||M F S x - y|| / ||y|| on the samples it got
and on those it did not see. Classical methods take the weight of a grid that is best on the very samples held back, an
advantage to them. Means over three splits; a table, a picture, and JSON:

    python -m tests.benchmarks.mri_prospective --output prospective.json --picture prospective.png
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor
from tqdm import tqdm

from medkit.mri import (
    CGSense,
    CoilCombined,
    L1Wavelet,
    LoadAcquisitiond,
    PackedReconstructor,
    PackReconstructiond,
    ScaleByPercentiled,
    SensitivityMapsd,
    SplitMeasuredd,
    TotalVariation,
    Undersampled,
    channels_to_complex,
    draw_reconstructions,
    sense_forward,
)
from tests.benchmarks.mri_recon import REAL_DATA, ROOT, packed_network, takes_coil_images

EXAM = REAL_DATA / "mri_recon" / "mikgroup__sigpy-mri-tutorial" / "cartesian_ksp.npy"
CLASSICAL: dict[str, tuple[Callable[..., torch.nn.Module], int, tuple[float, ...]]] = {
    "cg_sense": (CGSense, 30, (0.0, 0.001, 0.01, 0.1)),
    "l1_wavelet": (L1Wavelet, 100, (0.0005, 0.002, 0.005, 0.01)),
    "total_variation": (TotalVariation, 100, (0.005, 0.01, 0.02, 0.04)),
}
HELD_SHARE = 0.1
CENTRE = 24  # rows and columns that are never held back: the maps come from them
SPLITS = 3
Sample = dict[str, Any]


def prepared(path: Path, seed: int) -> Sample:
    """Return the exam with some of its samples held back, ready for a network."""
    chain = Compose(
        [
            LoadAcquisitiond(keys="path"),
            Undersampled(keys="kspace"),
            SensitivityMapsd(),
            SplitMeasuredd(HELD_SHARE, CENTRE, "uniform", seed_key="case", seed=seed),
            CoilCombined(),
            ScaleByPercentiled(),
            PackReconstructiond(),
        ]
    )
    return dict(chain({"path": str(path), "case": path.stem, "i_slice": 0}))


def residual(image: Tensor, sample: Sample, mask: str, measured: str) -> float:
    """Return how far an image (1, H, W), measured anew, is from samples, as a part of their norm."""
    predicted = sense_forward(image[None], sample[mask][None], sample["sens_maps"][None])[0]
    samples = sample[measured] * sample[mask]
    return float(torch.linalg.vector_norm(predicted - samples) / torch.linalg.vector_norm(samples))


def reconstructed(net: torch.nn.Module, sample: Sample) -> Tensor:
    """Return the complex image (1, H, W) of a network on packed channels."""
    with torch.inference_mode():
        return channels_to_complex(net(sample["image"][None])[:, :2])[0] * sample["scale"]


def main() -> None:
    """Reconstruct, compare, print the table and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exam", type=Path, default=EXAM, help="under-sampled k-space, as inference takes it")
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "clgnet")
    parser.add_argument("--weights", type=Path, help="of CLGNet; default the released ones")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER", help="also what a training left")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    options = parser.parse_args()
    nets: dict[str, torch.nn.Module] = {}
    for name, (method, n_iterations, weights) in CLASSICAL.items():
        for weight in weights:
            nets[f"{name} @{weight}"] = PackedReconstructor(method(weight=weight, n_iterations=n_iterations))
    for text in options.run:
        name, _, folder = text.partition("=")
        if takes_coil_images(Path(folder) / "config.json"):
            parser.error(f"--run {text}: a network on coil images gives no phase, so it cannot be measured anew")
        nets[name] = packed_network(Path(folder) / "config.json", Path(folder) / "model.pt")
    released = options.weights or options.bundle / "models" / "model.pt"
    nets["clgnet"] = packed_network(options.bundle / "configs" / "train.json", released)
    values: dict[str, list[tuple[float, float]]] = {}
    images: dict[str, Tensor] = {}
    for seed in tqdm(range(SPLITS), disable=None):
        sample = prepared(options.exam, seed)
        results = {"zero_filled": sample["zero_filled"]}
        results |= {name: reconstructed(net, sample) for name, net in nets.items()}
        for name, image in results.items():
            seen = residual(image, sample, "mask", "measured")
            held = residual(image, sample, "held_mask", "held_measured")
            values.setdefault(name, []).append((seen, held))
        images = results
    means = {name: np.mean(pairs, axis=0) for name, pairs in values.items()}
    best: dict[str, str] = {}
    for name in means:
        method = name.partition(" @")[0]
        if method not in best or means[name][1] < means[best[method]][1]:
            best[method] = name
    lines = ["| method | weight | residual, samples given | residual, samples held back |", "|---|---|---|---|"]
    for method, name in best.items():
        lines.append(f"| {method} | {name.partition(' @')[2]} | {means[name][0]:.3f} | {means[name][1]:.3f} |")
    print("\n".join(lines))  # noqa: T201
    if options.picture:
        shown = {method: images[name].abs()[0] for method, name in best.items()}
        notes = {method: f"held back: {means[name][1]:.3f}" for method, name in best.items()}
        draw_reconstructions(options.picture, shown, notes=notes, title=options.exam.stem)
    if options.output:
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        options.output.write_text(
            json.dumps({"exam": str(options.exam), "machine": machine, "values": values}, indent=1)
        )


if __name__ == "__main__":
    main()
