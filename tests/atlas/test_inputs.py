"""What an atlas is begun with: bad files leave nothing behind, corrected ones take their place, and copies are told."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkit.atlas import AtlasFolder, AtlasSettings, AtlasSubject, HybridAtlas, list_subjects
from medkit.atlas.building import preparation
from medkit.atlas.building.claiming import STARTED
from medkit.atlas.building.jobs import Jobs
from medkit.atlas.known_images import copies, digests_of
from tests.atlas.phantom import cohort

SIZE = (16, 18, 16)
QUICK = {"factors": (1,), "n_rounds": (1,), "n_steps": (1,), "alignment": "none", "margin": 2}


def save(path: Path, image: np.ndarray, shift: float = 0.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[0, 3] = shift
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return str(path)


@pytest.fixture
def brains(tmp_path: Path) -> Path:
    for i, image in enumerate(cohort(SIZE, 4, amplitude=0.8, width=4.0)[1]):
        save(tmp_path / "brains" / f"s{i}.nii", image[0].numpy())
    return tmp_path / "brains"


def build(folder: Path, brains: Path, exclude_failed: bool = False, **options) -> AtlasFolder:
    settings = AtlasSettings(**{**QUICK, **options})
    return HybridAtlas(folder, settings, exclude_failed=exclude_failed, report=False).build(list_subjects(brains))


# Laws


def test_voxels_tell_an_image_whatever_its_file_is(brains: Path, tmp_path: Path) -> None:
    image = np.asarray(nibabel.load(brains / "s0.nii").dataobj)
    first = digests_of(AtlasSubject("a", {"t1": str(brains / "s0.nii")}))
    same = digests_of(AtlasSubject("b", {"t1": save(tmp_path / "moved.nii.gz", image, 40.0)}))
    other = image.copy()
    other[3, 3, 3] += 1e-3
    assert first == same != digests_of(AtlasSubject("c", {"t1": save(tmp_path / "c.nii", other)}))
    assert copies({"a": first, "b": same}) == [
        "The images t1 of a and b are the same, voxel by voxel, and count as 2.",
    ]
    assert copies({"a": first, "b": {"t2": first["t1"]}}) == []


@pytest.mark.parametrize("kind", ["nan", "text", "labels"])
def test_a_refused_input_leaves_nothing_and_a_corrected_one_is_built(kind: str, brains: Path, tmp_path: Path) -> None:
    good = (brains / "s1.nii").read_bytes()
    if kind == "text":
        (brains / "s1.nii").write_text("dear")
    elif kind == "nan":
        save(brains / "s1.nii", np.full(SIZE, np.nan, np.float32))
    bad = list_subjects(brains)
    if kind == "labels":
        path = save(tmp_path / "labels.nii", np.full(SIZE, 0.5, np.float32))
        bad[1] = AtlasSubject("s1", bad[1].images, labels=path)
    atlas = HybridAtlas(tmp_path / "atlas", AtlasSettings(**QUICK), report=False)
    with pytest.raises(ValueError, match="the subject 's1' cannot be used"):
        atlas.build(bad)
    assert not (tmp_path / "atlas").exists()
    (brains / "s1.nii").write_bytes(good)
    (brains / "s3.nii").unlink()
    assert [m.name for m in build(tmp_path / "atlas", brains).members] == ["s0", "s1", "s2"]


def test_a_subject_that_cannot_be_aligned_may_be_left_out_in_the_same_folder(
    brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        preparation, "misaligned", lambda scores, maps, o: [(2, "it is odd")] if len(scores) > 3 else []
    )
    options = {"alignment": "rigid", "n_alignment_rounds": 1}
    folder = tmp_path / "atlas"
    with pytest.raises(ValueError, match="the alignment of 's2' failed"):
        build(folder, brains, **options)
    assert (folder / "failed_s2.png").is_file()
    aligned = (folder / "work" / "alignment-1" / "s0.json").stat().st_mtime_ns
    shutil.copytree(folder, tmp_path / "again")
    # The same input goes on from the alignment …
    atlas = HybridAtlas(tmp_path / "again", AtlasSettings(**{**QUICK, **options}), exclude_failed=True, keep_work=True,
                        report=False).build(list_subjects(brains))  # fmt: skip
    assert [m.name for m in atlas.members] == ["s0", "s1", "s3"]
    assert (tmp_path / "again" / "work" / "alignment-1" / "s0.json").stat().st_mtime_ns == aligned
    assert set(AtlasFolder(atlas.folder).members[0].alignment) == {"score", "overlap"}
    # … and another one takes its place.
    (brains / "s2.nii").unlink()
    found = build(folder, brains, **options)
    assert [m.name for m in found.members] == ["s0", "s1", "s3"]
    assert found.excluded == {}
    assert not (folder / "failed_s2.png").exists()


def test_an_atlas_that_was_interrupted_is_not_given_up(
    brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Jobs.each

    def each(self, phase, *rest, **options):
        if phase.startswith("level-1-round"):
            raise KeyboardInterrupt
        return whole(self, phase, *rest, **options)

    monkeypatch.setattr(Jobs, "each", each)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "atlas", brains)
    monkeypatch.setattr(Jobs, "each", whole)
    before = sorted((tmp_path / "atlas").rglob("*"))
    (brains / "s3.nii").rename(tmp_path / "s3.nii")
    with pytest.raises(ValueError, match=r"other subjects or settings \(it had s3; its margin was 2\); take"):
        build(tmp_path / "atlas", brains, margin=3)
    assert sorted((tmp_path / "atlas").rglob("*")) == before
    (tmp_path / "s3.nii").rename(brains / "s3.nii")
    assert len(build(tmp_path / "atlas", brains).members) == 4


# Edges


def test_copies_in_a_cohort_are_told_and_digests_kept(
    brains: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(brains / "s1.nii", brains / "t1.nii")
    with caplog.at_level(logging.WARNING):
        atlas = build(tmp_path / "atlas", brains, bias_correction=False, match_intensities=True)
    assert "The images image of s1 and t1 are the same, voxel by voxel, and count as 2." in caplog.text
    for member in AtlasFolder(atlas.folder).members:  # of the user's files, not of those that were prepared
        original = AtlasSubject(member.name, {"image": str(brains / f"{member.name}.nii")})
        assert dict(member.digests) == digests_of(original)


# Errors


def test_what_is_no_cohort_or_no_folder_is_refused_before_anything_is_written(brains: Path, tmp_path: Path) -> None:
    settings = AtlasSettings(**QUICK)
    subjects = list_subjects(brains)
    with pytest.raises(ValueError, match=r"at least two subjects, got 1 \(s0\); .*medkit register"):
        HybridAtlas(tmp_path / "atlas", settings).build(subjects[:1])
    with pytest.raises(ValueError, match="s0 stand more than once"):
        HybridAtlas(tmp_path / "atlas", settings).build([subjects[0], *subjects[:2]])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        HybridAtlas(tmp_path / "atlas", settings, reference=tmp_path / "none.nii").build(subjects)
    mixed = [*subjects[:2], AtlasSubject("x", {"t2": subjects[2].images["image"]})]
    with pytest.raises(ValueError, match="all subjects must have the contrast 'image', 'x' has not"):
        HybridAtlas(tmp_path / "atlas", AtlasSettings(**{**QUICK, "alignment": "affine"})).build(mixed)
    assert not (tmp_path / "atlas").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="'output_dir' must be a folder"):
        HybridAtlas(tmp_path / "file", settings).build(subjects)


def test_a_shared_run_that_refuses_tells_the_others(brains: Path, tmp_path: Path) -> None:
    save(brains / "s1.nii", np.full(SIZE, np.nan, np.float32))
    settings = AtlasSettings(**QUICK)
    with pytest.raises(ValueError, match="'s1' cannot be used"):
        HybridAtlas(tmp_path / "atlas", settings, shared=True).build(list_subjects(brains))
    assert json.loads((tmp_path / "atlas" / STARTED).read_text())["refused"] is True
    (brains / "s1.nii").unlink()
    assert len(build(tmp_path / "atlas", brains).members) == 3
