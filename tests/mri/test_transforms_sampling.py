"""Transforms that make k-space and under-sample it: exact, replayed, in both layouts."""

import hashlib

import numpy as np
import pytest
import torch
from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Compose

from medkit.mri import (
    EquispacedMask,
    FileMask,
    GaussianMask2D,
    MagicMask,
    RandomMask,
    SimulateKspaced,
    ToKspaced,
    Undersampled,
    root_sum_of_squares,
)
from medkit.ops import centered_fft, centered_ifft
from tests.mri.small_exams import broken, chain, magnitude, random_kspace


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
        lambda seed_key, seed=0: SimulateKspaced(n_coils=(1, 2, 3), noise=(0, 0.1), seed_key=seed_key, seed=seed),
        lambda seed_key, seed=0: Compose(
            [
                SimulateKspaced(n_coils=(2,), noise=(0, 0.1), seed_key=seed_key),
                Undersampled("kspace", RandomMask((0.1, 0.2), (4, 2)), seed_key=seed_key, seed=seed),
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
    other = [key(make("case", seed=1)(s)) for s in samples]
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(other, forward, strict=True))


def test_a_name_gives_the_same_mask_in_every_process():
    # Python's own hash differs from process to process; a digest of the name does not.
    pattern = RandomMask(0.1, 4)
    sample = {"kspace": torch.ones(1, 4, 40, dtype=torch.complex64), "case": "file1000001"}
    mask = Undersampled("kspace", pattern, seed_key="case")(sample)["mask"]
    digest = hashlib.sha256(b"Undersampled:0:file1000001").digest()
    rng = np.random.RandomState(int.from_bytes(digest[:4], "big"))
    assert torch.equal(mask[0], pattern.draw((4, 40), rng))


def test_to_kspace_and_back():
    volume = random_kspace(2, 6, 7, 3)
    kspace = ToKspaced("coils")({"coils": volume})["kspace"]
    torch.testing.assert_close(centered_ifft(kspace.movedim(-1, 0)).movedim(0, -1), volume, atol=1e-5, rtol=1e-4)


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


def test_the_sample_tells_the_acceleration_that_its_mask_really_has():
    sample = {"t1_kspace": random_kspace(1, 8, 64), "t2_kspace": random_kspace(2, 8, 64, seed=1)}
    shared = Undersampled(["t1_kspace", "t2_kspace"], MagicMask(0.1, 4))(sample)
    assert float(shared["acceleration"]) == pytest.approx(64 / int(shared["mask"].sum()))
    assert float(shared["acceleration"]) < 3.7, "not the 4 asked for, as the centre comes on top"
    apart = Undersampled(["t1_kspace", "t2_kspace"], RandomMask((0, 0), (2, 8)), share_mask=False)
    several = [apart.set_random_state(seed)(sample) for seed in range(9)]
    assert all("acceleration" not in own for own in several)
    rates = {(float(own["t1_acceleration"]), float(own["t2_acceleration"])) for own in several}
    assert rates >= {(2.0, 8.0), (8.0, 2.0)}
    half = torch.zeros(1, 8, 64, dtype=torch.bool)
    half[:, :6] = True
    scanner = Undersampled("kspace")({"kspace": random_kspace(2, 8, 64, 3), "mask": half})
    assert float(scanner["acceleration"]) == pytest.approx(8 / 6)
    pair = torch.view_as_real(random_kspace(2, 8, 64))
    assert float(Undersampled("kspace", RandomMask(0, 4))({"kspace": pair})["acceleration"]) == 4
    assert float(Undersampled("kspace")({"kspace": random_kspace(2, 8, 64)})["acceleration"]) == 1


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
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_mask_file_of_another_size_is_refused(tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((8, 9)))
    with pytest.raises(ValueError, match=r"must be of the size of k-space, \(H, W\) = \(8, 8\), .* got \(8, 9\)"):
        Undersampled("kspace", FileMask(tmp_path / "mask.npy"))({"kspace": broken(1)})
