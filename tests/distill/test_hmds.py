"""HMDS by its laws: zero at oneself, no units, adapters only where they are needed, gradients to the student alone."""

import pytest
import torch

from medkit.distill import HMDS, AttentionTransfer

KINDS = ["l1", "l2", "attention"]


def taps(channels: int, dims: int = 2, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *[6] * dims, generator=generator) for _ in range(3)]


def built(kdl: str, student: list[torch.Tensor], teacher: list[torch.Tensor]) -> HMDS:
    torch.manual_seed(0)
    term = HMDS(kdl)
    term.build([x.shape for x in student], [x.shape for x in teacher])
    return term


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kdl", KINDS)
def test_zero_at_oneself_without_any_layer(kdl, dims):
    x = taps(4, dims)
    term = built(kdl, x, x)
    assert not list(term.parameters())
    assert float(term(x, x)) == pytest.approx(0, abs=1e-12)
    assert float(term(x, taps(4, dims, seed=1))) > 1e-3


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kdl", KINDS)
def test_gradients_reach_students_and_adapters_and_never_the_teacher(kdl, dims):
    x, y = taps(4, dims), taps(6, dims, seed=1)
    term = built(kdl, x, y)
    for t in (*x, *y):
        t.requires_grad_()
    term(x, y).backward()
    assert all(float(t.grad.abs().max()) > 0 for t in x)
    assert all(t.grad is None for t in y)
    assert len(list(term.parameters())) == (0 if kdl == "attention" else 6)
    assert all(float(p.grad.abs().max()) > 0 for p in term.parameters())


@pytest.mark.parametrize("scale", [1e-3, 50.0])
@pytest.mark.parametrize("kdl", KINDS)
def test_the_unit_of_the_features_does_not_matter(kdl, scale):
    x, y = taps(4), taps(4, seed=1)
    term = built(kdl, x, y)
    scaled = term([scale * t for t in x], [scale * t for t in y])
    assert float(scaled) == pytest.approx(float(term(x, y)), rel=3e-3 if scale < 1 else 1e-4)


def test_by_hand_and_with_a_mask():
    x, y = taps(4), taps(4, seed=1)
    mask = torch.zeros(2, 1, 6, 6)
    mask[..., :2] = 1
    for kdl, power in (("l1", 1), ("l2", 2)):
        parts = [((a - b).abs() / b.std(correction=0)) ** power for a, b in zip(x, y, strict=True)]
        term = built(kdl, x, y)
        assert float(term(x, y)) == pytest.approx(float(sum(p.mean() for p in parts) / 3), rel=1e-4)
        inside = sum(p[..., :2].mean() for p in parts) / 3
        assert float(term(x, y, mask=mask)) == pytest.approx(float(inside), rel=1e-4)
    wanted = sum(float(AttentionTransfer()(a, b)) for a, b in zip(x, y, strict=True)) / 3
    assert float(built("attention", x, y)(x, y)) == pytest.approx(wanted, rel=1e-5)


def test_flat_teachers_and_other_grids_stay_finite():
    x, y = taps(4), [torch.zeros(2, 6, 3, 3)] * 3
    loss = built("l1", x, y)(x, y)
    assert torch.isfinite(loss)


def test_errors():
    x = taps(4)
    with pytest.raises(ValueError, match="'kdl' must be one of"):
        HMDS("huber")
    with pytest.raises(ValueError, match="call build"):
        HMDS()(x, x)
    with pytest.raises(ValueError, match="as many taps, got 3 and 2"):
        HMDS().build([t.shape for t in x], [t.shape for t in x[:2]])
    with pytest.raises(ValueError, match="taps must be maps"):
        HMDS().build([(2, 4)], [(2, 4)])
    with pytest.raises(ValueError, match="wanted 3 taps, got 2 and 3"):
        built("l1", x, x)(x[:2], x)
