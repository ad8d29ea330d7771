"""The search of SoKD's policy: whom its gradient reaches, what a step leaves alone, the virtual step, the freeze."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from medkit.distill import (
    DistillationHandler,
    FeatureRefiner,
    FitNet,
    LinearWarmup,
    LogitKD,
    SoKD,
    SoKDPolicyHandler,
    WeightedTerm,
)
from medkit.distill.engine.loss import BatchContext
from medkit.distill.engine.policy import _Batch
from tests.distill.small_training import distillation, net, samples, trainer

BILEVEL = ("first_order", "second_order")


class Scaling(nn.Module):
    """A policy without chance, whose gradient can be checked by differences: it scales the teacher's features."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.is_frozen = False
        self.resample = "iteration"

    @property
    def entropy(self) -> torch.Tensor:
        return self.scale * 0

    def forward(self, levels):
        return [level * self.scale for level in levels] if isinstance(levels, list) else levels * self.scale


def searching(term: SoKD, bilevel: str = "first_order", weight=1.0, **options):
    student, teacher = net(0, dropout=0.3), net(1, 6)
    loss = distillation(student, teacher, {"sokd": WeightedTerm(term, weight, ["stage2"], ["stage2"])})
    return student, teacher, loss, SoKDPolicyHandler(loss, bilevel=bilevel, **options)


def batch(seed: int) -> _Batch:
    generator = torch.Generator().manual_seed(seed)
    return _Batch(torch.rand(4, 1, 8, 8, generator=generator), torch.arange(4) % 3, BatchContext())


@pytest.mark.parametrize("bilevel", BILEVEL)
def test_a_step_moves_the_policy_and_nothing_else(bilevel):
    student, teacher, loss, policy = searching(SoKD(), bilevel)
    student.eval()
    before = [copy.deepcopy(m.state_dict()) for m in (student, teacher)]
    adapters = [p.detach().clone() for p in loss.parameters()]
    (alpha, probability, magnitude) = (p.detach().clone() for p in policy._parameters())
    randomness = torch.get_rng_state()
    for i in range(20):
        policy.step(batch(i), batch(i + 1))
    for state, module in zip(before, (student, teacher), strict=True):
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(adapters, loss.parameters(), strict=True))
    assert all(p.grad is None for p in [*student.parameters(), *loss.parameters()])
    assert not student.training
    assert torch.equal(torch.get_rng_state(), randomness)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    for old, new in zip((alpha, probability, magnitude), policy._parameters(), strict=True):
        assert not torch.equal(old, new)


@pytest.mark.parametrize("bilevel", BILEVEL)
def test_the_gradient_is_that_of_differences(bilevel):
    """First order: of the objective at the student as it is; second order: through a virtual step of the student."""
    student, _, loss, policy = searching(
        SoKD(FitNet(norm=None), Scaling(), n_areas=0), bilevel, virtual_learning_rate=0.5, virtual_weight_decay=0.01
    )
    for module in (student, *loss.teachers.values(), loss):
        module.double()
    for module in student.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    loss.set_time(1)
    other, now = (_Batch(b.image.double(), b.target, b.context) for b in (batch(0), batch(1)))
    scale = policy._parameters()[0]
    scale.data = scale.data.double()

    def objective(value: float) -> float:
        """By the student's own optimizer, on a copy."""
        scale.data.fill_(value)
        if bilevel == "first_order":
            return objective_of(loss, student)
        moved = copy.deepcopy(student).train()
        term = copy.deepcopy(loss.terms.weighted()["sokd"])
        trial = distillation(moved, copy.deepcopy(loss.teachers["teacher"]), {"sokd": term}, example=now.image)
        trial.double().load_state_dict(loss.state_dict())
        optimizer = torch.optim.SGD(moved.parameters(), 0.5, weight_decay=0.01)
        with trial.opened():
            trial(moved(now.image), now.target).backward()
        optimizer.step()
        return objective_of(loss, moved)

    def objective_of(loss, network) -> float:
        features = []
        handle = network.stage2.register_forward_hook(lambda *a: features.append(a[-1].detach()))
        buffers = copy.deepcopy(dict(network.named_buffers()))
        with torch.no_grad():
            network.train()(other.image)
        for name, buffer in network.named_buffers():
            buffer.copy_(buffers[name])
        handle.remove()
        taught = loss.observe(other.image, ["teacher"])["teacher"].features["stage2"]
        return float(loss.terms.weighted()["sokd"].term.policy_loss([features[-1]], [taught]).detach())

    width = 1e-5
    expected = (objective(0.7 + width) - objective(0.7 - width)) / (2 * width)
    scale.data.fill_(0.7)
    value = policy.step(other, now)
    assert float(value) == pytest.approx(objective(0.7), rel=1e-6)
    assert float(scale.grad) == pytest.approx(expected, rel=1e-4)


def test_the_virtual_step_matters():
    gradients = []
    for bilevel in BILEVEL:
        *_, policy = searching(SoKD(refiner=Scaling(), n_areas=0), bilevel, virtual_learning_rate=0.5)
        policy.step(batch(0), batch(1))
        gradients.append(float(policy._parameters()[0].grad))
    assert gradients[0] != pytest.approx(gradients[1], rel=1e-3)


@pytest.mark.parametrize("bilevel", BILEVEL)
def test_an_error_in_a_step_leaves_the_student_as_it_was(bilevel):
    student, teacher, loss, policy = searching(SoKD(), bilevel)
    before, student.stage1.training = copy.deepcopy(student.state_dict()), False
    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == (1 if bilevel == "first_order" else 2):
            raise RuntimeError("out of memory")

    teacher.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        policy.step(batch(0), batch(1))
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())
    assert student.training
    assert not student.stage1.training
    assert not any(m._forward_hooks for m in student.modules())
    assert loss.terms.weighted()["sokd"].term._passes_to_policy is False


def test_the_policy_steps_on_another_batch_than_the_student():
    student, _, loss, policy = searching(SoKD())
    steps, trained = [], []
    policy.step = lambda other, now: steps.append((other.image, now.image))
    engine = trainer(student, loss, [DistillationHandler(loss), policy], 2, data=samples(12))
    engine.add_event_handler("ITERATION_STARTED", lambda: trained.append(engine.state.batch["image"]))
    engine.run()
    assert len(steps) == 4  # of three batches in an epoch the first has none before it
    assert all(torch.equal(steps[i][0], trained[i]) and torch.equal(steps[i][1], trained[i + 1]) for i in (0, 1))
    held = [{**sample, "image": sample["image"] + 9} for sample in samples(4)]
    policy.loader = DataLoader(Dataset(held), batch_size=2)
    steps.clear()
    trainer(student, loss, [DistillationHandler(loss), policy], 1, data=samples(12)).run()
    assert len(steps) == 3  # the held-out batches come round again
    assert all(other.min() >= 9 > now.max() for other, now in steps)
    policy.loader = []
    with pytest.raises(ValueError, match="'loader' is empty"):
        trainer(student, loss, [DistillationHandler(loss), policy]).run()


def test_after_the_search_the_policy_is_frozen(caplog):
    caplog.set_level(logging.INFO, "medkit.distill")
    student, _, loss, policy = searching(SoKD(), search_epochs=1)
    entropies, states = [], []

    class After:
        def attach(self, engine):
            engine.add_event_handler("EPOCH_COMPLETED", self)

        def __call__(self, engine):
            entropies.append(engine.state.metrics["sokd_entropy"])
            states.append([p.detach().clone() for p in policy._parameters()])

    trainer(student, loss, [DistillationHandler(loss), policy, After()], 3).run()
    assert not policy.is_searching
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[2], strict=True))
    assert not torch.equal(states[0][0], torch.full((3,), 1e-3))
    assert entropies[1] == entropies[2] == pytest.approx(1.0986, abs=1e-3)
    assert "the search is over, the policy is frozen" in caplog.text
    assert "p=0." in caplog.text
    assert not any(p.requires_grad for p in policy._parameters())


@pytest.mark.parametrize(("resample", "n_draws"), [("epoch", 3), ("iteration", 0)])
def test_sub_policies_are_drawn_for_each_epoch_on_request(resample, n_draws):
    refiner = FeatureRefiner(("cutout", "noise"), resample=resample)
    student, _, loss, policy = searching(SoKD(refiner=refiner), search_epochs=1)
    draws, draw = [], refiner.draw

    def counted() -> None:
        draws.append(1)
        draw()

    refiner.draw = counted
    trainer(student, loss, [DistillationHandler(loss), policy], 3).run()
    # Drawn at each call: of the two terms' calls and the one step of the first epoch, and of the later ones.
    assert len(draws) == (n_draws if resample == "epoch" else 7)


@pytest.mark.parametrize("bilevel", BILEVEL)
def test_a_hundred_steps_under_autocast_stay_finite(bilevel):
    student, _, loss, policy = searching(SoKD(), bilevel, LinearWarmup(0.01, 5))
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], 1e-3)
    with loss.opened():
        for i in range(100):
            loss.set_time(i / 10)
            policy.step(batch(i), batch(i + 1))
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                total = loss(student.train()(batch(i + 1).image), batch(i + 1).target)
            total.backward()
            optimizer.step()
            assert torch.isfinite(total)
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in policy._parameters())
    assert all(torch.isfinite(p).all() for p in student.parameters())


def test_wrong_arguments_are_refused():
    student, teacher = net(0), net(1)
    loss = distillation(student, teacher, {"kd": WeightedTerm(LogitKD())})
    with pytest.raises(ValueError, match=r"none of the terms \['kd'\] is SoKD"):
        SoKDPolicyHandler(loss)
    *_, policy = searching(SoKD())
    with pytest.raises(ValueError, match="'bilevel' must be one of"):
        SoKDPolicyHandler(policy.loss, bilevel="third_order")
