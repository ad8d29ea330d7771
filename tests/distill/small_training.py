"""A small training by MONAI's trainer for the tests of the engine: networks, data and a run of some steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError, from_engine
from torch import Tensor, nn

from medkit.distill import DistillationHandler, DistillationLoss, FitNet, WeightedTerm, join_parameters

SHAPE = [1, 1, 8, 8]


class Net(nn.Module):
    """Two stages with batch norm and dropout, and three classes."""

    def __init__(self, width: int = 4, n_classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU())
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, n_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.drop(self.stage2(self.stage1(image)).mean((2, 3))))


def net(seed: int, *arguments: Any, **options: Any) -> Net:
    torch.manual_seed(seed)
    return Net(*arguments, **options)


def samples(n: int = 8, size: int = 8) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 1, size, size, generator=generator)
    return [{"image": image, "label": torch.tensor(i % 3), "index": i} for i, image in enumerate(images)]


def fitnet(weight: Any = 1.0, **options: Any) -> WeightedTerm:
    return WeightedTerm(FitNet(), weight, ["stage2"], ["stage2"], **options)


def distillation(student: nn.Module, teacher: Any, terms: Mapping[str, WeightedTerm], **options: Any) -> Any:
    options = {"task_loss": nn.CrossEntropyLoss(), "example": SHAPE, **options}
    return DistillationLoss(student, teacher, terms=dict(terms), **options)


def trainer(
    student: nn.Module,
    loss: nn.Module,
    handlers: list[Any] | None = None,
    epochs: int = 1,
    data: list[dict[str, Any]] | None = None,
    optimizer: Any = None,
    **options: Any,
) -> SupervisedTrainer:
    if optimizer is None:
        optimizer = torch.optim.SGD(join_parameters(student.parameters(), loss), 0.1, momentum=0.9)
    if handlers is None:
        handlers = [DistillationHandler(loss)] if isinstance(loss, DistillationLoss) else []
    loader = DataLoader(Dataset(data or samples()), batch_size=4)
    options = {"device": "cpu", "max_epochs": epochs, "train_data_loader": loader, **options}
    return SupervisedTrainer(
        network=student, optimizer=optimizer, loss_function=loss, train_handlers=handlers, **options
    )


class Logged:
    """A handler of the evaluator with a side effect."""

    def __init__(self) -> None:
        self.n_calls = 0

    def attach(self, engine: Any) -> None:
        engine.add_event_handler("EPOCH_COMPLETED", self)

    def __call__(self, engine: Any) -> None:
        self.n_calls += 1


def evaluator(network: nn.Module, handlers: list[Any] | None = None) -> SupervisedEvaluator:
    """The mean absolute error of the logits against the label's class code; less is better."""

    def coded(data: Any) -> Any:
        pred, label = from_engine(["pred", "label"])(data)
        return torch.stack(list(pred)), nn.functional.one_hot(torch.as_tensor(label), 3).float()

    return SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(Dataset(samples(6)), batch_size=3),
        network=network,
        key_val_metric={"mae": MeanAbsoluteError(output_transform=coded)},
        metric_cmp_fn=lambda value, best: value < best,
        val_handlers=handlers or [],
    )
