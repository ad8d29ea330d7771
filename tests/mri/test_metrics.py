"""Metrics: the volume definitions of fastMRI, checked against scikit-image and closed forms."""

import math

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from medkit.mri import VolumeNMSE, VolumePSNR, VolumeSSIM, nmse, psnr, ssim


def make_volumes(shape=(5, 40, 33), noise=0.1, seed=0, dtype=np.float32):
    """Slices of different brightness, a bright flat background included, and a noisy copy."""
    random = np.random.RandomState(seed)
    row, column = np.meshgrid(np.linspace(-1, 1, shape[-2]), np.linspace(-1, 1, shape[-1]), indexing="ij")
    brightness = np.linspace(0.3, 2.0, math.prod(shape[:-2])).reshape(*shape[:-2], 1, 1)
    reference = brightness * (1 + np.cos(9 * row * column) + (np.hypot(row, column) < 0.5))
    return (np.abs(reference + noise * random.randn(*shape))).astype(dtype), reference.astype(dtype)


@pytest.mark.parametrize("noise", [0.001, 0.1, 3.0])
@pytest.mark.parametrize("shape", [(5, 40, 33), (1, 7, 7), (2, 7, 30)])
def test_metrics_equal_scikit_image_over_a_volume(shape, noise):
    prediction, reference = (v.astype(np.float64) for v in make_volumes(shape, noise))
    peak = reference.max()
    expected = np.mean(
        [structural_similarity(p, r, win_size=7, data_range=peak) for p, r in zip(prediction, reference, strict=True)]
    )
    assert ssim(prediction, reference) == pytest.approx(expected, abs=1e-9)
    assert psnr(prediction, reference) == pytest.approx(
        peak_signal_noise_ratio(reference, prediction, data_range=peak), abs=1e-9
    )
    expected = np.linalg.norm(reference - prediction) ** 2 / np.linalg.norm(reference) ** 2
    assert nmse(prediction, reference) == pytest.approx(expected, rel=1e-9)


def test_single_precision_agrees_with_scikit_image():
    prediction, reference = make_volumes((3, 64, 64))
    expected = np.mean(
        [
            structural_similarity(p, r, win_size=7, data_range=float(reference.max()))
            for p, r in zip(prediction, reference, strict=True)
        ]
    )
    assert ssim(torch.from_numpy(prediction), torch.from_numpy(reference)) == pytest.approx(expected, abs=1e-6)


def test_the_data_range_is_that_of_the_volume_not_of_the_slice():
    prediction, reference = make_volumes()
    by_slice = np.mean([ssim(p, r) for p, r in zip(prediction, reference, strict=True)])
    assert ssim(prediction, reference) > by_slice + 0.01
    given = np.mean([ssim(p, r, data_range=reference.max()) for p, r in zip(prediction, reference, strict=True)])
    assert ssim(prediction, reference) == pytest.approx(given, abs=1e-12)


def test_closed_forms():
    ones = np.ones((2, 8, 9))
    assert nmse(0.5 * ones, ones) == 0.25
    assert psnr(0.9 * ones, ones) == pytest.approx(20)
    assert psnr(9 * ones, 10 * ones, data_range=1) == pytest.approx(0)
    assert (nmse(ones, ones), psnr(ones, ones), ssim(ones, ones)) == (0, math.inf, 1)
    # Flat images: only the first factor of the index differs from 1.
    c1 = (0.01 * 1) ** 2
    assert ssim(0.5 * ones, ones) == pytest.approx((2 * 0.5 + c1) / (0.25 + 1 + c1), abs=1e-12)


def test_metrics_do_not_depend_on_the_unit():
    prediction, reference = make_volumes()
    for scale in (1e-7, 1e5):
        assert ssim(prediction * scale, reference * scale) == pytest.approx(ssim(prediction, reference), abs=1e-6)
        assert psnr(prediction * scale, reference * scale) == pytest.approx(psnr(prediction, reference), abs=1e-4)
        assert nmse(prediction * scale, reference * scale) == pytest.approx(nmse(prediction, reference), rel=1e-4)


def test_empty_reference_gives_nan():
    nothing = np.zeros((2, 8, 8))
    for metric in (nmse, psnr, ssim):
        assert math.isnan(metric(nothing + 1, nothing))


@pytest.mark.parametrize(("cls", "function"), [(VolumeNMSE, nmse), (VolumePSNR, psnr), (VolumeSSIM, ssim)])
def test_classes_compare_magnitudes_of_channels(cls, function):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 2, 12, 10, 4, generator=generator)
    target = torch.randn(3, 4, 12, 10, 4, generator=generator)
    metric = cls()
    values = metric(pred, target)
    assert values.shape == (3, 1)
    for i in range(3):
        p, r = (torch.hypot(x[i, 0], x[i, 1]).movedim(-1, 0) for x in (pred, target))
        assert values[i].item() == pytest.approx(function(p, r), rel=1e-5)
    metric(pred[:1] * 1.1, target[:1])
    expected = (values.sum() + metric.get_buffer()[3, 0]) / 4
    assert metric.aggregate().item() == pytest.approx(expected.item(), rel=1e-5)
    metric.reset()
    slices = metric(list(pred[..., 0]), list(target[..., 0]))
    magnitude = torch.hypot(pred[:, 0], pred[:, 1])[:, None]
    torch.testing.assert_close(metric(magnitude[..., 0], target[..., 0]), slices)


def test_a_volume_that_says_nothing_does_not_spoil_the_mean():
    metric = VolumePSNR()
    target = torch.ones(2, 4, 8, 8)
    target[1] = 0
    metric(torch.full((2, 2, 8, 8), 0.9), target)
    assert metric.aggregate().item() == pytest.approx(20, abs=1e-4)


def test_monais_evaluator_runs_them():
    pred, target = torch.full((2, 2, 8, 8), 0.9), torch.ones(2, 4, 8, 8)
    loader = [{"image": pred, "label": target}]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=torch.nn.Identity(),
        key_val_metric={"psnr": IgniteMetricHandler(VolumePSNR(), output_transform=from_engine(["pred", "label"]))},
        additional_metrics={"ssim": IgniteMetricHandler(VolumeSSIM(), output_transform=from_engine(["pred", "label"]))},
    )
    evaluator.run()
    assert evaluator.state.metrics["psnr"] == pytest.approx(20, abs=1e-4)
    assert 0.9 < evaluator.state.metrics["ssim"] < 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: nmse(x, x[:1]), "of one shape"),
        (lambda x: nmse(x[None], x[None]), "of one shape"),
        (lambda x: psnr(x[:0], x[:0]), "of one shape"),
        (lambda x: psnr(x * 1j, x), "must be magnitudes"),
        (lambda x: psnr(x, x, data_range=0), "'data_range' must be positive"),
        (lambda x: ssim(x, x, data_range=float("nan")), "'data_range' must be positive"),
        (lambda x: ssim(x[:, :6], x[:, :6]), "at least 7 x 7"),
        (lambda x: VolumeSSIM()(torch.ones(1, 2, 8, 8), None), "a reference for each"),
        (lambda x: VolumeSSIM()(torch.ones(1, 8, 8), torch.ones(1, 8, 8)), r"must be real \(B, C, H, W"),
        (lambda x: VolumeSSIM().aggregate(), "nothing was accumulated"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.ones((2, 8, 8)))
