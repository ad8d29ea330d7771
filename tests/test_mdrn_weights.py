"""The released weights of mdrn: they denoise what they never saw, less where there is more noise, and hear sigma."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from medkit.data import BrainCohort
from medkit.denoise import NonLocalMeans, gaussian_noise, image_list, magnitude_noise
from medkit.denoise.engine import image_metrics
from medkit.denoise.readers.files import read_image, read_picture
from tests.bundle_runs import MDRN, configs


@pytest.fixture(scope="module")
def network():
    """Return the network of inference with its released weights, called with an image ``(1, H, W)`` and sigma."""
    parser = ConfigParser()
    parser.read_config(configs(MDRN, "inference"))
    net = parser.get_parsed_content("network_def").eval()
    net.load_state_dict(torch.load(MDRN / "models" / "model.pt", weights_only=True))

    def denoise(noisy: torch.Tensor, sigma: float = 0.0) -> torch.Tensor:
        with torch.no_grad():
            return net(torch.stack([noisy[0], torch.full_like(noisy[0], sigma)])[None])[0]

    return denoise


@pytest.fixture(scope="module")
def head() -> torch.Tensor:
    """Return a slice of a subject of the test split, ``(1, 96, 120)``, bright tissue near 1."""
    cohort = BrainCohort(1, "test", spacing=2.0, contrasts=("t1",))
    entry = image_list(None, "test", cohort, contrasts="t1", n_slices=1)[0]
    image = torch.from_numpy(read_image("test", Path(entry["path"]), entry["i_slice"]).array)
    return image / torch.quantile(image, 0.995)


def field(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def psnr(image: torch.Tensor, clean: torch.Tensor) -> float:
    return image_metrics(image, clean)["psnr"]


def test_more_noise_leaves_less(network, head):
    noises = [gaussian_noise(head, sigma / 255, field(*head.shape)) for sigma in (15, 25, 50)]
    results = [psnr(network(noisy), head) for noisy in noises]
    assert results[0] > results[1] > results[2]
    assert all(after > psnr(noisy, head) + 1 for after, noisy in zip(results, noises, strict=True))


def test_rician_noise_goes_with_its_mean(network, head):
    noisy = magnitude_noise(head, 0.1, field(2, *head.shape))
    result = network(noisy)
    assert psnr(result, head) > psnr(noisy, head) + 3
    assert psnr(result, head) > psnr(NonLocalMeans()(noisy, 0.1), head)
    air = head < 0.01
    assert float(noisy[air].mean()) > 0.1
    assert abs(float(result[air].mean())) < 0.04


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_who_tells_sigma_is_heard_and_loses_little(sigma, network, head):
    noisy = magnitude_noise(head, sigma, field(2, *head.shape))
    told, blind = network(noisy, sigma), network(noisy)
    assert not torch.allclose(told, blind, atol=1e-3)
    assert psnr(told, head) > psnr(blind, head) - 0.5


@pytest.mark.real
def test_pictures_of_nature_gain_too(network, real_data):
    file = real_data / "denoising" / "cszn__DnCNN" / "Set12" / "01.png"
    clean = torch.from_numpy(read_picture("test", file) / 255).float()
    noisy = gaussian_noise(clean, 25 / 255, field(*clean.shape))
    assert psnr(network(noisy), clean) > psnr(noisy, clean) + 3
