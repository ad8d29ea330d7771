"""Samples held back: packed without loss, a loss that is 0 where they are predicted and sees nothing else."""

import pytest
import torch
from monai.data import decollate_batch
from monai.handlers import from_engine

from medkit.mri import (
    PackHeldd,
    PackReconstructiond,
    SelfSupervisedLoss,
    SplitMeasuredd,
    VolumeHeldResidual,
    channels_to_complex,
    complex_to_channels,
    pack_held,
    sense_adjoint,
    sense_forward,
    unpack_held,
)
from medkit.ops import centered_fft
from tests.mri.small_exams import random_kspace

HEIGHT, WIDTH = 12, 9


def maps_of(n_coils: int, batch: int = 2) -> torch.Tensor | None:
    """Return random sensitivities with a sum of squares of 1; none for no coil."""
    if n_coils == 0:
        return None
    maps = random_kspace(batch, n_coils, HEIGHT, WIDTH, seed=1)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


def held_mask(batch: int = 2) -> torch.Tensor:
    """Return a mask of scattered points, another for each sample."""
    return torch.rand(batch, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)) < 0.3


def scene(n_coils: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return Re and Im of an image, the label of its own samples, their mask, and the maps."""
    image, maps, mask = random_kspace(batch, 1, HEIGHT, WIDTH), maps_of(n_coils, batch), held_mask(batch)
    return complex_to_channels(image), pack_held(sense_forward(image, mask, maps), mask, maps), mask, maps


@pytest.mark.parametrize("n_coils", [0, 1, 4])
def test_packing_is_undone(n_coils):
    kspace, maps, mask = random_kspace(2, max(1, n_coils), HEIGHT, WIDTH), maps_of(n_coils), held_mask()
    label = pack_held(kspace, mask, maps)
    assert label.dtype == torch.float32
    assert label.shape[1] == (3 if n_coils == 0 else 1 + 4 * n_coils)
    for one, other in zip(unpack_held(label), (kspace, mask, maps), strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    first = pack_held(kspace[0], mask[0], None if maps is None else maps[0], channel_dim=0)
    assert torch.equal(first, label[0])


@pytest.mark.parametrize("n_coils", [0, 1, 4])
def test_loss_is_zero_where_the_samples_are_predicted_and_two_for_an_empty_image(n_coils):
    pred, label, _, _ = scene(n_coils)
    loss = SelfSupervisedLoss()
    assert float(loss(pred, label)) == pytest.approx(0, abs=1e-5)
    assert float(loss(torch.zeros_like(pred), label)) == pytest.approx(2, abs=1e-5)
    assert float(loss(pred + 0.1, label)) > 0.01


def test_value_is_the_formula_of_each_sample():
    pred, label, mask, maps = scene(3, batch=3)
    u = unpack_held(label)[0]
    pred = pred + 0.2 * torch.randn(pred.shape, generator=torch.Generator().manual_seed(3))
    total = 0.0
    for i in range(3):
        v = sense_forward(channels_to_complex(pred[i : i + 1]), mask[i : i + 1], maps[i : i + 1])[0]
        distance = (u[i] - v).abs()
        total += float(distance.square().sum().sqrt() / u[i].abs().square().sum().sqrt())
        total += float(distance.sum() / u[i].abs().sum())
    assert float(SelfSupervisedLoss()(pred, label)) == pytest.approx(total / 3, rel=1e-5)


def test_unit_and_phase_of_the_image_do_not_matter():
    pred, label, mask, maps = scene(2)
    wrong = pred + 0.3 * torch.randn(pred.shape, generator=torch.Generator().manual_seed(3))
    turn = 5 * torch.exp(torch.tensor(0.7j))
    turned = pack_held(unpack_held(label)[0] * turn, mask, maps)
    value = float(SelfSupervisedLoss()(wrong, label))
    other = float(SelfSupervisedLoss()(complex_to_channels(channels_to_complex(wrong) * turn), turned))
    assert other == pytest.approx(value, rel=1e-5)
    assert value > 0.1


def test_what_was_not_held_back_has_no_gradient_and_no_influence():
    pred, label, mask, _ = scene(0)
    free = complex_to_channels(sense_adjoint(random_kspace(2, 1, HEIGHT, WIDTH, seed=5) * ~mask))
    wrong = (0.5 * pred).requires_grad_()
    loss = SelfSupervisedLoss()
    loss(wrong, label).backward()
    gradient = centered_fft(channels_to_complex(wrong.grad))
    wrong = wrong.detach()
    value = float(loss(wrong, label))
    assert float(loss(wrong + 10 * free, label)) == pytest.approx(value, rel=1e-4)
    assert float((gradient * ~mask).abs().max()) < 1e-5 * float(gradient.abs().max())
    assert float((gradient * mask).abs().max()) > 1e-4
    # Nor do values of the label outside the mask count.
    stray = label.clone()
    stray[:, 1:3] += 7.0 * ~mask
    assert float(loss(wrong, stray)) == pytest.approx(value, rel=1e-5)


def test_gradient_is_finite_at_the_minimum_and_for_a_slice_of_air():
    pred, label, mask, maps = scene(2)
    air = pack_held(torch.zeros_like(unpack_held(label)[0]), mask, maps)
    loss = SelfSupervisedLoss()
    for image, target in ((torch.zeros_like(pred), air), (pred.clone(), air), (pred.clone(), label)):
        image.requires_grad_()
        value = loss(image, target)
        value.backward()
        assert torch.isfinite(image.grad).all()
        assert float(value.detach()) == pytest.approx(0, abs=1e-5)
    half = torch.cat([label[:1], air[:1]])
    assert float(loss(torch.zeros_like(pred), half)) == pytest.approx(1, abs=1e-5), "air counts 0 in the mean"


def test_half_precision_is_computed_in_single():
    pred, label, _, _ = scene(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SelfSupervisedLoss()(0.5 * pred, label)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(1, abs=1e-5)


def test_residual_of_a_volume_is_of_all_its_slices():
    pred, label, _, _ = scene(2, batch=3)
    volume, target = (x.movedim(0, -1)[None] for x in (pred, label))
    metric = VolumeHeldResidual()
    assert float(metric(volume, target)) == pytest.approx(0, abs=1e-5)
    assert float(metric(0 * volume, target)) == pytest.approx(1)
    factor = torch.tensor([1.0, 0.5, 0.0])
    held = unpack_held(label)[0]
    energy = held.abs().square().sum((1, 2, 3))
    expected = float(((1 - factor).square() * energy).sum() / energy.sum()) ** 0.5
    assert float(metric(volume * factor, target)) == pytest.approx(expected, rel=1e-5)


def test_residual_joins_the_cases_of_an_engine_and_leaves_out_air():
    pred, label, mask, maps = scene(2)
    air = pack_held(torch.zeros_like(unpack_held(label)[0]), mask, maps)
    metric = VolumeHeldResidual()
    outputs = decollate_batch({"pred": torch.cat([0.5 * pred, pred]), "label": torch.cat([label, air])})
    metric(*from_engine(["pred", "label"])(outputs))
    assert float(metric.aggregate()) == pytest.approx(0.5, abs=1e-5)


def exam(n_slices: int | None = None, n_coils: int = 2) -> dict[str, object]:
    """Return a split exam that is ready to be packed."""
    shape = (HEIGHT, WIDTH) if n_slices is None else (HEIGHT, WIDTH, n_slices)
    mask = torch.arange(WIDTH)[None, None] % 3 != 1
    mask = mask if n_slices is None else mask[..., None]
    maps = random_kspace(n_coils, *shape, seed=1)
    sample = {"measured": random_kspace(n_coils, *shape) * mask, "mask": mask, "sens_maps": maps}
    split = SplitMeasuredd(0.3, n_center=2).set_random_state(0)(sample)
    zero_filled = random_kspace(1, *shape, seed=4)
    return {**split, "zero_filled": zero_filled, "scale": torch.tensor(4.0)}


@pytest.mark.parametrize("n_slices", [None, 3])
def test_transform_packs_what_was_held_back_in_the_unit_of_the_image(n_slices):
    sample = exam(n_slices)
    out = PackHeldd()(PackReconstructiond()(sample))
    held, mask, maps = unpack_held(out["label"], 0)
    torch.testing.assert_close(held * 4, sample["held_measured"])
    assert torch.equal(mask, sample["held_mask"].expand_as(mask))
    torch.testing.assert_close(maps, sample["sens_maps"])
    assert "label" not in sample


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PackHeldd()({"scale": torch.tensor(1.0)}), "put SplitMeasuredd before"),
        (lambda: PackHeldd()({**exam(), "held_mask": torch.zeros(1, HEIGHT, WIDTH)}), "it is false everywhere"),
        (lambda: PackHeldd()({**exam(), "held_mask": torch.ones(1, 1, 7)}), "'held_mask' must be real and broadcast"),
        (lambda: PackHeldd()({**exam(), "sens_maps": maps_of(3)[0]}), "'sens_maps' must be of the shape"),
        (lambda: PackHeldd()({k: v for k, v in exam().items() if k != "sens_maps"}), "put SensitivityMapsd before"),
        (lambda: pack_held(torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4)), "'held_measured' must be complex"),
        (lambda: unpack_held(torch.ones(1, 4, 8, 8)), "'label' must be real with 3 or 1 \\+ 4 coil"),
        (lambda: unpack_held(torch.ones(1, 1, 8, 8)), "'label' must be real with 3 or 1 \\+ 4 coil"),
        (lambda: SelfSupervisedLoss()(torch.ones(1, 2, 8, 8), torch.ones(1, 4, 8, 8)), "3 or 1 \\+ 4 coil"),
        (lambda: SelfSupervisedLoss()(torch.ones(1, 2, 8, 9), torch.ones(1, 5, 8, 8)), "the same samples, rows"),
        (lambda: SelfSupervisedLoss()(torch.ones(1, 1, 8, 8), torch.ones(1, 5, 8, 8)), "'pred' must be real"),
        (lambda: VolumeHeldResidual()(torch.ones(1, 2, 8, 8)), "a label for each item"),
        (lambda: VolumeHeldResidual().aggregate(), "nothing was accumulated"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
