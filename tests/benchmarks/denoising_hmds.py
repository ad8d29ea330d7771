"""HMDS: does a student learn more from a larger teacher (I), or from itself under less noise (II), than alone?

The protocol, paired over seeds, is denoising_hmds.json beside this file. One line of JSON is kept for each training, so
that the same command goes on where it was stopped:

    python -m tests.benchmarks.denoising_hmds --output results
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from scipy.stats import t as student_t
from torch import Tensor, nn
from tqdm import tqdm

from medkit.data import BrainCohort
from medkit.denoise import image_list
from medkit.denoise.readers.files import read_image
from medkit.distill import HMDS, DistillationLoss, LinearWarmup, WeightedTerm
from medkit.workflow import atomic_path
from tests.benchmarks.denoising import released, training

TAPS = ["groups.1", "groups.2", "groups.3"]


def validation(plan: dict[str, Any]) -> Tensor:
    """Return clean slices of subjects that nobody trains on, ``(N, 1, side, side)``."""
    cohort = BrainCohort(plan["n_subjects"], "validation", 0, contrasts=plan["contrasts"])
    entries = image_list(
        None, "validation", cohort, contrasts=plan["contrasts"], central_fraction=0.5, n_slices=plan["n_slices"]
    )
    images = []
    for entry in entries:
        image = torch.from_numpy(read_image("benchmark", Path(entry["path"]), entry["i_slice"]).array)
        top, left = ((n - plan["side"]) // 2 for n in image.shape[1:])
        image = image[:, top : top + plan["side"], left : left + plan["side"]]
        images.append(image / torch.quantile(image.flatten(), 0.995))
    return torch.stack(images)


def blind(image: Tensor) -> Tensor:
    """Append the noise map of the released network: 0, nobody tells."""
    return torch.cat([image, torch.zeros_like(image[:, :1])], 1)


def mean_psnr(network: nn.Module, clean: Tensor, sigma: float, is_told: bool = False) -> float:
    """Return the mean PSNR in dB of denoised images, whose noise is the same field at every level."""
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        errors = [
            (network(blind(y[None]) if is_told else y[None])[0] - x).square().mean()
            for x, y in zip(clean, noisy, strict=True)
        ]
    return statistics.fmean(-10 * math.log10(float(error)) for error in errors)


def student(protocol: dict[str, Any], seed: int) -> nn.Module:
    """Return the student with the first weights of a seed."""
    torch.manual_seed(seed)
    return ConfigParser({"student": protocol["student"]}).get_parsed_content("student")


def train(
    protocol: dict[str, Any], seed: int, steps: int, sigma: float, teachers: dict[str, nn.Module], label: str
) -> nn.Module:
    """Train a student, alone or with teachers; batches and noise depend on the seed and on sigma alone."""
    network = student(protocol, seed)
    loss: Any = nn.L1Loss()
    if teachers:
        ramp = LinearWarmup(protocol["kd_weight"], max(1, round(protocol["ramp"] * steps)))
        terms = {name: WeightedTerm(HMDS(), ramp, TAPS, TAPS, teacher=name) for name in teachers}
        side = protocol["options"]["crop_size"]
        told = {"larger": blind} if "larger" in teachers else {}
        loss = DistillationLoss(network, teachers, nn.L1Loss(), terms, [1, 1, *side], teacher_transform=told)
        loss.open()
    parameters = [*network.parameters(), *(loss.parameters() if teachers else ())]
    optimizer = torch.optim.AdamW(parameters, protocol["learning_rate"], betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    options = {**protocol["options"], "sigma": sigma, "quieter_ratio": protocol["quieter_ratio"]}
    batches = training(options, seed)
    network.train()
    for step in tqdm(range(1, steps + 1), desc=label, disable=None):
        batch = {key: torch.as_tensor(value).as_subclass(Tensor) for key, value in next(batches).items()}
        optimizer.zero_grad()
        if teachers:
            loss.set_time(step)
            if "quieter" in teachers:
                loss.context.teacher_inputs = {"quieter": batch["quieter"]}
        loss(network(batch["image"]), batch["label"]).backward()
        optimizer.step()
        schedule.step()
    if teachers:
        loss.close()
    return network.eval()


def summary(rows: list[dict[str, Any]], protocol: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the paired difference of each arm to the plain one, with its interval."""
    plain = {row["seed"]: row["psnr"] for row in rows if row["arm"] == "plain"}
    found = []
    for arm in protocol["arms"]:
        gains = [row["psnr"] - plain[row["seed"]] for row in rows if row["arm"] == arm and row["seed"] in plain]
        if arm == "plain" or not gains:
            continue
        half = math.nan
        if len(gains) > 1:
            half = float(student_t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
        found.append({"arm": arm, "n": len(gains), "mean_db": statistics.fmean(gains), "half_width_db": half})
    return found


def main() -> None:
    """Train what is not trained yet, and print the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the lines and the result")
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    protocol = json.loads(options.protocol.read_text())
    options.output.mkdir(parents=True, exist_ok=True)
    file, clean = options.output / "trainings.jsonl", validation(protocol["validation"])
    sigma, share = protocol["sigma"] / 255, protocol["quieter_ratio"]
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

    weights = options.output / "quieter.pt"
    quieter = student(protocol, 1000)
    if weights.is_file():
        quieter.load_state_dict(torch.load(weights, weights_only=True))
    else:
        quieter = train(protocol, 1000, protocol["teacher_steps"], share * sigma, {}, "teacher II")
        with atomic_path(weights) as temporary:
            torch.save(quieter.state_dict(), temporary)
    teachers = {"larger": released()[0], "quieter": quieter.eval()}
    psnr = {
        "larger": mean_psnr(teachers["larger"], clean, sigma, True),
        "quieter": mean_psnr(quieter, clean, share * sigma),
    }
    for seed in protocol["seeds"]:
        for arm, names in protocol["arms"].items():
            if any((row["seed"], row["arm"]) == (seed, arm) for row in rows):
                continue
            bar = next((row["psnr"] for row in rows if row["arm"] == "plain"), math.nan) + protocol["needed_gain"]
            weak = [name for name in names if not psnr[name] >= bar]
            if weak:
                sys.stderr.write(f"{arm}: not run: {weak} with {psnr} dB do not reach {bar:.2f} dB\n")
                continue
            network = train(
                protocol, seed, protocol["steps"], sigma, {n: teachers[n] for n in names}, f"seed {seed}, {arm}"
            )
            keep({"seed": seed, "arm": arm, "psnr": mean_psnr(network, clean, sigma)})
    result = {"protocol": protocol, "teachers": psnr, "trainings": rows, "summary": summary(rows, protocol)}
    with atomic_path(options.output / "results.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(f"teachers, dB: {psnr}\n")
    for line in result["summary"]:
        sys.stdout.write(
            f"{line['arm']:<6} {line['mean_db']:+.3f} +- {line['half_width_db']:.3f} dB, n = {line['n']}\n"
        )


if __name__ == "__main__":
    main()
