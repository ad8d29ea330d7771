"""Names of subjects: what all files end with goes, one file alone too, and two files of one subject are told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from medkit.atlas import list_subjects
from medkit.atlas.subject_names import lookalikes, named_after, named_files


@pytest.fixture
def folder(tmp_path: Path):
    """Return a function that makes files and their folder; nothing reads them."""

    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / f"{name}.nii.gz").write_bytes(b"")
        return tmp_path

    return make


# Laws


@pytest.mark.parametrize(
    ("stems", "expected"),
    [
        (["1113_SS"], ["1113"]),
        (["1113_SS", "1119_SS"], ["1113", "1119"]),
        (["a_x_SS", "b_x_SS"], ["a_x", "b_x"]),
        (["1113_T1"], ["1113_T1"]),
        (["a_T1", "b_T1"], ["a", "b"]),
        (["SS"], ["SS"]),
        (["1113SS"], ["1113SS"]),
    ],
)
def test_new_files_are_named_as_those_of_the_atlas_were(stems: list[str], expected: list[str]) -> None:
    like = {name: f"/data/{name}_SS.nii.gz" for name in ("1000", "1001")}
    assert list(named_files([f"/new/{stem}.nii" for stem in stems], "image", like)) == expected


def test_subjects_of_a_table_have_no_ending() -> None:
    like = {"anna": "/data/17_T1.nii", "bert": "/data/bert_T1.nii"}
    assert list(named_files(["/new/carl_T1.nii"], "image", like)) == ["carl_T1"]


def test_a_file_belongs_to_the_longest_name_that_it_begins_with(folder) -> None:
    names = ["s1", "s10", "s1_a"]
    paths = [f"/m/{stem}.nii" for stem in ("s1_mask", "s10_mask", "s1_a_mask")]
    assert list(named_after(paths, names)) == ["s1", "s10", "s1_a"]
    assert named_after(["/m/s2_mask.nii"], names) == {}
    assert named_after(["/m/s1_mask.nii", "/m/s1_other.nii"], names) == {}
    place = folder("s1_T1", "s2_T1", "s2_T2")
    subjects = list_subjects({"t2": place / "*_T2.nii.gz", "t1": place / "*_T1.nii.gz"})
    assert [(s.name, sorted(s.images)) for s in subjects] == [("s1", ["t1"]), ("s2", ["t1", "t2"])]


# Edges: files of one subject


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["1000_T1", "1000_T1_copy", "1001_T1"], [("1000_T1 and 1000_T1_copy", "two")]),
        (["1000_T1", "1000_T2", "1000_FLAIR", "1001_T1"], [("1000_FLAIR, 1000_T1 and 1000_T2", "three")]),
        (["a", "a_mask", "b", "b_labels"], [("a and a_mask", "two"), ("b and b_labels", "two")]),
        (["s1", "s1 (2)", "s2"], [("s1 and s1 (2)", "two")]),
        (["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"], [("sub-01_ses-1 and sub-01_ses-2", "two")]),
        (["site_a_01", "site_a_02", "site_b_01"], []),
        (["s1", "s10", "s11"], []),
        (["T1_1", "T1_2"], []),
        (["train-0000", "train-0001"], []),
    ],
)
def test_names_that_look_like_one_subject(names: list[str], groups: list[tuple[str, str]]) -> None:
    found = lookalikes(names)
    assert found == [f"{who} look like one subject, and count as {n}." for who, n in groups]


def test_many_groups_are_counted() -> None:
    found = lookalikes([f"{i}_{contrast}" for i in range(6) for contrast in ("T1", "T2")])
    assert len(found) == 4
    assert found[-1] == "So do 3 more groups of names."


def test_copies_are_told_and_sessions_too(folder, caplog: pytest.LogCaptureFixture) -> None:
    place = folder("1000_T1", "1000_T1_copy", "1001_T1")
    with caplog.at_level(logging.WARNING):
        assert len(list_subjects(place)) == 3
    assert "1000_T1 and 1000_T1_copy look like one subject, and count as two." in caplog.text
    assert "leave one out; contrasts of one subject are given as \"{'t1': " in caplog.text
    caplog.clear()
    assert len(list_subjects({"t1": place / "*_T1.nii.gz"})) == 2
    assert caplog.text == ""


# Errors


@pytest.mark.parametrize(
    "stems",
    [
        ("sub-01_T1w", "sub-01_T1w_copy", "sub-02_T1w"),
        ("sub-01_T1w", "sub-01_T2w", "sub-02_T1w", "sub-02_T2w"),
        ("sub-01_ses-1_run-1_T1w", "sub-01_ses-1_run-2_T1w", "sub-02_ses-1_T1w"),
        ("sub-01_ses-1_T1w", "sub-01_T1w", "sub-02_T1w"),
    ],
)
def test_two_files_of_a_bids_subject_are_refused(stems: tuple[str, ...], folder) -> None:
    with pytest.raises(ValueError, match=r"are both of 'sub-01', who would count twice; contrasts of one .*'t2'"):
        list_subjects(folder(*stems))


def test_a_table_may_name_what_it_likes(folder) -> None:
    place = folder("sub-01_T1w", "sub-01_T2w")
    (place / "list.csv").write_text("name,t1\nsub-01_a,sub-01_T1w.nii.gz\nsub-01_b,sub-01_T2w.nii.gz\n")
    assert len(list_subjects(place / "list.csv")) == 2
