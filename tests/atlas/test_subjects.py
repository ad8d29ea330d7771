"""Subjects of an atlas: files are found and matched by name, and what does not match is refused by name."""

import json

import nibabel
import numpy as np
import pytest

from medkit.atlas import list_subjects
from medkit.data import BrainCohort


def save(path, value=1.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), value, np.float32), np.eye(4)), path)
    return path


@pytest.fixture
def brains(tmp_path):
    for name in ("1000", "1001", "1007"):
        save(tmp_path / "brains" / f"{name}_SS.nii.gz")
        save(tmp_path / "brains" / f"{name}_glm.nii.gz")
    return tmp_path / "brains"


def test_files_of_a_subject_are_matched_by_what_their_names_begin_with(brains):
    subjects = list_subjects(brains / "*_SS.nii.gz", labels=brains / "*_glm.nii.gz")
    assert [s.name for s in subjects] == ["1000", "1001", "1007"]
    assert subjects[1].images == {"image": str(brains / "1001_SS.nii.gz")}
    assert subjects[1].labels == str(brains / "1001_glm.nii.gz")
    assert subjects[1].mask is None


def test_contrasts_may_be_missing_and_weights_too(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "t1" / f"{name}_T1w.nii")
    save(tmp_path / "t2" / "b.nii")
    save(tmp_path / "w" / "b.nii")
    subjects = list_subjects({"t1": tmp_path / "t1", "t2": str(tmp_path / "t2" / "*.nii")}, weights=tmp_path / "w")
    assert [sorted(s.images) for s in subjects] == [["t1"], ["t1", "t2"]]
    assert [s.weight for s in subjects] == [None, str(tmp_path / "w" / "b.nii")]


def test_names_without_a_separator_keep_their_ends(tmp_path):
    for name in ("brain10", "brain20"):
        save(tmp_path / f"{name}.nii")
    assert [s.name for s in list_subjects(tmp_path)] == ["brain10", "brain20"]
    assert [s.name for s in list_subjects([tmp_path / "brain10.nii"])] == ["brain10"]


def test_lists_and_tables_say_the_same(brains):
    rows = [{"name": n, "t1": f"{n}_SS.nii.gz", "labels": f"{n}_glm.nii.gz", "age": 20 + i} for i, n in
            enumerate(("1000", "1007"))]  # fmt: skip
    (brains / "list.json").write_text(json.dumps(rows))
    header = ",".join(rows[0])
    (brains / "list.csv").write_text("\n".join([header, *(",".join(map(str, row.values())) for row in rows)]) + "\n")
    (brains / "list.tsv").write_text((brains / "list.csv").read_text().replace(",", "\t"))
    found = [list_subjects(brains / f"list.{kind}") for kind in ("json", "csv", "tsv")]
    assert found[0] == found[1] == found[2]
    assert found[0][1].images == {"t1": str(brains / "1007_SS.nii.gz")}
    assert found[0][1].attributes == {"age": 21.0}


def test_covariates_join_by_name(brains, tmp_path):
    (tmp_path / "ages.csv").write_text("name,age,sex\n1001,30,f\n1007,,m\n")
    subjects = list_subjects(brains / "*_SS.nii.gz", covariates=tmp_path / "ages.csv")
    assert [dict(s.attributes) for s in subjects] == [{}, {"age": 30.0}, {}]


def test_simulated_subjects_have_masks_of_their_brains(tmp_path):
    cohort = BrainCohort(2, spacing=8.0, contrasts=("t1",), cache_dir=tmp_path)
    subjects = list_subjects(None, cohort=cohort)
    assert [s.name for s in subjects] == ["train-0000", "train-0001"]
    mask, labels, image = (np.asarray(nibabel.load(path).dataobj) for path in
                           (subjects[1].mask, subjects[1].labels, subjects[1].images["t1"]))  # fmt: skip
    assert ((labels > 0) == (mask > 0)).all()
    assert mask.sum() < 0.7 * (image > 0.05).sum(), "a head has more than its brain"
    with pytest.raises(ValueError, match="'images' must be given"):
        list_subjects(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"images": d / "*.nrrd"}, "no NIfTI file"),
        (lambda d: {"images": [d / "none.nii"]}, "must be files that exist"),
        (lambda d: {"images": d / "list.json"}, "there is no file"),
        (lambda d: {"labels": [d / "other_1.nii", d / "other_2.nii"]}, "must be named like the images, such as '1000'"),
        (lambda d: {"images": [d / "1000_SS.nii.gz", d / "b" / "1000_SS.nii.gz"]}, "must have a name of its own"),
        (lambda d: {"covariates": d / "bad.csv"}, "must have a 'name'"),
        (lambda d: {"images": d / "twice.csv"}, "'a' stands twice"),
        (lambda d: {"images": d / "lost.csv"}, "names a file that does not exist"),
        (lambda d: {"images": d / "broken.json"}, "must be a readable table or JSON list"),
        (lambda d: {"images": d / "empty.csv"}, "must hold one row for each subject"),
    ],
)
def test_what_does_not_fit_is_refused(brains, change, message):
    save(brains / "b" / "1000_SS.nii.gz")
    for i in (1, 2):
        save(brains / f"other_{i}.nii")
    (brains / "bad.csv").write_text("who,age\n1000,3\n")
    (brains / "twice.csv").write_text("name,t1\na,1000_SS.nii.gz\na,1001_SS.nii.gz\n")
    (brains / "lost.csv").write_text("name,t1\na,lost.nii\n")
    (brains / "broken.json").write_text("[{")
    (brains / "empty.csv").write_text("name,t1\n")
    with pytest.raises(ValueError, match=message):
        list_subjects(**{"images": brains / "*_SS.nii.gz", **change(brains)})
