"""Tests of resuming: a killed training ends where the uninterrupted one ends, bit by bit."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.handlers import LrScheduleHandler, MeanSquaredError, ValidationHandler, from_engine

from medkit.workflow import Resume, SeedEachEpoch, WeightAverage
from tests.workflow.tiny_training import TinyTraining

N_ITERATIONS = 20  # 4 epochs of 5


class KilledError(Exception):
    """What ends a training at a chosen iteration."""


class KillAt:
    """Handler that ends a training after ``iteration``."""

    def __init__(self, iteration: int | None, kill: Callable[[], None] | None = None) -> None:
        self.iteration = iteration
        self.kill = kill

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.iteration == self.iteration:
            if self.kill is not None:
                self.kill()
            raise KilledError


class WithEverything(TinyTraining):
    """A training with a schedule, an average, a validation and Resume in front of them all."""

    def __init__(self, run_dir: Path, kill: KillAt | None = None, **options: Any) -> None:
        self.kill = kill or KillAt(None)
        self.run_dir = run_dir
        super().__init__(WithEverything.handlers, **options)

    def handlers(self) -> list[Any]:
        self.average = WeightAverage(self.network, decay=0.9)
        values = torch.linspace(0, 3, 12).reshape(4, 1, 3)
        self.evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=[{"image": value, "label": value.sum(dim=1, keepdim=True)} for value in values],
            network=self.average.network,
            key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
            metric_cmp_fn=lambda new, best: new < best,
        )
        save_dict = {**self.save_dict(), "average": self.average}
        return [
            Resume(self.run_dir, save_dict, evaluator=self.evaluator, weights=self.average.network),
            SeedEachEpoch(seed=7),
            self.average,
            LrScheduleHandler(self.scheduler, print_lr=False),
            ValidationHandler(interval=1, validator=self.evaluator),
            self.kill,
        ]

    def state(self) -> dict[str, Any]:
        best = self.evaluator.state
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "epoch": (self.trainer.state.epoch, self.trainer.state.iteration),
            "best": (float(best.best_metric), best.best_metric_epoch),
            "released": torch.load(self.run_dir / "model.pt", weights_only=True),
        }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    training = WithEverything(tmp_path_factory.mktemp("uninterrupted"))
    training.trainer.run()
    return training.state()


@pytest.mark.parametrize("iteration", [1, 5, 6, *np.random.default_rng(0).integers(7, N_ITERATIONS, 3), N_ITERATIONS])
def test_killed_run_ends_in_the_same_state(tmp_path: Path, uninterrupted: dict[str, Any], iteration: int) -> None:
    training = WithEverything(tmp_path, KillAt(int(iteration)))
    with pytest.raises(KilledError):
        training.trainer.run()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    resumed = WithEverything(tmp_path)
    resumed.trainer.run()
    assert same(resumed.state(), uninterrupted)


def test_killed_twice_by_the_system(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    script = (
        "import os, signal, pathlib, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.workflow.test_resuming import KillAt, WithEverything\n"
        "kill = KillAt(13, lambda: os.kill(os.getpid(), getattr(signal, 'SIGKILL', signal.SIGTERM)))\n"
        "WithEverything(pathlib.Path(sys.argv[2]), kill).trainer.run()\n"
    )
    repository = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", script, str(repository), str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode not in (0, 1), done.stderr
    again = WithEverything(tmp_path, KillAt(18))
    with pytest.raises(KilledError):
        again.trainer.run()
    resumed = WithEverything(tmp_path)
    resumed.trainer.run()
    assert same(resumed.state(), uninterrupted)


def test_workers_of_the_loader_are_replayed(tmp_path: Path) -> None:
    whole = WithEverything(tmp_path / "whole", num_workers=1, max_epochs=2)
    whole.trainer.run()
    killed = WithEverything(tmp_path / "killed", KillAt(7), num_workers=1, max_epochs=2)
    with pytest.raises(KilledError):
        killed.trainer.run()
    resumed = WithEverything(tmp_path / "killed", num_workers=1, max_epochs=2)
    resumed.trainer.run()
    assert same(resumed.state(), whole.state())


def test_comparison_fails_without_seeding(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    training = WithEverything(tmp_path)
    training.trainer._event_handlers[Events.EPOCH_STARTED] = []
    training.trainer.run()
    assert not same(training.state(), uninterrupted)


def test_finished_run_does_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = WithEverything(tmp_path)
    first.trainer.run()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = WithEverything(tmp_path)
    n_iterations: list[int] = []
    again.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: n_iterations.append(1))
    with caplog.at_level(logging.INFO):
        again.trainer.run()
    assert not n_iterations
    assert "this run is finished (4 of 4 epochs), nothing is left to train" in caplog.text
    assert same(again.state(), first.state())
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_finished_run_trains_on_with_more_epochs(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    WithEverything(tmp_path, max_epochs=2).trainer.run()
    longer = WithEverything(tmp_path, max_epochs=4)
    longer.trainer.run()
    assert same(longer.state(), uninterrupted)


def test_shorter_run_counts_as_finished(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    WithEverything(tmp_path, max_epochs=3).trainer.run()
    shorter = WithEverything(tmp_path, max_epochs=2)
    with caplog.at_level(logging.INFO):
        shorter.trainer.run()
    assert "this run is finished (3 of 2 epochs)" in caplog.text


def test_best_weights_survive_a_worse_epoch_after_the_resume(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    evaluator = Engine(lambda engine, batch: None)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 30.0, 2

    def trainer() -> Engine:
        engine = Engine(lambda engine, batch: torch.nn.init.constant_(network.weight, engine.state.epoch))
        Resume(tmp_path, {"network": network}, evaluator=evaluator).attach(engine)
        return engine

    trainer().run([0], max_epochs=2)
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    trainer().run([0], max_epochs=4)
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (30.0, 2)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 2


@pytest.mark.parametrize(("interval", "kept"), [(1, 5), (2, 5), (3, 5), (10, 5)])
def test_last_epoch_is_always_saved(tmp_path: Path, interval: int, kept: int) -> None:
    network = torch.nn.Linear(1, 1)
    engine = Engine(lambda engine, batch: None)
    Resume(tmp_path, {"network": network}, interval=interval).attach(engine)
    engine.run([0], max_epochs=5)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["_trainer"]["epoch"] == kept


def test_kill_while_writing_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Linear(1, 1)
    handler = Resume(tmp_path, {"network": network})
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=1)
    before = handler.checkpoint.read_bytes()

    def half(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise KilledError

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KilledError):
        handler.save(engine)
    assert handler.checkpoint.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt"]


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    engine = Engine(lambda engine, batch: None)
    Resume(tmp_path, {"network": torch.nn.Linear(1, 1)}).attach(engine)
    engine.run([0], max_epochs=1)
    wider = Resume(tmp_path, {"network": torch.nn.Linear(2, 1)})
    with pytest.raises(ValueError, match=r"does not fit 'network' .*choose another run_name, or delete"):
        wider.load(engine)
    network = torch.nn.Linear(1, 1)
    more = Resume(tmp_path, {"network": network, "optimizer": torch.optim.SGD(network.parameters(), 0.1)})
    with pytest.raises(ValueError, match=r"holds no \['optimizer'\]"):
        more.load(engine)


def test_another_learning_rate_is_not_taken_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = torch.nn.Linear(1, 1)
    for rate in (0.1, 0.1, 0.2):
        caplog.clear()
        optimizer = torch.optim.SGD(network.parameters(), rate)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        engine = Engine(lambda engine, batch, optimizer=optimizer: optimizer.step())
        Resume(tmp_path, {"network": network, "optimizer": optimizer, "schedule": schedule}).attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _, schedule=schedule: schedule.step())
        engine.run([0], max_epochs=1)
        assert ("the run goes on with its learning rate [0.1], not [0.2]; choose" in caplog.text) == (rate > 0.1)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    with pytest.raises(
        ValueError, match="Resume: 'save_dict' must hold objects with a state_dict, got int for 'epoch'"
    ):
        Resume(tmp_path, {"network": network, "epoch": 3})
    with pytest.raises(ValueError, match="'save_dict' must hold 'network'"):
        Resume(tmp_path, {"net": network})
    with pytest.raises(ValueError, match="'interval' must be at least 1 epoch, got 0"):
        Resume(tmp_path, {"network": network}, interval=0)
