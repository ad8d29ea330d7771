"""Transforms from an exam to a network's input and back: exact, replayed, alike for slices and volumes."""

import hashlib

import numpy as np
import pytest
import torch
from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel
from monai.data import MetaTensor, list_data_collate
from monai.inferers import SliceInferer
from monai.transforms import Compose
from torch import nn

from medkit.mri import (
    ChannelsToComplexd,
    CoilCombined,
    ComplexToChannelsd,
    EquispacedMask,
    FileMask,
    GaussianMask2D,
    PackedReconstructor,
    PackReconstructiond,
    RandomMask,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    ToKspaced,
    Undersampled,
    UnpackReconstructiond,
    hard_data_consistency,
    root_sum_of_squares,
    sense_forward,
    unpack_reconstruction,
)
from medkit.ops import centered_fft, centered_ifft


def magnitude(size=(48, 40), n_slices=None):
    row, column = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    image = 1.0 * (np.hypot(row, column) < 0.8) + 0.5 * (np.hypot(row - 0.2, column) < 0.3)
    image = torch.from_numpy(image.astype(np.float32))[None]
    return image if n_slices is None else torch.stack([image * (1 + i) for i in range(n_slices)], -1)


def random_kspace(*shape, seed=0):
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


def chain(mask, seed_key=None, **coils):
    return [Undersampled("kspace", mask, seed_key=seed_key), SensitivityMapsd(**coils), CoilCombined(),
            ScaleByPercentiled(), PackReconstructiond()]  # fmt: skip


# --- acquisition


def test_simulated_kspace_without_noise_is_the_image_under_phase_and_coils():
    for n_coils, shape in [((1,), (48, 40)), ((6,), (48, 40)), ((6,), (20, 18, 4))]:
        image = magnitude(shape[:2], *shape[2:])
        kspace = SimulateKspaced(n_coils=n_coils, noise=(0, 0)).set_random_state(0)({"magnitude": image})["kspace"]
        assert kspace.shape == (n_coils[0], *shape)
        assert kspace.dtype == torch.complex64
        assert kspace.is_contiguous()
        slices = kspace[None] if len(shape) == 2 else kspace.movedim(-1, 0)
        rss = root_sum_of_squares(centered_ifft(slices), keepdim=True)
        expected = image[None] if len(shape) == 2 else image.movedim(-1, 0)
        torch.testing.assert_close(rss, expected, atol=2e-5, rtol=1e-4)


def test_simulated_noise_has_the_level_asked_for_in_both_spaces():
    image = torch.full((1, 64, 64), 5.0)
    clean, noisy = (
        SimulateKspaced(n_coils=(4,), noise=(level, level)).set_random_state(3)({"magnitude": image})["kspace"]
        for level in (0.0, 0.02)
    )
    noise = noisy - clean
    for part in (noise.real, noise.imag, centered_ifft(noise).real):
        assert float(part.std()) == pytest.approx(0.1, rel=0.03)
        assert abs(float(part.mean())) < 0.01


def test_phase_can_be_left_out_and_is_smooth_otherwise():
    image = magnitude()
    flat = SimulateKspaced(n_coils=(1,), noise=(0, 0), use_phase=False)({"magnitude": image})["kspace"]
    torch.testing.assert_close(flat, centered_fft(image.to(torch.complex64)))
    curved = SimulateKspaced(n_coils=(1,), noise=(0, 0)).set_random_state(1)({"magnitude": image + 1})["kspace"]
    phase = centered_ifft(curved)[0]
    step = torch.angle(phase[1:] * phase[:-1].conj())
    assert 0 < float(step.abs().max()) < 1
    assert float(torch.angle(phase).std()) > 0.1


def test_simulation_leaves_real_kspace_alone_and_takes_metadata():
    kspace = random_kspace(2, 8, 8)
    sample = {"magnitude": magnitude(), "kspace": kspace}
    assert SimulateKspaced()(sample)["kspace"] is kspace
    assert "kspace" not in (source := {"magnitude": MetaTensor(magnitude())})
    assert type(SimulateKspaced()(source)["kspace"]) is torch.Tensor
    assert "kspace" not in source


@pytest.mark.parametrize(
    "make",
    [
        lambda seed_key: SimulateKspaced(n_coils=(1, 2, 3), noise=(0, 0.1), seed_key=seed_key),
        lambda seed_key: Compose(
            [
                SimulateKspaced(n_coils=(2,), noise=(0, 0.1), seed_key=seed_key),
                Undersampled("kspace", RandomMask((0.1, 0.2), (4, 2)), seed_key=seed_key),
            ]
        ),
    ],
)
def test_seeds_and_names_replay(make):
    def key(sample):
        return sample.get("measured", sample["kspace"])

    samples = [{"magnitude": magnitude(), "case": f"case{i}"} for i in range(4)]
    transform = make(None)
    first = [key(transform.set_random_state(7)(s)) for s in samples[:1] * 2]
    assert torch.equal(first[0], first[1])
    transform.set_random_state(7)
    series = [key(transform(samples[0])) for _ in range(4)]
    assert any(a.shape != series[0].shape or not torch.equal(a, series[0]) for a in series[1:])
    named = make("case")
    forward = [key(named(s)) for s in samples]
    backward = [key(make("case").set_random_state(99)(s)) for s in reversed(samples)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert any(a.shape != forward[0].shape or not torch.equal(a, forward[0]) for a in forward[1:])


def test_a_name_gives_the_same_mask_in_every_process():
    # Python's own hash differs from process to process; a digest of the name does not.
    pattern = RandomMask(0.1, 4)
    sample = {"kspace": torch.ones(1, 4, 40, dtype=torch.complex64), "case": "file1000001"}
    mask = Undersampled("kspace", pattern, seed_key="case")(sample)["mask"]
    digest = hashlib.sha256(b"Undersampled:file1000001").digest()
    rng = np.random.RandomState(int.from_bytes(digest[:4], "big"))
    assert torch.equal(mask[0], pattern.draw((4, 40), rng))


def test_to_kspace_and_back():
    volume = random_kspace(2, 6, 7, 3)
    kspace = ToKspaced("coils")({"coils": volume})["kspace"]
    torch.testing.assert_close(centered_ifft(kspace.movedim(-1, 0)).movedim(0, -1), volume, atol=1e-5, rtol=1e-4)


# --- under-sampling


@pytest.mark.parametrize("mask", [RandomMask(0.1, 4), EquispacedMask(0.1, 4), GaussianMask2D(0.01, 4)])
@pytest.mark.parametrize("shape", [(3, 32, 40), (3, 32, 40, 5), (1, 1, 1), (2, 5, 1, 2)])
def test_measured_is_kspace_where_the_mask_is_and_zero_elsewhere(mask, shape):
    kspace = random_kspace(*shape)
    out = Undersampled("kspace", mask).set_random_state(0)({"kspace": kspace})
    assert out["mask"].dtype == torch.bool
    assert out["mask"].ndim == kspace.ndim
    assert out["mask"].shape[0] == 1
    assert out["mask"].shape[1] in (1, shape[1])
    assert out["mask"].shape[2] == shape[2]
    assert out["mask"].shape[3:] in ((), (1,))
    full = out["mask"].expand_as(kspace)
    assert torch.equal(out["measured"][full], kspace[full])
    assert not out["measured"][~full].any()
    assert torch.equal(out["kspace"], kspace)


def test_several_keys_share_one_mask_or_have_one_each():
    sample = {"t1_kspace": random_kspace(1, 8, 64), "t2_kspace": random_kspace(2, 8, 64, seed=1)}
    keys = ["t1_kspace", "t2_kspace"]
    out = Undersampled(keys, RandomMask(0.1, 4)).set_random_state(0)(sample)
    for contrast in ("t1", "t2"):
        assert torch.equal(out[f"{contrast}_measured"], sample[f"{contrast}_kspace"] * out["mask"])
    out = Undersampled(keys, RandomMask(0.1, 4), share_mask=False).set_random_state(0)(sample)
    assert "mask" not in out
    assert not torch.equal(out["t1_mask"], out["t2_mask"])
    for contrast in ("t1", "t2"):
        assert torch.equal(out[f"{contrast}_measured"], sample[f"{contrast}_kspace"] * out[f"{contrast}_mask"])
    with pytest.raises(ValueError, match="'mask' must be"):
        Undersampled(keys, RandomMask(0.1, 4))({**sample, "t2_kspace": random_kspace(2, 8, 63)})


def test_the_scanners_own_mask_is_kept_and_leaves_no_reference():
    mask = torch.zeros(1, 1, 16, dtype=torch.bool)
    mask[..., 4:12] = True
    for kspace in (random_kspace(2, 16, 16), random_kspace(2, 16, 16, 3)):
        sample = {"kspace": kspace * (mask if kspace.ndim == 3 else mask[..., None]), "mask": mask}
        out = Compose(chain(RandomMask(0.1, 8)))(sample)
        assert torch.equal(out["measured"], sample["kspace"])
        assert out["mask"].ndim == kspace.ndim
        assert "reference" not in out
        assert "label" not in out
        assert "kspace" not in out
        assert out["image"].shape[0] == 7


def test_without_a_pattern_the_missing_lines_are_found():
    kspace = random_kspace(2, 16, 16)
    kspace[..., 1::2] = 0
    kspace[..., 4:12] = random_kspace(2, 16, 8, seed=1)
    out = Undersampled("kspace")({"kspace": kspace})
    assert torch.equal(out["mask"][0, 0], (kspace != 0).any(0).any(0))
    assert "kspace" not in out
    complete = Undersampled("kspace")({"kspace": random_kspace(2, 6, 6, 3)})
    assert complete["mask"].all()
    assert "kspace" in complete


def test_monais_layout_goes_through_to_monais_network():
    torch.manual_seed(0)
    features = (4, 4, 4, 4, 4, 4)
    network = VariationalNetworkModel(CoilSensitivityModel(2, features), ComplexUnet(2, features), num_cascades=1)
    kspace = random_kspace(3, 32, 32)
    transform = Undersampled("kspace", EquispacedMask(0.2, 2))
    sample = transform.set_random_state(0)({"kspace": torch.view_as_real(kspace)})
    assert sample["measured"].shape == (3, 32, 32, 2)
    assert sample["mask"].shape == (1, 1, 32, 1)
    batch = list_data_collate([sample])
    assert network(batch["measured"], batch["mask"]).shape == (1, 32, 32)
    same = transform.set_random_state(0)({"kspace": kspace})
    assert torch.equal(torch.view_as_complex(sample["measured"]), same["measured"])


# --- combination, scale, packing


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


def broken(value):
    kspace = random_kspace(2, 8, 8)
    kspace[0, 0, 0] = value
    return kspace


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Undersampled("kspace", "random"), "'mask' must be a SamplingMask"),
        (lambda: Undersampled("kspace", RandomMask(0.1, 4, spatial_dims=3)), "'mask' must be a SamplingMask of 2 axes"),
        (lambda: Undersampled("raw", RandomMask(0.1, 4)), "'keys' must have 'kspace'"),
        (lambda: Undersampled("kspace", RandomMask(0.1, 4))({"kspace": broken(torch.nan)}), "must be finite"),
        (lambda: Undersampled("kspace", RandomMask(0.1, 4))({"kspace": broken(torch.inf)}), "must be finite"),
        (lambda: Undersampled("kspace", RandomMask(0.1, 4))({"kspace": torch.ones(2, 8, 8)}), "must be complex"),
        (lambda: Undersampled("kspace", RandomMask(0.1, 4), seed_key="case")({"kspace": broken(1)}), "'seed_key'"),
        (
            lambda: Undersampled("kspace")({"kspace": broken(1), "mask": torch.ones(1, 1, 7)}),
            r"'mask' must be \(1, 1 or H, W\) for 'kspace' \(2, 8, 8\), got \(1, 1, 7\)",
        ),
        (lambda: Undersampled("kspace")({"kspace": broken(1), "mask": torch.zeros(1, 1, 8)}), "every sample is zero"),
        (lambda: SimulateKspaced(n_coils=(0,)), "'n_coils' must be"),
        (lambda: SimulateKspaced(noise=(0.1, 0)), "'noise' must be a range"),
        (lambda: SimulateKspaced(["a", "b"]), "'keys' must be one key"),
        (lambda: SimulateKspaced()({"magnitude": torch.ones(2, 8, 8)}), "must be real"),
        (lambda: SimulateKspaced()({"magnitude": torch.full((1, 8, 8), torch.nan)}), "must be finite"),
        (lambda: ToKspaced(["a", "b"]), "'output_keys' must be as many"),
        (lambda: ToKspaced("a")({"a": torch.ones(1, 8, 8)}), "must be complex"),
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


def test_a_mask_file_of_another_size_is_refused(tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((8, 9)))
    with pytest.raises(ValueError, match=r"is for \(8, 9\), k-space is \(8, 8\)"):
        Undersampled("kspace", FileMask(tmp_path / "mask.npy"))({"kspace": broken(1)})
