"""The handler of a training with teachers: time, metrics, keys of the batch, and the check of the teacher."""

from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, ValidationHandler
from torch import nn
from torch.utils.checkpoint import checkpoint

from medkit.distill import CRD, DistillationHandler, FitNet, LinearWarmup, LogitKD, WeightedTerm, validate_network
from tests.distill.small_training import Logged, Net, distillation, evaluator, fitnet, net, samples, trainer


def kd(**options) -> dict[str, WeightedTerm]:
    return {"kd": WeightedTerm(LogitKD(), LinearWarmup(1.0, 4), **options)}


class Seen:
    """The loss's time and parts at the events of an engine."""

    def __init__(self, loss) -> None:
        self.loss, self.times, self.metrics = loss, [], []

    def attach(self, engine) -> None:
        engine.add_event_handler("ITERATION_STARTED", lambda: self.times.append(self.loss.terms.time))
        engine.add_event_handler("EPOCH_COMPLETED", lambda: self.metrics.append(dict(engine.state.metrics)))


@pytest.mark.parametrize(("unit", "times"), [("epoch", [1, 1, 2, 2]), ("iteration", [1, 2, 3, 4])])
def test_time_counts_from_one(unit, times):
    student = net(0)
    loss = distillation(student, net(1), kd())
    seen = Seen(loss)
    trainer(student, loss, [DistillationHandler(loss, unit=unit), seen], 2).run()
    assert seen.times == times


def test_parts_are_metrics_of_the_epoch_wherever_the_handler_stands(capsys):
    student = net(0)
    loss = distillation(student, net(1), {**kd(), "fit": fitnet()})
    seen, values = Seen(loss), []

    class Values:
        def attach(self, engine):
            engine.add_event_handler(
                IterationEvents.LOSS_COMPLETED, lambda: values.append({k: float(v) for k, v in loss.parts.items()})
            )

    handlers = [seen, StatsHandler(iteration_log=False, output_transform=lambda x: None), Values()]
    trainer(student, loss, [*handlers, DistillationHandler(loss)], 2).run()
    last = seen.metrics[-1]
    assert last["kd_weight"] == 0.5
    assert last["kd"] == pytest.approx(sum(v["kd"] for v in values[2:]) / 2, rel=1e-5)
    assert sum(last[f"{name}_fraction"] for name in ("task", "kd", "fit")) == pytest.approx(1)
    assert f"fit_fraction: {last['fit_fraction']:.4f}" in capsys.readouterr().out


def test_what_was_caught_is_forgotten_after_each_step():
    """What is caught in the backward pass, too, where checkpointing of activations calls modules again."""

    class Checkpointed(Net):
        def forward(self, image):
            feature = checkpoint(self.stage2, self.stage1(image), use_reentrant=False)
            return self.head(feature.mean((2, 3)))

    student, kept = Checkpointed(), []
    terms = {"fit": WeightedTerm(FitNet(), 1, ["stage2.0"], ["stage2.0"])}
    loss = distillation(student, net(1), terms)
    engine = trainer(student, loss, [DistillationHandler(loss)])
    engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, lambda: kept.append(len(loss._taps._caught)))
    engine.add_event_handler("ITERATION_COMPLETED", lambda: kept.append((loss._taps.input, dict(loss._taps._caught))))
    engine.run()
    assert kept == [1, (None, {})] * 2


def test_mask_index_and_another_image_come_from_the_batch():
    student, seen = net(0), []
    teacher = net(1)
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    terms = {"crd": WeightedTerm(CRD(8, 4, 4), 1, ["stage2"], ["stage2"]), "fit": fitnet()}
    loss = distillation(student, teacher, terms)
    data = [{**sample, "clean": sample["image"] + 5, "where": torch.zeros(1, 8, 8)} for sample in samples()]
    keys = {"index_key": "index", "mask_key": "where", "image_key": {"teacher": "clean"}}
    engine = trainer(student, loss, [DistillationHandler(loss, **keys)], data=data)
    engine.run()
    assert torch.equal(seen[-1], torch.stack([sample["clean"] for sample in data[4:]]))
    assert engine.state.metrics["fit"] == 0
    assert (loss.terms.weighted()["crd"].term.labels == torch.arange(8) % 3).all()
    with pytest.raises(ValueError, match=r"the batch must have the key 'number', it has \['image', 'label', 'index'\]"):
        trainer(student, loss, [DistillationHandler(loss, index_key="number")]).run()


def test_a_teacher_is_validated_without_a_trace(caplog):
    caplog.set_level("INFO")
    student, teacher, log = net(0), net(1), Logged()
    engine = evaluator(student, [log])
    engine.run()
    assert log.n_calls == 1
    before = {name: id(value) for name, value in vars(engine.state).items() if not isinstance(value, dict)}
    numbers = dict(engine.state.metrics)
    student.train()
    randomness = torch.get_rng_state()
    caplog.clear()
    value = validate_network(engine, teacher)
    assert "best metric" not in caplog.text
    assert engine.network is student
    assert student.training
    assert log.n_calls == 1
    assert torch.equal(torch.get_rng_state(), randomness)
    after = {name: id(value) for name, value in vars(engine.state).items() if not isinstance(value, dict)}
    assert after == before
    assert engine.state.metrics == numbers
    # The same number as by an evaluator of its own, another one than the student's.
    alone = evaluator(teacher)
    alone.run()
    assert value == alone.state.metrics["mae"]
    assert value != engine.state.metrics["mae"]
    engine.run()
    assert log.n_calls == 2


def test_an_error_in_the_validation_leaves_the_evaluator_as_it_was():
    student, log = net(0), Logged()
    engine = evaluator(student, [log])
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        validate_network(engine, nn.Sequential(nn.Flatten(), nn.Linear(3, 3)))
    assert engine.network is student
    engine.run()
    assert log.n_calls == 1


def metric(network: nn.Module) -> float:
    engine = evaluator(network)
    engine.run()
    return engine.state.metrics["mae"]


def scaled(network: nn.Module, factor: float) -> nn.Module:
    """Another error of the logits than the network's."""
    with torch.no_grad():
        network.head.weight.mul_(factor)
    return network


def test_a_teacher_that_is_worse_than_its_student_is_refused(tmp_path, caplog):
    good, bad = net(1), scaled(net(1), 50)
    assert metric(good) < metric(bad)
    torch.save(good.state_dict(), tmp_path / "student.pt")
    for bar in ({"student_ckpt": str(tmp_path / "student.pt")}, {"student_metric": metric(good)}):
        student = net(0)
        before = [p.detach().clone() for p in student.parameters()]
        loss, engine = distillation(student, bad, kd()), evaluator(student)
        with pytest.raises(ValueError, match=r"'teacher' is worse than its student on validation, mae .* force=True"):
            trainer(student, loss, [DistillationHandler(loss, engine, **bar)]).run()
        assert all(torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
        run = trainer(student, loss, [DistillationHandler(loss, engine, force=True, **bar)])
        run.run()
        assert "is worse than its student" in caplog.text
        assert run.state.metrics["teacher_mae"] == pytest.approx(metric(bad))
        assert run.state.metrics["student_mae_before"] == pytest.approx(metric(good))


def test_a_better_teacher_passes_and_a_student_that_passes_it_is_told(caplog):
    student, teacher = net(0), scaled(net(1), 50)
    loss, engine = distillation(student, teacher, kd()), evaluator(student)
    handlers = [DistillationHandler(loss, engine, student_metric=2 * metric(teacher)), ValidationHandler(1, engine)]
    trainer(student, loss, handlers).run()
    assert "worse than its student" not in caplog.text
    assert "the student has passed 'teacher' on validation" in caplog.text


def test_a_resumed_training_does_not_check_again():
    student = net(0)
    loss, engine = distillation(student, net(1), kd()), evaluator(student)
    run = trainer(student, loss, [DistillationHandler(loss, engine)], 2)
    run.state.epoch = 1
    run.run()
    assert "teacher_mae" not in run.state.metrics


def test_without_a_metric_the_teacher_is_taken_as_it_is(caplog):
    student = net(0)
    loss = distillation(student, net(1), kd())
    loader = evaluator(student).data_loader
    engine = SupervisedEvaluator(device="cpu", val_data_loader=loader, network=student)
    trainer(student, loss, [DistillationHandler(loss, engine, student_metric=1)]).run()
    assert "no key metric" in caplog.text


def test_wrong_arguments_are_refused():
    loss = distillation(net(0), net(1), kd())
    with pytest.raises(ValueError, match="'unit' must be one of"):
        DistillationHandler(loss, unit="batch")
    with pytest.raises(ValueError, match=r"must name teachers of \['teacher'\], got \['big'\]"):
        DistillationHandler(loss, image_key={"big": "clean"})


def test_an_optimizer_without_the_adapters_is_refused():
    student = net(0)
    loss = distillation(student, net(1, 6), {"fit": fitnet()})
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"must have the parameters of the loss, .* join_parameters"):
        trainer(student, loss, optimizer=optimizer).run()
