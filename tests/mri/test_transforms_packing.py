"""Transforms from measured k-space to a network's input and back: consistent, alike for slices and volumes."""

import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.inferers import SliceInferer
from monai.transforms import Compose
from torch import nn

from medkit.mri import (
    ChannelsToComplexd,
    CoilCombined,
    ComplexToChannelsd,
    PackedReconstructor,
    RandomMask,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    Undersampled,
    UnpackReconstructiond,
    hard_data_consistency,
    root_sum_of_squares,
    sense_forward,
    unpack_reconstruction,
)
from medkit.ops import centered_ifft
from tests.mri.small_exams import broken, chain, magnitude, random_kspace


def test_the_packed_image_says_all_that_data_consistency_needs():
    sample = SimulateKspaced(n_coils=(4,), noise=(0, 0.01)).set_random_state(0)({"magnitude": magnitude()})
    out = Compose(chain(RandomMask(0.2, 3))).set_random_state(0)(sample)
    assert out["image"].shape == (11, 48, 40)
    assert out["image"].dtype == out["label"].dtype == torch.float32
    x0, mask, maps = unpack_reconstruction(out["image"][None])
    assert torch.equal(mask[0, :, :1], out["mask"])
    torch.testing.assert_close(maps[0], out["sens_maps"])
    torch.testing.assert_close(x0[0] * out["scale"], out["zero_filled"])
    reference = torch.complex(out["label"][0], out["label"][1])
    torch.testing.assert_close(reference * out["scale"], out["reference"][0])
    torch.testing.assert_close(out["label"][2:], out["image"][:2])
    # With one coil the reference is a fixed point of data consistency through what was packed.
    single = SimulateKspaced(n_coils=(1,)).set_random_state(0)({"magnitude": magnitude()})
    out = Compose(chain(RandomMask(0.2, 3), mode="none")).set_random_state(0)(single)
    assert out["image"].shape[0] == 3
    x0, mask, maps = unpack_reconstruction(out["image"][None])
    assert maps is None
    reference = torch.complex(out["label"][0], out["label"][1])[None, None]
    torch.testing.assert_close(hard_data_consistency(reference, x0, mask), reference, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_coils", [1, 4])
def test_maps_with_the_objects_phase_make_the_image_nearly_real(n_coils):
    sample = SimulateKspaced(n_coils=(n_coils,), noise=(0, 0)).set_random_state(0)({"magnitude": magnitude()})
    shares = {}
    for object_phase in (False, True):
        out = Compose(chain(RandomMask(0.3, 2), mode="auto", object_phase=object_phase)).set_random_state(0)(sample)
        inside = magnitude() > 0.5
        shares[object_phase] = float(out["reference"].imag[inside].norm() / out["reference"][inside].norm())
    assert out["sens_maps"].shape == (n_coils, 48, 40)
    assert shares[True] < 0.15
    assert shares[False] > 2 * shares[True]
    _, mask, maps = unpack_reconstruction(out["image"][None])
    reference = out["reference"][None] / out["scale"]
    again = sense_forward(reference, mask, maps)
    torch.testing.assert_close(
        again[0] * out["scale"], out["measured"], atol=0.02 * float(out["measured"].abs().max()), rtol=0
    )


def test_reference_is_close_to_the_image_that_was_simulated():
    image = magnitude((96, 80))
    sample = SimulateKspaced(n_coils=(8,), noise=(0, 0)).set_random_state(0)({"magnitude": image})
    out = Compose(chain(RandomMask(0.2, 3))).set_random_state(0)(sample)
    error = torch.linalg.vector_norm(out["reference"].abs() - image) / torch.linalg.vector_norm(image)
    assert error < 0.02
    worse = torch.linalg.vector_norm(out["zero_filled"].abs() - image) / torch.linalg.vector_norm(image)
    assert worse > 2 * error


def test_zero_filled_is_the_adjoint_and_rss_the_root_sum_of_squares():
    sample = SimulateKspaced(n_coils=(3,)).set_random_state(0)({"magnitude": magnitude()})
    out = Compose(chain(RandomMask(0.2, 3))).set_random_state(0)(sample)
    estimate = sense_forward(out["zero_filled"][None], out["mask"][None], out["sens_maps"][None])
    assert torch.linalg.vector_norm(estimate) <= torch.linalg.vector_norm(out["measured"]) * (1 + 1e-5)
    rss = CoilCombined("rss")(out)
    torch.testing.assert_close(rss["reference"].real, root_sum_of_squares(centered_ifft(out["kspace"]), 0, True))
    assert not rss["reference"].imag.any()


def test_a_volume_goes_the_way_of_its_slices():
    volume = SimulateKspaced(n_coils=(3,), noise=(0.01, 0.01)).set_random_state(0)(
        {"magnitude": magnitude((32, 24), 3)}
    )
    volume["case"] = "a"
    make = Compose(chain(RandomMask(0.25, 2), seed_key="case", n_coils_out=4))
    out = make(volume)
    assert out["image"].shape == (11, 32, 24, 3)
    assert out["label"].shape == (4, 32, 24, 3)
    assert out["scale"].shape == ()
    for i in range(3):
        single = make({"kspace": volume["kspace"][..., i], "case": "a"})
        assert torch.equal(single["mask"], out["mask"][..., 0])
        for key in ("zero_filled", "reference", "sens_maps"):
            torch.testing.assert_close(single[key], out[key][..., i], atol=1e-4, rtol=1e-3)

    class Keep(nn.Module):
        def forward(self, zero_filled, mask, sens_maps):
            return zero_filled

    network = PackedReconstructor(Keep())
    pred = SliceInferer(roi_size=(-1, -1), spatial_dim=2)(out["image"][None], network)
    result = UnpackReconstructiond()({"pred": pred[0], "scale": out["scale"]})["pred"]
    assert result.shape == (1, 32, 24, 3)
    torch.testing.assert_close(result, out["zero_filled"].abs(), atol=1e-4, rtol=1e-4)


def test_missing_coils_are_zeros_that_change_nothing_but_the_shape():
    sample = SimulateKspaced(n_coils=(2,)).set_random_state(0)({"magnitude": magnitude(), "case": "a"})
    few, many = (Compose(chain(RandomMask(0.2, 3), seed_key="case", n_coils_out=n))(sample) for n in (None, 5))
    assert many["image"].shape == (13, 48, 40)
    torch.testing.assert_close(many["image"][:7], few["image"])
    assert not many["image"][7:].any()
    torch.testing.assert_close(many["label"], few["label"])
    batch = list_data_collate([{"image": many["image"]}, {"image": many["image"]}])
    assert batch["image"].shape == (2, 13, 48, 40)


def test_maps_that_a_sample_brings_are_kept():
    maps = random_kspace(2, 8, 8)
    sample = {"measured": random_kspace(2, 8, 8), "mask": torch.zeros(1, 1, 8, dtype=torch.bool), "sens_maps": maps}
    assert torch.equal(SensitivityMapsd()(sample)["sens_maps"], maps)


def test_scale_is_the_percentile_and_never_zero():
    image = torch.arange(1000, dtype=torch.float32).reshape(1, 25, 40).to(torch.complex64)
    assert float(ScaleByPercentiled()({"zero_filled": image})["scale"]) == pytest.approx(994.005)
    assert float(ScaleByPercentiled(0)({"zero_filled": image})["scale"]) == 999
    nothing = ScaleByPercentiled()({"zero_filled": 0 * image})["scale"]
    assert float(nothing) == 1
    assert nothing.shape == ()
    assert nothing.dtype == torch.float32


def test_the_input_does_not_depend_on_the_unit_of_kspace():
    sample = SimulateKspaced(n_coils=(2,)).set_random_state(0)({"magnitude": magnitude(), "case": "a"})
    make = Compose(chain(RandomMask(0.2, 3), seed_key="case"))
    expected = make(sample)["image"]
    for factor in (1e-7, 1e5):
        image = make({"kspace": sample["kspace"] * factor, "case": "a"})["image"]
        torch.testing.assert_close(image, expected, atol=1e-4, rtol=1e-3)


def test_an_empty_slice_of_an_exam_passes_and_an_empty_exam_does_not():
    nothing = torch.zeros(2, 16, 16, dtype=torch.complex64)
    out = Compose(chain(RandomMask(0.5, 2)))({"kspace": nothing, "i_slice": 0})
    assert bool(torch.isfinite(out["image"]).all())
    assert not out["label"].any()
    with pytest.raises(ValueError, match="every sample is zero"):
        Undersampled("kspace", RandomMask(0.5, 2))({"kspace": nothing})


def test_results_come_back_in_their_unit():
    pred = torch.tensor([3.0, 4.0]).reshape(2, 1, 1)
    sample = {"pred": MetaTensor(pred), "scale": torch.tensor(2.0)}
    assert UnpackReconstructiond()(sample)["pred"].item() == 10
    assert UnpackReconstructiond(output="complex")(sample)["pred"].item() == 6 + 8j


def test_channels_there_and_back():
    x = random_kspace(3, 4, 5, 2)
    there = ComplexToChannelsd("x")({"x": x})
    assert there["x"].shape == (6, 4, 5, 2)
    assert torch.equal(ChannelsToComplexd("x")(there)["x"], x)


def test_inputs_are_left_as_they_were():
    sample = {"kspace": random_kspace(2, 16, 16), "case": "a"}
    kept = sample["kspace"].clone()
    Compose(chain(RandomMask(0.5, 2), seed_key="case", n_coils_out=3))(sample)
    assert set(sample) == {"kspace", "case"}
    assert torch.equal(sample["kspace"], kept)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SensitivityMapsd("guess"), "'mode' must be"),
        (
            lambda: SensitivityMapsd("none")({"measured": broken(1), "mask": torch.ones(1, 1, 8)}),
            "mode 'none' is for one coil",
        ),
        (
            lambda: SensitivityMapsd(n_coils_out=1)({"measured": broken(1), "mask": torch.ones(1, 1, 8)}),
            "'n_coils_out' must be at least the number of coils",
        ),
        (
            lambda: SensitivityMapsd()({"measured": broken(1), "mask": torch.zeros(1, 1, 8)}),
            "centre of at least 4 lines",
        ),
        (lambda: CoilCombined("mean"), "'mode' must be"),
        (lambda: CoilCombined()({"measured": broken(1)}), "several coils need 'sens_maps'"),
        (lambda: ScaleByPercentiled(101), "'percentile' must be"),
        (lambda: UnpackReconstructiond(output="phase"), "'output' must be"),
        (lambda: UnpackReconstructiond()({"pred": torch.ones(3, 4, 4), "scale": torch.tensor(1.0)}), "2 channels"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
