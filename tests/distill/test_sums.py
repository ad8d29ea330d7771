"""Sums of terms: schedules in closed form, each term by its taps, teacher and weight, states that resume."""

import pytest
import torch

from medkit.distill import (
    CRD,
    ConstantWeight,
    CosineWeight,
    DistillationSum,
    FitNet,
    LinearWarmup,
    LogitKD,
    Observation,
    ReviewKD,
    StopAt,
    WeightedTerm,
)

torch.manual_seed(0)
STUDENT = Observation(torch.rand(2, 3), {"a": torch.rand(2, 4, 8, 8), "b": torch.rand(2, 6, 4, 4)})
TEACHERS = {
    "teacher": Observation(torch.rand(2, 3), {"x": torch.rand(2, 5, 8, 8), "y": torch.rand(2, 7, 4, 4)}),
    "second": Observation(torch.rand(2, 3), {}),
}
STUDENT_SHAPES = {k: tuple(v.shape) for k, v in STUDENT.features.items()}
TEACHER_SHAPES = {name: {k: tuple(v.shape) for k, v in seen.features.items()} for name, seen in TEACHERS.items()}


def test_schedules_in_closed_form():
    assert [ConstantWeight(3)(t) for t in (0, 7)] == [3, 3]
    assert [LinearWarmup(2, 4)(t) for t in (0, 1, 2, 4, 9)] == [0, 0.5, 1, 2, 2]
    assert LinearWarmup(2, 0)(0) == 2
    cosine = CosineWeight(3, 1, 4)
    assert [cosine(t) for t in (0, 2, 4, 9)] == pytest.approx([3, 2, 1, 1])
    assert cosine(1) == pytest.approx(2 + 0.5**0.5)
    stopped = StopAt(LinearWarmup(2, 4), 3)
    assert [stopped(t) for t in (1, 2.5, 3, 8)] == [0.5, 1.25, 0, 0]
    assert StopAt(2, 3)(1) == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: ConstantWeight(-1),
        lambda: LinearWarmup(1, -1),
        lambda: CosineWeight(duration=0),
        lambda: CosineWeight(last=-1),
        lambda: StopAt(1, -2),
        lambda: StopAt(-1, 2),
    ],
)
def test_schedules_refuse_what_is_negative(make):
    with pytest.raises(ValueError, match=r"must be (at least|above) 0"):
        make()


def example(seed: int = 0) -> DistillationSum:
    torch.manual_seed(seed)
    loss = DistillationSum(
        {
            "kd": WeightedTerm(LogitKD(), LinearWarmup(2, 4)),
            "second": WeightedTerm(LogitKD(1), 3, teacher="second"),
            "hint": WeightedTerm(FitNet(), StopAt(1, 5), ["a"], ["x"]),
            "review": WeightedTerm(ReviewKD(), 0.5, ["a", "b"], ["x", "y"]),
        }
    )
    loss.build(STUDENT_SHAPES, TEACHER_SHAPES)
    return loss


def test_sum_is_the_sum_of_weighted_terms():
    loss = example().eval()
    loss.set_time(1)
    total = loss(STUDENT, TEACHERS)
    teacher = TEACHERS["teacher"]
    kd = LogitKD()(STUDENT.output, teacher.output)
    second = LogitKD(1)(STUDENT.output, TEACHERS["second"].output)
    hint = loss.terms["hint"].term(STUDENT.features["a"], teacher.features["x"])
    review = loss.terms["review"].term(list(STUDENT.features.values()), list(teacher.features.values()))
    assert float(total.detach()) == pytest.approx(
        float((0.5 * kd + 3 * second + hint + 0.5 * review).detach()), rel=1e-6
    )
    assert loss.weights == {"kd": 0.5, "second": 3, "hint": 1, "review": 0.5}
    assert float(loss.parts["kd"]) == float(kd)
    assert not any(part.requires_grad for part in loss.parts.values())


def test_taps_are_each_named_once():
    loss = example()
    assert loss.student_taps == ["a", "b"]
    assert loss.teacher_taps == {"teacher": ["x", "y"], "second": []}


def test_terms_of_weight_0_are_not_computed():
    loss = example()
    loss.set_time(5)
    loss(STUDENT, TEACHERS)
    assert set(loss.parts) == {"kd", "second", "review"}
    # A sum whose other terms weigh nothing is the one term, bit for bit.
    alone = DistillationSum({"kd": WeightedTerm(LogitKD()), "off": WeightedTerm(LogitKD(1), 0)})
    assert float(alone(STUDENT, TEACHERS["teacher"])) == float(LogitKD()(STUDENT.output, TEACHERS["teacher"].output))
    nothing = DistillationSum({"kd": WeightedTerm(LogitKD(), StopAt(1, 2))})
    nothing.set_time(2)
    assert float(nothing(STUDENT, TEACHERS)) == 0


def test_a_saved_state_continues():
    loss, other = example(), example(seed=5)
    loss.set_time(3)
    optimizer = torch.optim.SGD(loss.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        loss(STUDENT, TEACHERS).backward()
        optimizer.step()
    other.load_state_dict(loss.state_dict())
    assert other.weights == loss.weights
    assert other.time == 3
    assert float(other(STUDENT, TEACHERS).detach()) == float(loss(STUDENT, TEACHERS).detach())


def test_index_and_labels_reach_the_terms():
    loss = DistillationSum({"crd": WeightedTerm(CRD(10, 4, 3), 1, ["a"], ["x"])})
    loss.build(STUDENT_SHAPES, TEACHER_SHAPES)
    loss(STUDENT, TEACHERS, torch.tensor([1, 2]), index=torch.tensor([4, 5]))
    assert loss.terms["crd"].term.labels[[4, 5]].tolist() == [1, 2]


def test_errors():
    with pytest.raises(ValueError, match="FitNet wants one tap each"):
        WeightedTerm(FitNet(), 1, ["a", "b"], ["x"])
    with pytest.raises(ValueError, match="LogitKD wants no taps"):
        WeightedTerm(LogitKD(), 1, ["a"], ["x"])
    with pytest.raises(ValueError, match="at least one term"):
        DistillationSum({})
    with pytest.raises(ValueError, match="wants the teacher 'second'"):
        example()(STUDENT, TEACHERS["teacher"])
    with pytest.raises(ValueError, match=r"lacks the shapes of \['x'\]"):
        example().build(STUDENT_SHAPES, {"teacher": {"y": (1, 1)}})
    with pytest.raises(ValueError, match=r"wants the taps \['a'\]"):
        example()(Observation(STUDENT.output, {}), TEACHERS)
    with pytest.raises(ValueError, match="'time' must be at least 0"):
        example().set_time(-1)
