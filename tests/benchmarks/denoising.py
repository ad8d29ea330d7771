"""Denoising: MDRN against DnCNN of equal seconds of training, non-local means and BM3D, simulated and real images.

The protocol is denoising.json beside this file. Trainings and cells (one line of JSON each) are kept in the folder, so
that the same command goes on where it was stopped:

    python -m tests.benchmarks.denoising --output results

BM3D runs where its package is installed (`pip install bm3d`, whose licence allows non-commercial use alone, so it is no
extra of medkit). Real images are looked for in $MEDKIT_REAL_DATA; what is missing is said to be not run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from tqdm import tqdm

from medkit.data import BrainCohort
from medkit.denoise import NonLocalMeans, TileInferer, image_list, read_dicom_series
from medkit.denoise.engine import image_metrics
from medkit.denoise.figures import draw_denoised
from medkit.denoise.readers.files import read_image, read_picture
from medkit.workflow import atomic_path, epoch_seed

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "mdrn"
REAL_DATA = Path(os.environ.get("MEDKIT_REAL_DATA", ROOT.parent / "shared" / "data"))
Method = Callable[[Tensor, float], Tensor]


def training(options: dict[str, Any], seed: int) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of the bundle's training, epoch after epoch."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "train.json")
    parser.update({"bundle_root": str(BUNDLE), "seed": seed, **options})
    loader, sampler = (parser.get_parsed_content(f"train#{name}") for name in ("dataloader", "sampler"))
    epoch = 0
    while True:
        epoch += 1
        sampler.set_epoch(epoch)
        yield from loader


def fit(name: str, protocol: dict[str, Any], folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network for the protocol's seconds of processor time, or go on with it; see the protocol."""
    plan = protocol["fit"]
    torch.manual_seed(epoch_seed(protocol["seed"], 1))
    parser = ConfigParser({"network": plan["networks"][name]})
    network = parser.get_parsed_content("network")
    optimizer = torch.optim.AdamW(network.parameters(), plan["learning_rate"], betas=(0.9, 0.99), weight_decay=1e-4)
    file, spent, step = folder / f"{name}.pt", 0.0, 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        spent, step = state["spent"], state["step"]
    budget = plan["cpu_seconds"]
    batches = training(plan["options"], protocol["seed"] + step)
    bar = tqdm(total=budget, initial=int(spent), desc=f"fit {name}", disable=None)
    kept = spent
    while spent < budget:
        batch = next(batches)  # the data costs nobody anything: all see the same
        began = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = plan["learning_rate"] * 0.5 * (1 + math.cos(math.pi * min(spent / budget, 1)))
        optimizer.zero_grad()
        nn.functional.l1_loss(network(_plain(batch["image"])), _plain(batch["label"])).backward()
        optimizer.step()
        spent, step = spent + time.process_time() - began, step + 1
        bar.update(int(spent) - bar.n)
        if spent - kept > 30 or spent >= budget:
            states = {"network": network, "optimizer": optimizer}
            with atomic_path(file) as temporary:
                torch.save({**{k: v.state_dict() for k, v in states.items()}, "spent": spent, "step": step}, temporary)
            kept = spent
    return network.eval(), {"steps": step, "cpu_seconds": round(spent, 1)}


def released() -> tuple[nn.Module, dict[str, Any]]:
    """Return the bundle's network with its released weights, blind: its noise map is 0."""
    parser = ConfigParser()
    parser.read_config(BUNDLE / "configs" / "inference.json")
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(BUNDLE / "models" / "model.pt", weights_only=True))
    return network, {}


def learned(network: nn.Module) -> Method:
    """Return a network as a method, which is not told sigma."""
    inferer = TileInferer(tile=512)

    def denoise(noisy: Tensor, sigma: float) -> Tensor:
        image = noisy[None]
        if getattr(network, "noise_map", False):
            image = torch.cat([image, torch.zeros_like(image[:, :1])], 1)
        with torch.no_grad():
            return inferer(image, network)[0]

    return denoise


def classical(name: str) -> Method | None:
    """Return a method that learns nothing, or ``None`` where its package is missing."""
    if name == "non_local_means":
        means = NonLocalMeans()
        return lambda noisy, sigma: means(noisy, sigma)
    if importlib.util.find_spec("bm3d") is None:
        return None
    import bm3d

    return lambda noisy, sigma: torch.from_numpy(bm3d.bm3d(noisy[0].numpy(), sigma)).float()[None]


def images_of(plan: dict[str, Any], protocol: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and clean image ``(1, H, W)``, bright parts near 1, its middle of at most the largest side."""
    if plan["kind"] == "cohort":
        cohort = BrainCohort(plan["n_subjects"], "test", protocol["seed"], contrasts=plan["contrasts"])
        entries = image_list(None, "test", cohort, contrasts=plan["contrasts"], n_slices=plan["n_slices"])
        found = ((e["case"], read_image("benchmark", Path(e["path"]), e["i_slice"]).array) for e in entries)
    elif plan["kind"] == "pictures":
        files = sorted((REAL_DATA / plan["path"]).glob("*.png"))[:: plan["every"]]
        found = ((file.stem, read_picture("benchmark", file).astype(np.float32) / 255) for file in files)
    else:
        if plan["kind"] == "dicom":
            volume = read_dicom_series(REAL_DATA / plan["path"]).volume.numpy()
        else:
            content = np.load(REAL_DATA / plan["path"])
            volume = np.moveaxis(content[next(iter(content))], plan["axis"], -1).astype(np.float32)
        chosen = np.linspace(0, volume.shape[-1] - 1, plan["n_slices"] + 2)[1:-1].round().astype(int)
        found = ((f"{i:03d}", volume[None, ..., i]) for i in dict.fromkeys(chosen.tolist()))
    for name, array in found:
        image = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        if plan["kind"] != "pictures":
            image = image / torch.quantile(image.flatten(), 0.995)
        top, left = (max(0, (n - protocol["largest_side"]) // 2) for n in image.shape[1:])
        yield name, image[:, top : top + protocol["largest_side"], left : left + protocol["largest_side"]]


def milliseconds(method: Method) -> float:
    """Return the processor time of one image of 512×512, the median of three."""
    image, times = torch.rand(1, 512, 512, generator=torch.Generator().manual_seed(0)), []
    for _ in range(3):
        began = time.process_time()
        method(image, 0.1)
        times.append(1000 * (time.process_time() - began))
    return statistics.median(times)


def score(methods: dict[str, Method], protocol: dict[str, Any], folder: Path, wanted: set[str]) -> list[dict[str, Any]]:
    """Measure each cell that is not there yet, and return all of them."""
    file = folder / "cells.jsonl"
    cells = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    done = {(c["data"], c["image"], c["sigma"], c["method"]) for c in cells}
    for data, plan in protocol["data"].items():
        try:
            images = list(images_of(plan, protocol))
        except (ImportError, FileNotFoundError) as error:
            sys.stderr.write(f"{data}: not run: {error}\n")
            continue
        if not images:
            sys.stderr.write(f"{data}: not run: no images in {REAL_DATA}\n")
        for name, clean in tqdm(images, desc=data, disable=None):
            for sigma in protocol["sigmas"]:
                digest = hashlib.sha256(f"{protocol['seed']}:{data}:{name}:{sigma}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
                noisy = clean + sigma / 255 * torch.randn(clean.shape, generator=generator)
                results = {}
                for method, denoise in {"noisy": lambda y, s: y, **methods}.items():
                    if (data, name, sigma, method) in done or (method in methods and method not in wanted):
                        continue
                    results[method] = denoise(noisy, sigma / 255)
                    cell = {"data": data, "image": name, "sigma": sigma, "method": method}
                    cells.append({**cell, **image_metrics(results[method], clean)})
                    with file.open("a") as lines:
                        lines.write(json.dumps(cells[-1]) + "\n")
                if len(results) > 1 and name == images[len(images) // 2][0]:
                    shown = {method: image[0] for method, image in results.items() if method != "noisy"}
                    path = folder / f"{data.split(' (')[0].replace(' ', '_')}_{sigma}.png"
                    draw_denoised(path, noisy[0], shown, clean[0], title=f"{data}, {name}, sigma {sigma}")
    return cells


def table(cells: list[dict[str, Any]], facts: dict[str, dict[str, Any]], protocol: dict[str, Any]) -> str:
    """Return the means as a table: PSNR in dB and SSIM for each sigma."""
    lines = []
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    for data in dict.fromkeys(cell["data"] for cell in cells):
        n_images = len({cell["image"] for cell in cells if cell["data"] == data})
        lines += [f"\n{data}: {n_images} images", f"{'':<18}" + "".join(f"{s:>16}" for s in protocol["sigmas"])]
        for method in methods:
            row = f"{method:<18}"
            for sigma in protocol["sigmas"]:
                own = [c for c in cells if (c["data"], c["method"], c["sigma"]) == (data, method, sigma)]
                is_whole = len(own) == n_images  # the mean of some of the images could be compared with nothing
                means = [statistics.fmean(c[key] for c in own) if is_whole else math.nan for key in ("psnr", "ssim")]
                row += f"{means[0]:>10.2f} {means[1]:.3f}"
            lines.append(row)
    lines += ["", *(f"{name}: {', '.join(f'{k} {v}' for k, v in one.items())}" for name, one in facts.items())]
    return "\n".join(lines)


def _plain(image: Any) -> Tensor:
    return torch.as_tensor(image).as_subclass(Tensor)


def main() -> None:
    """Train what is to be trained, measure what is not measured yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of trainings, cells, table and pictures")
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--only", nargs="+", help="methods to train and to measure now (default: all)")
    parser.add_argument("--fit_only", action="store_true", help="train, and measure nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    protocol = json.loads(options.protocol.read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    methods: dict[str, Method] = {}
    facts: dict[str, dict[str, Any]] = {}
    for name in protocol["classical"]:
        one = classical(name)
        if one is None:
            facts[name] = {"not run": "its package is not installed"}
        else:
            methods[name], facts[name] = one, {}
    makers: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
        name: lambda name=name: fit(name, protocol, options.output) for name in protocol["fit"]["networks"]
    }
    if protocol["released"] and (BUNDLE / "models" / "model.pt").is_file():
        makers["mdrn (released)"] = released
    for name, make in makers.items():
        if options.only and name not in options.only:
            continue
        network, facts[name] = make()
        facts[name]["parameters"] = sum(p.numel() for p in network.parameters())
        methods[name] = learned(network)
    if options.fit_only:
        return
    for name, method in methods.items():
        if not options.only or name in options.only:
            facts[name]["ms for 512x512"] = round(milliseconds(method))
    cells = score(methods, protocol, options.output, set(options.only or methods))
    text = table(cells, facts, protocol)
    sys.stdout.write(text + "\n")
    machine = {"processor": platform.processor() or platform.machine(), "threads": 1, "torch": torch.__version__}
    with atomic_path(options.output / "results.json") as temporary:
        content = {"protocol": protocol, "machine": machine, "facts": facts, "cells": cells}
        temporary.write_text(json.dumps(content, indent=1) + "\n")
    with atomic_path(options.output / "table.txt") as temporary:
        temporary.write_text(text + "\n")


if __name__ == "__main__":
    main()
