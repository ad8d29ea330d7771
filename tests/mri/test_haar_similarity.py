"""HaarPSI: the numbers of the library piq, and the laws of a similarity."""

import itertools
import math

import numpy as np
import pytest
import torch

from medkit.mri import VolumeHaarPSI, haarpsi


def volumes(shape=(2, 33, 47), noise=0.1):
    """Slices of different brightness from 0 to 1, and a noisy copy within that range."""
    random = np.random.RandomState(0)
    row, column = np.meshgrid(np.linspace(-1, 1, shape[1]), np.linspace(-1, 1, shape[2]), indexing="ij")
    reference = np.linspace(0.5, 1, shape[0])[:, None, None] * (np.cos(9 * row * column) + 1) / 2
    return np.clip(reference + noise * random.standard_normal(shape), 0, 1), reference


# Recorded from piq 0.8.0 in double precision, with data_range=1.
RECORDED = {
    ((2, 33, 47), 0.02): 0.9749286085364326,
    ((2, 33, 47), 0.3): 0.5080419281978317,
    ((3, 64, 40), 0.1): 0.7439955812698283,
    ((1, 16, 17), 0.1): 0.7607326863668954,
}


@pytest.mark.parametrize(("case", "expected"), RECORDED.items())
def test_values_are_those_recorded_from_piq(case, expected):
    assert haarpsi(*volumes(*case), data_range=1) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("case", RECORDED)
def test_values_are_those_of_piq(case):
    try:
        import piq
    except (ImportError, RuntimeError) as error:  # RuntimeError: its torchvision is of another torch
        pytest.skip(f"needs the extra 'peers' ({error})")
    prediction, reference = volumes(*case)
    theirs = piq.haarpsi(torch.from_numpy(prediction)[:, None], torch.from_numpy(reference)[:, None], data_range=1.0)
    assert haarpsi(prediction, reference, data_range=1) == pytest.approx(theirs.item(), abs=1e-12)


def test_1_is_equal_and_noise_lowers_it():
    _, reference = volumes()
    assert haarpsi(reference, reference) == pytest.approx(1, abs=1e-12)
    values = [haarpsi(*volumes(noise=noise)) for noise in (0, 0.01, 0.05, 0.2, 1)]
    assert all(0 < after < before <= 1 + 1e-12 for before, after in itertools.pairwise(values))


def test_both_may_change_places_where_the_data_range_is_given():
    x, y = volumes()
    assert haarpsi(x, y, 2) == pytest.approx(haarpsi(y, x, 2), abs=1e-12)
    assert haarpsi(0.5 * x, y) != pytest.approx(haarpsi(y, 0.5 * x), abs=1e-3)


def test_the_data_range_is_the_unit():
    x, y = volumes()
    assert haarpsi(x, y) == haarpsi(x, y, y.max())
    for scale in (1e-7, 1e5):
        assert haarpsi(scale * x, scale * y) == pytest.approx(haarpsi(x, y), abs=1e-12)
        assert haarpsi(scale * x, scale * y, 3 * scale) == pytest.approx(haarpsi(x, y, 3), abs=1e-12)
    # Against a larger range the same difference is fainter.
    assert haarpsi(x, y, 10) > haarpsi(x, y, 1) + 0.05


def test_a_volume_is_the_mean_of_its_slices_in_one_range():
    x, y = volumes((3, 20, 24))
    slices = [haarpsi(a, b, y.max()) for a, b in zip(x, y, strict=True)]
    assert haarpsi(x, y) == pytest.approx(np.mean(slices), abs=1e-12)
    assert haarpsi(x, y) != pytest.approx(np.mean([haarpsi(a, b) for a, b in zip(x, y, strict=True)]), abs=1e-4)


def test_both_directions_count_alike():
    x, y = volumes((2, 32, 48))
    assert haarpsi(x.swapaxes(1, 2), y.swapaxes(1, 2)) == pytest.approx(haarpsi(x, y), abs=1e-12)


def test_empty_slices_and_volumes():
    x, y = volumes()
    nothing = np.zeros_like(y[:1])
    whole = haarpsi(np.concatenate([x, nothing]), np.concatenate([y, nothing]))
    assert whole == pytest.approx((2 * haarpsi(x, y) + 1) / 3, abs=1e-12)
    assert math.isnan(haarpsi(x, 0 * y))
    assert 0 <= haarpsi(0 * x, y) < 0.5


def test_the_class_compares_magnitudes_of_channels():
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randn(2, n, 18, 20, 3, generator=generator) for n in (2, 4))
    metric = VolumeHaarPSI()
    values = metric(pred, target)
    for i in range(2):
        p, r = (torch.hypot(x[i, 0], x[i, 1]).movedim(-1, 0) for x in (pred, target))
        assert values[i].item() == pytest.approx(haarpsi(p, r), rel=1e-5)
    assert metric.aggregate().item() == pytest.approx(values.mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: haarpsi(x, x[:1]), "haarpsi: .* of one shape"),
        (lambda x: haarpsi(x[:, 1:], x[:, 1:]), "haarpsi: slices must be at least 16 x 16"),
        (lambda x: haarpsi(x * 1j, x), "haarpsi: .* must be magnitudes"),
        (lambda x: haarpsi(x, x, data_range=0), "haarpsi: 'data_range' must be positive"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.ones((2, 16, 16)))
