"""An atlas judged: labels bridged through it, unseen subjects labelled, the truth found, and nothing of it changed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import (
    AtlasEvaluator,
    AtlasFolder,
    AtlasSubject,
    Frame,
    add_subject,
    recompute_template,
    write_label_atlas,
    write_transforms,
)
from medkit.atlas.outputs.known_truth import against_truth, read_truth, simulated_cohort, truth_on
from medkit.atlas.outputs.label_bridge import bridge_scores
from medkit.ops import identity_points
from tests.atlas.phantom import intensity
from tests.atlas.small_atlas import save, small_atlas

SIZE = (24, 26, 24)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> AtlasFolder:
    """Return an atlas whose velocities and affine maps are the true ones."""
    folder = tmp_path_factory.mktemp("evaluation") / "atlas"
    made = small_atlas(folder, SIZE, amplitude=1.2)
    write_transforms(made)
    recompute_template(made)
    write_label_atlas(made)
    return made


def true_template(atlas: AtlasFolder, path: Path) -> str:
    """Write the true template in the space of the subjects, where the mean of the affine maps puts it."""
    mean = np.mean([member.matrix for member in atlas.members], axis=0)
    moved = Frame(SIZE, mean @ atlas.frame.affine)
    return save(path, intensity(identity_points(SIZE), SIZE)[0, 0].float(), moved)


def read(folder: Path) -> tuple[dict, dict]:
    content = json.loads((folder / "metrics.json").read_text())
    return content["summary"], {case["case"]: case for case in content["cases"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Laws


def test_true_transformations_bridge_labels(atlas: AtlasFolder) -> None:
    scores = bridge_scores(atlas, atlas.members)
    assert all(each["atlas"] > 0.8 for each in scores.values()), scores
    assert all(each["atlas"] > each["affine"] + 0.05 for each in scores.values()), scores
    # A subject and its twin, under the same transformations, agree but for the nearest voxel.
    twins = [atlas.members[0], replace(atlas.members[0])]
    assert bridge_scores(atlas, twins)[atlas.members[0].name]["atlas"] > 0.97
    fewer = bridge_scores(atlas, atlas.members, n_others=1)
    assert fewer["s0"] != scores["s0"]


def test_the_truth_moves_with_the_mean_of_the_maps(atlas: AtlasFolder, tmp_path: Path) -> None:
    path = true_template(atlas, tmp_path / "truth.nii")
    truth = read_truth(atlas, path)
    assert truth is not None
    expected = intensity(identity_points(SIZE), SIZE).float()
    torch.testing.assert_close(truth_on(atlas, truth).image, expected, atol=1e-4, rtol=0)
    still = AtlasFolder(atlas.folder)
    still.members = tuple(replace(m, matrix=np.eye(4)) for m in atlas.members)
    assert (truth_on(still, truth).image - expected).abs().max() > 0.1


def test_an_atlas_is_judged_and_stays_as_it_is(atlas: AtlasFolder, tmp_path: Path) -> None:
    before = contents(atlas.folder)
    for i, member in enumerate(atlas.members[:2]):  # the same heads under other names
        for kind, source in (("image", member.subject.images["image"]), ("labels", str(member.subject.labels))):
            stored = nibabel.load(source)
            nibabel.save(
                nibabel.Nifti1Image(np.asarray(stored.dataobj), stored.affine), tmp_path / f"new{i}_{kind}.nii"
            )
    found = AtlasEvaluator(
        atlas.folder,
        tmp_path / "out",
        images=str(tmp_path / "new*_image.nii"),
        labels=str(tmp_path / "new*_labels.nii"),
        truth=true_template(atlas, tmp_path / "truth.nii"),
    ).run()
    assert contents(atlas.folder) == before
    summary, cases = read(tmp_path / "out")
    assert summary == found
    assert set(cases) == {"s0", "s1", "s2", "new0", "new1", "template"}
    one = cases["s0"]["atlas"]
    wanted = {"ncc_to_subject", "residual", "jacobian_min", "jacobian_max", "folded_percent", "log_jacobian_std"}
    assert wanted | {"bridge_dice"} <= set(one)
    assert one["residual"] == pytest.approx(10 ** (-one["psnr_to_subject"] / 20))
    assert one["residual"] < 0.7 * cases["s0"]["affine"]["residual"]
    assert all(cases[name]["unseen"]["dice"] > 0.8 for name in ("new0", "new1"))
    assert cases["new0"]["unseen"]["ncc_to_subject"] > cases["new0"]["unseen_affine"]["ncc_to_subject"]
    assert summary["atlas"]["bias_mm"] < 1e-3
    assert summary["atlas"]["truth_rmse"] < 0.5 * summary["voxel_mean"]["truth_rmse"]
    assert summary["atlas"]["truth_ncc"] > summary["voxel_mean"]["truth_ncc"]
    assert (tmp_path / "out" / "preview.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "unseen" / "subjects" / "new0_labels.nii.gz").is_file()
    # Once more: the same numbers.
    AtlasEvaluator(atlas.folder, tmp_path / "again").run()
    assert read(tmp_path / "again")[1]["s1"] == cases["s1"]


# Edges


def test_who_was_added_stands_apart_and_counts_once(tmp_path: Path) -> None:
    made = small_atlas(tmp_path / "atlas", SIZE)
    write_transforms(made)
    recompute_template(made)
    write_label_atlas(made)
    for i, member in enumerate(made.members):  # other heads: a little brighter
        stored = nibabel.load(member.subject.images["image"])
        bright = np.asarray(stored.dataobj) * np.float32(1.01 + 0.01 * i)
        nibabel.save(nibabel.Nifti1Image(bright, stored.affine), tmp_path / f"new{i}_image.nii")
        own = nibabel.load(str(member.subject.labels))
        nibabel.save(nibabel.Nifti1Image(np.asarray(own.dataobj), own.affine), tmp_path / f"new{i}_labels.nii")
    quick = {"n_steps": (1, 1, 1)}
    for i in (0, 1):
        new = AtlasSubject(f"new{i}", {"image": str(tmp_path / f"new{i}_image.nii")})
        add_subject(AtlasFolder(made.folder), new, made.members[i].matrix, **quick)
    (tmp_path / "again").mkdir()
    for name in ("new1", "new2"):
        for kind in ("image", "labels"):
            shutil.copy(tmp_path / f"{name}_{kind}.nii", tmp_path / "again" / f"{name}b_{kind}.nii")
    options = {"images": str(tmp_path / "again" / "*_image.nii"), "labels": str(tmp_path / "again" / "*_labels.nii")}
    AtlasEvaluator(made.folder, tmp_path / "out", **options).run()
    summary, cases = read(tmp_path / "out")
    assert set(cases) == {"s0", "s1", "s2", "new0", "new1b", "new2b", "template"}
    assert set(cases["new0"]) == {"case", "added", "added_affine"}
    assert set(cases["new1b"]) == {"case", "unseen", "unseen_affine"}
    mean = np.mean([cases[name]["unseen"]["dice"] for name in ("new1b", "new2b")])
    assert summary["unseen"]["dice"] == pytest.approx(mean)
    assert "dice" not in summary["added"]
    # Labels of those that were added, without any images.
    AtlasEvaluator(made.folder, tmp_path / "own", labels=str(tmp_path / "new*_labels.nii")).run()
    summary, cases = read(tmp_path / "own")
    assert "unseen" not in summary
    assert cases["new1"]["added"]["dice"] > 0.7
    assert set(cases) == {"s0", "s1", "s2", "new0", "new1", "template"}
    # Another head under the name of one that was added would be the same case.
    shutil.copy(tmp_path / "new2_image.nii", tmp_path / "again" / "new0_image.nii")
    with pytest.raises(ValueError, match="'new0' of 'images' has the name of another subject, which was added before"):
        AtlasEvaluator(made.folder, tmp_path / "bad", images=[tmp_path / "again" / "new0_image.nii"]).run()
    assert not (tmp_path / "bad").exists()


def test_labels_may_be_given_later_and_images_stay_away(atlas: AtlasFolder, tmp_path: Path) -> None:
    bare = AtlasEvaluator(atlas.folder, tmp_path / "out", labels=str(atlas.folder / "native" / "s*_labels.nii.gz"))
    bare.atlas.members = tuple(replace(m, subject=replace(m.subject, labels=None)) for m in bare.atlas.members)
    bare.run()
    summary, cases = read(tmp_path / "out")
    assert "bridge_dice" in summary["atlas"]
    assert set(cases) == {"s0", "s1", "s2", "template"}
    assert not (tmp_path / "out" / "unseen").exists()
    bare.labels = None
    bare.run()
    assert "bridge_dice" not in read(tmp_path / "out")[0]["atlas"]


def test_only_simulated_subjects_have_a_simulated_truth(atlas: AtlasFolder) -> None:
    assert simulated_cohort(atlas) is None
    assert read_truth(atlas) is None


# Errors


def test_what_cannot_be_judged_is_refused(atlas: AtlasFolder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must hold a finished atlas"):
        AtlasEvaluator(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="'n_bridges' must be at least 1"):
        AtlasEvaluator(atlas.folder, tmp_path / "out", n_bridges=0)
    native = [str(p) for p in (atlas.folder / "native").glob("s*_image.nii.gz")]
    with pytest.raises(ValueError, match="AtlasEvaluator: the atlas was built of 's0'"):
        AtlasEvaluator(atlas.folder, tmp_path / "out", images=native).run()
    far = nibabel.load(str(atlas.members[0].subject.labels))
    moved = far.affine.copy()
    moved[0, 3] += 3000
    nibabel.save(nibabel.Nifti1Image(np.asarray(far.dataobj), moved), tmp_path / "far_labels.nii")
    stored = nibabel.load(native[0])
    nibabel.save(nibabel.Nifti1Image(np.asarray(stored.dataobj) * 1.1, stored.affine), tmp_path / "far_image.nii")
    options = {"images": str(tmp_path / "far_image.nii"), "labels": str(tmp_path / "far_labels.nii")}
    with pytest.raises(ValueError, match=r"all labels of .*far_labels.nii lie outside the image"):
        AtlasEvaluator(atlas.folder, tmp_path / "out", **options).run()
    with pytest.raises(ValueError, match="'alignment' must be one of affine, rigid, none, got 'similar'"):
        AtlasEvaluator(atlas.folder, tmp_path / "out", alignment="similar")
    with pytest.raises(ValueError, match="'members' must be at least two with labels"):
        bridge_scores(atlas, atlas.members[:1])
    with pytest.raises(ValueError, match="of one shape and not flat"):
        against_truth(torch.zeros(1, 1, 4, 4, 4), torch.rand(1, 1, 4, 4, 4))
    assert not (tmp_path / "out" / "metrics.json").exists()
