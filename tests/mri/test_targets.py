"""What is compared with: the combination by maps, or the root sum of squares; each is reached by a perfect result."""

import pytest
import torch
from torch import nn

from medkit.data import coil_maps, head_phantom, smooth_phase
from medkit.mri import (
    CoilCombined,
    ContrastiveReconstructionLoss,
    DataConsistencyResiduald,
    MultiContrastLoss,
    PackedMultiContrast,
    PackedReconstructor,
    PackMultiContrastd,
    PackReconstructiond,
    ScaleByPercentiled,
    SensitivityMapsd,
    root_sum_of_squares,
    sense_forward,
)
from medkit.ops import centered_ifft

TARGETS = ("sense", "rss")
NOISE = 0.01


def exam(gain: float = 1.0, noise: float = 0.0) -> dict:
    """Return a fully sampled phantom of 4 coils whose maps are known; their sum of squares is ``gain`` squared."""
    generator = torch.Generator().manual_seed(0)
    phase = smooth_phase((64, 48), generator).to(torch.float32)
    image = head_phantom().image((64, 48)).to(torch.float32) * torch.polar(torch.ones(64, 48), phase)
    maps = gain * coil_maps(4, (64, 48), generator)
    kspace = sense_forward(image[None, None].to(torch.complex64), None, maps[None])[0]
    kspace = kspace + noise * 2**0.5 * torch.randn(kspace.shape, dtype=torch.complex64, generator=generator)
    everything = torch.ones(1, 1, 48, dtype=torch.bool)
    return {"kspace": kspace, "measured": kspace, "mask": everything, "sens_maps": maps}


class Perfect(nn.Module):
    """The exact solution for full sampling, the zero-filled image divided by the energy of the maps; no parameter."""

    in_channels = 2
    ref_channels = 1

    def forward(self, zero_filled, mask, sens_maps):
        return zero_filled / sens_maps.square().sum(1, keepdim=True).clamp(min=1e-12)

    def decompose(self, target, reference, mask, sens_maps):
        x, nothing = self(target, mask, sens_maps), torch.zeros_like(target)
        return x, reference, nothing, nothing, torch.zeros_like(reference), torch.zeros_like(reference)


def prepared(sample: dict, target: str, pack) -> dict:
    return pack(ScaleByPercentiled()(CoilCombined(target=target)(sample)))


def losses(sample: dict, target: str, compared_by: str) -> tuple[float, float]:
    """Loss of the perfect result of each bundle's network, compared as ``compared_by`` says."""
    ready = prepared(sample, target, PackReconstructiond())
    pred = PackedReconstructor(Perfect(), target=target)(ready["image"][None])
    single = ContrastiveReconstructionLoss(beta=0, target=compared_by)(pred, ready["label"][None])
    guide = {"guide": torch.rand(1, 64, 48, generator=torch.Generator().manual_seed(1))}
    ready = prepared({**sample, **guide}, target, PackMultiContrastd())
    pred = PackedMultiContrast(Perfect(), target=target)(ready["image"][None])
    multi = MultiContrastLoss(target=compared_by)(pred, ready["label"][None])
    return float(single), float(multi)


@pytest.mark.parametrize("target", TARGETS)
def test_a_perfect_result_has_no_loss(target):
    assert max(losses(exam(), target, target)) < 1e-5


def test_of_estimated_maps_the_root_sum_of_squares_alone_is_reached_everywhere():
    # In air the maps fall below 1. The solution that explains the coils is then larger than the combination by maps,
    # by up to the threshold of the maps, 1 %; its root sum of squares is that of the coils.
    sample = SensitivityMapsd()({key: value for key, value in exam().items() if key != "sens_maps"})
    assert max(losses(sample, "rss", "rss")) < 1e-5
    assert max(losses(sample, "sense", "sense")) < 0.01


@pytest.mark.parametrize("target", TARGETS)
def test_noise_alone_is_left_of_the_loss(target):
    # The root sum of squares of air is noise without phase, of mean 2.7 sigma for 4 coils.
    assert max(losses(exam(noise=NOISE), target, target)) < 4 * NOISE


def test_a_root_sum_of_squares_compared_by_phase_is_never_reached():
    assert min(losses(exam(), "rss", "sense")) > 0.05


def test_the_norm_of_the_maps_does_not_matter_to_the_root_sum_of_squares():
    sample = exam(gain=0.7)
    assert max(losses(sample, "rss", "rss")) < 1e-5
    combined = CoilCombined(target="rss")(sample)
    torch.testing.assert_close(combined["reference"].real[0], root_sum_of_squares(centered_ifft(sample["kspace"]), 0))
    assert not combined["reference"].imag.any()
    torch.testing.assert_close(combined["zero_filled"], CoilCombined()(sample)["zero_filled"])
    ready = PackReconstructiond()(ScaleByPercentiled()(combined))
    ready["pred"] = PackedReconstructor(Perfect(), target="rss")(ready["image"][None])[0]
    assert DataConsistencyResiduald(target="rss")(ready)["residual"]["pred"] < 1e-5
    assert DataConsistencyResiduald()(ready)["residual"]["pred"] > 0.1


@pytest.mark.parametrize("target", TARGETS)
def test_gradients_are_finite_where_the_image_is_zero(target):
    label = torch.zeros(1, 4, 16, 16)
    label[:, 0, 4:8] = 1
    for loss, n_label in ((ContrastiveReconstructionLoss(target=target), 4), (MultiContrastLoss(target=target), 3)):
        pred = torch.zeros(1, 3 if n_label == 3 else 2, 16, 16, requires_grad=True)
        loss(pred, label[:, :n_label]).backward()
        assert bool(torch.isfinite(pred.grad).all())


@pytest.mark.parametrize(
    "call",
    [
        lambda: CoilCombined(target="mean"),
        lambda: PackedReconstructor(nn.Identity(), target="mean"),
        lambda: PackedMultiContrast(Perfect(), target="mean"),
        lambda: ContrastiveReconstructionLoss(target="mean"),
        lambda: MultiContrastLoss(target="mean"),
        lambda: DataConsistencyResiduald(target="mean"),
    ],
)
def test_another_target_is_refused(call):
    with pytest.raises(ValueError, match="'target' must be 'sense' or 'rss', got 'mean'"):
        call()
