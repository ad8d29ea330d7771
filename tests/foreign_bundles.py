"""Two training bundles of MONAI's networks that know nothing of medkit: classification, and 3-D segmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CLASSIFICATION: dict[str, Any] = {
    "imports": ["$import os"],
    "bundle_root": ".",
    "dataset_dir": None,
    "ckpt_dir": "$@bundle_root + '/out'",
    "device": "$torch.device('cpu')",
    "max_epochs": 2,
    "val_interval": 1,
    "seed": 3,
    "data": "$[{'image': torch.rand(1, 32, 32) + i % 3, 'label': i % 3} for i in range(6)]",
    "network_def": {
        "_target_": "DenseNet121",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "init_features": 4,
        "growth_rate": 2,
        "block_config": [1, 1, 1, 1],
    },
    "network": "$@network_def.to(@device)",
    "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.001},
    "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 1},
    "train": {
        "dataset": {"_target_": "Dataset", "data": "@data"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@train#dataset", "batch_size": 3, "shuffle": True},
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": False},
            {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "interval": "@val_interval"},
            {"_target_": "StatsHandler", "tag_name": "loss", "output_transform": "$lambda x: x[0]['loss']"},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network"},
                "save_final": True,
                "final_filename": "model.pt",
            },
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network", "optimizer": "@optimizer", "scheduler": "@lr_scheduler"},
                "save_final": True,
                "final_filename": "state.pt",
            },
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@max_epochs",
            "device": "@device",
            "train_data_loader": "@train#dataloader",
            "network": "@network",
            "loss_function": "@loss",
            "optimizer": "@optimizer",
            "inferer": "@train#inferer",
            "train_handlers": "@train#handlers",
        },
    },
    "validate": {
        "dataset": {"_target_": "Dataset", "data": "@data"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 6},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 3},
                {"_target_": "AsDiscreted", "keys": "label", "to_onehot": 3},
            ],
        },
        "key_metric": {
            "accuracy": {
                "_target_": "ignite.metrics.Accuracy",
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            }
        },
        "handlers": [
            {"_target_": "StatsHandler", "iteration_log": False},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "@ckpt_dir",
                "save_dict": {"model": "@network"},
                "save_key_metric": True,
                "key_metric_filename": "best.pt",
            },
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@validate#dataloader",
            "network": "@network",
            "postprocessing": "@validate#postprocessing",
            "key_val_metric": "@validate#key_metric",
            "val_handlers": "@validate#handlers",
        },
    },
    "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
    "run": ["$@train#trainer.run()"],
}

# Other ids, a loss inside the trainer, groups of parameters, no `initialize`.
SEGMENTATION: dict[str, Any] = {
    "bundle_root": ".",
    "device": "cpu",
    "dataset_dir": None,
    "images": "$torch.rand(2, 1, 16, 16, 16)",
    "data": "$[{'image': x, 'label': (x > 0.5).float()} for x in @images]",
    "unet": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8, 8],
        "strides": [2, 2],
    },
    "solver": {"_target_": "torch.optim.SGD", "params": "$[{'params': @unet.parameters(), 'lr': 0.01}]", "lr": 0.1},
    "loader": {"_target_": "DataLoader", "dataset": {"_target_": "Dataset", "data": "@data"}, "batch_size": 2},
    "metric": {
        "_target_": "MeanDice",
        "include_background": False,
        "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
    },
    "checking": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@loader",
        "network": "@unet",
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "sw_batch_size": 2},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 2},
                {"_target_": "AsDiscreted", "keys": "label", "to_onehot": 2},
            ],
        },
        "key_val_metric": {"dice": "@metric"},
    },
    "fitting": {
        "_target_": "SupervisedTrainer",
        "max_epochs": 1,
        "device": "@device",
        "train_data_loader": "@loader",
        "network": "@unet",
        "loss_function": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True},
        "optimizer": "@solver",
        "train_handlers": [
            {"_target_": "ValidationHandler", "validator": "@checking", "interval": 1},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "$@bundle_root + '/out'",
                "save_dict": {"net": "@unet", "solver": "@solver"},
                "save_final": True,
                "final_filename": "state.pt",
            },
        ],
    },
    "run": ["$@fitting.run()"],
}


def write_bundle(folder: Path, config: dict[str, Any]) -> Path:
    """Write a bundle with one training config, and return its folder."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "train.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"version": "0.1.0"}))
    (folder / "configs" / "logging.conf").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=console\n[formatters]\nkeys=plain\n"
        "[logger_root]\nlevel=INFO\nhandlers=console\n"
        "[handler_console]\nclass=StreamHandler\nlevel=INFO\nformatter=plain\nargs=(sys.stdout,)\n"
        "[formatter_plain]\nformat=%(message)s\n"
    )
    return folder
