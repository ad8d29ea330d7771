"""Reconstruction quality: zero-filled, CG-SENSE and TV (sigpy), CLGNet, and whatever else was trained.

Each image, simulated and real, is under-sampled by each pattern of the protocol beside this file; each method gets the
same samples and the same coil sensitivities. Prints a table of PSNR (dB), SSIM and NMSE, and writes JSON. A network
to compare with is a folder that a training of the bundle left, a U-Net for example:

    python -m tests.benchmarks.mri_recon --output results.json --run unet=bundles/clgnet/runs/unet

A run of ``varnet.json`` gives a root sum of squares: ``--target rss`` compares all methods with that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
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
    PackReconstructiond,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    Undersampled,
    acquisition_list,
    channels_to_complex,
    nmse,
    open_acquisition,
    psnr,
    ssim,
)

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("MEDKIT_REAL_DATA", ROOT.parent / "shared" / "data"))
Sample = dict[str, Any]
Method = Callable[[Sample], Tensor]


def simulated_slices(protocol: dict[str, Any], seed: int) -> Iterator[Sample]:
    """Yield fully sampled k-space of the middle slices of simulated test subjects."""
    cohort = BrainCohort(protocol["n_subjects"], split="test", seed=seed, contrasts=protocol["contrasts"])
    simulate = SimulateKspaced(
        n_coils=(protocol["n_coils"], protocol["n_coils"]), noise=(protocol["noise"],) * 2, seed_key="case"
    )
    for contrast in protocol["contrasts"]:
        for entry in acquisition_list(None, "test", cohort, per="volume", contrast=contrast):
            exam = open_acquisition(entry["path"])
            for i in np.linspace(0.4, 0.7, protocol["slices"]) * exam.n_slices:
                case = f"{entry['case']}_{contrast}_{int(i)}"
                yield simulate({"case": case, "magnitude": exam.read_slice(int(i))})


def real_slices(path: Path) -> Iterator[Sample]:
    """Yield the fully sampled slices of a raw file."""
    exam = open_acquisition(path)
    for i in range(exam.n_slices):
        yield {"case": f"{exam.name}_{i}", "kspace": exam.read_slice(i)}


def classical(app: str, options: dict[str, Any], weight: float) -> Method:
    """Return a method of sigpy with one weight of its regularisation."""
    import sigpy.mri.app

    def reconstruct(sample: Sample) -> Tensor:
        scale = float(sample["scale"])
        maps = sample["sens_maps"].numpy()
        measured = sample["measured"].numpy() / scale
        weights = np.broadcast_to(sample["mask"].numpy(), measured.shape).astype(np.float32)
        recon = getattr(sigpy.mri.app, app)(
            measured, maps, lamda=weight, weights=weights, max_iter=options["iterations"], show_pbar=False
        )
        return torch.from_numpy(recon.run()).abs() * scale

    return reconstruct


def packed_network(config: Path, weights: Path) -> torch.nn.Module:
    """Return the network of a config with its weights, on packed channels, ready to infer."""
    parser = ConfigParser()
    parser.read_config(config)
    net: torch.nn.Module = parser.get_parsed_content("network_def")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def takes_coil_images(config: Path) -> bool:
    """Tell whether the network of a config is given the coils' images instead of their sensitivities."""
    parser = ConfigParser()
    parser.read_config(config)
    return bool(parser.get("coil_images", False))


def network(config: Path, weights: Path, device: str) -> Method:
    """Return the network of a config with its weights, from a measured sample to the magnitude of its image."""
    with_coils = PackReconstructiond(coil_images=True) if takes_coil_images(config) else None
    net = packed_network(config, weights).to(device)
    if with_coils is None:  # MONAI's VarNet has buffers of five axes, which that format refuses
        net = net.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def reconstruct(sample: Sample) -> Tensor:
        packed = sample if with_coils is None else with_coils(sample)
        pred = net(packed["image"][None].to(device)).cpu()
        return channels_to_complex(pred[:, :2])[0, 0].abs() * sample["scale"]

    return reconstruct


def named_networks(parser: argparse.ArgumentParser, runs: list[str], device: str) -> dict[str, Method]:
    """Return the network of each ``NAME=FOLDER``, where a training left ``config.json`` and ``model.pt``."""
    methods = {}
    for text in runs:
        name, _, folder = text.partition("=")
        if not (Path(folder) / "model.pt").is_file():
            parser.error(f"--run must be NAME=FOLDER of a finished training, got {text!r}: no {folder}/model.pt")
        methods[name] = network(Path(folder) / "config.json", Path(folder) / "model.pt", device)
    return methods


def measure(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Return PSNR, SSIM and NMSE of one slice."""
    x, y = image[None].numpy(), reference[None].numpy()
    return {"psnr": psnr(x, y), "ssim": ssim(x, y), "nmse": nmse(x, y)}


def mean(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric."""
    return {metric: float(np.mean([row[metric] for row in rows])) for metric in rows[0]}


def run(protocol: dict[str, Any], methods: dict[str, Method], only: str | None, target: str) -> dict[str, Any]:
    """Return the mean metrics by data set, pattern and method."""
    parser = ConfigParser({"patterns": protocol["patterns"]})
    data: dict[str, list[Sample]] = {}
    if only in (None, "simulated"):
        data["simulated"] = list(simulated_slices(protocol["simulated"], protocol["seed"]))
    if only in (None, "real"):
        for name, path in protocol["real"].items():
            if (REAL_DATA / path).exists():
                data[name] = list(real_slices(REAL_DATA / path))
            else:
                sys.stderr.write(f"skipped {name}: no file {REAL_DATA / path}\n")
    results: dict[str, Any] = {}
    for name, slices in data.items():
        for pattern in protocol["patterns"]:
            prepare = Compose(
                [
                    Undersampled(
                        keys="kspace", mask=parser.get_parsed_content(f"patterns::{pattern}"), seed_key="case"
                    ),
                    SensitivityMapsd(),
                    CoilCombined(target=target),
                    ScaleByPercentiled(),
                    PackReconstructiond(),
                ]
            )
            rows: dict[str, list[dict[str, float]]] = {}
            for sample in tqdm(slices, desc=f"{name}, {pattern}", disable=None):
                ready = prepare(dict(sample))
                reference = ready["reference"].abs()[0]
                for method, reconstruct in methods.items():
                    start = time.perf_counter()
                    row = measure(reconstruct(ready), reference)
                    row["seconds"] = time.perf_counter() - start
                    rows.setdefault(method, []).append(row)
            results.setdefault(name, {})[pattern] = best_of_grid({method: mean(of) for method, of in rows.items()})
    return results


def best_of_grid(means: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Keep, of the weights of each classical method, the one with the highest PSNR."""
    best: dict[str, dict[str, float]] = {}
    for name, row in means.items():
        method, _, weight = name.partition(" @")
        row = {**row, **({"weight": float(weight)} if weight else {})}
        if method not in best or row["psnr"] > best[method]["psnr"]:
            best[method] = row
    return best


def main() -> None:
    """Run the protocol, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "clgnet")
    parser.add_argument("--weights", type=Path, help="of CLGNet; default the released ones")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER", help="also what a training left")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("simulated", "real"))
    parser.add_argument("--target", choices=("sense", "rss"), default="sense", help="what is compared with")
    parser.add_argument("--no-classical", action="store_true", help="leave out sigpy")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    protocol = json.loads(options.protocol.read_text())
    methods: dict[str, Method] = {"zero_filled": lambda sample: sample["zero_filled"].abs()[0]}
    if not options.no_classical:
        for method, app in (("cg_sense", "SenseRecon"), ("tv", "TotalVariationRecon")):
            for weight in protocol[method]["weights"]:
                methods[f"{method} @{weight}"] = classical(app, protocol[method], weight)
    methods |= named_networks(parser, options.run, options.device)
    weights = options.weights or options.bundle / "models" / "model.pt"
    methods["clgnet"] = network(options.bundle / "configs" / "train.json", weights, options.device)
    results = run(protocol, methods, options.only, options.target)
    for name, patterns in results.items():
        print(f"\n{name}\n| pattern | method | PSNR (dB) | SSIM | NMSE | seconds |\n|---|---|---|---|---|---|")  # noqa: T201
        for pattern, rows in patterns.items():
            for method, row in rows.items():
                cells = f"{row['psnr']:.2f} | {row['ssim']:.4f} | {row['nmse']:.5f} | {row['seconds']:.2f}"
                print(f"| {pattern} | {method} | {cells} |")  # noqa: T201
    if options.output:
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        report = {"protocol": protocol, "target": options.target, "machine": machine, "results": results}
        options.output.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
