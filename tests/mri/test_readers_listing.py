"""Lists of exams: splits are disjoint and stable, cases are distinct, empty slices can be left out."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter

import nibabel
import numpy as np
import pytest

from medkit.data import BrainCohort
from medkit.mri import LoadAcquisitiond, acquisition_list, open_acquisition
from medkit.mri.readers import slice_signal
from medkit.mri.readers.listing import split_of_name

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MEDKIT_CACHE", str(folder))
    return folder


def save(path, n_slices=3, values=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = np.ones((4, 5, n_slices), np.float32) * (1 if values is None else np.asarray(values))
    if path.suffix == ".npy":
        np.save(path, volume.transpose(2, 0, 1).astype(np.float32))
    else:
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)), path)
    return path


def cases(entries):
    return [entry["case"] for entry in entries]


def test_slices_of_a_folder_in_order(tmp_path):
    for name, n_slices in (("b.nii.gz", 2), ("deep/a.npy", 3), (".hidden.nii", 1), (".cache/c.nii", 1)):
        save(tmp_path / name, n_slices)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    entries = acquisition_list(tmp_path)
    assert [(entry["case"], entry["i_slice"]) for entry in entries] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("b", 0),
        ("b", 1),
    ]
    assert entries[0]["path"] == str((tmp_path / "deep" / "a.npy").resolve())
    assert all(type(entry["i_slice"]) is int for entry in entries)
    exams = acquisition_list(tmp_path, per="volume")
    assert [set(entry) for entry in exams] == [{"path", "case"}] * 2
    for entry in entries:
        assert LoadAcquisitiond()(entry)["magnitude"].shape == (1, 4, 5)


def test_a_file_is_itself_in_every_split(tmp_path):
    path = save(tmp_path / "a.b.nii.gz", 2)
    for split in (*SPLITS, "all"):
        assert acquisition_list(path, split, per="volume") == [{"path": str(path), "case": "a.b"}]
    assert [entry["i_slice"] for entry in acquisition_list(str(path))] == [0, 1]


def test_a_header_means_its_data(tmp_path):
    save(tmp_path / "head.nii")
    nibabel.save(nibabel.AnalyzeImage(np.ones((4, 5, 3), np.float32), None), tmp_path / "b.img")
    (tmp_path / "a.cfl").write_bytes(np.ones(20, "<c8").tobytes())
    (tmp_path / "a.hdr").write_text("# Dimensions\n4 5\n", encoding="utf-8")
    for name, data in (("a", "a.cfl"), ("b", "b.img")):
        wanted = [{"path": str(tmp_path / data), "case": name}]
        assert acquisition_list(tmp_path / f"{name}.hdr", per="volume") == wanted
        (tmp_path / "list.json").write_text(json.dumps({"train": [{"path": f"{name}.hdr"}]}), encoding="utf-8")
        assert acquisition_list(tmp_path / "list.json", "train", per="volume") == wanted


def test_splits_by_hash_are_disjoint_complete_and_of_the_promised_size(tmp_path):
    for i in range(200):
        (tmp_path / f"sub-{i:03d}.npy").touch()
    split = {name: cases(acquisition_list(tmp_path, name, per="volume")) for name in SPLITS}
    everything = cases(acquisition_list(tmp_path, per="volume"))
    assert sorted(case for found in split.values() for case in found) == everything
    assert len(everything) == 200
    share = {name: len(found) / 200 for name, found in split.items()}
    assert share == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.06)
    for i in range(0, 200, 2):
        (tmp_path / f"sub-{i:03d}.npy").unlink()
    left = cases(acquisition_list(tmp_path, "test", per="volume"))
    assert left == [case for case in split["test"] if int(case[-3:]) % 2]


def test_the_hash_does_not_change_between_versions():
    """The first 8 bytes of the names' SHA-256, as a number modulo 100, are 6, 79, 80, 89, 90 and 99."""
    names = ("sub-00", "sub-60", "sub-225", "sub-29", "sub-92", "sub-36")
    assert [split_of_name(name) for name in names] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    counts = Counter(split_of_name(str(i)) for i in range(5000))
    assert {name: counts[name] / 5000 for name in SPLITS} == pytest.approx(
        {"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.02
    )


def test_exams_of_a_subject_stay_together(tmp_path):
    for i in range(60):
        for contrast in ("T1", "T2"):
            (tmp_path / f"IXI{i:03d}-Guys-{contrast}.npy").touch()
    for pattern in (r"IXI\d+", r"^(IXI\d+)-"):
        for split in SPLITS:
            found = cases(acquisition_list(tmp_path, split, per="volume", subject=pattern))
            subjects = Counter(re.match(r"IXI\d+", case).group() for case in found)
            assert set(subjects.values()) == {2}
    one = acquisition_list(tmp_path, "train", per="volume", subject=r"IXI\d+", pattern="*-T2.npy")
    assert all(case.endswith("T2") for case in cases(one))
    with pytest.raises(ValueError, match=r"'subject' must be found in each file's name, 'OAS' is not in 'IXI000"):
        acquisition_list(tmp_path, "train", subject="OAS")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "validation", "test"),
        ("multicoil_train", "multicoil_val", "multicoil_test"),
        ("Train", "Val", "Test"),
        ("train_full", "val-2", "multicoil_test_v2"),
    ],
)
def test_splits_by_sub_folder(tmp_path, train, validation, test):
    for folder, name in ((train, "a"), (train, "deep/b"), (validation, "c"), (test, "d"), ("other", "e")):
        save(tmp_path / folder / f"{name}.npy")
    found = {split: cases(acquisition_list(tmp_path, split, per="volume")) for split in (*SPLITS, "all")}
    assert found == {"train": ["a", "b"], "validation": ["c"], "test": ["d"], "all": ["a", "b", "c", "d", "e"]}
    (tmp_path / test / "d.npy").unlink()
    (tmp_path / test).rmdir()
    with pytest.raises(
        ValueError, match=rf"must have a sub-folder for the split 'test', it has {train}.* with that word"
    ):
        acquisition_list(tmp_path, "test")


def test_how_exams_were_split_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="medkit")

    def said(dataset_dir, split="train", **options):
        caplog.clear()
        acquisition_list(dataset_dir, split, per="volume", **options)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    for i in range(20):
        save(tmp_path / "data" / "multicoil_val" / f"{i}.npy")
    save(tmp_path / "data" / "train" / "a.npy")
    save(tmp_path / "data" / "train" / "b.nii")
    folder = tmp_path / "data"
    by_folder = f"the exams of {folder} are split by the names of its sub-folders: "
    assert said(folder) == [("INFO", f"train: {by_folder}2 train, 20 validation")]
    assert said(folder, "validation", pattern="*.npy") == [("INFO", f"validation: {by_folder}1 train, 20 validation")]
    assert said(folder, "all") == []
    ((level, text),) = said(folder / "multicoil_val")
    counts = Counter(split_of_name(str(i)) for i in range(20))
    shares = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    assert level == "WARNING"
    assert f"split by a hash of their names: {shares}; its own name says validation: give the folder above" in text
    (folder / "multicoil_val").rename(tmp_path / "scans")
    assert said(tmp_path / "scans")[0][0] == "INFO"
    assert "3.npy is one file, it is taken whole for each split" in said(tmp_path / "scans" / "3.npy")[0][1]
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"train": [{"path": "scans/1.npy"}], "test": []}), encoding="utf-8")
    assert said(path)[0][1].endswith("list.json are split by the datalist: 1 train, 0 test")


def test_repeated_names_become_distinct_cases(tmp_path):
    names = ("s1/T2.npy", "s2/T2.npy", "s2/T2.nii", "s2/T2.nii.gz", "T1.nii")
    for name in names:
        save(tmp_path / name)
    assert cases(acquisition_list(tmp_path, per="volume")) == ["T1", "s1-T2", "s2-T2-nii", "s2-T2-nii-gz", "s2-T2-npy"]


def test_a_datalist(tmp_path):
    save(tmp_path / "images" / "a.npy", 2)
    save(tmp_path / "images" / "b.npy", 1)
    content = {"train": [{"path": "images/b.npy"}, {"path": "images/a.npy", "case": "z"}], "test": []}
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    train = acquisition_list(path, "train")
    assert [(entry["case"], entry["i_slice"]) for entry in train] == [("b", 0), ("z", 0), ("z", 1)]
    assert acquisition_list(path) == train
    content["train"][0]["subject"] = 7
    path.write_text(json.dumps(content), encoding="utf-8")
    assert [entry.get("subject") for entry in acquisition_list(path, "train")] == ["7", None, None]
    with pytest.raises(ValueError, match=r"list.json must be a datalist .*\"validation\".*it has \['test', 'train'\]"):
        acquisition_list(path, "validation")
    content["train"][0]["case"] = "z"
    for text in (json.dumps(content), "[]", "{", '{"train": [{"image": 1}]}', '{"train": 3}', "\0"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"(must be a datalist|each case of .*list.json must have one name, 'z')"):
            acquisition_list(path, "train")


def test_the_middle_of_each_exam(tmp_path):
    save(tmp_path / "a.npy", 10)
    save(tmp_path / "b.npy", 1)
    kept = [(entry["case"], entry["i_slice"]) for entry in acquisition_list(tmp_path, central_fraction=0.4)]
    assert kept == [("a", 3), ("a", 4), ("a", 5), ("a", 6), ("b", 0)]


def test_weak_slices_are_left_out_and_the_exam_is_read_once(tmp_path, cache, monkeypatch):
    save(tmp_path / "a.nii", 5, [0.0, 1.0, 10.0, 2.0, 0.5])
    assert [entry["i_slice"] for entry in acquisition_list(tmp_path, min_signal=0.1)] == [1, 2, 3]
    assert len(list((cache / "exam_index").iterdir())) == 1
    monkeypatch.setattr(slice_signal.torch.linalg, "vector_norm", lambda *_: pytest.fail("read again"))
    assert [entry["i_slice"] for entry in acquisition_list(tmp_path, min_signal=0.15)] == [2, 3]
    monkeypatch.undo()
    monkeypatch.setenv("MEDKIT_CACHE", str(cache))
    save(tmp_path / "a.nii", 5, [0.0, 1.0, 0.0, 0.0, 0.0])
    assert [entry["i_slice"] for entry in acquisition_list(tmp_path, min_signal=0.1)] == [1]


def test_undersampled_exams_are_refused_once_and_again(tmp_path):
    """One slice of the second exam lacks lines; it is refused also after what was read has been kept."""
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((3, 2, 12, 10)) + 1j * rng.standard_normal((3, 2, 12, 10))).astype(np.complex64)
    np.save(tmp_path / "a.npy", kspace)
    kspace[0, :, :, 2:5] = 0
    np.save(tmp_path / "b.npy", kspace)
    options = {"min_signal": 0.1, "fully_sampled": True}
    assert len(acquisition_list(tmp_path / "a.npy", **options)) == 3
    assert len(acquisition_list(tmp_path, min_signal=0.1)) == 6
    for _ in range(2):
        with pytest.raises(ValueError, match=r"need fully sampled k-space, but the scanner measured 70% of .*b.npy"):
            acquisition_list(tmp_path, **options)
    corner = np.fft.ifftshift(kspace[1:], (-2, -1))
    corner[..., 4:7, :] = 0  # the border of k-space whose zero frequency is at index 0
    np.save(tmp_path / "b.npy", corner)
    assert len(acquisition_list(tmp_path / "b.npy", centred=False, **options)) == 2


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, monkeypatch, caplog):
    save(tmp_path / "a.npy", 2)
    (tmp_path / "cache").write_text("a file where a folder is wanted", encoding="utf-8")
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path / "cache"))
    assert len(acquisition_list(tmp_path, min_signal=0.1)) == 2
    assert "cannot be kept" in caplog.text


def test_kspace_options_reach_the_files(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((6, 8, 4, 3), np.complex64))
    entries = acquisition_list(tmp_path, axes="H,W,slice,coil")
    assert [entry["i_slice"] for entry in entries] == [0, 1, 2, 3]
    assert LoadAcquisitiond(axes="H,W,slice,coil")(entries[3])["kspace"].shape == (3, 6, 8)
    save(tmp_path / "v" / "b.nii", 9)
    assert len(acquisition_list(tmp_path / "v", slice_axis=0)) == 4


@pytest.mark.slow
def test_the_cohort_of_the_package(tmp_path):
    cohort = BrainCohort(1, split="test", spacing=8.0, contrasts=("t2",), cache_dir=tmp_path)
    entries = acquisition_list(None, "test", cohort=cohort, min_signal=0.2)
    n_slices = open_acquisition(entries[0]["path"]).n_slices
    assert n_slices / 2 < len(entries) < n_slices
    d = LoadAcquisitiond()(entries[0])
    assert d["magnitude"].shape[0] == 1
    np.testing.assert_allclose(d["affine"].numpy()[:, :3], cohort.affine[:, :3])


class Cohort:
    split = "validation"

    def __init__(self, folder):
        self.folder = folder

    def datalist(self):
        return [
            {"case": case, "t1": str(self.folder / "t1.nii"), "t2": save(self.folder / f"{case}-t2.nii", 2)}
            for case in ("s1", "s0")
        ]


def test_the_simulated_cohort(tmp_path):
    entries = acquisition_list(None, "validation", cohort=Cohort(tmp_path))
    assert [(entry["case"], entry["i_slice"]) for entry in entries] == [
        ("s0_t2", 0),
        ("s0_t2", 1),
        ("s1_t2", 0),
        ("s1_t2", 1),
    ]
    assert entries[0]["path"] == str(tmp_path / "s0-t2.nii")
    both = acquisition_list(None, "validation", cohort=Cohort(tmp_path), contrast=("t2", "t1"), per="volume")
    assert cases(both) == ["s0_t1", "s0_t2", "s1_t1", "s1_t2"]
    assert [entry["subject"] for entry in both] == ["s0", "s0", "s1", "s1"]
    assert open_acquisition(entries[0]["path"]).n_slices == 2
    assert len(acquisition_list(None, "all", cohort=Cohort(tmp_path), per="volume")) == 2
    with pytest.raises(ValueError, match=r"'contrast' must be of \['t1', 't2'\] for this cohort, got 'dwi'"):
        acquisition_list(None, "validation", cohort=Cohort(tmp_path), contrast="dwi")
    with pytest.raises(ValueError, match=r"'cohort' is the validation split, but 'split' is 'train'"):
        acquisition_list(None, "train", cohort=Cohort(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, r"'split' must be train, validation, test or all, got 'val'"),
        ({"per": "case"}, r"'per' must be 'slice' or 'volume', got 'case'"),
        ({"central_fraction": 0}, r"'central_fraction' must be above 0 to 1"),
        ({"central_fraction": 1.5}, r"'central_fraction' must be above 0 to 1"),
        ({"min_signal": -0.1}, r"'min_signal' 0 to 1, got 1.0 and -0.1"),
        ({"pattern": "*.h5"}, r"'pattern' \['\*.h5'\] must fit a file in .*none of 1 such as a.npy"),
        ({"split": "test"}, r"none of the 1 exams in .* falls into the split 'test'"),
        ({"min_signal": 0.5, "domain": "image", "axes": "slice,H,W"}, None),
    ],
)
def test_arguments_out_of_range(tmp_path, options, message):
    save(tmp_path / "a.npy")
    assert split_of_name("a") != "test"
    if message is None:
        assert len(acquisition_list(tmp_path, **options)) == 3
        return
    with pytest.raises(ValueError, match=message):
        acquisition_list(tmp_path, **options)


def test_nothing_to_list(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is none at .*gone"):
        acquisition_list(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"must hold files of .h5, .*it holds no file; convert them"):
        acquisition_list(tmp_path)
    (tmp_path / "1.dcm").touch()
    (tmp_path / "2.dcm").touch()
    with pytest.raises(ValueError, match=r"it holds 2 .dcm; convert them"):
        acquisition_list(tmp_path)
    save(tmp_path / "zero.nii", values=[0, 0, 0])
    with pytest.raises(ValueError, match=r"no slice of 1 exams has a signal of 0.1"):
        acquisition_list(tmp_path, min_signal=0.1)
    (tmp_path / "bad.nii").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"bad.nii must be a volume"):
        acquisition_list(tmp_path)
