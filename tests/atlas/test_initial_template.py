"""The template that an atlas begins with: a file, a subject or the mean; what it does not show is the mean."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import AtlasFolder, AtlasSettings, HybridAtlas, list_subjects
from medkit.atlas.building.initial import write_initial
from medkit.atlas.building.jobs import Jobs
from medkit.atlas.building.velocities import load
from tests.atlas.phantom import cohort, correlation
from tests.atlas.test_building import SIZE, SPACING, save, state

# Nothing is downsampled and nobody moves: what the first round begins with can be read from the energy.
STILL = {"factors": (1,), "n_rounds": (1,), "n_steps": (0,), "n_template_steps": (0,), "alignment": "none",
         "margin": 2}  # fmt: skip


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("brains"), cohort(SIZE, 3, amplitude=1.0, width=3.0)[1])


def built(folder: Path, brains: Path, initial: str | Path | None = None, **settings) -> AtlasFolder:
    made = HybridAtlas(
        folder, AtlasSettings(**{**STILL, **settings}), initial=initial, keep_work=True, report=False
    ).build(list_subjects(brains))
    return made


def begun(atlas: AtlasFolder) -> torch.Tensor:
    return load(atlas.folder / "work" / "level-1-initial" / "template.npy")


def test_a_subject_is_where_it_begins_and_its_file_is_the_same(brains, tmp_path):
    named, filed = built(tmp_path / "named", brains, "s1"), built(tmp_path / "filed", brains, brains / "s1.nii")
    expected = named.aligned(named.member("s1"))[0]
    torch.testing.assert_close(begun(named), expected, atol=1e-6, rtol=0)
    assert torch.equal(begun(filed), begun(named))
    mean = built(tmp_path / "mean", brains)
    assert not (mean.folder / "work" / "level-1-initial").exists()
    # The mean is nearest to all of them: whatever else one begins with has more energy.
    assert named.trace[0]["energy"] > 1.1 * mean.trace[0]["energy"]
    # Nobody moved, and the template follows from the transformations alone.
    assert torch.equal(named.template(), mean.template())


def test_a_run_that_began_elsewhere_does_not_go_on(brains, tmp_path):
    first = built(tmp_path / "atlas", brains, "s1")
    for other in (None, "s2"):
        with pytest.raises(ValueError, match="holds an atlas of other subjects or settings"):
            built(tmp_path / "atlas", brains, other)
    again = built(tmp_path / "atlas", brains, "s1")
    assert all(torch.equal(a, b) for a, b in zip(state(first), state(again), strict=True))
    # Also one that was killed before it had a result.
    started = json.loads((tmp_path / "atlas" / "started.json").read_text())
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "started.json").write_text(json.dumps(started))
    with pytest.raises(ValueError, match="holds an atlas of other subjects or settings"):
        built(tmp_path / "killed", brains)


def test_a_file_from_elsewhere_is_aligned_as_the_subjects_are(brains, tmp_path):
    volume = nibabel.load(brains / "s1.nii").get_fdata(dtype=np.float32)
    away = np.diag([SPACING, SPACING, SPACING, 1.0])
    away[:3, 3] = (500.0, -200.0, 90.0)
    nibabel.save(nibabel.Nifti1Image(1000 * volume, away), tmp_path / "away.nii")
    atlas = built(tmp_path / "atlas", brains)
    work = atlas.folder / "work"
    mean = work / "level-1-start-pull" / "template.npy"
    path = write_initial(
        Jobs(work), "moved", str(tmp_path / "away.nii"), AtlasSettings(**{**STILL, "alignment": "rigid"}),
        atlas.frame, atlas.members, atlas.contrasts, work / "images", mean,
    )  # fmt: skip
    assert correlation(load(path), load(mean)) > 0.9
    with pytest.raises(ValueError, match=r"nothing of the initial template .* lies where the subjects are"):
        built(tmp_path / "apart", brains, tmp_path / "away.nii")


def test_what_it_does_not_show_is_the_mean(tmp_path):
    images = cohort(SIZE, 3, amplitude=1.0, width=3.0)[1]
    both = {"t1": save(tmp_path / "t1", images), "t2": save(tmp_path / "t2", (0.9 - images).clamp(min=0))}
    atlas = HybridAtlas(
        tmp_path / "atlas", AtlasSettings(**STILL), initial=tmp_path / "t1" / "s2.nii", keep_work=True, report=False
    ).build(list_subjects(both))
    mean = load(atlas.folder / "work" / "level-1-start-pull" / "template.npy")
    assert torch.equal(begun(atlas)[:, 1], mean[:, 1])
    torch.testing.assert_close(begun(atlas)[:, :1], atlas.aligned(atlas.member("s2"))[0][:, :1], atol=1e-6, rtol=0)


def test_a_symmetric_atlas_begins_symmetric(brains, tmp_path):
    first = begun(built(tmp_path / "atlas", brains, "s0", symmetric=True))
    assert torch.equal(first, first.flip(2))


def test_what_is_not_there_is_refused_before_anything_is_written(brains, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file and no subject 'nobody'; subjects are s0, s1, s2"):
        built(tmp_path / "atlas", brains, "nobody")
    (tmp_path / "letter.nii").write_text("dear")
    with pytest.raises(ValueError, match=r"the initial template .*letter.nii cannot be used: .* readable NIfTI"):
        built(tmp_path / "atlas", brains, tmp_path / "letter.nii")
    assert not (tmp_path / "atlas").exists()
