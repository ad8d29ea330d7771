"""The prior of the bundle hybrid_atlas: trained, resumed, evaluated, exported, as a user does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out

from medkit.atlas import make_prior
from medkit.data import BrainCohort
from medkit.workflow import user_message
from tests.atlas import prior_contract as contract
from tests.bundle_runs import ROOT, command, configs, prepared, run, typed

BUNDLE = ROOT / "bundles" / "hybrid_atlas"
META = str(BUNDLE / "configs" / "metadata.json")
WEIGHTS = BUNDLE / "models" / "model.pt"


def parsed(**overrides: object) -> ConfigParser:
    """Return the parser of the short training."""
    parser = ConfigParser()
    parser.read_config(configs(BUNDLE, "train", "small"))
    parser.update({"bundle_root": str(BUNDLE), "device": torch.device("cpu"), **overrides})
    return parser


@pytest.fixture(scope="module")
def prior_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a short training, run from another folder by the command in the README."""
    folder = tmp_path_factory.mktemp("prior")
    done = typed(folder, command(BUNDLE, ["train", "small"], "--output_dir", str(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_properties_of_monai_are_there(tmp_path: Path) -> None:
    assert prepared(BUNDLE, ["train", "small"], "train", output_dir=str(tmp_path)).check_properties() == []


def test_network_input_and_output_are_as_the_metadata_says() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=META,
        config_file=configs(BUNDLE, "train")[0],
        bundle_root=str(BUNDLE),
        device="cpu",
    )


def test_training_leaves_weights_checkpoint_and_pictures(prior_run: Path) -> None:
    folder = prior_run / "small"
    for name in ("model.pt", "checkpoint.pt", "preview.png", "previews/epoch_0002.png", "config.json"):
        assert (folder / name).is_file(), name
    assert list(folder.glob("events.out.tfevents.*"))


def test_training_steps_lower_the_loss() -> None:
    parser = parsed(learning_rate=0.005)
    dataset = parser.get_parsed_content("train#dataset")
    sample = dataset[1, 7]
    assert torch.equal(dataset[1, 7]["image"], sample["image"]), "a seed replays pair and augmentation"
    torch.manual_seed(0)
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        value = loss(network(sample["image"][None]), sample["label"][None])
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.97 * values[0]


def test_an_interrupted_training_ends_where_the_whole_one_does(prior_run: Path, tmp_path: Path) -> None:
    def weights(folder: Path) -> dict[str, torch.Tensor]:
        return torch.load(folder / "small" / "checkpoint.pt", weights_only=True)["network"]

    # The learning rate follows max_epochs: the first epoch of two, and then the second.
    run(BUNDLE, ["train", "small"], output_dir=str(tmp_path), **{"train#trainer#max_epochs": 1})
    half = weights(tmp_path)
    run(BUNDLE, ["train", "small"], output_dir=str(tmp_path))
    resumed, whole = weights(tmp_path), weights(prior_run)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert any(not torch.equal(half[name], whole[name]) for name in whole)


def test_evaluate_prior_compares_with_no_motion(prior_run: Path) -> None:
    run(BUNDLE, ["train", "small", "evaluate_prior"], output_dir=str(prior_run), n_test_subjects=2)
    folder = prior_run / "small" / "evaluate_prior"
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    assert set(summary) == {"no_motion", "prior"}
    assert set(summary["prior"]) == {"relative_energy", "ssd_ratio", "folded", "dice"}
    assert summary["no_motion"]["relative_energy"] == 1
    assert 0 < summary["no_motion"]["dice"] < 1
    assert (folder / "test-0000_to_test-0001.png").is_file()
    assert (folder / "metrics.csv").is_file()


def test_users_images_train_too(tmp_path: Path) -> None:
    cohort = BrainCohort(3, spacing=8.0, contrasts=("t1",))
    for split, entry in zip(("train", "train", "val"), cohort.datalist(), strict=True):
        (tmp_path / "mine" / split).mkdir(parents=True, exist_ok=True)
        shutil.copy(entry["t1"], tmp_path / "mine" / split / f"{entry['case']}.nii")
    shutil.copy(entry["t1"], tmp_path / "mine" / "val" / "second.nii")
    options = {"dataset_dir": str(tmp_path / "mine"), "output_dir": str(tmp_path / "runs"), "max_epochs": 1}
    run(BUNDLE, ["train", "small"], **options)
    assert (tmp_path / "runs" / "small" / "model.pt").is_file()


def test_weights_of_a_training_are_a_prior_and_exported_ones_agree(prior_run: Path, tmp_path: Path) -> None:
    small = {"unet_out_channels": 8, "channels": (4, 8, 8, 8), "final_conv_channels": (8,)}
    prior = make_prior("voxelmorph_unet", weights=prior_run / "small" / "model.pt", **small)
    contract.check_prediction(prior, (24, 32, 24))
    contract.check_swap(prior, (24, 32, 24))
    file = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(prior_run / "small" / "model.pt"),
        meta_file=META,
        config_file=configs(BUNDLE, "train", "small"),
        bundle_root=str(BUNDLE),
    )
    image = torch.rand(1, 2, 16, 24, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(file))(image), prior.network(image), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples_per_epochs", "3"], "samples_per_epoch"),
        (["--dataset_dir", "nowhere"], "does not exist"),
        (["--sigma", "-1"], "'sigma'"),
    ],
)
def test_wrong_input_ends_in_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = typed(tmp_path, command(BUNDLE, ["train", "small"], "--output_dir", str(tmp_path / "out"), *arguments))
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("medkit: error: "), done.stderr
    assert words in last
    assert not list(tmp_path.rglob("*.pt"))


def test_a_folder_of_one_image_is_refused_by_name(tmp_path: Path) -> None:
    entry = BrainCohort(3, spacing=8.0, contrasts=("t1",)).datalist()[0]
    (tmp_path / "mine").mkdir()
    shutil.copy(entry["t1"], tmp_path / "mine" / "alone.nii")
    with pytest.raises(RuntimeError) as caught:
        run(BUNDLE, ["train", "small"], dataset_dir=str(tmp_path / "mine"), output_dir=str(tmp_path / "runs"))
    assert "at least two subjects" in str(user_message(caught.value))


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundle ships no weights yet")
def test_the_released_weights_keep_the_contract_and_know_directions() -> None:
    parser = ConfigParser()
    parser.read_config(configs(BUNDLE, "train"))
    parser.update({"spacing": 4.0, "n_val_subjects": 2})
    prior = make_prior("voxelmorph_unet", weights=WEIGHTS, trained_shape=(48, 64, 48))
    contract.check_swap(prior, (48, 64, 48))
    # One voxel is 4 mm there, as far as subjects that are aligned affinely are apart.
    first, second = (x["image"].as_tensor()[None] for x in parser.get_parsed_content("validate#subjects"))
    contract.check_translation(prior, first, shift=1)
    # What it is shown has always the same border, so more background changes nothing.
    still = contract.velocity(prior, first, second)
    wide = contract.velocity(prior, *(F.pad(x, [5, 16] * 3) for x in (first, second)))
    torch.testing.assert_close(wide[:, :, 5:-16, 5:-16, 5:-16], still, rtol=0, atol=1e-4)
