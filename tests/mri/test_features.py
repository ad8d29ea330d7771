"""Feature extractors: linear and frozen, absent from state dicts, in evaluation mode for ever."""

import numpy as np
import pytest
import torch
from torch import nn

from medkit.mri import GradientFeatures, PerceptualFeatures, VGGFeatures
from medkit.mri.features import _vgg19_layers


def vgg_file(tmp_path, prefix="features."):
    torch.manual_seed(0)
    network = _vgg19_layers()
    state = {prefix + key: value for key, value in network.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "vgg19.pth")
    return str(tmp_path / "vgg19.pth"), network


class _Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.fixture
def backbone(monkeypatch):
    asked = []

    def load(repository, **options):
        asked.append((repository, options["model"]))
        return _Backbone()

    monkeypatch.setattr(torch.hub, "load", load)
    return asked


@pytest.fixture(params=["gradient", "vgg", "perceptual"])
def extractor(request, tmp_path, backbone):
    if request.param == "gradient":
        return GradientFeatures()
    return VGGFeatures(vgg_file(tmp_path)[0]) if request.param == "vgg" else PerceptualFeatures()


def test_every_extractor_is_frozen_and_hidden(extractor):
    assert list(extractor.parameters()) == []
    assert list(extractor.state_dict()) == []
    extractor.train()
    assert extractor.network is None or not any(m.training for m in extractor.network.modules())
    image = torch.rand(2, 1, 48, 40, requires_grad=True)
    levels = extractor(image)
    assert len(levels) == len(extractor.level_weights)
    assert all(f.ndim == 4 and len(f) == 2 for f in levels)
    sum(f.square().sum() for f in levels).backward()
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().sum() > 0
    if extractor.network is not None:
        assert all(p.grad is None for p in extractor.network.parameters())


def test_every_extractor_follows_to(extractor):
    levels = extractor.double()(torch.rand(1, 1, 48, 40, dtype=torch.float64))
    assert all(f.dtype == torch.float64 for f in levels)


def test_gradient_features_are_linear_and_see_no_constant():
    phi = GradientFeatures(3)
    a, b = torch.rand(1, 1, 24, 16), torch.rand(1, 1, 24, 16)
    for whole, first, second in zip(phi(2 * a - b), phi(a), phi(b), strict=True):
        assert torch.allclose(whole, 2 * first - second, atol=1e-5)
    assert all(f.abs().max() < 1e-6 for f in phi(torch.ones(1, 1, 24, 16)))


def test_gradient_features_measure_a_ramp():
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    for i, level in enumerate(GradientFeatures(3)(ramp)):
        inside = level[0, :, 1:-1, 1:-1]
        assert torch.allclose(inside[0], torch.tensor(2.0**i))
        assert torch.allclose(inside[1:], torch.tensor(0.0))


@pytest.mark.parametrize("prefix", ["features.", ""])
def test_vgg_reads_torchvisions_names_and_follows_its_network(tmp_path, prefix):
    path, network = vgg_file(tmp_path, prefix)
    image = torch.rand(1, 1, 33, 47)
    levels = VGGFeatures(path)(image)
    assert [tuple(f.shape[1:]) for f in levels] == [(64, 33, 47), (128, 16, 23), (256, 8, 11), (512, 4, 5), (512, 2, 2)]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    rgb = torch.tensor((image.numpy() - mean[:, None, None]) / std[:, None, None], dtype=torch.float32)
    assert torch.allclose(levels[0], network[:2](rgb), atol=1e-5)
    assert torch.allclose(levels[4], network(rgb), atol=1e-5)
    assert all(f.min() >= 0 for f in levels)
    convolutions = [i for i, layer in enumerate(network) if isinstance(layer, nn.Conv2d)]
    assert convolutions == [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28]  # torchvision's numbering


def test_perceptual_features_ask_monai_only_when_made(backbone):
    assert backbone == []
    features = PerceptualFeatures()
    assert [name for _, name in backbone] == ["radimagenet_resnet50"]
    image = torch.rand(2, 1, 48, 40)
    before = image.clone()
    (level,) = features(image)
    assert torch.equal(image, before)
    assert torch.allclose(level.square().sum(1), torch.ones(()), atol=1e-3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GradientFeatures(0), "'n_levels' must be at least 1"),
        (lambda: GradientFeatures()(torch.rand(1, 1, 8, 32)), "at least 16 pixels"),
        (lambda: GradientFeatures()(torch.rand(1, 2, 32, 32)), r"must be \(B, 1, H, W\)"),
        (lambda: VGGFeatures("nowhere.pth"), "or use GradientFeatures"),
        (lambda: PerceptualFeatures("medicalnet_resnet10_23datasets"), "'network_type' must be"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_wrong_weights_are_refused(tmp_path):
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"'features\.0\.weight' and 25 others"):
        VGGFeatures(str(tmp_path / "other.pth"))
