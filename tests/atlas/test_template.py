"""The template for known transformations: optimality, monotone steps, symmetry in the subjects, masks, recovery."""

import itertools

import pytest
import torch

from medkit.atlas import TemplateSums, data_term
from medkit.ops import exponential, identity_points
from tests.atlas.phantom import cohort, correlation, intensity
from tests.laws import random_like

SIZE = (24, 22, 20)


@pytest.fixture(scope="module")
def made() -> tuple[torch.Tensor, ...]:
    truth, subjects, v = cohort(SIZE, n=4, amplitude=1.5, width=4.0, noise=0.0)
    return truth, subjects, exponential(v), exponential(v, inverse=True)


def total(template: torch.Tensor, subjects: torch.Tensor, inverse: torch.Tensor, weight=None) -> float:
    return float(data_term(template, subjects, inverse, weight).double().sum())


def pulled(subjects: torch.Tensor, there: torch.Tensor, weight=None, **options) -> torch.Tensor:
    sums = TemplateSums.zeros(subjects)
    sums.add_pulled(subjects, there, weight, **options)
    return sums.template()


def stepped(template: torch.Tensor, subjects: torch.Tensor, inverse: torch.Tensor, weight=None) -> torch.Tensor:
    sums = TemplateSums.zeros(template)
    sums.add_residual(template, subjects, inverse, weight)
    return sums.majorised(template)


def test_identical_images_make_that_image() -> None:
    image = intensity(identity_points(SIZE), SIZE)
    none = torch.zeros(4, 3, *SIZE)
    many = image.expand(4, -1, -1, -1, -1)
    template = pulled(many, none)
    assert (template - image).abs().max() < 1e-6
    assert (stepped(template, many, none) - image).abs().max() < 1e-6


def test_majorised_steps_never_raise_the_data_term_and_sharpen(made) -> None:
    truth, subjects, there, back = made
    template = pulled(subjects, there)
    values, errors = [total(template, subjects, back)], [float((template - truth).norm())]
    for _ in range(8):
        template = stepped(template, subjects, back)
        values.append(total(template, subjects, back))
        errors.append(float((template - truth).norm()))
    assert all(after < before for before, after in itertools.pairwise(values))
    assert values[3] < 0.6 * values[0]
    assert errors[3] < 0.9 * errors[0]


def test_the_pulled_template_is_nearer_to_the_truth_than_the_mean_and_than_form_b(made) -> None:
    truth, subjects, there, back = made
    mean = subjects.mean(0, keepdim=True)
    a, b = pulled(subjects, there), pulled(subjects, there, form="template")
    assert correlation(a, truth) > correlation(mean, truth)
    assert total(a, subjects, back) < total(b, subjects, back) < total(mean, subjects, back)


def test_after_many_steps_no_change_lowers_the_data_term_much() -> None:
    _, subjects, v = cohort((16, 14), n=3, amplitude=1.0, width=4.0, noise=0.0)
    there, back = exponential(v), exponential(v, inverse=True)
    template = pulled(subjects, there)
    for _ in range(200):
        template = stepped(template, subjects, back)
    reached = total(template, subjects, back)
    last_gain = reached - total(stepped(template, subjects, back), subjects, back)
    for seed in range(5):
        direction = random_like(template, seed)
        direction = 1e-4 * direction / direction.norm()
        assert total(template + direction, subjects, back) > reached - max(10 * last_gain, 1e-6 * reached)


def test_order_repetition_and_grouping_of_subjects_do_not_matter(made) -> None:
    _, subjects, there, _ = made
    once = pulled(subjects, there)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(pulled(subjects[order], there[order]), once, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        pulled(subjects.repeat(2, 1, 1, 1, 1), there.repeat(2, 1, 1, 1, 1)), once, rtol=0, atol=1e-6
    )
    sums = TemplateSums.zeros(subjects)
    for i in range(4):
        sums.add_pulled(subjects[i : i + 1], there[i : i + 1])
    assert torch.equal(sums.template(), once)


def test_other_units_of_intensity_give_the_same_template_in_those_units(made) -> None:
    _, subjects, there, back = made
    template = stepped(pulled(subjects, there), subjects, back)
    other = 0.5 * subjects + 0.2
    torch.testing.assert_close(stepped(pulled(other, there), other, back), 0.5 * template + 0.2, rtol=0, atol=1e-6)


def test_what_is_masked_out_does_not_reach_the_template(made) -> None:
    _, subjects, there, back = made
    weight = torch.ones(4, 1, *SIZE)
    weight[0, :, 5:16, 4:18, 3:15] = 0
    wrong = subjects.clone()
    wrong[0] += 3 * (weight[0] == 0)
    near = torch.nn.functional.max_pool3d(1 - weight, 3, 1, 1)  # interpolation reaches a voxel further
    weight = 1 - near
    results = []
    for images in (subjects, wrong):
        template = pulled(weight * images, there, weight)
        results.append(stepped(template, images, back, weight))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


def test_where_nobody_was_seen_the_previous_template_stays(made) -> None:
    _, subjects, there, back = made
    weight = torch.zeros(4, 1, *SIZE)
    sums = TemplateSums.zeros(subjects)
    sums.add_pulled(subjects, there, weight)
    previous = random_like(subjects[:1])
    torch.testing.assert_close(sums.template(previous), previous)
    torch.testing.assert_close(stepped(previous, subjects, back, weight), previous)


def test_the_data_term_counts_half_squares_over_the_variance_by_volume() -> None:
    template, subject = torch.zeros(1, 1, 4, 5), torch.full((2, 1, 4, 5), 0.3)
    still = torch.zeros(2, 2, 4, 5)
    expected = 0.5 * 0.09 / 0.01 * 20 * 8
    for form in ("subject", "template"):
        got = data_term(template, subject, still, sigma=0.1, voxel_volume=8.0, form=form)
        torch.testing.assert_close(got, torch.full((2,), expected), rtol=1e-5, atol=0)
    half = torch.zeros(2, 1, 4, 5)
    half[..., :2, :] = 1
    torch.testing.assert_close(data_term(template, subject, still, half, 0.1), torch.full((2,), expected / 16))


def test_wrong_input_is_refused_in_a_sentence() -> None:
    image, still = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="on one grid"):
        data_term(image, torch.zeros(1, 1, 5, 4), still)
    with pytest.raises(ValueError, match="'sigma' and 'voxel_volume' must be positive"):
        data_term(image, image, still, sigma=0.0)
    with pytest.raises(ValueError, match="'form' must be"):
        data_term(image, image, still, form="atlas")
    with pytest.raises(ValueError, match="'weight' must be"):
        data_term(image, image, still, torch.ones(1, 1, 5, 4))
