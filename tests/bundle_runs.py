"""Run the configs of a bundle, in this process or as a user does."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
CLGNET = ROOT / "bundles" / "clgnet"
SMALL = {"network_def#network#preset": "small", "center_fraction": 0.2, "acceleration": 2, "device": "cpu"}
MC_CDIC = ROOT / "bundles" / "mc_cdic"
MDRN = ROOT / "bundles" / "mdrn"


def configs(bundle: Path, *names: str) -> list[str]:
    """Return the paths of configs by name."""
    return [str(bundle / "configs" / f"{name}.json") for name in names]


def prepared(bundle: Path, names: list[str], kind: str, **overrides: object) -> ConfigWorkflow:
    """Return the initialised workflow of configs of a bundle."""
    workflow = ConfigWorkflow(
        configs(bundle, *names),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        **overrides,
    )
    workflow.initialize()
    return workflow


def run(bundle: Path, names: list[str], **overrides: object) -> None:
    """Run configs of a bundle in this process, as ``monai.bundle run`` does."""
    prepared(bundle, names, "infer" if names[0] == "inference" else "train", **overrides).run()


def command(bundle: Path, names: list[str], *arguments: str) -> list[str]:
    """Return the command line that runs configs of a bundle."""
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs(bundle, *names))]
    return [*start, "--bundle_root", str(bundle), *arguments]


def environment() -> dict[str, str]:
    """Return this environment with medkit on its path."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def typed(folder: Path, line: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder and return what it printed."""
    return subprocess.run(line, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)


def train_in_two_processes(bundle: Path, output_dir: Path) -> None:
    """Train a bundle shortly in two processes, with half a batch in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = command(bundle, ["train", "multi_gpu_train", "small"], "--output_dir", str(output_dir), "--batch_size", "1")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = typed(output_dir, [*launcher, *line[1:]])
    assert done.returncode == 0, done.stdout + done.stderr


def values_of_steps(
    bundle: Path,
    value_of: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor],
    overlays: tuple[str, ...] = (),
    **overrides: object,
) -> list[float]:
    """Train on one sample for 30 steps, and return a value of the loss module and its result after each."""
    parser = ConfigParser()
    parser.read_config(configs(bundle, "train", "small", *overlays))
    parser.update({"bundle_root": str(bundle), **overrides})
    torch.manual_seed(0)
    dataset = parser.get_parsed_content("train#dataset")
    sample = dataset[len(dataset) // 2]
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(network(sample["image"][None]), sample["label"][None])
        value.backward()
        optimizer.step()
        values.append(float(value_of(loss, value.detach())))
    return values


def trained_weights(folder: Path) -> Path:
    """Return the file of the best weights of the short training in a folder."""
    return folder / "small" / "model.pt"


def trained_network(folder: Path, bundle: Path = CLGNET) -> torch.nn.Module:
    """Return the network of the short training as the configs of inference build it."""
    parser = ConfigParser()
    parser.read_config(configs(bundle, "inference"))
    parser["network_def#network#preset"] = "small"
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained_weights(folder), weights_only=True))
    return network


def assert_lesions_are_shown(folder: Path, case: str, method: str) -> None:
    """Fail unless an evaluation left a picture, an error map, and metrics and pictures of lesions of a case."""
    for name in (f"{case}.png", f"{case}_{method}_error.nii.gz", f"{case}_lesion_1.png"):
        assert (folder / name).is_file(), name
    with (folder / "lesions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["case"] == case]
    assert {row["method"] for row in rows} == {"reference", "zero_filled", method}
    assert all(-1 < float(row["contrast"]) < 1 for row in rows)
    assert all(float(row["psnr"]) > 5 for row in rows if row["method"] == method)


def infer(trained: Path, exam: Path, out: Path) -> None:
    """Reconstruct an exam, or a folder of them, with the weights of the short training."""
    ckpt_path = str(trained_weights(trained))
    run(CLGNET, ["inference"], dataset_dir=str(exam), output_dir=str(out), ckpt_path=ckpt_path, **SMALL)


def hounsfield(folder: Path) -> Path:
    """Write three CT slices of a body in air, in HU."""
    body = np.full((40, 36, 3), -1000.0, dtype=np.float32)
    body[8:32, 6:30] = 40
    body[18:22, 15:20] = 900
    nibabel.save(nibabel.Nifti1Image(body, np.diag([2.0, 3.0, 4.0, 1.0])), folder / "body.nii.gz")
    return folder / "body.nii.gz"
