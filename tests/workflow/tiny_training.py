"""A very small training in Python, in which everything that randomness touches is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import RandGaussianNoised


class TinyTraining:
    """A network with dropout, trained on noisy samples in random order: everything that randomness touches."""

    def __init__(
        self, handlers: Callable[[TinyTraining], list[Any]], max_epochs: int = 4, num_workers: int = 0
    ) -> None:
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma=0.7)
        self.losses: list[tuple[int, float]] = []
        values = torch.arange(30, dtype=torch.float32).reshape(10, 3)
        data = [{"image": value, "label": value.sum()[None]} for value in values]
        dataset = Dataset(data, RandGaussianNoised("image", prob=0.5))
        loader = DataLoader(dataset, batch_size=2, shuffle=True, num_workers=num_workers)
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=loader,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=torch.nn.MSELoss(),
            train_handlers=handlers(self),
        )

    def save_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"network": self.network, "optimizer": self.optimizer, "lr_scheduler": self.scheduler}
