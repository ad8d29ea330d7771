"""Random noise: replayed by a seed, recorded, the same at another level, MONAI's own numbers, errors."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianNoise, RandRicianNoise

from medkit.denoise import (
    AppendNoiseMapd,
    RandCountNoise,
    RandDoseNoise,
    RandMagnitudeNoise,
    RandNoised,
    RandWhiteNoise,
    SameNoised,
)
from tests.denoise.small_denoisers import image

NOISES = {
    "sigma": lambda: RandWhiteNoise((0.05, 0.3)),
    "chi": lambda: RandMagnitudeNoise((0.05, 0.3), n_coils=3),
    "peak": lambda: RandCountNoise((5.0, 500.0)),
    "dose": lambda: RandDoseNoise((0.1, 1.0), n_views=8),
}


@pytest.mark.parametrize("name", NOISES)
def test_a_seed_replays_and_the_input_stays(name):
    x = image(1, 12, 10)
    kept = x.clone()
    first, second = (NOISES[name]().set_random_state(3) for _ in range(2))
    a, b = [first(x) for _ in range(2)], [second(x) for _ in range(2)]
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], a[1])
    assert torch.equal(x, kept)
    assert torch.equal(first(x, randomize=False), a[1])


@pytest.mark.parametrize("name", NOISES)
def test_level_and_field_are_recorded_and_make_the_noise_again(name):
    noise = NOISES[name]()
    key = {"chi": "sigma"}.get(name, name)
    transform = Compose([RandNoised(noise), SameNoised(noise, ratio=1.0)]).set_random_state(0)
    x = image(1, 12, 10)
    out = transform({"image": x, "label": x})
    assert set(out) == {"image", "label", key, "unit_noise", "quieter"}
    assert noise.range[0] <= float(out[key]) <= noise.range[1]
    assert torch.equal(out["quieter"], out["image"])
    assert torch.equal(out["label"], x)
    assert tuple(out["unit_noise"].shape) == noise.field_shape(x)


@pytest.mark.parametrize("name", NOISES)
def test_volumes_and_metadata_pass(name):
    x = MetaTensor(image(1, 6, 5, 3), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    noisy = NOISES[name]()(x)
    assert noisy.shape == x.shape
    assert torch.equal(noisy.affine, x.affine)
    assert NOISES[name]()(x.numpy()).shape == x.shape


def test_the_quieter_image_has_the_same_noise_with_its_own_sigma():
    noise = RandWhiteNoise(50 / 255)
    out = Compose([RandNoised(noise), SameNoised(noise, level=25 / 255)])(
        {"image": image(1, 200, 200), "label": image(1, 200, 200)}
    )
    n, quiet = out["image"] - out["label"], out["quieter"] - out["label"]
    assert torch.allclose(quiet, n / 2, atol=1e-6)
    half = SameNoised(noise, ratio=0.5)(out)["quieter"]
    assert torch.allclose(half, out["quieter"], atol=1e-6)
    assert float(quiet.std()) * 255 == pytest.approx(25, rel=0.01)


def test_levels_are_fixed_or_spread_over_their_range():
    assert RandWhiteNoise().range == (25 / 255, 25 / 255)
    x = torch.ones(1, 2, 2)
    white, counts = RandWhiteNoise((0.1, 0.3)).set_random_state(0), RandCountNoise((1, 100)).set_random_state(0)
    levels = []
    for _ in range(400):
        white(x), counts(x)
        levels.append((white.level, math.log10(counts.level)))
    mean = np.mean(levels, 0)
    assert mean == pytest.approx([0.2, 1.0], abs=0.1)
    assert np.min(levels, 0) == pytest.approx([0.1, 0.0], abs=0.03)
    assert np.max(levels, 0) == pytest.approx([0.3, 2.0], abs=0.03)


def test_without_noise_the_image_stays_and_the_level_says_so():
    x = image(1, 4, 4)
    for noise, key, none in ((RandWhiteNoise(0.1, prob=0), "sigma", 0), (RandCountNoise(5, prob=0), "peak", math.inf)):
        out = Compose([RandNoised(noise), SameNoised(noise, ratio=0.5)])({"image": x, "label": x})
        assert torch.equal(out["image"], x)
        assert torch.equal(out["quieter"], x)
        assert float(out[key]) == none
    drawn = RandWhiteNoise(0.1, prob=0.3).set_random_state(0)
    changed = sum(bool((drawn(x) != x).any()) for _ in range(300))
    assert 60 < changed < 120


def test_fixed_levels_are_monais_noise_from_the_same_seed():
    x = image(1, 9, 7)
    theirs = RandGaussianNoise(prob=1, std=0.2, sample_std=False).set_random_state(5)(x)
    assert torch.allclose(RandWhiteNoise(0.2).set_random_state(5)(x), theirs.as_tensor(), atol=1e-6)
    theirs = RandRicianNoise(prob=1, std=0.2, sample_std=False).set_random_state(5)(x)
    assert torch.allclose(RandMagnitudeNoise(0.2).set_random_state(5)(x), theirs.as_tensor(), atol=1e-6)


def test_several_images_get_the_same_noise():
    x = image(1, 8, 8)
    out = RandNoised(RandWhiteNoise(0.2), keys=("image", "other"))({"image": x, "other": x + 1})
    assert torch.allclose(out["other"] - 1, out["image"], atol=1e-6)


def test_noise_maps_are_the_last_channel():
    out = Compose([RandNoised(RandWhiteNoise((0.1, 0.3))), AppendNoiseMapd()])({"image": image(2, 4, 5)})
    assert out["image"].shape == (3, 4, 5)
    assert torch.equal(out["image"][2], out["sigma"].expand(4, 5))
    assert torch.equal(AppendNoiseMapd(sigma=0.5)({"image": image(1, 4)})["image"][1], torch.full((4,), 0.5))
    level = image(1, 4, 5)
    assert torch.equal(AppendNoiseMapd()({"image": image(2, 4, 5), "sigma": level})["image"][2:], level)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RandWhiteNoise(-0.1), "RandWhiteNoise: the level must be at least 0"),
        (lambda: RandWhiteNoise((0.2, 0.1)), "a pair"),
        (lambda: RandWhiteNoise((0.1, 0.2, 0.3)), "a pair"),
        (lambda: RandWhiteNoise(math.inf), "the level must be"),
        (lambda: RandWhiteNoise(noise_mode="uint16"), "'noise_mode' must be one of"),
        (lambda: RandCountNoise(0), "the level must be positive"),
        (lambda: RandMagnitudeNoise(n_coils=0), "'n_coils' must be at least 1, got 0"),
        (lambda: RandDoseNoise(2.0, measured=True), "'dose' must be at most 1"),
        (lambda: RandDoseNoise(n_views=0), "'n_views' must be at least 1"),
        (lambda: RandDoseNoise()(torch.ones(2, 4, 4)), r"must be \(1, H, W\) or \(1, H, W, S\), got \(2, 4, 4\)"),
        (lambda: SameNoised(RandWhiteNoise()), "give one positive 'level' or 'ratio', got None and None"),
        (lambda: SameNoised(RandWhiteNoise(), level=0.1, ratio=2), "give one positive"),
        (lambda: SameNoised(RandWhiteNoise(), ratio=0.5)({"label": torch.ones(1, 4)}), "the sample must have 'sigma'"),
        (lambda: SameNoised(RandWhiteNoise(), ratio=0.5, keys=("a", "b")), "'keys' must be one key"),
        (lambda: AppendNoiseMapd()({"image": torch.ones(1, 4)}), "the sample must have 'sigma'"),
        (lambda: AppendNoiseMapd(sigma=-1), "'sigma' must be at least 0"),
        (lambda: AppendNoiseMapd()({"image": torch.ones(1, 4), "sigma": torch.ones(1, 3)}), "must be a number or"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
