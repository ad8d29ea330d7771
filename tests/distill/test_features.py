"""Terms on feature maps against their formulas, and the invariances that each of them has."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from medkit.distill import (
    AdaptiveFeatureFusion,
    AttentionTransfer,
    ChannelWiseKD,
    FitNet,
    RelationalKD,
    ReviewKD,
    SimilarityPreserving,
    hierarchical_context_loss,
)
from medkit.distill.fusion import FusionBlock


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(3, 4, 6, 5), normal(3, 4, 6, 5, seed=1)


def test_fitnet_is_the_mean_square_inside_the_mask():
    mask = torch.zeros(3, 1, 6, 5)
    mask[:, :, :2] = 1
    assert float(FitNet("none")(X, Y)) == pytest.approx(float(((X - Y) ** 2).mean()), rel=1e-12)
    got = float(FitNet("none")(X, Y, mask=mask))
    assert got == pytest.approx(float(((X - Y)[:, :, :2] ** 2).mean()), rel=1e-12)


def test_fitnet_adapter_is_trained_and_given_modules_stay():
    term = FitNet("conv1", norm=None, use_activation=False)
    term.build([(1, 4, 12, 10)], [(1, 2, 6, 5)])
    torch.manual_seed(0)
    x, y = torch.rand(3, 4, 12, 10), torch.rand(3, 2, 6, 5)
    term(x, y).backward()
    assert all(p.grad is not None for p in term.parameters())
    own = torch.nn.Conv2d(4, 2, 1)
    term = FitNet(own)
    term.build([(1, 9, 9, 9)], [(1, 9, 9, 9)])
    assert term.adapter is own


@pytest.mark.parametrize("options", [{"bias": True}, {"adapter": "convreg3", "norm": None}])
def test_unknown_options_of_an_adapter_are_refused_at_once(options):
    with pytest.raises(ValueError, match="options of 'conv1' are norm and use_activation"):
        FitNet(**options)
    with pytest.raises(ValueError, match="'adapter' must be a module or one of"):
        FitNet("conv2")


def test_attention_by_hand():
    maps = [(x.numpy() ** 2).mean(1).reshape(3, -1) for x in (X, Y)]
    own, other = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
    assert float(AttentionTransfer()(X, Y)) == pytest.approx(((own - other) ** 2).mean(), rel=1e-10)


def test_attention_forgets_scale_order_and_number_of_channels():
    value = float(AttentionTransfer()(X, Y))
    assert float(AttentionTransfer()(5 * X[:, [2, 0, 3, 1]], Y)) == pytest.approx(value, rel=1e-10)
    assert float(AttentionTransfer()(torch.cat([X, X], 1), Y)) == pytest.approx(value, rel=1e-10)
    coarse = AttentionTransfer()(X.repeat_interleave(2, 2).repeat_interleave(2, 3), Y)
    assert float(coarse) == pytest.approx(value, rel=1e-10)


def test_channels_as_distributions():
    own, other = (Categorical(logits=x.flatten(2) / 4) for x in (X, Y))
    term = ChannelWiseKD(4.0, "none")
    assert float(term(X, Y)) == pytest.approx(16 * float(kl_divergence(other, own).mean()), rel=1e-10)
    shift = normal(3, 4, 1, 1, seed=2)
    assert float(term(X + shift, Y)) == pytest.approx(float(term(X, Y)), rel=1e-8)
    order = [2, 0, 3, 1]
    assert float(term(X[:, order], Y[:, order])) == pytest.approx(float(term(X, Y)), rel=1e-10)
    assert float(term(X[:, order], Y)) != pytest.approx(float(term(X, Y)), rel=1e-3)


def test_similarity_by_hand():
    grams = []
    for x in (X, Y):
        g = x.flatten(1).numpy() @ x.flatten(1).numpy().T
        grams.append(g / np.linalg.norm(g, axis=1, keepdims=True))
    wanted = ((grams[0] - grams[1]) ** 2).sum() / 9
    assert float(SimilarityPreserving()(X, Y)) == pytest.approx(wanted, rel=1e-10)
    assert float(SimilarityPreserving()(3 * X[:, [2, 0, 3, 1]], Y)) == pytest.approx(wanted, rel=1e-10)
    assert float(SimilarityPreserving()(X.flatten(1)[:, :60], normal(3, 7))) > 0


def huber(d: np.ndarray) -> np.ndarray:
    return np.where(abs(d) < 1, d**2 / 2, abs(d) - 0.5)


def test_relations_by_hand():
    distances, cosines = [], []
    for x in (normal(5, 3), 2 * normal(5, 4, seed=1)):
        rows = x.numpy()
        d = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        distances.append(d / d[d > 0].mean())
        c = np.zeros((5, 5, 5))
        for i, j, k in np.ndindex(5, 5, 5):
            if i not in (j, k):
                a, b = rows[j] - rows[i], rows[k] - rows[i]
                c[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        cosines.append(c)
    pair = (normal(5, 3), 2 * normal(5, 4, seed=1))
    assert float(RelationalKD(1, 0)(*pair)) == pytest.approx(huber(distances[0] - distances[1]).mean(), rel=1e-8)
    assert float(RelationalKD(0, 1)(*pair)) == pytest.approx(huber(cosines[0] - cosines[1]).mean(), rel=1e-8)


def test_relations_do_not_see_a_rotation_a_shift_and_a_scale():
    x = normal(5, 4)
    rotation, _ = torch.linalg.qr(normal(4, 4, seed=3))
    assert float(RelationalKD()(3 * x @ rotation + 2, x)) == pytest.approx(0, abs=1e-10)


def test_hierarchical_loss_by_hand():
    x, y = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=1)
    d = (x - y).numpy()
    wanted, weight = (d**2).mean(), 1.0
    for size in (4, 2, 1):
        weight /= 2
        n = 8 // size
        wanted += weight * (d.reshape(2, 3, size, n, size, n).mean((3, 5)) ** 2).mean()
    assert float(hierarchical_context_loss(x, y)) == pytest.approx(wanted / 1.875, rel=1e-10)


def test_hierarchical_loss_leaves_out_grids_that_are_not_coarser():
    x, y = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)
    d = x - y
    wanted = (d.square().mean() + 0.5 * d.mean((2, 3)).square().mean()) / 1.5
    assert float(hierarchical_context_loss(x, y)) == pytest.approx(float(wanted), rel=1e-10)
    one = hierarchical_context_loss(x[..., :1, :1], y[..., :1, :1])
    assert float(one) == pytest.approx(float(d[..., :1, :1].square().mean()), rel=1e-10)


def test_hierarchical_loss_of_a_constant_difference_is_its_square_for_any_mask():
    x = normal(2, 3, 8, 7, 6)
    mask = (normal(2, 1, 8, 7, 6, seed=4) > 0).double()
    assert float(hierarchical_context_loss(x + 3, x, mask)) == pytest.approx(9, rel=1e-6)
    spoiled = torch.where(mask > 0, x + 3, 100.0)
    assert float(hierarchical_context_loss(spoiled, x, mask)) == pytest.approx(9, rel=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_review_learns_every_level_and_reaches_every_weight(dims):
    torch.manual_seed(0)
    sizes, own, other = (9, 5, 3), (3, 4, 6), (5, 4, 8)
    student = [torch.rand(2, c, *[n] * dims, requires_grad=True) for c, n in zip(own, sizes, strict=True)]
    teacher = [torch.rand(2, c, *[n + 1] * dims) for c, n in zip(other, sizes, strict=True)]
    student.append(torch.rand(2, 6, requires_grad=True))
    teacher.append(torch.rand(2, 8))
    term = ReviewKD()
    term.build([x.shape for x in student], [x.shape for x in teacher])
    loss = term(student, teacher)
    loss.backward()
    assert all(x.grad is not None and float(x.grad.abs().max()) > 0 for x in student)
    assert all(p.grad is not None for p in term.parameters())
    with pytest.raises(ValueError, match="wanted 4 levels, got 2"):
        term(student[:2], teacher[:2])


def test_review_is_zero_where_the_fused_student_is_the_teacher():
    torch.manual_seed(0)
    student = [torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, 4)]
    term = ReviewKD().eval()
    term.build([x.shape for x in student], [(2, 5, 8, 8), (2, 6, 4, 4)])
    term.eval()
    teacher = [x.detach() for x in term.fusion(student)]
    assert float(term(student, teacher).detach()) == 0


def test_gates_choose_between_the_level_and_the_deeper_one():
    torch.manual_seed(0)
    block = FusionBlock(2, 3, 4, None, use_norm=False)
    level, deeper = torch.rand(1, 3, 6, 6), torch.rand(1, 4, 3, 3)
    with torch.no_grad():
        block.gate.weight.zero_()
        for bias, wanted in (
            ((50.0, -50.0), block.reduce(level)),
            ((-50.0, 50.0), deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)),
        ):
            block.gate.bias.copy_(torch.tensor(bias))
            assert torch.allclose(block(level, deeper)[1], wanted, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("n_levels", [1, 2, 4])
def test_fusion_has_the_size_of_the_finest_level(dims, n_levels):
    torch.manual_seed(0)
    levels = [torch.rand(1, 3 + i, *[9 - 2 * i] * dims) for i in range(n_levels)]
    fusion = AdaptiveFeatureFusion(dims, [x.shape[1] for x in levels])
    out = fusion(levels)
    assert out.shape == levels[0].shape
    assert float(out.detach().min()) >= 0
    out.sum().backward()
    # Nothing without a gradient: distributed training refuses unused weights.
    assert all(p.grad is not None for p in fusion.parameters())
