"""Run the configs of a bundle, in this process or as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from monai.bundle import ConfigParser, ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
CLGNET = ROOT / "bundles" / "clgnet"
SMALL = {"network_def#network#preset": "small", "center_fraction": 0.2, "acceleration": 2, "device": "cpu"}
MC_CDIC = ROOT / "bundles" / "mc_cdic"


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


def trained_weights(folder: Path) -> Path:
    """Return the file of the best weights of the short training in a folder."""
    return folder / "small" / "model.pt"


def trained_network(folder: Path) -> torch.nn.Module:
    """Return the network of the short training as the configs of inference build it."""
    parser = ConfigParser()
    parser.read_config(configs(CLGNET, "inference"))
    parser["network_def#network#preset"] = "small"
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained_weights(folder), weights_only=True))
    return network


def infer(trained: Path, exam: Path, out: Path) -> None:
    """Reconstruct an exam, or a folder of them, with the weights of the short training."""
    ckpt_path = str(trained_weights(trained))
    run(CLGNET, ["inference"], dataset_dir=str(exam), output_dir=str(out), ckpt_path=ckpt_path, **SMALL)
