"""The bundle mdrn: trained, resumed, distilled, evaluated, exported, and given wrong noise."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export
from skimage.io import imsave

from medkit.workflow import user_message
from tests.bundle_runs import (
    MDRN,
    configs,
    hounsfield,
    prepared,
    run,
    train_in_two_processes,
    trained_weights,
    values_of_steps,
)

TINY = {"network_def#channels": 8, "device": "cpu"}
AFFINE = np.array([[0.0, -2.0, 0.0, 10], [3.0, 0.0, 0.0, -7], [0.0, 0.0, 4.0, 5], [0, 0, 0, 1]])


def weights(folder: Path, name: str = "small") -> torch.Tensor:
    """Return the weights of the last step of a training, as one vector."""
    state = torch.load(folder / name / "checkpoint.pt", weights_only=True)["network"]
    return torch.cat([value.flatten() for value in state.values()])


def test_training_leaves_weights_checkpoint_and_pictures(trained_mdrn):
    for name in ("model.pt", "checkpoint.pt", "preview.png", "previews/epoch_0002.png", "config.json"):
        assert (trained_mdrn / "small" / name).is_file(), name


@pytest.mark.parametrize(
    ("names", "kind", "overrides"),
    [(["train", "small"], "train", {}), (["inference"], "infer", {"spacing": 4.0, "ckpt_path": None})],
)
def test_properties_of_monai_are_there(names, kind, overrides, tmp_path):
    assert prepared(MDRN, names, kind, output_dir=str(tmp_path), **overrides).check_properties() == []


def test_training_steps_lower_the_loss():
    values = values_of_steps(MDRN, lambda loss, value: value)
    assert values[-1] < 0.7 * values[0]


def test_stopped_training_goes_on_where_it_was(trained_mdrn, tmp_path, monkeypatch):
    calls, forward = [], torch.nn.L1Loss.forward

    def stop(self, pred, label):
        calls.append(1)
        if len(calls) > 6:  # in the second of two epochs of four steps
            raise KeyboardInterrupt
        return forward(self, pred, label)

    monkeypatch.setattr(torch.nn.L1Loss, "forward", stop)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        run(MDRN, ["train", "small"], output_dir=str(tmp_path))
    monkeypatch.undo()
    assert not torch.equal(weights(tmp_path), weights(trained_mdrn))
    run(MDRN, ["train", "small"], output_dir=str(tmp_path))
    assert torch.equal(weights(tmp_path), weights(trained_mdrn))


@pytest.mark.skipif(sys.platform == "win32", reason="gloo needs torchrun's store, which Windows builds of torch lack")
def test_two_processes_train_what_one_does(trained_mdrn, tmp_path):
    train_in_two_processes(MDRN, tmp_path)
    one, two = weights(trained_mdrn), weights(tmp_path)
    assert (two - one).norm() < 1e-4 * one.norm()


def distil(folder: Path, **options: object) -> None:
    """Train the small network with teachers of random weights."""
    run(MDRN, ["train", "small", "hmds"], output_dir=str(folder), teacher_preset="XT", force=True, **options)


def test_without_weight_for_the_teacher_it_is_the_plain_training_bit_for_bit(trained_mdrn, tmp_path):
    distil(tmp_path, kd_weight=0.0)
    assert torch.equal(weights(tmp_path, "hmds"), weights(trained_mdrn))


@pytest.mark.parametrize("strategies", [["II"], ["I", "II"]])
def test_teachers_change_the_training_and_leave_no_adapter_in_the_weights(strategies, trained_mdrn, tmp_path):
    distil(tmp_path, strategies=strategies)
    assert not torch.allclose(weights(tmp_path, "hmds"), weights(trained_mdrn), atol=1e-5)
    plain = torch.load(trained_weights(trained_mdrn), weights_only=True)
    assert set(torch.load(tmp_path / "hmds" / "model.pt", weights_only=True)) == set(plain)
    state = torch.load(tmp_path / "hmds" / "checkpoint.pt", weights_only=True)
    adapters = [name for name in state["loss"] if "adapters" in name]
    assert bool(adapters) == ("I" in strategies), "a teacher of another width needs adapters, one's own size none"


def test_the_quieter_teacher_sees_the_same_noise_at_its_share():
    parser = ConfigParser()
    parser.read_config(configs(MDRN, "train", "small", "hmds"))
    parser.update({"strategies": ["II"], "noise_share": 0.25, "noise_kind": "gaussian", "told": 1.0, "sigma": 0.2})
    sample = parser.get_parsed_content("train#dataset")[5]
    label, image, quieter = (torch.as_tensor(sample[key]) for key in ("label", "image", "quieter"))
    torch.testing.assert_close(quieter[:1] - label, 0.25 * (image[:1] - label), atol=1e-5, rtol=0)
    assert image.shape == quieter.shape == (2, 24, 24)
    torch.testing.assert_close(quieter[1], 0.25 * image[1])
    assert float(image[1, 0, 0]) == pytest.approx(0.2)


@pytest.mark.parametrize("overlay", ["sure", "noise2void", "dncnn", "three_d", "paper", "ct_dose"])
def test_overlays_train_and_evaluate(overlay, tmp_path):
    options = {
        "output_dir": str(tmp_path),
        "run_name": "small",
        "max_epochs": 1,
        "samples_per_epoch": 4,
        "val_interval": 1,
    }
    options |= {"n_val_subjects": 1, "crop_size": [16, 16, 16] if overlay == "three_d" else [24, 24]}
    method, first = "mdrn", ["train", overlay, "small"]
    if overlay == "dncnn":  # which has no channels to be made few by small.json
        method, first = "dncnn", ["train", overlay]
        options |= {"spacing": 4.0, "n_subjects": 1, "contrasts": ["t2"], "batch_size": 2, "network_def#n_layers": 3}
    if overlay == "ct_dose":
        options["dataset_dir"] = str(hounsfield(tmp_path))
    run(MDRN, first, **options)
    run(MDRN, [*first, "evaluate"], n_test_subjects=1, n_slices=1, **options)
    summary = json.loads((tmp_path / "small" / "evaluate" / "metrics.json").read_text())["summary"]
    assert set(summary) == {"noisy", "non_local_means", method}
    assert ("bias_hu" in summary[method]) == (overlay == "ct_dose")
    if overlay == "ct_dose":
        assert abs(summary[method]["bias_hu"]) < abs(summary["noisy"]["bias_hu"]) + 0.1, "the mean is the noisy one's"


def test_noisy_data_train_without_a_clean_image(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        picture = np.kron(rng.random((6, 6)), np.ones((6, 6))) * 200 + rng.normal(0, 10, (36, 36))
        (tmp_path / "noisy" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "noisy" / "val").mkdir(exist_ok=True)
        folder = tmp_path / "noisy" / ("val" if i == 2 else "train")
        imsave(folder / f"{i}.png", picture.clip(0, 255).astype(np.uint8), check_contrast=False)
    options = {"dataset_dir": str(tmp_path / "noisy"), "clean_data": False, "output_dir": str(tmp_path)}
    run(MDRN, ["train", "small", "sure"], max_epochs=1, **options)
    assert (tmp_path / "sure" / "model.pt").is_file()


def test_evaluate_compares_with_the_noisy_image_and_the_baseline(trained_mdrn):
    run(MDRN, ["train", "small", "evaluate"], output_dir=str(trained_mdrn), n_test_subjects=1, n_slices=2)
    folder = trained_mdrn / "small" / "evaluate"
    content = json.loads((folder / "metrics.json").read_text())
    assert set(content["summary"]) == {"noisy", "non_local_means", "mdrn"}
    assert set(content["summary"]["mdrn"]) == {"psnr", "ssim"}
    assert content["summary"]["noisy"]["psnr"] == pytest.approx(20, abs=1.5), "sigma is 0.1"
    assert (folder / "metrics.csv").is_file()
    for case in content["cases"]:
        assert (folder / f"{case['case']}.png").is_file()
    assert "n_test_subjects" not in json.loads((folder.parent / "config.json").read_text()), "the training's is kept"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": [0.0, 3.0]}, "'sigma' must be 0 to 1"),
        ({"noise_kind": "rice"}, "'kind' must be of"),
        ({"noise_kind": ["poisson", "gaussian"]}, "name it alone"),
    ],
)
def test_wrong_noise_ends_in_one_sentence(options, words, tmp_path):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        run(MDRN, ["train", "small"], output_dir=str(tmp_path), **options)
    assert words in user_message(caught.value)
    assert not list(tmp_path.rglob("*.pt"))


def network(trained: Path) -> torch.nn.Module:
    """Return the network of the short training as the configs of inference build it."""
    parser = ConfigParser()
    parser.read_config(configs(MDRN, "inference"))
    parser["network_def#channels"] = 8
    net = parser.get_parsed_content("network_def").eval()
    net.load_state_dict(torch.load(trained_weights(trained), weights_only=True))
    return net


def exported(trained: Path, file: Path) -> dict[str, object]:
    """Return the arguments of MONAI's exports."""
    return {
        "net_id": "network_def",
        "filepath": str(file),
        "ckpt_file": str(trained_weights(trained)),
        "meta_file": str(MDRN / "configs" / "metadata.json"),
        "config_file": configs(MDRN, "inference")[0],
        "bundle_root": str(MDRN),
        "network_def#channels": 8,
    }


def test_exported_torchscript_agrees_with_the_network(trained_mdrn, tmp_path):
    ckpt_export(**exported(trained_mdrn, tmp_path / "model.ts"))
    script, net = torch.jit.load(str(tmp_path / "model.ts")), network(trained_mdrn)
    for size in ((32, 40), (45, 33)):
        image = torch.rand(1, 2, *size)
        with torch.no_grad():
            torch.testing.assert_close(script(image), net(image), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter calls what torch deprecated
def test_onnx_of_the_bundle_agrees_with_the_network(trained_mdrn, tmp_path):
    import onnxruntime

    onnx_export(**exported(trained_mdrn, tmp_path / "model.onnx"), input_shape=[1, 2, 48, 48], use_trace=True)
    image = torch.rand(1, 2, 48, 48)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (pred,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(pred), network(trained_mdrn)(image), atol=1e-4, rtol=1e-4)
