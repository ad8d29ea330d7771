"""Similarities: MONAI's values, blind to what they should be, right gradients, and better maps than squares."""

import pytest
import torch
from monai.losses import GlobalMutualInformationLoss, LocalNormalizedCrossCorrelationLoss

from medkit.atlas import (
    Grid,
    PairEnergy,
    RegistrationModel,
    conditional_entropy,
    local_decorrelation,
    mutual_information,
    register_pair,
    similarity_term,
)
from medkit.ops import exponential
from tests.atlas.phantom import cohort, intensity
from tests.laws import random_like

SIZES = [(20, 24), (12, 14, 13)]
MEASURES = {
    "lncc": lambda a, b, weight=None: local_decorrelation(a, b, weight, 5),
    "mi": lambda a, b, weight=None: conditional_entropy(a, b, weight, 16),
}


def images(size, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two related images in 0 to 1, float64."""
    a = random_like(torch.empty(1, 1, *size, dtype=torch.float64), seed).sigmoid()
    noise = random_like(a, seed + 1).sigmoid()
    return a, 0.6 * a + 0.4 * noise


def bias(size) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    return torch.exp(0.5 * (axes[0] + 0.7 * axes[1] * axes[0] - 0.5 * axes[1]))[None, None]


@pytest.mark.parametrize("size", SIZES)
def test_local_correlation_is_monai_s(size) -> None:
    """On a black margin, where both take windows at the border to be flat."""
    window = 5
    a, b = (torch.nn.functional.pad(x, [window] * 2 * len(size)) for x in images(size))
    expected = 1 + LocalNormalizedCrossCorrelationLoss(len(size), window)(a, b)
    assert 0.1 < expected < 0.99
    torch.testing.assert_close(local_decorrelation(a, b, None, window, 0.0)[0], expected, rtol=0, atol=1e-5)
    single = local_decorrelation(a.float(), b.float(), None, window, 0.0)[0]
    torch.testing.assert_close(single, expected.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_information_of_all_voxels_is_monai_s(size) -> None:
    a, b = images(size)
    expected = -GlobalMutualInformationLoss(num_bins=32)(a.float(), b.float())
    torch.testing.assert_close(mutual_information(a, b)[0].float(), expected, rtol=1e-4, atol=1e-5)


def test_a_sample_tells_nearly_what_all_voxels_tell_and_repeats() -> None:
    fixed, _, _ = cohort((48, 48, 40), n=2, noise=0.0)
    other = fixed.square() + 0.03 * random_like(fixed)
    whole = mutual_information(fixed, other, n_samples=10**6)
    part = mutual_information(fixed, other, n_samples=10_000)
    assert abs(part / whole - 1) < 0.05
    assert torch.equal(part, mutual_information(fixed, other, n_samples=10_000))
    assert not torch.equal(part, mutual_information(fixed, other, n_samples=10_000, seed=1))


@pytest.mark.parametrize("size", SIZES)
def test_the_same_image_at_another_scale_is_as_like_as_can_be(size) -> None:
    a, b = images(size)
    assert float(local_decorrelation(a, 3 - 0.5 * a, noise=0.0)) < 1e-6
    torch.testing.assert_close(
        local_decorrelation(a, 2 * b + 5, noise=0.0), local_decorrelation(a, b, noise=0.0), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(mutual_information(1 - a, b), mutual_information(a, b), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mutual_information(a, b), mutual_information(b, a), rtol=1e-5, atol=1e-6)
    noise = random_like(a, 9).sigmoid()
    for measure in MEASURES.values():
        assert measure(a, a) < measure(a, b) < measure(a, noise)


def test_flat_windows_do_not_count_as_edges() -> None:
    """Noise on a flat ground correlates with nothing: what it costs is the same for all images."""
    flat = torch.full((1, 1, 24, 24), 0.5)
    noisy = [flat + 1e-4 * random_like(flat, seed) for seed in (0, 1)]
    torch.testing.assert_close(local_decorrelation(*noisy), torch.ones(1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("size", SIZES)
def test_what_has_no_weight_does_not_count(name: str, size) -> None:
    a, b = images(size)
    weight = torch.ones_like(a)
    weight[..., 3:9, 4:9] = 0
    wrong = torch.where(weight == 0, torch.tensor(0.9, dtype=a.dtype), b)
    torch.testing.assert_close(MEASURES[name](a, b, weight), MEASURES[name](a, wrong, weight), rtol=1e-9, atol=1e-12)
    assert not torch.isclose(MEASURES[name](a, b), MEASURES[name](a, wrong), rtol=1e-3)
    torch.testing.assert_close(MEASURES[name](a, b, torch.ones_like(a)), MEASURES[name](a, b), rtol=1e-9, atol=1e-12)
    assert torch.isfinite(MEASURES[name](a, b, torch.zeros_like(a))).all()


@pytest.mark.parametrize("name", MEASURES)
def test_a_batch_is_its_items(name: str) -> None:
    pairs = [images(SIZES[0], seed) for seed in (0, 5)]
    both = MEASURES[name](*(torch.cat(x) for x in zip(*pairs, strict=True)))
    torch.testing.assert_close(both, torch.cat([MEASURES[name](a, b) for a, b in pairs]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_differences(name: str, size, weighted: bool) -> None:
    a, b = images(size)
    weight = random_like(a, 4).sigmoid() if weighted else None
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(MEASURES[name](a, b, weight).sum(), a)
    direction, step = random_like(a, 7), 1e-5
    with torch.no_grad():
        up, down = (float(MEASURES[name](a + s * step * direction, b, weight)) for s in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("similarity", ["ssd", "lncc", "mi"])
@pytest.mark.parametrize("form", ["subject", "template"])
def test_a_finer_grid_has_about_the_same_energy(similarity: str, form: str) -> None:
    energies = []
    for n, h in ((48, 2.0), (96, 1.0)):
        size = (n, n)
        template = intensity(torch.stack(torch.meshgrid(*[torch.arange(n) * 1.0] * 2, indexing="ij"))[None], size)
        subject = template.roll(n // 16, 2).square()
        window = 9 if n == 96 else 5
        model = RegistrationModel(similarity=similarity, window=window, form=form)
        problem = PairEnergy(model, Grid(size, (h, h)), template, subject, torch.ones_like(subject))
        energies.append(problem.energy(torch.zeros(1, 2, *problem.metric.size)))
    assert energies[0] == pytest.approx(energies[1], rel=0.15)


def endpoint_error(similarity: str, change, size=(56, 48), steps=(40, 30, 15)) -> tuple[float, float]:
    """Mean distance from the true map on the object's edges, in voxels, after and before."""
    fixed, moving, v = cohort(size, n=2, amplitude=2.5, width=6.0)
    model = RegistrationModel(similarity=similarity)
    found = register_pair(fixed, change(moving[:1]), factors=(4, 2, 1), n_steps=steps, model=model)
    true, edge = exponential(v[:1]), (fixed > 0.1) & (fixed < 0.8)
    errors = [(u - true).norm(dim=1, keepdim=True)[edge].mean() for u in (found.forward, torch.zeros_like(true))]
    return float(errors[0]), float(errors[1])


def test_local_correlation_sees_through_a_bias_field() -> None:
    after, before = endpoint_error("lncc", lambda x: x * bias(x.shape[2:]))
    squares = endpoint_error("ssd", lambda x: x * bias(x.shape[2:]))[0]
    assert after < 0.6 * before
    assert after < 0.85 * squares


def test_information_sees_through_another_contrast_and_squares_do_not() -> None:
    after, before = endpoint_error("mi", lambda x: 0.9 * (0.85 - x))
    squares = endpoint_error("ssd", lambda x: 0.9 * (0.85 - x))[0]
    assert after < 0.6 * before < squares


@pytest.mark.parametrize("similarity", ["lncc", "mi"])
def test_without_a_change_they_do_as_well_as_squares(similarity: str) -> None:
    assert endpoint_error(similarity, lambda x: x)[0] < 1.15 * endpoint_error("ssd", lambda x: x)[0]


@pytest.mark.parametrize("similarity", ["lncc", "mi"])
def test_volumes_come_together_in_form_b_too(similarity: str) -> None:
    fixed, moving, _ = cohort((28, 24, 24), n=2, amplitude=2.0, width=5.0)
    model = RegistrationModel(similarity=similarity, form="template")
    weight = torch.ones_like(moving[:1])
    found = register_pair(fixed, 0.85 - moving[:1], weight=weight, factors=(2, 1), n_steps=(8, 4), model=model)
    for energies in found.energies:
        assert list(energies) == sorted(energies, reverse=True)
    assert found.energies[0][-1] < 0.9 * found.energies[0][0]


def test_wrong_input_is_refused_in_a_sentence() -> None:
    a = torch.rand(1, 1, 12, 12)
    with pytest.raises(ValueError, match="images must be real"):
        local_decorrelation(a, a[..., 1:])
    with pytest.raises(ValueError, match="'weight' must be"):
        mutual_information(a, a, a[0])
    with pytest.raises(ValueError, match="'window' must be odd"):
        local_decorrelation(a, a, window=4)
    with pytest.raises(ValueError, match="'n_bins' and 'n_samples'"):
        conditional_entropy(a, a, n_bins=1)
    with pytest.raises(ValueError, match="'similarity' must be 'lncc' or 'mi'"):
        similarity_term(a, a, None, "ssd")
    with pytest.raises(ValueError, match="'similarity' must be one of ssd, lncc, mi"):
        RegistrationModel(similarity="ncc")
    with pytest.raises(ValueError, match="'window' must be odd"):
        RegistrationModel(window=2)
