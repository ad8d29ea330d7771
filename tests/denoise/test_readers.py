"""Images to denoise: which are found, split and named, how they are scaled, and what is refused."""

import json

import nibabel
import numpy as np
import pytest
import torch
from skimage.io import imsave

from medkit.data import BrainCohort
from medkit.denoise import GivenSigmad, LoadNoisyd, RandTellSigmad, UnscaleWindowd, image_list


def volume(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, array, check_contrast=False)
    return path


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_a_folder_is_split_by_the_names_of_its_folders(tmp_path):
    for split in ("DIV2K_train_HR", "DIV2K_valid_HR"):
        for i in range(2):
            picture(tmp_path / split / f"{i}.png", (noise(8, 9, seed=i) * 255).astype(np.uint8))
    train, validation = (image_list(tmp_path, split, per="volume") for split in ("train", "validation"))
    assert len(train) == len(validation) == 2
    assert "DIV2K_train_HR" in train[0]["path"]
    assert {entry["case"] for entry in train} == {"0", "1"}
    with pytest.raises(ValueError, match="sub-folder for the split 'test'"):
        image_list(tmp_path, "test")


def test_without_such_folders_names_decide_and_every_image_is_in_one_split(tmp_path):
    for i in range(40):
        picture(tmp_path / f"p{i}.png", np.full((7, 7), i, dtype=np.uint8) + np.eye(7, dtype=np.uint8))
    parts = [{e["case"] for e in image_list(tmp_path, split)} for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    assert len(parts[0]) > 24
    same = [image_list(tmp_path, split, subject=r"p") for split in ("train",)]
    assert len(same[0]) == 40, "all of one subject are in one split"


def test_equal_names_and_hidden_files(tmp_path):
    for folder in ("a", "b"):
        volume(tmp_path / folder / "head.nii.gz", noise(4, 5, 2))
    volume(tmp_path / ".trash" / "old.nii", noise(4, 5, 2))
    assert [e["case"] for e in image_list(tmp_path, per="volume")] == ["a-head-nii-gz", "b-head-nii-gz"]


def test_a_datalist_names_cases_relative_to_itself(tmp_path):
    volume(tmp_path / "x.nii", noise(4, 5, 2))
    (tmp_path / "list.json").write_text(json.dumps({"test": [{"path": "x.nii", "case": "one"}]}))
    assert [e["case"] for e in image_list(tmp_path / "list.json", "test", per="volume")] == ["one"]
    (tmp_path / "bad.json").write_text(json.dumps({"test": [{"path": "x.nii", "case": "../one"}]}))
    with pytest.raises(ValueError, match="without / and"):
        image_list(tmp_path / "bad.json", "test")


def test_slices_with_signal_in_the_middle(tmp_path):
    array = noise(6, 6, 10)
    array[..., 4] = 1e-3
    volume(tmp_path / "v.nii", array)
    kept = [e["i_slice"] for e in image_list(tmp_path / "v.nii", central_fraction=0.6, min_signal=0.2)]
    assert kept == [2, 3, 5, 6, 7]
    assert len(image_list(tmp_path / "v.nii", n_slices=3)) == 3
    along = image_list(tmp_path / "v.nii", slice_axis=0)
    assert len(along) == 6


def test_the_cohort_must_be_of_the_split():
    cohort = BrainCohort(1, "test", spacing=8.0, contrasts=("t1",))
    assert [e["case"] for e in image_list(None, "test", cohort, per="volume", contrasts="t1")] == ["test-0000_t1"]
    with pytest.raises(ValueError, match="split 'train'"):
        image_list(None, "train", cohort)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_that_of_the_volume_and_its_affine_counts_the_slices_last(suffix, axis, tmp_path):
    array, affine = noise(4, 5, 6), np.array([[0, 2.0, 0, 1], [3, 0, 0, 2], [0, 0, 4, 3], [0, 0, 0, 1]])
    path = str(volume(tmp_path / f"v{suffix}", array, affine))
    load = LoadNoisyd(slice_axis=axis, window=(0, 1))
    whole, one = load({"path": path}), load({"path": path, "i_slice": 1})
    torch.testing.assert_close(torch.as_tensor(whole["image"])[0], torch.from_numpy(np.moveaxis(array, axis, -1)))
    torch.testing.assert_close(torch.as_tensor(one["image"]), torch.as_tensor(whole["image"])[..., 1])
    index = np.array([1, 2, 3, 1.0])
    stored = np.insert(np.delete(index, 2), axis, index[2])  # the slice index goes back to its own axis
    np.testing.assert_allclose(whole["affine"] @ index, affine @ stored)


@pytest.mark.parametrize(
    ("array", "window", "modality"),
    [
        (noise(9, 8, 2) * 1000, (0, 995), ""),
        (noise(9, 8, 2) * 3000 - 1000, (-1024, 1024), "CT"),
        (noise(9, 8, 2) - 0.5, (-0.5, 0.5), ""),
    ],
)
def test_windows_follow_the_kind_of_image_and_go_back(array, window, modality, tmp_path):
    sample = LoadNoisyd()({"path": str(volume(tmp_path / "v.nii", array))})
    assert sample["modality"] == modality
    low, high = sample["window"].tolist()
    assert low == pytest.approx(window[0], abs=0.02 * float(np.ptp(array)))
    assert high == pytest.approx(window[1], abs=0.02 * float(np.ptp(array)))
    back = UnscaleWindowd("image")(sample)["image"]
    np.testing.assert_allclose(torch.as_tensor(back)[0].numpy(), array, atol=1e-3)


@pytest.mark.parametrize(("dtype", "high"), [(np.uint8, 255), (np.uint16, 65535)])
def test_pictures_of_whole_numbers_are_full_range(dtype, high, tmp_path):
    array = np.array([[0, high], [high // 2, 1], [3, 4]], dtype=dtype)
    sample = LoadNoisyd()({"path": str(picture(tmp_path / "p.png", array))})
    assert sample["window"].tolist() == [0, high]
    np.testing.assert_allclose(torch.as_tensor(sample["image"])[0].numpy(), array / high, atol=1e-6)


def test_grey_stored_as_colour_is_grey_and_colour_needs_three_channels(tmp_path):
    grey = (noise(8, 7) * 255).astype(np.uint8)
    path = str(picture(tmp_path / "g.png", np.stack([grey] * 3, -1)))
    assert LoadNoisyd()({"path": path})["image"].shape == (1, 8, 7)
    colour = str(picture(tmp_path / "c.png", (noise(8, 7, 3) * 255).astype(np.uint8)))
    assert LoadNoisyd(channels=3)({"path": colour})["image"].shape == (3, 8, 7)
    with pytest.raises(ValueError, match="3 channels, the network takes 1"):
        LoadNoisyd()({"path": colour})


def test_sigma_is_in_the_unit_of_the_file_or_measured_or_untold():
    field = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
    sample = {"image": 0.5 + 0.1 * field, "window": torch.tensor([-1024.0, 1024.0])}
    assert float(GivenSigmad(sigma=204.8)(sample)["sigma"]) == pytest.approx(0.1)
    assert float(GivenSigmad(sigma="white")(sample)["sigma"]) == pytest.approx(0.1, rel=0.06)
    rician = torch.sqrt((0.1 * field) ** 2 + (0.1 * field.flip(1)) ** 2)
    assert float(GivenSigmad(sigma="background")({**sample, "image": rician})["sigma"]) == pytest.approx(0.1, rel=0.06)
    assert float(GivenSigmad()(sample)["sigma"]) == 0


def test_half_the_samples_are_told_and_a_seed_replays_which():
    tell = RandTellSigmad(0.5).set_random_state(0)
    levels = [float(tell({"sigma": torch.tensor(0.1)})["sigma"]) for _ in range(400)]
    assert 150 < sum(level > 0 for level in levels) < 250
    tell.set_random_state(0)
    assert [float(tell({"sigma": torch.tensor(0.1)})["sigma"]) for _ in range(400)] == levels
    assert float(RandTellSigmad(1.0)({"peak": 3})["sigma"]) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: image_list(d / "none"), "there is none at"),
        (lambda d: image_list(d, "tests"), "'split' must be"),
        (lambda d: image_list(d, slice_axis=3), "'slice_axis' must be"),
        (lambda d: image_list(d, central_fraction=0), "'central_fraction' must be"),
        (lambda d: image_list(d), "must hold images"),
        (lambda d: LoadNoisyd(window=(1, 1)), "'window' must be"),
        (lambda d: LoadNoisyd(channels=2), "'channels' must be"),
        (lambda d: LoadNoisyd(spatial_dims=4), "'spatial_dims' must be"),
        (lambda d: GivenSigmad(sigma="loud"), "'sigma' must be"),
        (lambda d: GivenSigmad(sigma=3, is_used=False), "takes no 'sigma'"),
        (lambda d: RandTellSigmad(2.0), "'prob' must be"),
    ],
)
def test_errors_say_what_was_wanted(call, words, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        call(tmp_path)
