"""Tests of the verification of a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from medkit.workflow import example_inputs, verify_bundle


def metadata(*shape: Any, dtype: str = "float32") -> dict[str, Any]:
    tensor = {"num_channels": 2, "spatial_shape": list(shape), "dtype": dtype}
    return {"network_data_format": {"inputs": {"image": tensor}, "outputs": {"pred": tensor}}}


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (("*", "*"), [(32, 32), (40, 40)]),
        (("16*n", "2**p"), [(32, 32), (48, 64)]),
        ((24, 20), [(24, 20)]),
        (("*", 20, "*"), [(32, 20, 32), (40, 20, 40)]),
    ],
)
def test_example_inputs_have_the_promised_form(shape: tuple[Any, ...], sizes: list[tuple[int, ...]]) -> None:
    examples = example_inputs(metadata(*shape))
    assert [tuple(x.shape) for x in examples] == [(1, 2, *size) for size in sizes]
    assert all(0 <= x.min() and x.max() < 1 for x in examples)
    assert torch.equal(examples[0], example_inputs(metadata(*shape))[0])


def test_example_inputs_keep_the_dtype() -> None:
    assert example_inputs(metadata(4, dtype="float64"))[0].dtype == torch.float64


def test_unknown_input_is_refused() -> None:
    with pytest.raises(ValueError, match="example_inputs: 'metadata' must give"):
        example_inputs({})


def write(bundle: Path, **inference: Any) -> dict[str, str | None]:
    meta = {"schema": "https://example.org/rules.json", "version": "1.0.0", "changelog": {"1.0.0": ""}, **metadata(2)}
    meta |= {"monai_version": "1.6.1", "pytorch_version": "2.8.0", "numpy_version": "2.0.0"}
    (bundle / "configs" / "metadata.json").write_text(json.dumps(meta))
    ids = {"bundle_root": ".", "device": "cpu", "dataset_dir": None, "dataset": [], "evaluator": 0, "inferer": 0}
    (bundle / "configs" / "inference.json").write_text(json.dumps({**ids, **inference}))
    schema = bundle / "rules.json"
    schema.write_text(json.dumps({"required": ["schema", "version"]}))
    return dict(verify_bundle(bundle, schema))


def linear(out_features: int) -> dict[str, Any]:
    return {"_target_": "torch.nn.Conv1d", "in_channels": 2, "out_channels": out_features, "kernel_size": 1}


def test_sound_bundle_has_no_fault(bundle: Path) -> None:
    checks = write(bundle, network_def=linear(2))
    assert checks == {
        "metadata": None,
        "ids of train.json": None,
        "ids of inference.json": None,
        "network input and output": None,
    }


def test_faults_are_named(bundle: Path) -> None:
    assert "channel number `3` doesn't match: `2`" in str(
        write(bundle, network_def=linear(3))["network input and output"]
    )
    checks = write(bundle)
    assert checks["ids of inference.json"] == "missing: network_def"
    assert "network_def" in str(checks["network input and output"])
    (bundle / "rules.json").write_text(json.dumps({"required": ["authors"]}))
    assert "'authors' is a required property" in str(dict(verify_bundle(bundle, bundle / "rules.json"))["metadata"])


def test_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"must hold configs/metadata\.json"):
        list(verify_bundle(tmp_path))
