"""The residual of data consistency: nothing where the samples are kept, all where nothing is left of them."""

import math

import pytest
import torch

from medkit.mri import (
    CoilCombined,
    DataConsistencyResiduald,
    RandomMask,
    ScaleByPercentiled,
    SensitivityMapsd,
    Undersampled,
    complex_to_channels,
    conjugate_gradient_data_consistency,
    hard_data_consistency,
    sense_forward,
)
from medkit.mri.transforms.layout import slices_first, slices_last
from tests.mri.small_exams import magnitude, random_kspace

SIZE = (20, 24)


def exam(n_coils=1, n_slices=None):
    """An exam that was measured with 2-fold under-sampling, with its scale and zero-filled image."""
    image = magnitude(SIZE, n_slices).to(torch.complex64) * torch.exp(torch.tensor(0.7j))
    slices = slices_first(image)
    maps = None
    if n_coils > 1:
        maps = random_kspace(1, n_coils, *SIZE)
        maps = (maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)).expand(len(slices), -1, -1, -1)
    sample = {"kspace": slices_last(sense_forward(slices, None, maps), image.ndim == 4), "image": image}
    if maps is not None:
        sample["sens_maps"] = slices_last(maps, image.ndim == 4)
    for transform in (Undersampled("kspace", RandomMask([0.2], [2])), SensitivityMapsd("auto"), CoilCombined(),
                      ScaleByPercentiled()):  # fmt: skip
        sample = transform(sample)
    return sample


def residual(sample, image, **changes):
    """The residual of a complex image, packed as a network gives it."""
    pred = complex_to_channels(image / sample["scale"], 0)
    return DataConsistencyResiduald()({**sample, "pred": pred, **changes})["residual"]


@pytest.mark.parametrize("n_slices", [None, 3])
@pytest.mark.parametrize("n_coils", [1, 4])
def test_the_true_image_explains_all_samples_and_an_empty_one_none(n_coils, n_slices):
    sample = exam(n_coils, n_slices)
    assert residual(sample, sample["image"])["pred"] < 1e-5
    assert residual(sample, torch.zeros_like(sample["image"]))["pred"] == pytest.approx(1)
    assert residual(sample, 3 * sample["image"])["pred"] == pytest.approx(2, rel=1e-4)


@pytest.mark.parametrize("n_slices", [None, 3])
def test_what_honours_the_samples_has_none(n_slices):
    one = exam(1, n_slices)
    zero_filled, mask = slices_first(one["zero_filled"]), slices_first(one["mask"])
    guess = random_kspace(*zero_filled.shape)
    assert residual(one, slices_last(guess, n_slices is not None))["pred"] > 0.1
    hard = hard_data_consistency(guess, zero_filled, mask)
    assert residual(one, slices_last(hard, n_slices is not None))["pred"] < 1e-5


def test_of_the_zero_filled_image_one_coil_has_none_and_several_have():
    sample = exam(1)
    both = residual(sample, sample["zero_filled"])
    assert set(both) == {"zero_filled", "pred"}
    assert both["zero_filled"] < 1e-5
    assert both["pred"] == pytest.approx(both["zero_filled"], abs=1e-6)
    several = exam(4)
    adjoint = sense_forward(several["zero_filled"][None], several["mask"][None], several["sens_maps"][None])[0]
    expected = (adjoint - several["measured"]).norm() / several["measured"].norm()
    found = residual(several, several["image"])["zero_filled"]
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert found > 0.1
    better = conjugate_gradient_data_consistency(
        *[several[key][None] for key in ("zero_filled", "zero_filled", "mask", "sens_maps")], 1e-3, 20
    )[0]
    assert residual(several, better)["pred"] < found / 3


def test_further_channels_and_samples_that_were_not_taken_count_nothing():
    sample = exam(1, 2)
    pred = complex_to_channels(sample["image"] / sample["scale"], 0)
    more = torch.cat([pred, torch.randn(7, *pred.shape[1:])])
    others = sample["measured"] + random_kspace(*sample["measured"].shape) * ~sample["mask"]
    assert DataConsistencyResiduald()({**sample, "pred": more, "measured": others})["residual"]["pred"] < 1e-5


def test_a_diverged_image_and_an_empty_measurement_have_no_number():
    sample = exam(1)
    assert math.isnan(residual(sample, sample["image"] * float("nan"))["pred"])
    empty = torch.zeros_like(sample["measured"])
    assert math.isinf(residual(sample, sample["image"], measured=empty)["pred"])
    assert residual(sample, 0 * sample["image"], measured=empty)["pred"] == 0


def test_what_does_not_fit_is_refused():
    sample = exam(1)
    with pytest.raises(ValueError, match="sense_forward: 'mask' must be real and broadcast"):
        residual(sample, sample["image"], mask=sample["mask"][..., :-1])
    with pytest.raises(ValueError, match="DataConsistencyResiduald: images must have the slices, rows and columns"):
        residual(sample, sample["image"][..., :-1])
    with pytest.raises(ValueError, match="DataConsistencyResiduald: 'keys' must be one key"):
        DataConsistencyResiduald(["pred", "image"])
