"""The bundle clgnet when things go wrong: a killed run, several processes, exports, broken and foreign files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import onnx_export

from medkit.workflow import user_message
from tests.bundle_runs import (
    CLGNET,
    MC_CDIC,
    SMALL,
    command,
    configs,
    environment,
    infer,
    run,
    train_in_two_processes,
    trained_network,
    trained_weights,
    typed,
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of the last step of a training."""
    return torch.load(folder / "small" / "checkpoint.pt", weights_only=True)["network"]


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_killed_training_goes_on_where_it_was(trained, tmp_path):
    line = command(CLGNET, ["train", "small"], "--output_dir", str(tmp_path), "--max_epochs", "4")
    with subprocess.Popen(
        line, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        while not (tmp_path / "small" / "checkpoint.pt").exists() and first.poll() is None:
            time.sleep(0.02)
        first.kill()
    assert first.returncode != 0, "the run ended before it could be killed"
    run(CLGNET, ["train", "small"], output_dir=str(tmp_path), max_epochs=4)
    whole = tmp_path / "whole"
    run(CLGNET, ["train", "small"], output_dir=str(whole), max_epochs=4)
    assert difference(weights(tmp_path), weights(whole)) == 0
    assert difference(weights(tmp_path), weights(trained)) > 1e-4, "nothing was learned after the second epoch"


def test_training_starts_from_given_weights(trained, tmp_path):
    ckpt_path = trained_weights(trained)
    run(
        CLGNET,
        ["train", "small"],
        output_dir=str(tmp_path),
        ckpt_path=str(ckpt_path),
        learning_rate=1e-12,
        max_epochs=1,
    )
    assert difference(weights(tmp_path), torch.load(ckpt_path, weights_only=True)) < 1e-6


@pytest.mark.skipif(sys.platform == "win32", reason="gloo needs torchrun's store, which Windows builds of torch lack")
def test_two_processes_train_what_one_does(trained, tmp_path):
    train_in_two_processes(CLGNET, tmp_path)
    # A norm, since Adam divides gradients by their size: of those near zero it blows rounding up to whole steps.
    two, one = (torch.cat([w.flatten() for w in weights(folder).values()]) for folder in (tmp_path, trained))
    assert (two - one).norm() < 1e-4 * one.norm()
    # events.out.tfevents.<time>.<host>.<process>.<number>
    writers = {path.name.split(".")[-2] for path in (tmp_path / "small").glob("events.out.tfevents.*")}
    assert len(writers) == 1, "one process alone writes logs"


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter calls what torch deprecated
def test_onnx_of_the_bundle_agrees_with_the_network(trained, tmp_path):
    import onnxruntime

    file = tmp_path / "model.onnx"
    options = {"network_def#network#preset": "small", "network_def#network#fft_backend": "matmul"}
    onnx_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(trained_weights(trained)),
        meta_file=str(CLGNET / "configs" / "metadata.json"),
        config_file=configs(CLGNET, "inference")[0],
        input_shape=[1, 7, 32, 40],
        use_trace=True,
        bundle_root=str(CLGNET),
        **options,
    )
    network = trained_network(trained)
    image = torch.rand(1, 7, 32, 40)
    session = onnxruntime.InferenceSession(str(file))
    (pred,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(pred), network(image), atol=1e-4, rtol=1e-4)


def noise(*shape: int) -> np.ndarray:
    """Return complex noise."""
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def write_cfl(path: Path, kspace: np.ndarray) -> None:
    """Write (coil, H, W) as BART does: readout, phase encoding, slice, coil, in Fortran order."""
    array = kspace.transpose(1, 2, 0)[:, :, None]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape)) + "\n")
    path.write_bytes(array.astype(np.complex64).tobytes(order="F"))


def test_inference_reads_cfl(trained, tmp_path):
    write_cfl(tmp_path / "head.cfl", noise(3, 40, 36))
    infer(trained, tmp_path / "head.cfl", tmp_path / "out")
    assert nibabel.load(tmp_path / "out" / "head_clgnet.nii.gz").shape == (40, 36, 1)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"][0]["case"] == "head"


def cut(path: Path) -> None:
    """Leave half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_h5(path: Path, kspace: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Write k-space (slice, coil, H, W), and the mask of its columns."""
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if mask is not None:
            file["mask"] = mask


def truncated_h5(folder: Path) -> Path:
    write_h5(folder / "a.h5", noise(2, 3, 40, 36))
    cut(folder / "a.h5")
    return folder / "a.h5"


def truncated_nifti(folder: Path) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.abs(noise(40, 36, 3)), np.eye(4)), folder / "a.nii")
    cut(folder / "a.nii")
    return folder / "a.nii"


def truncated_cfl(folder: Path) -> Path:
    write_cfl(folder / "a.cfl", noise(3, 40, 36))
    cut(folder / "a.cfl")
    return folder / "a.cfl"


def text_as_h5(folder: Path) -> Path:
    (folder / "a.h5").write_text("not HDF5")
    return folder / "a.h5"


def other_h5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["weights"] = np.zeros(3)
    return folder / "a.h5"


def kspace_with_nan(folder: Path) -> Path:
    kspace = noise(2, 3, 40, 36)
    kspace[1, 0, 3, 3] = np.nan
    write_h5(folder / "a.h5", kspace)
    return folder / "a.h5"


def nothing_sampled(folder: Path) -> Path:
    write_h5(folder / "a.h5", noise(2, 3, 40, 36), np.zeros(36, dtype=bool))
    return folder / "a.h5"


def mask_of_another_size(folder: Path) -> Path:
    write_h5(folder / "a.h5", noise(2, 3, 40, 36), np.ones(30, dtype=bool))
    return folder / "a.h5"


def nothing_there(folder: Path) -> Path:
    return folder / "a.h5"


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (truncated_h5, "a.h5"),
        (truncated_nifti, "a.nii"),
        (truncated_cfl, "a.cfl"),
        (text_as_h5, "a.h5"),
        (other_h5, "kspace"),
        (kspace_with_nan, "finite"),
        (nothing_sampled, "every sample is zero"),
        (mask_of_another_size, "30"),
        (nothing_there, "does not exist"),
    ],
)
def test_bad_exams_end_in_one_sentence_and_leave_nothing(write: Callable[[Path], Path], words, trained, tmp_path):
    exam = write(tmp_path)
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        infer(trained, exam, tmp_path / "out")
    sentence = user_message(caught.value)
    assert words in sentence
    assert "\n" not in sentence
    assert not [path for path in tmp_path.rglob("out/**/*") if path.is_file()]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_training_on_what_the_scanner_undersampled_ends_before_it_begins(split, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path / "cache"))
    for name in ("train", "validation"):
        (tmp_path / "exams" / name).mkdir(parents=True)
        mask = np.arange(52) % 3 != 1 if name == split else np.ones(52, dtype=bool)
        write_h5(tmp_path / "exams" / name / f"{name}.h5", noise(2, 2, 50, 52) * mask)
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        run(CLGNET, ["train", "small"], dataset_dir=str(tmp_path / "exams"), output_dir=str(tmp_path / "out"))
    sentence = user_message(caught.value)
    assert "need fully sampled k-space" in sentence
    assert f"{split}.h5" in sentence
    assert not list((tmp_path / "out").rglob("*.pt"))


READER_OPTIONS = ("key", "axes", "slice_axis", "domain", "centred")


def components(config: object, target: str) -> list[dict]:
    """Return every component of a config with such a target."""
    children = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    found = [component for child in children for component in components(child, target)]
    return [*found, config] if isinstance(config, dict) and config.get("_target_") == target else found


@pytest.mark.parametrize(
    ("bundle", "name", "n_readers"),
    [
        (CLGNET, "inference", 1),
        (CLGNET, "train", 2),
        (CLGNET, "evaluate", 2),
        (MC_CDIC, "inference", 3),
        (MC_CDIC, "train", 6),
        (MC_CDIC, "evaluate", 4),
        (MC_CDIC, "paper", 2),
    ],
)
def test_options_of_the_reader_reach_every_reader(bundle, name, n_readers):
    config = json.loads((bundle / "configs" / f"{name}.json").read_text())
    targets = ("LoadAcquisitiond", "LoadGuided", "LoadLesionsd", "pair_list")
    readers = [each for target in targets for each in components(config, f"medkit.mri.{target}")]
    assert len(readers) == n_readers
    readers += [each for each in components(config, "medkit.mri.acquisition_list") if "min_signal" in each]
    for reader in readers:
        assert {option: reader.get(option) for option in READER_OPTIONS} == {
            option: f"@{option}" for option in READER_OPTIONS
        }


@pytest.mark.parametrize("axes", ["slice,1,H,W,coil_ri", "'slice,1,H,W,coil_ri'"])
def test_axes_are_typed_plainly(axes, trained, tmp_path):
    kspace = noise(2, 1, 40, 36, 3)
    np.savez(tmp_path / "a.npz", other=kspace, mine=np.stack([kspace.real, kspace.imag], -1).reshape(2, 1, 40, 36, 6))
    weights = str(trained_weights(trained))
    options = {"dataset_dir": tmp_path / "a.npz", "output_dir": tmp_path / "out", "ckpt_path": weights, **SMALL}
    options |= {"key": "mine", "axes": axes, "domain": "kspace", "centred": False}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = typed(tmp_path, command(CLGNET, ["inference"], *words))
    assert done.returncode == 0, done.stderr
    assert nibabel.load(tmp_path / "out" / "a_clgnet.nii.gz").shape == (40, 36, 2)
