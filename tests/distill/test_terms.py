"""Every term by the laws that all share: nothing to learn from oneself, no gradient to the teacher, float32, finite."""

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medkit.distill import (
    CRD,
    DIST,
    DKD,
    MLKD,
    AttentionTransfer,
    BernoulliKD,
    ChannelWiseKD,
    DeepSupervisionKD,
    DistillationTerm,
    FitNet,
    LogitKD,
    RelationalKD,
    ReviewKD,
    SimilarityPreserving,
)

LOGITS = {
    "kd": LogitKD(),
    "kd_standardized": LogitKD(2.0, use_standardized=True),
    "dkd": DKD(),
    "dkd_standardized": DKD(use_standardized=True),
    "mlkd": MLKD(),
    "mlkd_unsure": MLKD(only_unsure=True, use_standardized=True),
    "dist": DIST(),
    "bernoulli": BernoulliKD(),
    "deep": DeepSupervisionKD(LogitKD()),
}
FEATURES = {
    "fitnet": FitNet("none"),
    "attention": AttentionTransfer(),
    "channels": ChannelWiseKD(adapter="none"),
    "similarity": SimilarityPreserving(),
    "relational": RelationalKD(),
}
DENSE = ("kd", "kd_standardized", "dkd", "dist", "bernoulli", "deep", *FEATURES)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cases(spatial: tuple[int, ...]) -> list[tuple[DistillationTerm, tuple[int, ...]]]:
    terms = LOGITS | FEATURES
    wanted = DENSE if spatial else (*LOGITS, "similarity", "relational", "fitnet")
    return [pytest.param(terms[name], (6, 5, *spatial), id=f"{name}-{len(spatial)}d") for name in wanted]


EVERY = [*cases(()), *cases((7, 6)), *cases((4, 3, 5))]


def labels(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(("term", "shape"), EVERY)
def test_zero_at_equal_inputs_and_positive_else(term, shape):
    x, y = normal(*shape), normal(*shape, seed=1)
    assert float(term(x, x.clone(), labels(shape))) == pytest.approx(0, abs=2e-6)
    assert float(term(x, y, labels(shape))) > 1e-4


@pytest.mark.parametrize(("term", "shape"), EVERY)
def test_gradient_reaches_the_student_alone(term, shape):
    x, y = normal(*shape).requires_grad_(), normal(*shape, seed=1).requires_grad_()
    term(x, y, labels(shape)).backward()
    assert y.grad is None
    assert float(x.grad.abs().max()) > 0
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("term", "shape"), EVERY)
def test_order_of_the_samples_does_not_matter(term, shape):
    x, y, target, order = normal(*shape), normal(*shape, seed=1), labels(shape), torch.tensor([3, 1, 5, 0, 4, 2])
    assert float(term(x[order], y[order], target[order])) == pytest.approx(float(term(x, y, target)), rel=1e-5)


@pytest.mark.parametrize(("term", "shape"), EVERY)
def test_large_inputs_in_bfloat16_under_autocast_stay_finite_in_float32(term, shape):
    x = (100 * normal(*shape)).bfloat16().requires_grad_()
    y = (100 * normal(*shape, seed=1)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = term(x, y, labels(shape))
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    # The same as of the rounded numbers in float32: nothing inside was computed in 16 bits.
    assert float(loss.detach()) == pytest.approx(float(term(x.detach().float(), y.float(), labels(shape))), rel=1e-6)


@pytest.mark.parametrize(("term", "shape"), EVERY)
def test_equal_samples_have_finite_gradients(term, shape):
    """All samples, classes and places alike: roots and norms of 0."""
    x = torch.zeros(shape, requires_grad=True)
    loss = term(x, normal(*shape, seed=1), labels(shape))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("term", "shape"), EVERY)
def test_one_sample(term, shape):
    x, y = normal(1, *shape[1:]).requires_grad_(), normal(1, *shape[1:], seed=1)
    loss = term(x, y, labels((1, *shape[1:])))
    loss.backward()
    assert torch.isfinite(loss)
    assert float(loss.detach()) >= 0
    assert torch.isfinite(x.grad).all()


def test_result_is_a_plain_tensor():
    x = MetaTensor(normal(2, 3, 4, 4)).requires_grad_()
    loss = LogitKD()(x, MetaTensor(normal(2, 3, 4, 4, seed=1)))
    assert type(loss) is torch.Tensor


MASKED = [p for p in EVERY if p.values[0].needs == "feature" and len(p.values[1]) > 2] + [
    p for p in EVERY if isinstance(p.values[0], (LogitKD, DKD, DIST, BernoulliKD)) and len(p.values[1]) > 2
]


@pytest.mark.parametrize(("term", "shape"), MASKED)
def test_what_the_mask_leaves_out_does_not_matter(term, shape):
    x, y, target = normal(*shape), normal(*shape, seed=1), labels(shape)
    mask = torch.zeros(shape[0], 1, *shape[2:])
    mask[:, :, 1:3] = 1
    value = float(term(x, y, target, mask))
    other_x = torch.where(mask > 0, x, 7 * normal(*shape, seed=2))
    other_y = torch.where(mask > 0, y, 7 * normal(*shape, seed=3))
    other_target = torch.where(mask[:, 0] > 0, target, 0)
    assert float(term(other_x, other_y, other_target, mask)) == pytest.approx(value, rel=1e-5)
    assert value != pytest.approx(float(term(x, y, target)), rel=1e-3)
    assert float(term(x, y, target, mask.bool())) == value


@pytest.mark.parametrize(("term", "shape"), MASKED)
def test_empty_mask_gives_zero(term, shape):
    x = normal(*shape).requires_grad_()
    loss = term(x, normal(*shape, seed=1), labels(shape), torch.zeros(shape[0], 1, *shape[2:]))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(x.grad.abs().max()) == 0


def test_wrong_inputs_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="FitNet: 'student' must be one feature map"):
        FitNet("none")([normal(2, 3, 4, 4), normal(2, 3, 4, 4)], normal(2, 3, 4, 4))
    with pytest.raises(ValueError, match="same batch, got 2 and 3"):
        LogitKD()(normal(2, 3), normal(3, 3))
    with pytest.raises(ValueError, match="LogitKD: student and teacher must have one shape"):
        LogitKD()(normal(2, 3), normal(2, 4))
    with pytest.raises(ValueError, match="call build"):
        FitNet()(normal(2, 3, 4, 4), normal(2, 3, 4, 4))
    with pytest.raises(ValueError, match="call build"):
        ReviewKD()([normal(2, 3, 4, 4)], [normal(2, 3, 4, 4)])
    with pytest.raises(ValueError, match="call build"):
        CRD(4)(normal(2, 3), normal(2, 3), index=torch.arange(2))
    with pytest.raises(ValueError, match="'mask' must be"):
        LogitKD()(normal(2, 3, 4, 4), normal(2, 3, 4, 4), mask=torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match="logits"):
        LogitKD()("text", normal(2, 3))


def test_a_list_of_outputs_is_its_first_for_a_plain_term():
    x, y = [normal(2, 3, 8, 8), normal(2, 3, 4, 4)], normal(2, 3, 8, 8, seed=1)
    assert float(LogitKD()(x, y)) == float(LogitKD()(x[0], y))


def test_a_term_of_ones_own_is_one_method():
    class Mean(DistillationTerm):
        def compute(self, student, teacher, hints):
            return (student - teacher).abs().mean()

    assert float(Mean()(torch.ones(2, 3), torch.zeros(2, 3))) == 1
    assert isinstance(Mean(), nn.Module)
