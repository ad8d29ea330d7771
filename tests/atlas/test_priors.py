"""Priors: what they predict becomes a velocity, and whatever is wrong with it becomes no answer."""

import logging

import pytest
import torch
import torch.nn.functional as F

from medkit.atlas import (
    IdentityPrior,
    PriorSpec,
    SobolevMetric,
    make_prior,
    predict_velocity,
    register_prior,
)
from medkit.ops import exponential, resize_field
from tests.atlas.phantom import velocities
from tests.laws import random_like

SIZE, HALF = (24, 20), (12, 10)
METRIC = SobolevMetric(HALF, 2.0)
TEMPLATE, SUBJECT = torch.rand(1, 1, *SIZE), torch.rand(1, 1, *SIZE)


class Fixed:
    """Says what it was told to, whatever it is shown; remembers the sizes it saw."""

    def __init__(self, answer, spec: PriorSpec | None = None):
        self.spec = spec or PriorSpec("svf", 2, divisor=1, antisymmetric=False)
        self.answer, self.seen = answer, []

    def predict(self, template, subjects, *, spacing=None, attributes=None):
        self.seen.append(tuple(subjects.shape))
        return self.answer(template, subjects) if callable(self.answer) else self.answer


def ask(answer, spec: PriorSpec | None = None):
    return predict_velocity(Fixed(answer, spec), TEMPLATE, SUBJECT, METRIC)


def test_the_identity_moves_nothing() -> None:
    assert torch.equal(predict_velocity(IdentityPrior(2), TEMPLATE, SUBJECT, METRIC), torch.zeros(1, 2, *HALF))


def test_a_velocity_comes_to_the_grid_of_velocities_in_its_units() -> None:
    v = velocities(SIZE, 2, 1.0, 5.0, 0)[:1]
    torch.testing.assert_close(ask(v), resize_field(v, HALF, corners=False))
    assert ask(torch.full((1, 2, *SIZE), 2.0)).unique().tolist() == [1.0]


def test_a_displacement_becomes_its_logarithm() -> None:
    v = velocities(SIZE, 2, 1.0, 5.0, 0)[:1]
    spec = PriorSpec("ddf", 2, divisor=1)
    got = ask(exponential(v), spec)
    assert (got - resize_field(v, HALF, corners=False)).abs().max() < 0.2


def test_a_momentum_is_smoothed_by_the_metric() -> None:
    m = random_like(torch.empty(1, 2, *HALF))
    fine = m.repeat_interleave(2, 2).repeat_interleave(2, 3)
    got = ask(fine, PriorSpec("momentum", 2, divisor=1, antisymmetric=False))
    torch.testing.assert_close(got, METRIC.velocity(resize_field(fine, HALF, corners=False)), rtol=1e-4, atol=1e-6)


def test_both_directions_are_combined() -> None:
    def asymmetric(template, subjects):
        return (subjects - 0.3 * template).expand(-1, 2, -1, -1) + 0.1

    spec = PriorSpec("svf", 2, divisor=1)
    prior = Fixed(asymmetric, spec)
    there = predict_velocity(prior, TEMPLATE, SUBJECT, METRIC)
    back = predict_velocity(prior, SUBJECT, TEMPLATE, METRIC)
    torch.testing.assert_close(there, -back)
    assert torch.equal(predict_velocity(prior, TEMPLATE, TEMPLATE, METRIC), torch.zeros(1, 2, *HALF))


def test_images_are_padded_to_the_divisor_and_results_cropped() -> None:
    def where(template, subjects):
        rows = torch.arange(float(subjects.shape[2])).reshape(1, 1, -1, 1) / 8
        return torch.cat([rows.expand(1, 1, *subjects.shape[2:]), torch.zeros_like(subjects)], 1)

    prior = Fixed(where, PriorSpec("svf", 2, divisor=16, antisymmetric=False))
    got = predict_velocity(prior, TEMPLATE, SUBJECT, SobolevMetric(SIZE))
    assert prior.seen == [(1, 1, 32, 32)]
    assert got[0, 0, :, 0].tolist() == [(4 + i) / 8 for i in range(24)]


def test_a_fixed_size_is_resampled_with_its_units() -> None:
    prior = Fixed(torch.ones(1, 2, 47, 39), PriorSpec("svf", 2, native_shape=(47, 39), antisymmetric=False))
    got = predict_velocity(prior, TEMPLATE, SUBJECT, SobolevMetric(SIZE))
    assert prior.seen == [(1, 1, 47, 39)]
    torch.testing.assert_close(got, torch.full((1, 2, *SIZE), 0.5))


def test_what_is_shown_is_cut_to_the_trained_shape_around_the_object() -> None:
    spec = PriorSpec("svf", 2, divisor=4, trained_shape=(16, 12), antisymmetric=False)
    bright = torch.zeros(1, 1, *SIZE)
    bright[:, :, 3:12, 10:20] = torch.rand(9, 10) + 0.5

    def answer(template, subjects):
        return torch.cat([subjects, 2 * subjects], 1)

    prior = Fixed(answer, spec)
    got = predict_velocity(prior, bright, bright, SobolevMetric(SIZE))
    assert prior.seen == [(1, 1, 16, 12)]
    # Where the object is, each voxel comes back to its place; what was not shown goes on as its border.
    torch.testing.assert_close(got, torch.cat([bright, 2 * bright], 1))


@pytest.mark.parametrize("pads", [[8, 8, 8, 8], [3, 0, 0, 9], [1, 2, 3, 4]])
def test_background_around_images_changes_nothing_of_what_is_shown(pads: list[int]) -> None:
    bright = torch.zeros(1, 1, *SIZE)
    bright[:, :, 5:15, 6:12] = torch.rand(10, 6) + 0.5
    shown = []

    def answer(template, subjects):
        shown.append(subjects)
        return torch.cat([subjects, subjects], 1)

    spec = PriorSpec("svf", 2, divisor=4, trained_shape=(12, 12), antisymmetric=False)
    for images in (bright, F.pad(bright, pads)):
        predict_velocity(Fixed(answer, spec), images, images, SobolevMetric(images.shape[2:]))
    assert torch.equal(*shown)


def test_what_is_larger_than_the_trained_shape_is_shown_whole() -> None:
    prior = Fixed(lambda t, s: torch.cat([s, s], 1), PriorSpec("svf", 2, divisor=4, trained_shape=(8, 8)))
    predict_velocity(prior, TEMPLATE, SUBJECT, METRIC)
    assert set(prior.seen) == {(1, 1, 24, 20)}
    predict_velocity(prior, 0 * TEMPLATE, 0 * SUBJECT, METRIC)
    assert set(prior.seen) == {(1, 1, 24, 20)}


@pytest.mark.parametrize("spacing", [0.5, 2.0, 3.2])
def test_a_prior_that_knows_one_spacing_is_shown_it(spacing) -> None:
    """A motion of one voxel there is as many millimetres here, whatever the grid."""
    spec = PriorSpec("svf", 2, divisor=4, native_spacing=2.0, antisymmetric=False)
    prior = Fixed(lambda template, subjects: torch.ones(1, 2, *subjects.shape[2:]), spec)
    got = predict_velocity(prior, TEMPLATE, SUBJECT, SobolevMetric(SIZE, [spacing] * 2))
    fitting = [round(n * spacing / 2.0) for n in SIZE]
    assert prior.seen == [(1, 1, *(n + -n % 4 for n in fitting))]
    for k, (n, m) in enumerate(zip(SIZE, fitting, strict=True)):
        torch.testing.assert_close(got[:, k], torch.full((1, *SIZE), n / m))


def test_inputs_are_not_changed_even_if_the_prior_would() -> None:
    def vandal(template, subjects):
        subjects.zero_()
        return torch.zeros(1, 2, *subjects.shape[2:])

    template, subject = TEMPLATE.clone(), SUBJECT.clone()
    predict_velocity(Fixed(vandal, PriorSpec("svf", 2, divisor=1)), template, subject, METRIC)
    assert torch.equal(template, TEMPLATE)
    assert torch.equal(subject, SUBJECT)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.full((1, 2, *SIZE), torch.nan), "moves points by up to nan"),
        (torch.full((1, 2, *SIZE), 1e6), "moves points by up to"),
        (torch.zeros(1, 3, *SIZE), "instead of"),
        (None, "gave NoneType"),
        (lambda template, subjects: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_nonsense_is_no_answer_and_is_logged(answer, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert ask(answer) is None
    assert said in caplog.text


def test_priors_have_names_and_users_bring_theirs() -> None:
    assert make_prior("identity", spatial_dims=2).spec.spatial_dims == 2
    assert isinstance(make_prior("medkit.atlas:IdentityPrior"), IdentityPrior)
    register_prior("test_still", IdentityPrior)
    register_prior("test_still", IdentityPrior)
    with pytest.raises(ValueError, match="is taken"):
        register_prior("identity", Fixed)
    with pytest.raises(ValueError, match="must be an identifier"):
        register_prior("a b", Fixed)
    with pytest.raises(ValueError, match="must be one of"):
        make_prior("voxelmorf")
    with pytest.raises(ValueError, match="cannot find"):
        make_prior("medkit.atlas:NoSuchThing")
    with pytest.raises(ValueError, match="must make an object with 'spec' and 'predict'"):
        make_prior("builtins:dict")
    with pytest.raises(ValueError, match="'kind' must be one of"):
        PriorSpec("flow", 3)
    with pytest.raises(ValueError, match="'native_shape' must have 3"):
        PriorSpec("svf", 3, native_shape=(4, 4))
    for shape in ((8,), (8, 6), (8, 0)):
        with pytest.raises(ValueError, match="'trained_shape' must have 2 sizes"):
            PriorSpec("svf", 2, divisor=4, trained_shape=shape)
    with pytest.raises(ValueError, match="'native_spacing' must be positive"):
        PriorSpec("svf", 3, native_spacing=0.0)
    with pytest.raises(ValueError, match="not both"):
        PriorSpec("svf", 2, native_shape=(4, 4), native_spacing=1.0)
