"""Exports: the file gives what the network gives at two sizes, or nothing is written."""

import json
import sys

import pytest
import torch
from torch import nn

from medkit.export import to_onnx, to_torchscript
from medkit.mri import CLGNet, PackedReconstructor


class _Network(nn.Module):
    """Small network for any size, with dropout to show whether it runs in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 2, 1))

    def forward(self, image):
        return self.layers(image)


class _Unscriptable(_Network):
    def forward(self, image):
        return self.layers(*[image] * 1)


class _Forgetful(nn.Module):
    """Gives another result with every call, so that no export of it can be right."""

    def forward(self, image):
        return image + torch.rand_like(image)


class _Pair(nn.Module):
    def forward(self, image):
        return image, image


def two_sizes(channels: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(2, channels, 16, 12, generator=generator), torch.rand(1, channels, 9, 15, generator=generator)]


def reconstructor(**options) -> nn.Module:
    """CLGNet with weights scaled up, so that every branch counts in the comparison."""
    generator = torch.Generator().manual_seed(0)
    network = CLGNet(**{"preset": "small", "n_cascades": 1, **options})
    for parameter in network.parameters():
        fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
        parameter.data = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
    return PackedReconstructor(network)


def measured(n_channels: int) -> list[torch.Tensor]:
    sizes = two_sizes(n_channels)
    for image in sizes:
        image[:, 2] = (image[:, 2] > 0.6).float()
    return sizes


@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript_gives_the_same_at_two_sizes(tmp_path, method):
    network, examples = _Network(), two_sizes()
    report = to_torchscript(network, tmp_path / "new" / "model.ts", examples, method, metadata={"version": "1"})
    assert report.kind == method
    assert set(report.errors) == {(2, 1, 16, 12), (1, 1, 9, 15)}
    extra = {"metadata.json": ""}
    loaded = torch.jit.load(str(report.path), _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == {"version": "1"}
    assert torch.allclose(loaded(examples[1]), network.eval()(examples[1]), atol=1e-6)


@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("n_channels", [3, 7])
def test_clgnet_as_torchscript(tmp_path, method, n_channels):
    report = to_torchscript(reconstructor(), tmp_path / "model.ts", measured(n_channels), method)
    assert max(report.errors.values()) < 1e-4


def test_onnx_gives_the_same_at_two_sizes(tmp_path):
    import onnx

    report = to_onnx(_Network(), tmp_path / "model.onnx", two_sizes(), metadata={"version": "1"})
    assert report.kind == "onnx"
    assert len(report.errors) == 2
    assert [f.name for f in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(str(report.path))
    onnx.checker.check_model(model)
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, "height", "width"]
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["image", "pred"]
    assert json.loads(model.metadata_props[0].value) == {"version": "1"}


@pytest.mark.parametrize(
    ("options", "n_channels"),
    [
        ({}, 3),
        ({"fourier_mode": "modrelu", "dc": "cg", "cg_iterations": 1}, 7),
        pytest.param({"in_channels": 1}, 3, marks=pytest.mark.slow),
        pytest.param({"n_cascades": 2, "n_blocks": 5}, 7, marks=pytest.mark.slow),
    ],
)
def test_clgnet_as_onnx(tmp_path, options, n_channels):
    import onnx

    network = reconstructor(**options)
    report = to_onnx(network, tmp_path / "model.onnx", measured(n_channels))
    assert max(report.errors.values()) < 1e-4
    assert network.network.fft_backend == "fft"
    model = onnx.load(str(report.path))
    complex_types = {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    assert not {v.type.tensor_type.elem_type for v in model.graph.value_info} & complex_types
    assert not {"DFT", "STFT"} & {node.op_type for node in model.graph.node}


def test_volumes_have_named_axes(tmp_path):
    import onnx

    examples = [torch.rand(1, 1, 6, 8, 4), torch.rand(1, 1, 6, 8, 6)]
    report = to_onnx(nn.Conv3d(1, 1, 3, padding=1), tmp_path / "model.onnx", examples)
    shape = [d.dim_param or d.dim_value for d in onnx.load(report.path).graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 1, 6, 8, "depth"]


def test_the_network_is_not_changed(tmp_path):
    network = _Network().train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    to_torchscript(network, tmp_path / "model.ts", two_sizes())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("export", [to_torchscript, to_onnx])
def test_a_file_that_disagrees_does_not_replace_a_good_one(tmp_path, export):
    path = tmp_path / "model"
    path.write_text("good")
    with pytest.raises(RuntimeError, match="differs by"):
        export(_Forgetful(), path, two_sizes())
    assert path.read_text() == "good"
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_trace_tied_to_its_size_is_refused(tmp_path):
    class Tied(nn.Module):
        def forward(self, image):
            return image * int(image.shape[-1])

    with pytest.raises(RuntimeError, match="differs by"):
        to_torchscript(Tied(), tmp_path / "model.ts", two_sizes(), "trace")


def test_what_cannot_be_scripted_is_told_to_trace(tmp_path):
    with pytest.raises(RuntimeError, match="try method='trace'"):
        to_torchscript(_Unscriptable(), tmp_path / "model.ts", two_sizes())
    to_torchscript(_Unscriptable(), tmp_path / "model.ts", two_sizes(), "trace")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} not installed; run: pip install 'medkit\[export\]'"):
        to_onnx(_Network(), tmp_path / "model.onnx", two_sizes())


@pytest.mark.parametrize("export", [to_torchscript, to_onnx])
@pytest.mark.parametrize(
    ("network", "examples", "words"),
    [
        (_Network(), torch.rand(1, 1, 8, 8), "must be a sequence of inputs"),
        (_Network(), [], "at least one real tensor"),
        (_Network(), [torch.rand(1, 1, 8, 8, dtype=torch.complex64)], "at least one real tensor"),
        (_Network(), [torch.rand(1, 1, 8, 8), torch.rand(1, 8, 8)], "the same number of axes"),
        (_Pair(), two_sizes(), "must return one real tensor, got tuple"),
    ],
)
def test_errors_say_what_was_wanted(tmp_path, export, network, examples, words):
    with pytest.raises(ValueError, match=words):
        export(network, tmp_path / "model", examples)
    assert not list(tmp_path.iterdir())


def test_other_errors(tmp_path):
    with pytest.raises(ValueError, match="'method' must be"):
        to_torchscript(_Network(), tmp_path / "model.ts", two_sizes(), "compile")
    with pytest.raises(ValueError, match="at least 2 long on every axis"):
        to_onnx(_Network(), tmp_path / "model.onnx", [torch.rand(1, 1, 8, 8), torch.rand(2, 1, 1, 8)])
