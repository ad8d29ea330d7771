"""The bundle hybrid_atlas builds an atlas of the simulated cohort and of files, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkit.atlas import AtlasFolder, list_subjects
from medkit.cli import main
from medkit.data import BrainCohort
from tests.bundle_runs import ROOT, command, typed

BUNDLE = ROOT / "bundles" / "hybrid_atlas"
FAST = (
    "--factors",
    "[2,1]",
    "--n_rounds",
    "[1,1]",
    "--n_steps",
    "[3,2]",
    "--settings#n_template_steps",
    "[0,1]",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an atlas of three simulated heads, built by the prior's mode."""
    folder = tmp_path_factory.mktemp("built")
    line = command(
        BUNDLE,
        ["inference"],
        "--output_dir",
        str(folder / "atlas"),
        "--spacing",
        "8.0",
        "--n_subjects",
        "3",
        "--mode",
        "hybrid",
        *FAST,
    )
    done = typed(folder, line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "is finished after" in done.stdout + done.stderr
    return folder / "atlas"


def test_everything_promised_is_written(built: Path) -> None:
    names = [
        "atlas.nii.gz",
        "atlas_std.nii.gz",
        "atlas_weight.nii.gz",
        "atlas_labels.nii.gz",
        "report.html",
        "preview.png",
        "metrics.csv",
        "metrics.json",
        "energy.json",
        "summary.json",
        "label_volumes.csv",
    ]
    names += [
        f"subjects/test-0001_{part}"
        for part in (
            "1Warp.nii.gz",
            "1InverseWarp.nii.gz",
            "0GenericAffine.mat",
            "warped.nii.gz",
            "log_jacobian.nii.gz",
            "labels.nii.gz",
        )
    ]
    assert [name for name in names if not (built / name).is_file()] == []
    assert not (built / "work").exists()


def test_the_template_is_like_the_true_one_of_the_cohort(built: Path) -> None:
    cohort = BrainCohort(3, "test", spacing=8.0, contrasts=("t1",))
    truth = cohort.template
    atlas = AtlasFolder(built)
    image = atlas.template()[0, 0].numpy()
    origin = np.linalg.inv(truth.affine) @ atlas.frame.affine @ np.array([0, 0, 0, 1.0])
    first = np.round(origin[:3]).astype(int)
    np.testing.assert_allclose(origin[:3], first, atol=1e-3)
    padded = np.zeros(np.array(truth.labels.shape) + 40, np.float32)
    padded[tuple(slice(20, 20 + n) for n in truth.labels.shape)] = (truth.images["t1"] * truth.mask).numpy()
    expected = padded[tuple(slice(20 + a, 20 + a + n) for a, n in zip(first, image.shape, strict=True))]
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.93


def test_the_same_command_again_does_nothing_and_another_is_refused(built: Path) -> None:
    line = command(BUNDLE, ["inference"], "--output_dir", str(built), "--spacing", "8.0", "--n_subjects", "3", *FAST)
    again = typed(built, [*line, "--mode", "hybrid"])
    assert "nothing is left to do" in again.stdout + again.stderr
    other = typed(built, line)
    assert other.returncode != 0
    assert "holds an atlas of other subjects or settings" in other.stderr.splitlines()[-1]


def test_a_new_scan_is_added_and_labelled_by_command(built: Path, tmp_path: Path) -> None:
    subject = list_subjects(None, cohort=BrainCohort(1, "validation", spacing=8.0, contrasts=("t1",)))[0]
    words = ["atlas", "add", str(built), subject.images["t1"], "--mask", str(subject.mask), "--alignment", "none"]
    assert main(words) == 0
    (added,) = AtlasFolder(built).added
    labels = np.asarray(nibabel.load(built / "subjects" / f"{added.name}_labels.nii.gz").dataobj)
    true = np.asarray(nibabel.load(subject.labels).dataobj) * (np.asarray(nibabel.load(subject.mask).dataobj) > 0)
    assert labels.shape == true.shape
    brain, found = true > 0, labels > 0
    assert 2 * (brain & found).sum() / (brain.sum() + found.sum()) > 0.85
    assert main(["atlas", "report", str(built)]) == 0


def test_the_atlas_is_judged_by_command(built: Path) -> None:
    assert main(["run", "hybrid_atlas", "evaluate", "--output_dir", str(built), "--n_unseen", "1"]) == 0
    folder = built / "evaluate"
    content = json.loads((folder / "metrics.json").read_text())
    summary, cases = content["summary"], {case["case"] for case in content["cases"]}
    assert {"test-0000", "test-0001", "test-0002", "validation-0000", "template"} <= cases
    assert summary["atlas"]["bridge_dice"] > summary["affine"]["bridge_dice"]
    assert summary["atlas"]["truth_ncc"] > 0.9
    assert summary["atlas"]["truth_dice"] > 0.4
    assert summary["atlas"]["bias_mm"] < 0.1
    assert 0.3 < summary["unseen"]["dice"] < 1
    assert {"metrics.csv", "preview.png", "config.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "none/*.nii.gz"], "no NIfTI file (.nii, .nii.gz) is there for 'image'"),
        (["--image", "a.nii"], "unknown option 'image': did you mean 'images'"),
        (["--mode", "fast"], "'mode' must be one of iterative, hybrid, amortized, map, got 'fast'"),
        (["--sigma", "big"], "RegistrationModel: 'sigma' must be a number above 0, got 'big'"),
        (["--alpha", "-1"], "RegistrationModel: 'alpha' must be a number of at least 0, got -1"),
    ],
)
def test_wrong_options_end_in_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = typed(tmp_path, command(BUNDLE, ["inference"], "--output_dir", str(tmp_path / "atlas"), *arguments))
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]
    assert not (tmp_path / "atlas").exists()


def test_the_energy_of_each_round_is_kept(built: Path) -> None:
    rows = json.loads((built / "energy.json").read_text())
    rows = rows["trace"] if isinstance(rows, dict) else rows
    assert [row["step"] for row in rows if row["round"]] == ["velocities", "template"] * 2
