"""Maps of lesions: found beside the contrasts, loaded on the target's grid, or made of a table of boxes."""

from __future__ import annotations

import json
import logging

import nibabel
import numpy as np
import pytest
import torch

from medkit.data import BrainCohort
from medkit.mri import LoadAcquisitiond, LoadLesionsd, acquisition_list, pair_list
from medkit.mri.readers.boxes import Box, read_boxes
from medkit.mri.readers.contrasts import split_lesion_name

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
SHAPE = (12, 10, 6)
HEADER = "file,slice,x,y,width,height,label\n"


def save(path, array=None, affine=AFFINE, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).random(SHAPE, dtype=np.float32) if array is None else array
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def labels(seed=0):
    return np.random.default_rng(seed).integers(0, 6, SHAPE).astype(np.uint8)


@pytest.mark.parametrize(
    ("stem", "case"),
    [
        ("BraTS-GLI-00001-000-seg", "BraTS-GLI-00001-000"),
        ("Brats18_CBICA_AAM_1_seg", "Brats18_CBICA_AAM_1"),
        ("test-0000_lesions", "test-0000"),
        ("sub-01_T2w_seg", "sub-01"),
        ("SEG", ""),
        ("IXI002-segment-T2", None),
        ("a_lesions", None),
    ],
)
def test_names_tell_maps_of_lesions(stem, case):
    assert split_lesion_name(stem, ["lesions"] if stem == "a_lesions" else ["t2"]) == case


@pytest.mark.parametrize("by_folder", [False, True])
def test_map_beside_the_contrasts_belongs_to_its_examination(tmp_path, by_folder):
    for i in range(2):
        stem = f"BraTS-GLI-0000{i}-000"
        start = tmp_path / stem / ("" if by_folder else f"{stem}-")
        for word in ("t2w", "t1n", *(("seg",) if i == 0 else ())):
            save(tmp_path / stem / f"{word}.nii" if by_folder else start.with_name(f"{start.name}{word}.nii"))
    first, second = pair_list(tmp_path, per="volume")
    assert first["lesions"] == first["path"].replace("t2w", "seg")
    assert "lesions" not in second
    slices = pair_list(tmp_path)
    assert {entry.get("lesions") for entry in slices[:6]} == {first["lesions"]}


def test_two_maps_of_one_examination_are_no_map(tmp_path, caplog):
    for name in ("a_t2.nii", "a_t1.nii", "a_seg.nii", "a_t1_seg.nii"):
        save(tmp_path / name)
    (entry,) = pair_list(tmp_path, per="volume")
    assert "lesions" not in entry
    assert "a is taken without a map of lesions" in caplog.text


def test_tables_and_datalists_name_maps(tmp_path):
    for name in ("x.nii", "y.nii", "map.nii"):
        save(tmp_path / name)
    row = {"t2": "x.nii", "t1": "y.nii", "case": "a", "lesions": "map.nii"}
    (tmp_path / "pairs.json").write_text(json.dumps({"test": [row]}))
    (tmp_path / "pairs.csv").write_text("t2,t1,case,lesions\nx.nii,y.nii,a,map.nii\nx.nii,y.nii,b,\n")
    (tmp_path / "exams.json").write_text(json.dumps({"test": [{"path": "x.nii", "lesions": "map.nii"}]}))
    wanted = str((tmp_path / "map.nii").resolve())
    assert pair_list(tmp_path / "pairs.json", "test", per="volume")[0]["lesions"] == wanted
    with_map, without = pair_list(tmp_path / "pairs.csv", per="volume")
    assert with_map["lesions"] == wanted
    assert "lesions" not in without
    assert acquisition_list(tmp_path / "exams.json", "test", per="volume")[0]["lesions"] == wanted
    (tmp_path / "map.nii").unlink()
    with pytest.raises(FileNotFoundError, match=r"map of lesions of 'a' is not there.*map.nii"):
        pair_list(tmp_path / "pairs.csv")
    with pytest.raises(FileNotFoundError, match=r"names .*map.nii, which is not there"):
        acquisition_list(tmp_path / "exams.json", "test")


def test_cohort_gives_its_map_and_the_same_slices_are_loaded(tmp_path, monkeypatch):
    whole = labels()
    files = {"t2": None, "t1": None, "lesions": whole}
    entry = {"case": "x", **{part: str(save(tmp_path / f"{part}.nii", array)) for part, array in files.items()}}
    monkeypatch.setattr(BrainCohort, "datalist", lambda self: [entry])
    cohort = BrainCohort(1, "test", contrasts=("t2", "t1"), lesions=True)
    lists = [pair_list(cohort=cohort, per="volume"), acquisition_list(cohort=cohort, per="volume")]
    for entries in lists:
        sample = LoadLesionsd(n_slices=4)(LoadAcquisitiond(n_slices=4)(entries[0]))
        assert sample["lesions"].dtype == torch.uint8
        assert sample["lesions"].shape == sample["magnitude"].shape
        np.testing.assert_array_equal(sample["lesions"][0], whole[..., 1:5])
    one = pair_list(cohort=cohort)[2]
    np.testing.assert_array_equal(LoadLesionsd()(one)["lesions"][0], whole[..., one["i_slice"]])
    del entry["lesions"]
    healthy = acquisition_list(cohort=cohort, per="volume")[0]
    assert LoadLesionsd()(healthy) == healthy


def test_slices_count_along_the_axis_of_the_target(tmp_path):
    stored = labels()
    entry = {"path": str(save(tmp_path / "a.nii")), "lesions": str(save(tmp_path / "b.nii.gz", stored)), "i_slice": 3}
    lesions = LoadLesionsd(slice_axis=0)(entry)["lesions"]
    np.testing.assert_array_equal(lesions[0], stored[3])


def test_map_of_an_array_fits_kspace(tmp_path):
    stored = np.moveaxis(labels(), -1, 0)
    np.save(tmp_path / "map.npy", stored)
    np.save(tmp_path / "exam.npy", np.random.default_rng(0).standard_normal((6, 2, 12, 10)) + 0j)
    sample = {"path": str(tmp_path / "exam.npy"), "lesions": str(tmp_path / "map.npy")}
    lesions = LoadLesionsd(axes="slice,coil,H,W", domain="kspace", n_slices=2)(sample)["lesions"]
    np.testing.assert_array_equal(lesions[0], np.moveaxis(stored[2:4], 0, -1))


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (labels()[:, :, :5], AFFINE, "12x10x5 voxels"),
        (labels(), np.diag([1.0, 1.5, 2.5, 1.0]), "voxels beside the target's"),
        (labels(), np.diag([-1.0, 1.5, 2.0, 1.0]), "its axes run LAS"),
        (labels() + 0.5, AFFINE, "whole numbers from 0 to 255"),
        (labels().astype(np.int16) + 300, AFFINE, "whole numbers from 0 to 255"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, array, affine, words):
    entry = {"path": str(save(tmp_path / "a.nii")), "lesions": str(save(tmp_path / "b.nii", array, affine))}
    with pytest.raises(ValueError, match=rf"LoadLesionsd: .*b.nii.*{words}") as caught:
        LoadLesionsd()(entry)
    assert "align=" not in str(caught.value), "a map is never aligned"


def boxes(folder, text, header=HEADER):
    path = folder / "boxes.csv"
    path.write_text(header + text)
    return path


def test_boxes_become_a_map_in_their_slices(tmp_path):
    table = boxes(tmp_path, "a,2,3,1,4,2,7\na.nii,2,4,1,1,1,9\nother,0,0,0,1,1,1\na,0,0,0,10,12,5\n")
    entry = {"path": str(save(tmp_path / "a.nii"))}
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:3, 3:7, 2] = 7
    expected[1, 4, 2] = 9  # the smaller one of two that overlap
    expected[:, :, 0] = 5
    load = LoadLesionsd(boxes=table)
    np.testing.assert_array_equal(load(entry)["lesions"][0], expected)
    np.testing.assert_array_equal(load({**entry, "i_slice": 2})["lesions"][0], expected[..., 2])
    np.testing.assert_array_equal(LoadLesionsd(boxes=table, n_slices=2)(entry)["lesions"][0], expected[..., 2:4])
    assert load({**entry, "case": "other"})["lesions"].sum() == 1, "the case's name comes first"
    unknown = {"path": str(save(tmp_path / "c.nii")), "lesions": "nowhere.nii"}
    assert "lesions" not in load(unknown), "with a table, maps are not read"


def test_boxes_name_the_exam_also_where_the_case_has_its_reference_behind_it(tmp_path, caplog):
    load = LoadLesionsd(boxes=boxes(tmp_path, "sub-01,2,3,1,4,2,7\n"))
    entry = {"path": str(save(tmp_path / "sub-01_T2w.nii")), "case": "sub-01_t1", "guide_contrasts": ["t1"]}
    assert load(entry)["lesions"].sum() == 7 * 8
    with caplog.at_level(logging.INFO):
        assert "lesions" not in load({**entry, "case": "sub-02_t1"})
    assert "sub-02_t1 has no boxes: none names sub-02 or sub-01_T2w" in caplog.text


def test_boxes_count_in_the_cropped_image(tmp_path):
    table = boxes(tmp_path, "a,0,0,0,2,3,1\n")
    entry = {"path": str(save(tmp_path / "a.nii")), "recon_size": torch.tensor((7, 4))}
    lesions = LoadLesionsd(boxes=table, crop_to_recon=True)(entry)["lesions"]
    assert lesions.shape == (1, *SHAPE)
    np.testing.assert_array_equal(np.argwhere(lesions[0, ..., 0].numpy()).min(0), (3, 3))
    np.testing.assert_array_equal(np.argwhere(lesions[0, ..., 0].numpy()).max(0), (5, 4))
    assert LoadLesionsd(boxes=table)(entry)["lesions"][0, 0, 0, 0] == 1


def test_words_are_numbered_and_lines_of_whole_exams_left_out(tmp_path, caplog):
    header = "file,slice,study_level,x,y,width,height,label\n"
    table = boxes(tmp_path, "a,1,No,2,3,4,5,Mass\na,1,,2,3,4,5,Edema\nb,,Yes,,,,,Normal\n", header)
    with caplog.at_level(logging.INFO):
        assert read_boxes(table) == {"a": [Box(1, 2, 3, 4, 5, 2), Box(1, 2, 3, 4, 5, 1)]}
    assert "1 Edema, 2 Mass" in caplog.text


@pytest.mark.parametrize(
    ("text", "header", "words"),
    [
        ("a,1,2,3,4,1\n", "file,slice,x,y,width,label\n", "it has no height"),
        ("", "", "it has no file, slice"),
        ("", HEADER, "at least one box"),
        ("a,1,2,three,4,5,1\n", HEADER, "'y' in line 2 .* must be a whole number, got 'three'"),
        ("a,1,2,3,4,5,1\n\na,1,2.5,3,4,5,1\n", HEADER, "'x' in line 4 .* must be a whole number, got '2.5'"),
        ("a,1,2,3,4\n", HEADER, "'height' in line 2"),
        ("a,1,-2,3,4,5,1\n", HEADER, "line 2 .* of at least 0"),
        ("a,1,2,3,0,5,1\n", HEADER, "width and height of at least 1"),
        (",1,2,3,4,5,1\n", HEADER, "must name a file"),
        ("a,1,2,3,4,5,\n", HEADER, "a label"),
        ("a,1,2,3,4,5,0\n", HEADER, "'label' .* must be 1 to 255 or a word, got '0'"),
    ],
)
def test_wrong_tables_are_refused_before_anything_is_read(tmp_path, text, header, words):
    with pytest.raises(ValueError, match=f"read_boxes: .*{words}"):
        LoadLesionsd(boxes=boxes(tmp_path, text, header))


@pytest.mark.parametrize("line", ["a,6,0,0,1,1,1", "a,0,7,0,4,1,1", "a,0,0,8,1,5,1"])
def test_boxes_outside_the_image_are_refused(tmp_path, line):
    load = LoadLesionsd(boxes=boxes(tmp_path, line))
    with pytest.raises(ValueError, match="LoadLesionsd: the boxes of a must lie in its 6 slices of 12 rows and 10 col"):
        load({"path": str(save(tmp_path / "a.nii"))})


def test_arguments_out_of_range_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"read_boxes: 'boxes' must be a \.csv file"):
        LoadLesionsd(boxes=tmp_path / "none.csv")
    with pytest.raises(ValueError, match="LoadLesionsd: 'keys' must be one key"):
        LoadLesionsd(["lesions", "more"])
    with pytest.raises(ValueError, match="LoadLesionsd: 'n_slices' must be at least 1"):
        LoadLesionsd(n_slices=0)
