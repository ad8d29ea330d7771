"""Tests of the ``medkit`` command, as a user types it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import medkit
from medkit.cli import find_bundles, main


@pytest.fixture(autouse=True)
def only_the_tiny_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Find the bundle ``tiny`` by name, and keep what a run changes in the process for itself."""
    monkeypatch.setenv("MEDKIT_BUNDLES", str(bundle.parent))
    monkeypatch.setenv("MEDKIT_DEBUG", "1")
    monkeypatch.chdir(bundle.parent)
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))


def change_metadata(bundle: Path, **entries: Any) -> None:
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_list_shows_bundles(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_metadata(bundle, task="Fit a line")
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=2) for line in lines if line.startswith("tiny ")] == [["tiny", "0.1.0", "Fit a line"]]


def test_first_place_wins(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny_bundle import write_tiny_bundle

    other = write_tiny_bundle(tmp_path / "bundles")
    assert find_bundles()["tiny"] == bundle
    monkeypatch.delenv("MEDKIT_BUNDLES")
    assert find_bundles()["tiny"] == other


def test_info_shows_options_and_results(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_metadata(bundle, name="Tiny", eval_metrics={"psnr": 31.5})
    assert main(["info", str(bundle)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Tiny 0.1.0" in shown
    assert "--max_epochs 2" in shown
    assert "--dataset_dir null" in shown
    assert '"psnr": 31.5' in shown
    assert "none, train it first" in shown


def test_run_trains_with_overlays_and_options(bundle: Path) -> None:
    assert main(["run", "tiny", "small", "--run_name", "other", "--train#trainer#max_epochs", "2"]) == 0
    config = json.loads((bundle / "runs" / "other" / "config.json").read_text())
    assert config["train"]["loader"]["batch_size"] == 1  # from the overlay
    assert config["train"]["trainer"]["max_epochs"] == 2
    assert config["bundle_root"] == str(bundle)
    assert (bundle / "runs" / "other" / "model.pt").is_file()


def test_run_is_inference_without_a_config(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert main(["run", "tiny"]) == 0
    assert not (bundle / "runs").exists()


def test_run_help_shows_the_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny", "train", "--help"]) == 0
    assert "--max_epochs" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["--images", "brains/*.nii.gz", "-h"], ["inference", "--help"]])
def test_atlas_build_takes_options_of_the_bundle(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atlas", "build", *words]) == 0
    assert "--match_intensities" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "tinny"], "no bundle 'tinny'; did you mean 'tiny'?"),
        (["info", "zzzzzz"], "no bundle 'zzzzzz'; found are: "),
        (["run", "tiny", "small", "train"], "the config train must be named first"),
        (["run", "tiny", "train", "inference"], "the configs train and inference stand alone each"),
        (["run", "tiny", "inference", "small"], "the config small changes 'train#loader#batch_size', but no config"),
        (["run", "tiny", "training"], "bundle 'tiny' has no config ['training']; it has inference, small, train"),
    ],
)
def test_wrong_command_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("medkit: error: " + message)
    assert error.count("\n") == 1


def test_misspelt_option_is_one_line(bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medkit.cli", "run", str(bundle), "train", "--max_epoch", "3"],
        capture_output=True,
        text=True,
        check=False,
        env={**__import__("os").environ, "MEDKIT_DEBUG": "0", "PYTHONPATH": str(Path(medkit.__file__).parents[1])},
        timeout=300,
    )
    assert done.returncode == 1
    assert "unknown option 'max_epoch': did you mean 'max_epochs'?" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_verify_names_faults(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensor = {"type": "image", "format": "magnitude", "num_channels": 2, "spatial_shape": [2], "dtype": "float32"}
    data_format = {"inputs": {"image": tensor}, "outputs": {"pred": tensor}}
    change_metadata(
        bundle, schema="https://example.org/rules.json", changelog={"0.1.0": "first"}, network_data_format=data_format
    )
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path))
    rules = {"type": "object", "required": ["version"], "properties": {"task": {"type": "string"}}}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    assert main(["verify", "tiny"]) == 1
    shown = dict(
        line.split(maxsplit=1) if line.startswith("metadata") else line.split("  ", 1)
        for line in capsys.readouterr().out.splitlines()
    )
    assert shown["metadata"] == "ok"
    assert "missing: " in shown["ids of inference.json"]
    assert shown["ids of train.json"].strip().startswith("missing: ")
    assert "network_def" in shown["network input and output"]
    change_metadata(bundle, task=7)
    main(["verify", "tiny"])
    assert "7 is not of type 'string'" in capsys.readouterr().out


def test_export_writes_checked_files(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra [export]")
    import torch

    network = {"_target_": "torch.nn.Conv2d", "in_channels": 2, "out_channels": 1, "kernel_size": 3}
    (bundle / "configs" / "inference.json").write_text(json.dumps({"bundle_root": ".", "network_def": network}))
    image = {"num_channels": 2, "spatial_shape": ["*", "*"], "dtype": "float32"}
    change_metadata(bundle, network_data_format={"inputs": {"image": image}})
    assert main(["export", "tiny"]) == 2
    assert "there are no weights at" in capsys.readouterr().err
    weights = tmp_path / "weights.pt"
    torch.save(torch.nn.Conv2d(2, 1, 3).state_dict(), weights)
    assert main(["export", "tiny", "--ckpt_path", str(weights)]) == 0
    assert capsys.readouterr().out.count("differs from the network by at most") == 2
    loaded = torch.jit.load(bundle / "models" / "model.ts")
    state = torch.load(weights, weights_only=True)
    ones = torch.ones(1, 2, 3, 3)
    torch.testing.assert_close(loaded(ones).flatten(), (state["weight"].sum() + state["bias"]))
    assert (bundle / "models" / "model.onnx").stat().st_size > 0


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for word, shown in (("--version", medkit.__version__), ("--help", "medkit run clgnet train --max_epochs 3")):
        with pytest.raises(SystemExit, match="0"):
            main([word])
        assert shown in capsys.readouterr().out


def test_command_without_words_shows_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: medkit" in capsys.readouterr().err


def test_light_commands_do_not_import_torch(bundle: Path) -> None:
    code = "import sys; from medkit.cli import main; main(['list']); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(medkit.__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
