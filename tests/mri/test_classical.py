"""Classical methods: each reaches the minimum it says, alone and in a batch, as a function and in a network's place."""

import numpy as np
import pytest
import torch

from medkit.mri import (
    CGSense,
    L1Wavelet,
    PackedReconstructor,
    RandomMask,
    TotalVariation,
    ZeroFilled,
    cg_sense,
    channels_to_complex,
    complex_to_channels,
    estimate_sens_maps,
    l1_wavelet,
    pack_reconstruction,
    sense_adjoint,
    sense_forward,
    sense_normal,
    total_variation,
    wavelet_forward,
)
from medkit.mri.classical.problem import narrowed
from tests.laws import assert_deterministic
from tests.mri.small_exams import random_kspace
from tests.mri.small_scans import make_scan, read_eight_coils, read_sixteen_coils

METHODS = [cg_sense, l1_wavelet, total_variation]


def problem(size=(32, 24), n_coils=4, rate=2, level=0.02, points=False):
    """Return zero-filled image, mask, maps and k-space of a noisy scan."""
    kspace, maps, _ = make_scan(size, n_coils)
    mask = RandomMask(0.25, rate).set_random_state(0).draw(size)[None, None]
    if points:
        mask = mask | torch.from_numpy(np.random.RandomState(0).rand(1, 1, *size) < 0.2)
    measured = (kspace + level * random_kspace(*kspace.shape)) * mask
    return sense_adjoint(measured, mask, maps), mask, maps, measured


def misfit(x, mask, maps, measured):
    return 0.5 * float((sense_forward(x, mask, maps) - measured).norm() ** 2)


def variation(x):
    return float((x - x.roll(1, -1)).abs().sum() + (x - x.roll(1, -2)).abs().sum())


def coefficients(x, n_levels):
    return channels_to_complex(wavelet_forward(complex_to_channels(x), 4, n_levels))


def test_cg_sense_solves_the_normal_equations():
    x0, mask, maps, _ = problem()
    x = cg_sense(x0, mask, maps, 0.1, 100)
    torch.testing.assert_close(sense_normal(x, mask, maps) + 0.1 * x, x0, atol=1e-5, rtol=1e-4)


def test_total_variation_with_everything_sampled_is_the_proximal_map_of_one_edge():
    # Columns a, a, b, b, periodic: each plateau moves by the weight times edges per its length, two of one.
    x0 = torch.tensor([3.0, 3, 0, 0], dtype=torch.complex64).expand(1, 1, 4, 4).clone()
    x = total_variation(x0, torch.ones(1, 1, 1, 1, dtype=torch.bool), None, 0.5, 400)
    expected = torch.tensor([2.5, 2.5, 0.5, 0.5], dtype=torch.complex64).expand(1, 1, 4, 4)
    torch.testing.assert_close(x, expected, atol=1e-3, rtol=0)


def test_l1_wavelet_with_everything_sampled_shrinks_the_coefficients():
    x0 = random_kspace(1, 1, 16, 8)
    x = l1_wavelet(x0, torch.ones(1, 1, 1, 1, dtype=torch.bool), None, 0.5, 3, n_levels=2)
    before, after = coefficients(x0, 2), coefficients(x, 2)
    expected = before.sgn() * (before.abs() - 0.5).clamp(min=0)
    torch.testing.assert_close(after, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("points", [False, True])
@pytest.mark.parametrize("kind", ["tv", "l1"])
def test_no_small_change_lowers_the_objective(kind, points):
    x0, mask, maps, measured = problem((16, 16), 3, points=points)
    weight = 0.05

    def objective(x):
        penalty = variation(x) if kind == "tv" else float(coefficients(x, 1).abs().sum())
        return misfit(x, mask, maps, measured) + weight * penalty

    x = total_variation(x0, mask, maps, weight, 600) if kind == "tv" else l1_wavelet(x0, mask, maps, weight, 300)
    best = objective(x)
    assert best < 0.9 * objective(x0)
    for seed in range(10):
        assert objective(x + 0.01 * random_kspace(1, 1, 16, 16, seed=seed)) > best
    for other in (x0, x.roll(1, -1), 0 * x):
        assert objective(0.98 * x + 0.02 * other) > best * (1 - 1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_without_a_weight_the_data_are_fitted(method):
    x0, mask, maps, measured = problem(level=0)
    x = method(x0, mask, maps, 0.0, 300)
    assert misfit(x, mask, maps, measured) < 1e-4 * misfit(0 * x, mask, maps, measured)


@pytest.mark.parametrize("method", METHODS)
def test_images_come_nearer_to_the_truth(method):
    _, maps, image = make_scan((48, 40), 8)
    image = image * (1 + (torch.arange(40) % 8 < 3) * (torch.arange(48) % 10 < 4)[:, None])
    mask = RandomMask(0.2, 2).set_random_state(0).draw((48, 40))[None, None]
    measured = sense_forward(image, mask, maps)
    measured = measured + 0.005 * random_kspace(*measured.shape) * mask
    x0 = sense_adjoint(measured, mask, maps)
    assert (method(x0, mask, maps) - image).norm() < 0.75 * (x0 - image).norm()


@pytest.mark.parametrize("method", METHODS)
def test_each_sample_of_a_batch_is_as_it_is_alone_whatever_the_form_of_the_mask(method):
    first, second = problem(level=0.1), problem(rate=1.5)
    batch = [torch.cat([a, b]) for a, b in zip(first[:3], second[:3], strict=True)]
    together = method(*batch, 0.01, 12)
    full = batch[1].expand(-1, -1, 32, -1)
    torch.testing.assert_close(method(batch[0], full, batch[2], 0.01, 12), together)
    for i, (x0, mask, maps, _) in enumerate((first, second)):
        torch.testing.assert_close(together[i : i + 1], method(x0, mask, maps, 0.01, 12), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(17, 13), (18, 20), (1, 16)])
def test_sizes_may_be_odd_and_slices_empty(method, size):
    x0 = random_kspace(2, 1, *size)
    x0[0] = 0
    mask = torch.ones(1, 1, 1, size[1], dtype=torch.bool)
    mask[..., ::3] = False
    x = method(x0, mask, None, 0.01, 5)
    assert x.shape == x0.shape
    assert bool(torch.isfinite(torch.view_as_real(x)).all())
    assert not x[0].any()
    assert not method(0 * x0, mask, torch.zeros(2, 3, *size, dtype=torch.complex64), 0.01, 5).any()
    assert_deterministic(lambda: method(x0, mask, None, 0.01, 5))


def test_axes_on_which_a_mask_is_constant_are_found():
    lines = torch.tensor([True, False, True]).reshape(1, 1, 1, 3)
    assert torch.equal(narrowed(lines.expand(2, 1, 4, 3)), lines.expand(2, 1, 1, 3))
    points = torch.eye(3, dtype=torch.bool)[None, None]
    assert torch.equal(narrowed(points), points)


@pytest.mark.parametrize(
    ("module", "method"),
    [(CGSense(0.02, 7), cg_sense), (L1Wavelet(0.02, 7), l1_wavelet), (TotalVariation(0.02, 7), total_variation)],
)
def test_modules_stand_where_a_network_stands(module, method):
    x0, mask, maps, _ = problem((33, 24))
    pred = PackedReconstructor(module)(pack_reconstruction(x0, mask, maps))
    torch.testing.assert_close(channels_to_complex(pred), method(x0, mask, maps, 0.02, 7), atol=1e-5, rtol=1e-4)
    assert list(module.parameters()) == []


def test_zero_filled_is_the_image_that_came_in():
    x0, mask, maps, _ = problem()
    image = pack_reconstruction(x0, mask, maps)
    assert torch.equal(PackedReconstructor(ZeroFilled())(image), image[:, :2])
    assert torch.equal(PackedReconstructor(ZeroFilled())(image[:, :3]), image[:, :2])


IMAGE = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
MASK = torch.ones(1, 1, 1, 8, dtype=torch.bool)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: f(IMAGE.real, MASK), "'zero_filled' must be complex"),
        (lambda f: f(IMAGE[0], MASK), "'zero_filled' must be complex"),
        (lambda f: f(IMAGE, MASK, None, -1.0), "'weight' must be at least 0"),
        (lambda f: f(IMAGE, MASK, None, 0.1, 0), "'n_iterations' must be at least 1"),
        (lambda f: f(IMAGE, MASK[..., :3]), "'mask' must be real and broadcast"),
        (lambda f: f(IMAGE, MASK, IMAGE[..., :3]), "'sens_maps' must be complex"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(method, call, words):
    with pytest.raises(ValueError, match=words):
        call(method)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: l1_wavelet(IMAGE, MASK, n_levels=0), "'n_levels' must be at least 1"),
        (lambda: l1_wavelet(IMAGE, MASK, order=12), "'order' must be 1 to 10"),
        (lambda: CGSense(-1), "CGSense: 'weight' must be at least 0"),
        (lambda: TotalVariation(n_iterations=0), "TotalVariation: 'n_iterations' must be at least 1"),
        (lambda: L1Wavelet(float("nan")), "L1Wavelet: 'weight' must be at least 0"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.real
@pytest.mark.parametrize("read", [read_eight_coils, read_sixteen_coils])
def test_raw_data_gets_the_images_of_sigpy(read, real_data):
    sigpy = pytest.importorskip("sigpy", reason="needs the extra 'peers'")
    from sigpy.mri import app, linop

    from medkit.mri.classical.sparsity import shrunk

    kspace = read(real_data)
    # The middle of k-space, an image of lower resolution, keeps the peer's time short.
    kspace = kspace[..., 83:-83, 58:-58] if read is read_eight_coils else kspace[..., 24:-24, 24:-24]
    mask = RandomMask(0.2, 2.5).set_random_state(0).draw(tuple(kspace.shape[-2:]))[None, None]
    maps = estimate_sens_maps(kspace * mask, mask)
    measured = kspace * mask / sense_adjoint(kspace * mask, mask, maps).abs().quantile(0.995)
    x0 = sense_adjoint(measured, mask, maps)
    weights = np.broadcast_to(mask.numpy()[0], measured.shape[1:]).astype(np.float32)
    given = {"weights": weights, "show_pbar": False, "max_iter": 20}

    class Shrinkage(sigpy.prox.Prox):
        def _prox(self, alpha, x):
            return shrunk(torch.from_numpy(x)[None, None], torch.tensor(0.002 * alpha), 4, 1)[0, 0].numpy()

    y, s = measured[0].numpy(), maps[0].numpy()
    operator = linop.Sense(s, weights=weights)
    step = 1 / (float(maps.abs().square().sum(1).max()) + 8)
    theirs = {
        "cg": app.SenseRecon(y, s, lamda=0.01, **given).run(),
        "tv": app.TotalVariationRecon(y, s, lamda=0.002, tau=step, sigma=1, **given).run(),
        "l1": sigpy.app.LinearLeastSquares(
            operator, y, proxg=Shrinkage(x0.shape[2:]), alpha=1, max_iter=20, show_pbar=False
        ).run(),
    }
    ours = {
        "cg": cg_sense(x0, mask, maps, 0.01, 20),
        "tv": total_variation(x0, mask, maps, 0.002, 20),
        "l1": l1_wavelet(x0, mask, maps, 0.002, 20, n_levels=1),
    }
    penalties = {
        "cg": lambda x: 0.005 * float(x.norm() ** 2),
        "tv": lambda x: 0.002 * variation(x),
        "l1": lambda x: 0.002 * float(coefficients(x, 1).abs().sum()),
    }
    for name, penalty in penalties.items():
        values = [
            misfit(x, mask, maps, measured) + penalty(x)
            for x in (ours[name], torch.from_numpy(theirs[name])[None, None])
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-4), name
