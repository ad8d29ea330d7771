"""Paired bootstrap: closed forms, coverage, subjects that count once, and errors."""

import numpy as np
import pytest

from medkit.mri import PairedDifference, paired_bootstrap


def methods(n=20, gain=2.0, seed=0):
    random = np.random.default_rng(seed)
    b = random.normal(30, 3, n)
    return b + random.normal(gain, 1, n), b


def test_the_interval_holds_the_mean_and_is_as_wide_as_the_normal_one():
    a, b = methods(200)
    mean, low, high, n = result = paired_bootstrap(a, b)
    assert isinstance(result, PairedDifference)
    assert (mean, n) == (pytest.approx((a - b).mean()), 200)
    width = 2 * 1.96 * (a - b).std(ddof=1) / np.sqrt(200)
    assert high - low == pytest.approx(width, rel=0.05)
    assert (low + high) / 2 == pytest.approx(mean, abs=0.05 * width)


def test_pairs_count_and_not_the_spread_between_subjects():
    a, b = methods()
    spread = 100 * np.arange(20)
    assert paired_bootstrap(a + spread, b + spread) == pytest.approx(paired_bootstrap(a, b))


def test_order_of_the_methods_and_unit():
    a, b = methods()
    one, other, ten = paired_bootstrap(a, b), paired_bootstrap(b, a), paired_bootstrap(10 * a, 10 * b)
    assert other.mean == pytest.approx(-one.mean)
    assert (other.low, other.high) == (pytest.approx(-one.high, rel=0.05), pytest.approx(-one.low, rel=0.05))
    assert (ten.mean, ten.low, ten.high) == pytest.approx((10 * one.mean, 10 * one.low, 10 * one.high))


def test_seed_and_confidence():
    a, b = methods()
    first = paired_bootstrap(a, b, seed=1)
    assert paired_bootstrap(a, b, seed=1) == first
    assert paired_bootstrap(a, b, seed=2) != first
    sure = paired_bootstrap(a, b, confidence=0.99)
    assert sure.low < first.low < first.high < sure.high


def test_the_interval_is_bias_corrected():
    b = np.zeros(15)
    a = np.random.default_rng(0).exponential(1, 15) ** 2
    random = np.random.default_rng(0)
    means = random.choice(a, (20_000, 15)).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    skewed = paired_bootstrap(a, b)
    assert skewed.low > low + 0.01 * (high - low)
    assert skewed.high > high + 0.03 * (high - low)


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    held = 0
    for seed in range(100):
        a, b = methods(12, seed=seed)
        one = paired_bootstrap(a, b, n_resamples=300)
        held += one.low <= 2 <= one.high
    assert 80 <= held <= 99


def test_differences_that_are_equal_have_an_interval_of_no_width():
    b = np.arange(6.0)
    assert paired_bootstrap(b + 0.5, b) == (0.5, 0.5, 0.5, 6)


def test_cases_of_one_subject_are_averaged_first():
    a, b = methods(8)
    whose = np.repeat(list("stuvwxyz"), 3)
    wobble = np.tile([-0.3, 0.0, 0.3], 8)
    repeated = paired_bootstrap(np.repeat(a, 3) + wobble, np.repeat(b, 3), subjects=list(whose))
    assert repeated == pytest.approx(paired_bootstrap(a, b), rel=1e-9)
    as_if_independent = paired_bootstrap(np.repeat(a, 3) + wobble, np.repeat(b, 3))
    assert as_if_independent.n == 24
    assert as_if_independent.high - as_if_independent.low < 0.8 * (repeated.high - repeated.low)
    # A subject with more cases than others weighs no more.
    heavy = paired_bootstrap([*a, a[0], a[0]], [*b, b[0], b[0]], subjects=[*range(8), 0, 0])
    assert heavy == pytest.approx(paired_bootstrap(a, b))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"a": np.ones(4), "b": np.ones(4)}, "at least 5 subjects, got 4"),
        ({"subjects": [0, 1, 2, 3, 3, 3]}, "at least 5 subjects, got 4"),
        ({"b": np.ones(5)}, r"one entry for each case, got shapes \(6,\) and \(5,\)$"),
        ({"subjects": range(5)}, r"one entry for each case.*and 5 subjects"),
        ({"a": np.ones((6, 1)), "b": np.ones((6, 1))}, "one entry for each case"),
        ({"a": [np.nan] * 6}, "must be finite"),
        ({"b": [1, 2, 3, 4, 5, np.inf]}, "must be finite"),
        ({"confidence": 95}, "'confidence' between 0 and 1, got 10000 and 95"),
        ({"n_resamples": 0}, "'n_resamples' must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(options, words):
    with pytest.raises(ValueError, match=f"paired_bootstrap: .*{words}"):
        paired_bootstrap(**{"a": np.ones(6), "b": np.zeros(6), **options})
