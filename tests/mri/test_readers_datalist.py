"""The command that writes datalists, and the list of public data sets."""

from __future__ import annotations

import importlib.util
import json
import sys

import nibabel
import numpy as np
import pytest

from medkit.mri import LoadAcquisitiond, acquisition_list


@pytest.fixture(scope="module")
def command():
    from tests.conftest import REPOSITORY

    spec = importlib.util.spec_from_file_location("make_datalist", REPOSITORY / "data" / "make_datalist.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("make_datalist", None)


def folder_of(root, n_subjects=10):
    rng = np.random.default_rng(0)
    for i in range(n_subjects):
        for contrast in ("T1", "T2"):
            volume = nibabel.Nifti1Image(rng.random((4, 5, 3)).astype(np.float32), np.diag([2.0, 2, 3, 1]))
            nibabel.save(volume, root / f"IXI{i:03d}-{contrast}.nii.gz")
    return root


def test_subjects_fall_into_one_split_each(command, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    output = tmp_path / "list.json"
    assert command.main([str(folder_of(images)), "--subject", r"IXI\d+", "--output", str(output)]) == 0
    lists = json.loads(output.read_text(encoding="utf-8"))
    assert {split: len(entries) for split, entries in lists.items()} == {"train": 16, "validation": 2, "test": 2}
    subjects = [{entry["case"][:6] for entry in entries} for entries in lists.values()]
    assert len(set.union(*subjects)) == sum(len(one) for one in subjects) == 10
    assert "train          16 exams       48 slices" in capsys.readouterr().out
    entries = acquisition_list(output, "validation")
    assert len(entries) == 6
    assert LoadAcquisitiond()(entries[0])["magnitude"].shape == (1, 4, 5)
    again = tmp_path / "again.json"
    command.main([str(images), "--subject", r"IXI\d+", "--output", str(again)])
    assert again.read_bytes() == output.read_bytes()


def test_unpacked_volumes_keep_values_and_geometry(command, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    options = [
        "--pattern",
        "*-T2*",
        "--unpack",
        str(tmp_path / "u"),
        "--relative",
        "--output",
        str(tmp_path / "l.json"),
    ]
    assert command.main([str(folder_of(images, 3)), *options]) == 0
    entries = acquisition_list(tmp_path / "l.json", per="volume")
    assert len(entries) == 3
    for entry in entries:
        packed, unpacked = LoadAcquisitiond()({"path": images / f"{entry['case']}.nii.gz"}), LoadAcquisitiond()(entry)
        assert entry["path"].endswith(".nii")
        assert packed["magnitude"].equal(unpacked["magnitude"])
        assert packed["affine"].equal(unpacked["affine"])
    (tmp_path / "l.json").rename(tmp_path / "u" / "l.json")
    with pytest.raises(FileNotFoundError, match=r"the datalist .*l.json names .*IXI000-T2.nii, which is not there"):
        acquisition_list(tmp_path / "u" / "l.json")


def test_sub_folders_can_be_kept(command, tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / f"{split}.npy", np.ones((2, 4, 5), np.float32))
    assert command.main([str(tmp_path), "--keep_folders", "--output", str(tmp_path / "l.json")]) == 0
    lists = json.loads((tmp_path / "l.json").read_text(encoding="utf-8"))
    assert {split: entries[0]["case"] for split, entries in lists.items()} == {
        "train": "train",
        "validation": "val",
        "test": "test",
    }


def test_every_split_that_is_wanted_gets_a_subject(command):
    entries = [{"case": str(i)} for i in range(3)]
    assert [len(one) for one in command.split_by_subject(entries, None, (0.8, 0.1, 0.1)).values()] == [1, 1, 1]
    assert [len(one) for one in command.split_by_subject(entries, None, (1, 0, 0)).values()] == [3, 0, 0]
    assert [len(one) for one in command.split_by_subject(entries, None, (0, 0, 1)).values()] == [0, 0, 3]
    assert [len(one) for one in command.split_by_subject(entries, None, (0, 0.5, 0.5)).values()] == [0, 2, 1]
    assert [len(one) for one in command.split_by_subject(entries[:1], None, (0.8, 0.1, 0.1)).values()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shares", "0.5", "0.1", "0.1"], "three from 0 that add up to 1"),
        (["--subject", "OAS"], "'OAS' must be found in each case"),
        (["--pattern", "*.h5"], "'pattern'"),
        (["--key", "a"], "takes 'slice_axis', not 'key'"),
    ],
)
def test_errors_are_one_line(command, tmp_path, capsys, options, message):
    folder_of(tmp_path, 1)
    assert command.main([str(tmp_path), "--output", str(tmp_path / "l.json"), *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith("make_datalist: error: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "l.json").exists()


def test_every_public_data_set_says_what_where_and_on_which_terms(repository):
    datasets = json.loads((repository / "data" / "manifest.json").read_text(encoding="utf-8"))["datasets"]
    wanted = {"id", "name", "what", "home", "licence", "format", "prepare", "used_by"}
    assert {"fastmri", "ixi", "cc359", "brats", "oasis"} <= {entry["id"] for entry in datasets}
    for entry in datasets:
        assert set(entry) == wanted
        assert all(entry.values())
        assert entry["home"].startswith(("https://", "http://mridata.org"))
        assert all((repository / "medkit" / room).exists() or room == "atlas" for room in entry["used_by"])
