"""A very small bundle, which trains one linear layer: what the tests of the command and of the workflow room run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRAIN: dict[str, Any] = {
    "bundle_root": ".",
    "dataset_dir": None,
    "output_dir": "$@bundle_root + '/runs'",
    "run_name": "first",
    "run_dir": "$@output_dir + '/' + @run_name",
    "ckpt_path": "$@bundle_root + '/models/model.pt'",
    "device": "$torch.device('cpu')",
    "max_epochs": 2,
    "learning_rate": 0.1,
    "seed": 0,
    "network_def": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1},
    "optimizer": {
        "_target_": "torch.optim.SGD",
        "params": "$@network_def.parameters()",
        "lr": "@learning_rate",
    },
    "train": {
        "dataset": {"_target_": "Dataset", "data": "$[{'image': torch.ones(2), 'label': torch.ones(1)}] * 4"},
        "loader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 2},
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {
                "_target_": "medkit.workflow.Resume",
                "run_dir": "@run_dir",
                "save_dict": {"network": "@network_def", "optimizer": "@optimizer"},
            },
            {"_target_": "medkit.workflow.SeedEachEpoch", "seed": "@seed"},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "@device",
            "max_epochs": "@max_epochs",
            "train_data_loader": "@train#loader",
            "network": "@network_def",
            "optimizer": "@optimizer",
            "loss_function": {"_target_": "torch.nn.MSELoss"},
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
        },
    },
    "initialize": [
        {"_target_": "medkit.workflow.check_overrides", "bundle_root": "@bundle_root"},
        {"_target_": "medkit.workflow.save_config_copy", "run_dir": "@run_dir"},
    ],
    "run": ["$@train#trainer.run()"],
}


def write_tiny_bundle(folder: Path) -> Path:
    """Write the bundle ``tiny`` into a folder, and return its path."""
    configs = folder / "tiny" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.json").write_text(json.dumps(TRAIN))
    (configs / "small.json").write_text(json.dumps({"max_epochs": 1, "train#loader#batch_size": 1, "+run": ["$None"]}))
    (configs / "inference.json").write_text(json.dumps({"bundle_root": ".", "sw_batch_size": 4, "run": []}))
    (configs / "metadata.json").write_text(json.dumps({"version": "0.1.0", "epochs_of_the_authors": 7}))
    (configs / "logging.conf").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=console\n[formatters]\nkeys=plain\n"
        "[logger_root]\nlevel=INFO\nhandlers=console\n"
        "[handler_console]\nclass=StreamHandler\nlevel=INFO\nformatter=plain\nargs=(sys.stdout,)\n"
        "[formatter_plain]\nformat=%(message)s\n"
    )
    return configs.parent
