"""The loss of a training with teachers: what it leaves alone, what it learns, and what it refuses."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medkit.distill import (
    CRD,
    DeepSupervisionKD,
    DistillationHandler,
    DistillationLoss,
    LinearWarmup,
    LogitKD,
    SimilarityPreserving,
    UnifiedDistributionKD,
    WeightedTerm,
    join_parameters,
    load_teacher,
)
from tests.distill.small_training import SHAPE, Net, distillation, fitnet, net, samples, trainer


def kd() -> dict[str, WeightedTerm]:
    return {"kd": WeightedTerm(LogitKD()), "fit": fitnet()}


def alike(own: str, other: str) -> dict[str, WeightedTerm]:
    return {"sp": WeightedTerm(SimilarityPreserving(), 1, [own], [other])}


def batch(n: int = 4, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(7)
    return torch.rand(n, 1, size, size), torch.arange(n) % 3


def test_teacher_is_untouched_and_in_eval_mode_while_the_student_learns():
    student, teacher = net(0), net(1, 6)
    before = copy.deepcopy(teacher.state_dict())
    modes = []
    teacher.register_forward_hook(lambda module, *_: modes.append(any(m.training for m in module.modules())))
    teacher.train()
    loss = distillation(student, teacher, kd())
    trainer(student, loss).run()
    assert student.training
    assert modes
    assert not any(modes)
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_nothing_of_it_is_left_in_the_student():
    student = net(0)
    plain = copy.deepcopy(student)
    loss = distillation(student, net(1, 6), kd())
    trainer(student, loss).run()
    assert list(student.state_dict()) == list(plain.state_dict())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
    plain.load_state_dict(student.state_dict())
    image, _ = batch()
    assert torch.equal(plain.eval()(image), student.eval()(image))


def test_without_weights_a_training_is_the_plain_one_to_the_bit():
    states = []
    for is_distilled in (False, True):
        student = net(0, dropout=0.5)
        loss: nn.Module = nn.CrossEntropyLoss()
        if is_distilled:
            loss = distillation(student, net(1, 6), {"kd": WeightedTerm(LogitKD(), 0), "fit": fitnet(0)})
        torch.manual_seed(5)
        trainer(student, loss, epochs=3).run()
        states.append(student.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_new_layers_leave_the_random_numbers_of_the_training_alone():
    torch.manual_seed(3)
    student, teacher = Net(), Net(6)
    expected = torch.get_rng_state()
    distillation(student, teacher, kd())
    assert torch.equal(torch.get_rng_state(), expected)


def test_parameters_are_those_of_adapters_alone_and_they_learn():
    student, teacher = net(0), net(1, 6)
    loss = distillation(student, teacher, kd())
    theirs = {id(p) for module in (student, teacher) for p in module.parameters()}
    assert sum(p.numel() for p in loss.parameters()) == 8 * 12 + 2 * 12
    assert not theirs & {id(p) for p in loss.parameters()}
    assert all(key.startswith("terms.") for key in loss.state_dict())
    before = [p.detach().clone() for p in loss.parameters()]
    trainer(student, loss).run()
    assert not any(torch.equal(a, b) for a, b in zip(before, loss.parameters(), strict=True))


def test_teachers_without_weight_are_not_run():
    student, teacher = net(0), net(1)
    loss = distillation(student, teacher, {"kd": WeightedTerm(LogitKD(), LinearWarmup(1, 4))})
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    image, label = batch()
    with loss.opened():
        student.train()
        loss(student(image), label)
        assert not calls
        loss.set_time(2)
        total = loss(student(image), label)
    assert len(calls) == 1
    torch.testing.assert_close(total, loss.parts["task"] + 0.5 * loss.parts["kd"])


def test_in_eval_mode_it_is_the_loss_of_the_task():
    student = net(0)
    loss = distillation(student, net(1), kd())
    image, label = batch()
    with loss.opened(), torch.no_grad():
        output = student.eval()(image)
        assert torch.equal(loss(output, label), nn.functional.cross_entropy(output, label))
        assert set(loss.parts) == {"task"}


def test_several_teachers_and_one_that_sees_something_else():
    student, seen = net(0), []
    colour = nn.Sequential(nn.Conv2d(2, 1, 1), net(2))
    colour[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    terms = {"a": WeightedTerm(LogitKD(), teacher="small"), "b": WeightedTerm(LogitKD(), 2.0, teacher="colour")}
    transform = {"colour": lambda x: torch.cat([x, -x], 1)}
    loss = distillation(student, {"small": net(1), "colour": colour}, terms, teacher_transform=transform)
    image, label = batch()
    with loss.opened():
        total = loss(student(image), label)
    assert torch.equal(seen[-1], torch.cat([image, -image], 1))
    parts = loss.parts
    torch.testing.assert_close(total.detach(), parts["task"] + parts["a"] + 2 * parts["b"])


def test_metadata_is_left_behind_and_all_is_float32_under_autocast():
    student = net(0)
    loss = distillation(student, net(1, 6), kd())
    image, label = batch()
    optimizer = torch.optim.SGD(join_parameters(student.parameters(), loss), 0.01)
    with loss.opened():
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                total = loss(student(MetaTensor(image)), MetaTensor(label))
            total.backward()
            optimizer.step()
            assert torch.isfinite(total)
    assert type(total) is torch.Tensor
    assert total.dtype == torch.float32


def test_lists_of_deep_supervision_pass_through():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.coarse = nn.Conv2d(1, 3, 3, padding=1), nn.AvgPool2d(2)

        def forward(self, image):
            logits = self.body(image)
            return [logits, self.coarse(logits)] if self.training else logits

    student, teacher = Deep(), nn.Conv2d(1, 3, 1)
    loss = distillation(
        student,
        teacher,
        {"deep": WeightedTerm(DeepSupervisionKD(LogitKD())), "first": WeightedTerm(LogitKD())},
        task_loss=lambda pred, label: sum(
            nn.functional.cross_entropy(p, label[:, : p.shape[2], : p.shape[3]]) for p in pred
        ),
    )
    image = torch.rand(2, 1, 8, 8)
    with loss.opened():
        loss(student(image), torch.zeros(2, 8, 8, dtype=torch.long)).backward()
    assert loss.parts["deep"] > 0
    assert loss.parts["first"] > 0


def test_copies_of_the_student_are_not_listened_to():
    student = net(0)
    loss = distillation(student, net(1), kd())
    image, label = batch()
    with loss.opened():
        average = copy.deepcopy(student)
        output = student(image)
        average(image[:1])
        loss(output, label)
    assert loss.parts["fit"] > 0


@pytest.mark.parametrize("clone", [None, True, False])
def test_what_is_overwritten_in_place_is_copied(clone):
    class InPlace(Net):
        def forward(self, image):
            return self.head(self.stage2(nn.functional.relu(self.stage1[0](image), inplace=True)).mean((2, 3)))

    torch.manual_seed(0)
    student = InPlace()
    loss = distillation(student, InPlace(), alike("stage1.0", "stage1.0"), clone=clone)
    image, label = batch()
    with loss.opened():
        output = student(image)
        if clone is False:
            with pytest.raises(ValueError, match=r"'stage1.0' put out was overwritten in place"):
                loss(output, label)
        else:
            loss(output, label).backward()
            assert loss.parts["sp"] > 0


def test_the_table_names_taps_shapes_adapters_and_weights(caplog):
    caplog.set_level(logging.INFO, "medkit.distill")
    distillation(net(0), net(1, 6), {"kd": WeightedTerm(LogitKD()), "fit": fitnet(LinearWarmup(2, 3))})
    table = caplog.text
    for text in ("stage2 (1, 8, 4, 4)", "stage2 (1, 12, 4, 4)", "ResizingAdapter (120 parameters)", "0 to 2", "output"):
        assert text in table


def resumable(folder=None):
    """A training with every kind of state: adapters, policy, memories, generators, time."""
    from medkit.distill import SoKD, SoKDPolicyHandler

    student = net(0, dropout=0.3)
    taps = (["stage1", "stage2"],) * 2
    terms = {
        "sokd": WeightedTerm(SoKD(), LinearWarmup(1, 3), ["stage2"], ["stage2"]),
        "unikd": WeightedTerm(UnifiedDistributionKD(3, mode="sampled"), 1.0, *taps),
        "crd": WeightedTerm(CRD(8, 8, 4), 0.1, ["stage2"], ["stage2"]),
    }
    loss = distillation(student, net(1, 6), terms)
    policy = SoKDPolicyHandler(loss, search_epochs=3)
    optimizer = torch.optim.SGD(join_parameters(student.parameters(), loss), 0.01, momentum=0.9)
    handlers = [DistillationHandler(loss, index_key="index"), policy]
    return student, loss, policy, optimizer, handlers


def states(student, loss, policy, optimizer):
    return {"s": student.state_dict(), "l": loss.state_dict(), "p": policy.state_dict(), "o": optimizer.state_dict()}


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    from medkit.workflow import Resume, SeedEachEpoch

    ends = []
    for name, stops in (("whole", [4]), ("parts", [2, 4])):
        for stop in stops:
            student, loss, policy, optimizer, handlers = resumable()
            kept = {"network": student, "loss": loss, "policy": policy, "optimizer": optimizer}
            handlers = [*handlers, SeedEachEpoch(0), Resume(tmp_path / name, kept)]
            trainer(student, loss, handlers, stop, optimizer=optimizer).run()
        ends.append(torch.load(tmp_path / name / "checkpoint.pt", weights_only=True))
    assert policy.terms["sokd"].term.refiner.is_frozen
    flat = [dict(leaves(end)) for end in ends]
    assert flat[0].keys() == flat[1].keys()
    assert len(flat[0]) > 60
    assert [key for key in flat[0] if not same(flat[0][key], flat[1][key])] == []


def leaves(value, at=""):
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{at}/{key}")
    else:
        yield at, value


def same(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


class Silent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.parts = nn.Conv2d(1, 1, 1), nn.ModuleList([nn.Identity()])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: distillation(net(0), net(1, 4, 5), kd()), "3 and 5 classes"),
        (lambda: distillation(net(0), net(1), alike("stge2", "stage2")), "nearest are"),
        (lambda: distillation(Silent(), net(1), alike("parts", "stage2")), "is a ModuleList, which is never called"),
        (lambda: distillation(net(0), Silent(), alike("stage2", "unused")), r"\['unused'\] of Silent are never called"),
        (lambda: distillation(net(0), {"big": net(1)}, kd()), r"terms want the teachers \['teacher'\]"),
        (lambda: distillation(net(0), net(1), kd(), example=[8, 8]), "a shape"),
        (lambda: distillation(net(0), net(1), kd(), example=[1, 3, 8, 8]), "student does not take an input of"),
        (lambda: distillation(net(0), net(1), kd(), select={"head": 0}), "'select' must name taps"),
        (lambda: distillation(net(0), net(1), {"task": WeightedTerm(LogitKD())}), "must not hold the name 'task'"),
        (lambda: distillation(net(0), net(1), kd(), teacher_transform={"other": abs}), "must name teachers"),
        (lambda: distillation(net(0), {"teacher": 3}, kd()), "must be a network, got int"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_teacher_that_is_the_student_is_refused():
    student = net(0)
    for teacher in (student, nn.Sequential(student)):
        with pytest.raises(ValueError, match="shares parameters with the student"):
            distillation(student, teacher, kd())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_call_that_was_not_seen_is_refused():
    student, (image, label) = net(0), batch()
    loss = distillation(student, net(1), kd())
    with pytest.raises(ValueError, match="add DistillationHandler"):
        loss(student(image), label)
    with loss.opened():
        output = student(image)
        student(image[:1])
        with pytest.raises(ValueError, match="called last on 1 samples, its output has 4"):
            loss(output, label)


def test_images_of_another_size_work_where_no_layer_depends_on_it():
    student = net(0)
    image, label = batch(size=16)
    loss = distillation(student, net(1, 6), kd())
    with loss.opened(), pytest.raises(ValueError, match=r"made for images of \(8, 8\), this batch has \(16, 16\)"):
        loss(student(image), label)
    loss = distillation(student, net(1, 6), alike("stage2", "stage2"))
    with loss.opened():
        assert torch.isfinite(loss(student(image), label))


def test_weights_of_a_teacher(tmp_path, caplog):
    teacher = net(4)
    wrapped = {"model": {f"module.{key}": value for key, value in teacher.state_dict().items()}, "epoch": 3}
    for name, content in (("bare", teacher.state_dict()), ("wrapped", wrapped)):
        torch.save(content, tmp_path / name)
        loaded = load_teacher(net(5), tmp_path / name)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), teacher.parameters(), strict=True))
    assert load_teacher(teacher) is teacher
    assert "no weights are given" in caplog.text
    torch.save({"a": 1}, tmp_path / "none")
    torch.save(teacher, tmp_path / "whole")
    (tmp_path / "text").write_text("weights")
    for path, network, key, kind, sentence in (
        ("lost", teacher, None, FileNotFoundError, "there are no weights at"),
        ("none", teacher, None, ValueError, r"holds no state dict, but \['a'\]"),
        ("whole", teacher, None, ValueError, "no file of weights alone"),
        ("text", teacher, None, ValueError, "no file of weights alone"),
        ("wrapped", teacher, "net", ValueError, r"no state dict under 'net', it has \['epoch', 'model'\]"),
        ("bare", net(0, 5), None, ValueError, r"other sizes: 'stage1.0.weight' is \(4, 1, 3, 3\) there and \(5,"),
        ("bare", nn.Linear(2, 2), None, ValueError, "another network than Linear"),
        ("bare", "DenseNet", None, ValueError, "must be a network, got str"),
    ):
        with pytest.raises(kind, match=sentence):
            load_teacher(network, tmp_path / path, key)


def test_parameters_join_lists_and_groups():
    student = net(0)
    loss = distillation(student, net(1, 6), kd())
    own = list(loss.parameters())
    groups = join_parameters([{"params": student.parameters(), "lr": 0.1}], loss)
    assert groups[-1] == {"params": own}
    assert len(join_parameters(student.parameters(), loss)) == len(list(student.parameters())) + len(own)
    assert join_parameters(iter([own[0]]), nn.ReLU()) == [own[0]]


def test_example_may_be_a_tensor_and_modes_are_put_back():
    student = net(0).train()
    student.drop.eval()
    before = {name: module.training for name, module in student.named_modules()}
    loss = DistillationLoss(student, net(1), nn.CrossEntropyLoss(), kd(), torch.rand(*SHAPE))
    assert before == {name: module.training for name, module in student.named_modules()}
    assert loss.weights == {"task": 1.0, "kd": 1.0, "fit": 1.0}
    assert len(samples()) == 8
