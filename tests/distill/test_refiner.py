"""The refiner by its laws: identities, frequencies, straight-through gradients, and a policy that can be learned."""

import pytest
import torch

from medkit.distill import FeatureRefiner
from medkit.distill.operations import OPERATIONS, apply_operation

SIZES = [(2, 5, 8, 6), (2, 5, 6, 4, 5)]
NEUTRAL = {name: 0.5 if low < 0 else 0.0 for name, (_, low, _) in OPERATIONS.items() if name != "channel_shuffle"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(name: str, **options) -> FeatureRefiner:
    return FeatureRefiner((name,), n_together=1, **options)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", OPERATIONS)
def test_shape_and_dtype_stay_and_the_input_is_not_changed(name, dtype, size):
    x = torch.randn(size, generator=generator()).to(dtype)
    before = x.clone()
    for m in (0.0, 0.3, 1.0):
        out = apply_operation(name, x, torch.tensor(m), generator())
        assert out.shape == x.shape
        assert out.dtype == dtype
    assert torch.equal(x, before)
    assert not torch.equal(out, x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_identity_at_the_neutral_magnitude(name, size):
    x = torch.randn(size, generator=generator())
    assert torch.allclose(apply_operation(name, x, torch.tensor(NEUTRAL[name]), generator()), x, atol=1e-5)


@pytest.mark.parametrize(("name", "axis"), [("translate_x", 3), ("translate_y", 2)])
@pytest.mark.parametrize("magnitude", [0.0, 1.0])
def test_translation_keeps_55_percent_of_ones(name, axis, magnitude):
    x = torch.ones(1, 1, 20, 20)
    out = apply_operation(name, x, torch.tensor(magnitude), generator())
    assert float(out.mean()) == pytest.approx(0.55, abs=1e-5)
    profile = out.mean((0, 1, 5 - axis))
    assert torch.allclose(profile if magnitude == 1 else profile.flip(0), (torch.arange(20) < 11).float(), atol=1e-5)


def test_translation_in_a_volume_is_along_one_axis():
    x = torch.ones(1, 1, 20, 20, 20)
    for seed in range(6):
        out = apply_operation("translate_x", x, torch.tensor(1.0), generator(seed))
        assert float(out.mean()) == pytest.approx(0.55, abs=1e-5)


def test_rotation_and_shear_are_in_pixels_whatever_the_sides():
    """Of a linear ramp, sampled inside, the rotated and the sheared ramp are known."""
    rows, columns = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(60) - 29.5, indexing="ij")
    ramp = rows[None, None].double()
    inside = (slice(None), slice(None), slice(14, 26), slice(20, 40))
    turned = apply_operation("rotate", ramp, torch.tensor(1.0), generator())
    angle = torch.deg2rad(torch.tensor(30.0))
    wanted = (angle.cos() * rows - angle.sin() * columns)[None, None].double()
    assert torch.allclose(turned[inside], wanted[inside], atol=1e-3)
    sheared = apply_operation("shear_y", ramp, torch.tensor(1.0), generator())
    assert torch.allclose(sheared[inside], (rows + 0.3 * columns)[None, None].double()[inside], atol=1e-3)
    assert torch.allclose(
        apply_operation("shear_x", ramp, torch.tensor(1.0), generator())[inside], ramp[inside], atol=1e-3
    )


def test_cutout_noise_and_channels_do_what_they_say():
    x = torch.ones(3, 10, 20, 10)
    cut = apply_operation("cutout", x, torch.tensor(1.0), generator())
    assert int((cut == 0).sum()) == 3 * 10 * 4 * 2
    assert torch.equal(cut[0], cut[2])
    noisy = apply_operation("noise", torch.zeros(1, 1, 200, 200), torch.tensor(1.0), generator())
    assert float(noisy.std()) == pytest.approx(0.1, rel=0.03)
    dropped = apply_operation("channel_drop", x, torch.tensor(1.0), generator())
    assert sorted(dropped[:, :, 0, 0].sum(0).tolist()) == 5 * [0] + 5 * [3]
    y = torch.arange(10.0).view(1, 10, 1, 1)
    shuffled = apply_operation("channel_shuffle", y, torch.tensor(0.0), generator())
    assert sorted(shuffled.flatten().tolist()) == list(range(10))


@pytest.mark.parametrize("name", ["cutout", "noise", "channel_shuffle", "channel_drop"])
def test_a_volume_of_depth_1_is_an_image(name):
    x = torch.randn(2, 6, 8, 7, generator=generator())
    image = apply_operation(name, x, torch.tensor(0.8), generator(3))
    volume = apply_operation(name, x[..., None], torch.tensor(0.8), generator(3))
    assert torch.equal(volume[..., 0], image)


def test_sub_policies_are_all_sorted_pairs():
    pairs = FeatureRefiner().sub_policies
    assert len(pairs) == len(set(pairs)) == 36
    assert all(len(pair) == 2 and list(pair) == sorted(set(pair)) for pair in pairs)
    assert len(FeatureRefiner(("noise", "cutout", "rotate"), n_together=3).sub_policies) == 1


def test_choice_is_one_hot_and_as_frequent_as_the_softmax():
    refiner = FeatureRefiner(("cutout", "noise", "rotate"))
    with torch.no_grad():
        refiner.alpha.copy_(torch.tensor([0.5, -0.5, 1.5]))
    counts = torch.zeros(3)
    with torch.no_grad():
        for _ in range(20000):
            refiner.draw()
            counts += refiner.choice()
    assert float(counts.sum()) == pytest.approx(20000)
    assert torch.allclose(counts / 20000, refiner.alpha.detach().softmax(0), atol=0.02)
    choice = refiner.choice()
    assert sorted(choice.detach().tolist()) == pytest.approx([0, 0, 1], abs=1e-6)
    choice[0].backward()
    assert float(refiner.alpha.grad.abs().max()) > 0


@pytest.mark.parametrize("p", [0.0, 0.3, 0.9, 1.0])
def test_execution_is_as_frequent_as_its_probability(p):
    refiner = only("noise")
    with torch.no_grad():
        refiner.probability.fill_(p)
        done = 0.0
        for _ in range(8000):
            refiner.draw()
            done += float(refiner.execution(0)[0])
    assert done / 8000 == pytest.approx(p, abs=0.02 if 0 < p < 1 else 0)


def test_probability_0_is_the_identity_and_1_always_acts():
    x = torch.randn(2, 5, 8, 8, generator=generator())
    refiner = FeatureRefiner()
    with torch.no_grad():
        refiner.magnitude.fill_(0.9)
        refiner.probability.fill_(0)
    assert all(torch.allclose(refiner(x), x, atol=1e-6) for _ in range(20))
    with torch.no_grad():
        refiner.probability.fill_(1)
    assert not any(torch.allclose(refiner(x), x, atol=1e-3) for _ in range(20))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitude_has_one_for_each_element_where_executed_and_0_where_not(name, size):
    x = torch.randn(size, generator=generator())
    for p, wanted in ((1.0, x.numel()), (0.0, 0)):
        refiner = only(name)
        with torch.no_grad():
            refiner.probability.fill_(p)
        refiner(x).sum().backward()
        assert float(refiner.magnitude.grad) == pytest.approx(wanted)


def test_gradients_reach_the_policy_and_not_the_teacher():
    x = torch.randn(2, 5, 8, 8, generator=generator()).requires_grad_()
    refiner = FeatureRefiner(("cutout", "noise", "rotate"))
    for _ in range(20):
        (refiner(x) - 0.3).square().mean().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in refiner.parameters())
    assert x.grad is None
    refiner.zero_grad()
    refiner.freeze()
    assert not refiner(x).requires_grad


def test_a_search_finds_the_operation_that_helps():
    """The student has nothing to show yet: dropping channels brings the teacher nearer to it, noise takes it away."""
    x = torch.randn(4, 8, 6, 6, generator=generator())
    refiner = FeatureRefiner(("channel_drop", "noise"), n_together=1)
    optimizer = torch.optim.Adam([refiner.alpha, refiner.probability], 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        refiner(x).square().mean().backward()
        optimizer.step()
    p = refiner.alpha.detach().softmax(0)
    assert refiner.sub_policies[int(p.argmax())] == ("channel_drop",)
    assert float(p.max()) > 0.7
    assert float(refiner.probability.detach()[0, 0]) > 0.6


def test_levels_share_a_sub_policy_and_epochs_share_a_draw():
    levels = [torch.ones(1, 4, 20, 20), torch.ones(1, 8, 10, 10)]
    refiner = FeatureRefiner(("translate_x", "translate_y"), n_together=1, resample="epoch")
    with torch.no_grad():
        refiner.probability.fill_(1)
        refiner.magnitude.fill_(5.0)  # read as 1
        first = refiner(levels)
        assert float(first[0].mean()) == pytest.approx(0.55, abs=1e-5)
        assert torch.equal(first[0][0, 0, :, 0] == first[0][0, 0, 0, 0], torch.ones(20).bool()) == torch.equal(
            first[1][0, 0, :, 0] == first[1][0, 0, 0, 0], torch.ones(10).bool()
        )
        assert all(torch.equal(refiner(levels)[0], first[0]) for _ in range(5))
        changed = []
        for _ in range(20):
            refiner.draw()
            changed.append(not torch.equal(refiner(levels)[0], first[0]))
    assert any(changed)


def test_a_saved_state_continues_exactly():
    x = torch.randn(2, 5, 8, 8, generator=generator())
    refiner, other = FeatureRefiner(), FeatureRefiner(seed=7)
    with torch.no_grad():
        refiner.alpha.normal_(generator=generator())
    refiner(x)
    refiner.freeze()
    other.load_state_dict(refiner.state_dict())
    assert other.is_frozen
    assert not any(p.requires_grad for p in other.parameters())
    assert all(torch.equal(refiner(x), other(x)) for _ in range(5))


def test_policy_stays_in_float32_under_autocast():
    x = (100 * torch.randn(2, 5, 8, 8, generator=generator())).bfloat16()
    refiner = FeatureRefiner()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(30):
            out = refiner(x)
            assert out.dtype == torch.bfloat16
            assert torch.isfinite(out).all()
            out.float().mean().backward()
    assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in refiner.parameters())


def test_entropy_is_largest_at_the_start():
    refiner = FeatureRefiner()
    assert float(refiner.entropy.detach()) == pytest.approx(float(torch.tensor(36.0).log()), rel=1e-5)
    with torch.no_grad():
        refiner.alpha[0] = 100
    assert float(refiner.entropy.detach()) == pytest.approx(0, abs=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="different names"):
        FeatureRefiner(("blur",))
    with pytest.raises(ValueError, match="'n_together' must be from 1 to the 1"):
        FeatureRefiner(("noise",))
    with pytest.raises(ValueError, match="'resample' one of"):
        FeatureRefiner(resample="batch")
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W"):
        FeatureRefiner()(torch.rand(2, 5))
    with pytest.raises(ValueError, match="'name' must be one of"):
        apply_operation("blur", torch.rand(1, 1, 2, 2), torch.tensor(0.5), generator())
