"""What the tests of the bundles unikd and sokd share: a tiny set of pictures, short trainings, and their stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from tests.bundle_runs import prepared

TINY = {"network_def#block_inplanes": [4, 4, 8, 8], "teacher_def#block_inplanes": [8, 8, 16, 16]}


def write_bars(path: Path, n: int = 60, size: int = 16, several: bool = False) -> Path:
    """Write a ``.npz`` of pictures with a bar across, along, or none; which of both, where ``several``."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    images = rng.integers(0, 60, (n, size, size), dtype=np.uint8)
    third = slice(size // 3, size - size // 3)
    images[labels == 1, third] += 120
    images[labels == 2, :, third] += 120
    given = np.stack([labels == 1, labels == 2], axis=1).astype(np.uint8) if several else labels
    names = np.array(["across", "along"] if several else ["none", "across", "along"])
    np.savez(path, images=images, labels=given, class_names=names)
    return path


def options(data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """Overrides of a short training on such pictures."""
    own = {"dataset_dir": str(data), "output_dir": str(folder), "image_size": 16, "batch_size": 8, "device": "cpu"}
    return {**own, "max_epochs": 1, "teacher_path": None, "force": True, **more}


def trainer_of(workflow: ConfigWorkflow) -> Any:
    """Return the trainer of a prepared workflow."""
    return workflow.parser.get_parsed_content("train#trainer")


def stopped_after_first_epoch(bundle: Path, names: list[str], **overrides: object) -> None:
    """Train as a run does that is killed after its first epoch."""

    def stop(engine: Any) -> None:
        raise KeyboardInterrupt

    workflow = prepared(bundle, names, "train", **overrides)
    trainer_of(workflow).add_event_handler(Events.EPOCH_STARTED(once=2), stop)
    try:
        trainer_of(workflow).run()
    except KeyboardInterrupt:
        return
    raise AssertionError("the training went on")


def same_states(first: Any, second: Any) -> bool:
    """Whether two nested states are bit by bit the same."""
    if isinstance(first, torch.Tensor):
        return bool(torch.equal(first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_states(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same_states(*pair) for pair in zip(first, second, strict=True))
    return bool(first == second)
