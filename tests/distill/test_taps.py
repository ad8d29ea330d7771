"""Taps see what the modules put out, of every network of MONAI, and are gone when they should be."""

import logging

import pytest
import torch
from monai.networks.nets import DenseNet121, ResNet, SegResNet, SwinUNETR, UNet
from torch import nn

from medkit.distill import FeatureTaps, FrozenTeacher, probe_taps, unet_stages


def small_unet(dims: int = 2) -> UNet:
    return UNet(dims, 1, 2, channels=(4, 6, 8), strides=(2, 2), num_res_units=1)


def hooks_of(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


NETWORKS = {
    "densenet": (
        lambda: DenseNet121(2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1, 1, 1)),
        ["features.denseblock1", "features.denseblock3"],
        (1, 1, 32, 32),
        [(1, 6, 8, 8), (1, 4, 2, 2)],
    ),
    "resnet": (
        lambda: ResNet("basic", [1, 1, 1, 1], [4, 6, 8, 10], spatial_dims=3, n_input_channels=1, num_classes=2),
        ["layer1", "layer3"],
        (1, 1, 16, 16, 16),
        [(1, 4, 8, 8, 8), (1, 8, 2, 2, 2)],
    ),
    "unet": (lambda: small_unet(3), ["encoder2", "bottom", "model.2"], (1, 1, 8, 8, 8), [(1, 6, 2, 2, 2)]),
    "segresnet": (
        lambda: SegResNet(2, init_filters=8, in_channels=1, blocks_down=(1, 1), blocks_up=(1,)),
        ["down_layers.0", "down_layers.1", "up_layers.0"],
        (1, 1, 8, 8),
        [(1, 8, 8, 8), (1, 16, 4, 4), (1, 8, 8, 8)],
    ),
    "swinunetr": (
        lambda: SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
        ["encoder1", "encoder2", "encoder10"],
        (1, 1, 64, 64),
        [(1, 12, 64, 64), (1, 12, 32, 32), (1, 192, 2, 2)],
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_of_monai_networks(name, caplog):
    make, paths, size, shapes = NETWORKS[name]
    network = make()
    with caplog.at_level(logging.INFO):
        table = probe_taps(network, paths, torch.zeros(size))
    assert list(table) == paths
    assert list(table.values())[: len(shapes)] == shapes
    assert all(path in caplog.text and str(table[path]) in caplog.text for path in paths)
    assert hooks_of(network) == 0


def test_what_is_caught_is_what_the_modules_compute():
    network = small_unet().eval()
    image = torch.rand(1, 1, 8, 8)
    with FeatureTaps(network, ["encoder1", "decoder1"]) as taps:
        output = network(image)
    assert torch.equal(taps.features["encoder1"], network.model[0](image))
    assert torch.equal(taps.features["decoder1"], output)
    assert taps.input is image
    assert hooks_of(network) == 0
    taps.clear()
    assert taps.input is None
    with pytest.raises(ValueError, match="'encoder1' was not called"):
        _ = taps.features


def test_hooks_are_removed_after_an_error():
    network = small_unet()
    with pytest.raises(RuntimeError), FeatureTaps(network, ["bottom"]):
        network(torch.rand(1, 5, 8, 8))
    assert hooks_of(network) == 0


def test_only_training_is_seen_on_request():
    network = small_unet()
    seen = torch.rand(2, 1, 8, 8)
    with FeatureTaps(network, ["bottom"], only_training=True) as taps:
        network.train()(seen)
        caught = taps.features["bottom"]
        network.eval()(torch.rand(1, 1, 8, 8))
        assert taps.features["bottom"] is caught
        assert taps.input is seen


def test_gradient_flows_through_a_tap():
    network = small_unet()
    with FeatureTaps(network, ["encoder1"]) as taps:
        network(torch.rand(1, 1, 8, 8))
    taps.features["encoder1"].sum().backward()
    assert any(p.grad is not None for p in network.parameters())


def test_stages_of_a_unet():
    assert unet_stages(small_unet()) == {
        "encoder1": "model.0",
        "encoder2": "model.1.submodule.0",
        "bottom": "model.1.submodule.1.submodule",
        "decoder2": "model.1.submodule.2",
        "decoder1": "model.2",
    }
    with pytest.raises(ValueError, match="must be MONAI's UNet, got Linear"):
        unet_stages(nn.Linear(1, 1))


def test_unknown_path_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"no module 'encoder_2'; the nearest are \['encoder2'"):
        probe_taps(small_unet(), ["encoder_2"], torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="must be a list"):
        FeatureTaps(small_unet(), "bottom")
    with pytest.raises(ValueError, match="no module ''"):
        FeatureTaps(small_unet(), [""])


def test_lists_of_modules_and_modules_that_are_never_called_are_refused_by_name():
    swin = NETWORKS["swinunetr"][0]()
    with pytest.raises(ValueError, match=r"'swinViT.layers1' is a ModuleList.*\['swinViT.layers1.0'\]"):
        probe_taps(swin, ["swinViT.layers1"], torch.zeros(1, 1, 32, 32))

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(ValueError, match=r"\['idle'\] of Idle are never called"):
        probe_taps(Idle(), ["used", "idle"], torch.zeros(1, 2))


class Pair(nn.Module):
    """Outputs that are no tensors, and one that is overwritten."""

    def __init__(self):
        super().__init__()
        self.split, self.named, self.over = _Split(), _Named(), nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.over(x).relu_() + self.split(x)[1] + self.named(x)["low"]


class _Split(nn.Module):
    def forward(self, x):
        return x, 2 * x


class _Named(nn.Module):
    def forward(self, x):
        return {"low": 3 * x}


def test_outputs_that_are_no_tensor_need_a_choice():
    x = torch.ones(1, 1, 2, 2)
    with FeatureTaps(Pair(), ["split", "named"], select={"split": 1, "named": "low"}) as taps:
        taps.network(x)
    assert torch.equal(taps.features["split"], 2 * x)
    assert torch.equal(taps.features["named"], 3 * x)
    with pytest.raises(ValueError, match="a tuple of 2, no tensor; choose one of its items"):
        probe_taps(Pair(), ["split"], x)
    with pytest.raises(ValueError, match=r"a mapping with keys \['low'\], it has no 'high'"):
        probe_taps(Pair(), ["named"], x, select={"named": "high"})
    with pytest.raises(ValueError, match="must name taps"):
        FeatureTaps(Pair(), ["split"], select={"splt": 0})


def test_a_tap_that_is_overwritten_is_refused_or_cloned():
    torch.manual_seed(0)
    network, x = Pair(), torch.randn(1, 1, 4, 4)
    with FeatureTaps(network, ["over"]) as taps:
        network(x)
    with pytest.raises(ValueError, match="overwritten in place"):
        _ = taps.features
    with FeatureTaps(network, ["over"], clone=True) as taps:
        network(x)
    assert torch.equal(taps.features["over"], network.over(x))


def test_wrappers_are_looked_through():
    network = small_unet()
    wrapped = nn.DataParallel(network)
    assert probe_taps(wrapped, ["bottom"], torch.zeros(1, 1, 8, 8)) == {"bottom": (1, 8, 2, 2)}
    with FeatureTaps(wrapped, ["bottom"]) as taps:
        wrapped(torch.zeros(1, 1, 8, 8))
    assert taps.network is network
    assert list(taps.features) == ["bottom"]


def test_probe_changes_nothing():
    network = DenseNet121(2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1, 1, 1)).train()
    network.features.denseblock1.eval()
    modes = [m.training for m in network.modules()]
    before = {k: v.clone() for k, v in network.state_dict().items()}
    probe_taps(network, ["features.denseblock1"], torch.rand(1, 1, 32, 32))
    assert [m.training for m in network.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_teacher_is_frozen_whatever_happens():
    teacher_net = DenseNet121(2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1, 1, 1))
    before = {k: v.clone() for k, v in teacher_net.state_dict().items()}
    teacher = FrozenTeacher(teacher_net, ["features.denseblock2"])
    teacher_net.train()
    image = torch.rand(2, 1, 32, 32)
    seen = teacher(image)
    assert not teacher_net.training
    assert not any(p.requires_grad for p in teacher_net.parameters())
    assert not seen.output.requires_grad
    assert not seen.features["features.denseblock2"].requires_grad
    assert torch.equal(seen.output, teacher_net(image))
    assert all(torch.equal(before[k], v) for k, v in teacher_net.state_dict().items())
    assert hooks_of(teacher_net) == 0
    # Its tensors can be kept for a backward pass.
    student = torch.rand(2, 3, requires_grad=True)
    (student * seen.output).sum().backward()


def test_a_holder_does_not_see_the_teacher():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = FrozenTeacher(nn.Linear(2, 2))

    assert not list(Holder().parameters())
    assert not Holder().state_dict()
