"""The comparison with ANTs: its measures, its medkit side on tiny cohorts, and that it goes on where it was."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import AtlasSubject
from medkit.atlas.outputs.known_truth import against_truth
from tests.atlas.phantom import cohort
from tests.benchmarks import atlas_vs_ants, atlas_vs_ants_brains
from tests.benchmarks.ants_side import majority
from tests.benchmarks.atlas_measures import dice_table, field_measures, interval

PROTOCOL = Path(atlas_vs_ants.__file__).with_suffix(".json")
TINY = {"factors": [2, 1], "n_rounds": [1, 1], "n_steps": [4, 3], "n_template_steps": [0, 1], "margin": 0}
needs_ants = pytest.mark.skipif(importlib.util.find_spec("ants") is None, reason="no antspyx")


def tiny_phantom() -> dict:
    protocol = json.loads(PROTOCOL.read_text())["phantom"]
    syn = {"options": {"type_of_transform": "SyNOnly"}, "iterations": 1}
    return {**protocol, "size": [16, 16, 16], "n": 3, "amplitude": 1.0, "width": 2.0, "seeds": [7],
            "medkit": {"tiny": TINY}, "ants": {"SyNOnly": syn},
            "verdict": {"peer": "SyNOnly", "round": 1, "share": 0.5}}  # fmt: skip


def test_intensities_of_a_tool_do_not_count():
    truth = cohort((16, 16, 16), 2)[0]
    noisy = truth + 0.01 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert against_truth(3 * truth - 1, truth) == pytest.approx({"ncc": 1, "rmse": 0, "log_sharpness": 0}, abs=1e-6)
    assert against_truth(200 * noisy + 5, truth) == pytest.approx(against_truth(noisy, truth), abs=1e-6)
    assert against_truth(noisy, truth)["rmse"] == pytest.approx(0.01, rel=0.05)


def test_blur_and_noise_are_both_away_from_the_sharpness_of_the_truth():
    truth = cohort((32, 32, 32), 2)[0]
    blurred = torch.nn.functional.avg_pool3d(truth, 5, 1, 2)
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    assert min(against_truth(x, truth)["log_sharpness"] for x in (blurred, noisy)) > 0.1


def test_folds_and_shifts_are_found():
    still, shifted, folded = torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)
    shifted[:, 0] = 1.0
    folded[:, 1, :, 4] = 3.0
    assert field_measures([shifted, -shifted], (2, 1, 1)) == {"folded": 0, "mean_shift_mm": 0}
    assert field_measures([shifted, still], (2, 1, 1)) == {"folded": 0, "mean_shift_mm": pytest.approx(1.0)}
    assert field_measures([folded], (1, 1, 1))["folded"] > 0


def test_votes_overlaps_and_intervals():
    assert majority(np.array([[0, 3, 2, 1], [0, 3, 3, 5], [4, 2, 3, 9]])).tolist() == [0, 3, 3, 1]
    mean, low, high = interval([0.5, 0.7, 0.9])
    assert mean == pytest.approx(0.7)
    assert 0.5 <= low < mean < high <= 0.9
    table = dice_table([{1: 1.0, 2: 0.5, 9: 0.0}, {1: 0.8}], [1, 2])
    assert table["dice"][0] == pytest.approx((0.75 + 0.4) / 2)
    assert table["structures"]["2"][0] == pytest.approx(0.25)


def test_medkit_alone_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    protocol, output = tmp_path / "protocol.json", tmp_path / "rows.jsonl"
    protocol.write_text(json.dumps({"phantom": tiny_phantom()}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    threads = torch.get_num_threads()
    command = ["atlas_vs_ants", "phantom", "--protocol", str(protocol), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    try:
        atlas_vs_ants.main()
        first = output.read_text()
        output.write_text(first + '\n{"cell": "cut o')
        atlas_vs_ants.main()
    finally:
        torch.set_num_threads(threads)
    assert output.read_text() == first + '\n{"cell": "cut o'
    cells = atlas_vs_ants.finished(output)
    (mean,), (ours,) = cells["7/mean/voxel mean"], cells["7/medkit/tiny"]
    assert ours["ncc"] > mean["ncc"]
    assert ours["rmse"] < mean["rmse"]
    assert ours["folded"] == 0
    assert 0 < ours["velocities_cpu_s"] < ours["template_cpu_s"] < ours["cpu_s"]
    assert "none yet" in capsys.readouterr().out


@pytest.mark.parametrize(("ncc", "word"), [(0.99, "met by quick"), (0.97, "missed, the best is quick")])
def test_the_verdict_is_on_seeds_that_both_have(ncc, word):
    ours = {
        "tool": "medkit",
        "method": "quick",
        "ncc": ncc,
        "rmse": 0.01,
        "log_sharpness": 0.0,
        "cpu_s": 11.0,
        "template_cpu_s": 5.0,
    }
    slow = {**ours, "method": "default", "ncc": 1.0, "template_cpu_s": 10.5}
    peer = {**ours, "tool": "ants", "method": "SyNOnly", "round": 3, "ncc": 0.98, "cpu_s": 20.0}
    rows = [{**ours, "seed": 0}, {**slow, "seed": 0}, {**peer, "seed": 0}, {**ours, "seed": 1, "ncc": 0.0}]
    _, whole, template = atlas_vs_ants.phantom_verdict(rows, {"peer": "SyNOnly", "round": 3, "share": 0.5})
    assert "missed, the fastest takes 11.0" in whole
    assert word in template


@needs_ants
def test_ants_is_measured_after_each_round(tmp_path):
    protocol = {**tiny_phantom(), "size": [32, 32, 32], "width": 3.0}
    truth = atlas_vs_ants.write_phantoms(tmp_path, protocol, 7)
    first, second = atlas_vs_ants.phantom_ants(tmp_path, truth, {"type_of_transform": "SyNOnly"}, 2, 1)
    (mean,) = atlas_vs_ants.phantom_mean(tmp_path, truth)
    assert 0 < first["cpu_s"] < second["cpu_s"]
    assert first["ncc"] > mean["ncc"]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory) -> Path:
    """Brains that are aligned already: the phantom, its bright core being label 1."""
    folder = tmp_path_factory.mktemp("aligned")
    _, images, _ = cohort((32, 32, 32), 4, amplitude=1.0, width=3.0, noise=0.0)
    for i, image in enumerate(images):
        part = "unseen" if i == 3 else "seen"
        for name, array in ((part, image[0].numpy()), (f"{part}_labels", (image[0] > 0.6).to(torch.uint8).numpy())):
            (folder / name).mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([4.0, 4.0, 4.0, 1.0])), folder / name / f"b{i}.nii.gz")
    (folder / "structures.json").write_text("[1]")
    return folder


def check_brains(row: dict) -> None:
    assert row["dice"][0] > 0.8
    assert row["ncc"] > 0.9
    assert row["folded"] == 0
    assert row["labelling_cpu_s"] > 0
    assert len(atlas_vs_ants_brains.brain_table([{"tool": "a", "method": "b", **row}])) == 3


def test_labels_reach_the_unseen_with_medkit(aligned, tmp_path):
    settings = atlas_vs_ants.make_settings(TINY, {})
    check_brains(atlas_vs_ants_brains.brains_medkit(aligned, tmp_path / "atlas", settings, (5, 5, 5), None))


@needs_ants
def test_labels_reach_the_unseen_with_ants(aligned, tmp_path):
    spec = {"options": {"type_of_transform": "SyNOnly"}, "iterations": 1}
    check_brains(atlas_vs_ants_brains.brains_ants(aligned, tmp_path / "ants", spec, 1))


def test_only_structures_with_a_name_count(tmp_path):
    (tmp_path / "table.csv").write_text("Label Number,Label Name,Class\n1,Unlabeled,None\n4,3rd Ventricle,CSF\n6,,\n")
    assert atlas_vs_ants_brains.known_structures(tmp_path / "table.csv") == [4]


def test_overlap_is_on_the_grid_of_both(aligned):
    subject = AtlasSubject("b0", {}, labels=str(aligned / "seen_labels" / "b0.nii.gz"))
    assert atlas_vs_ants_brains.overlap([str(subject.labels)], [subject], [1])["dice"][0] == 1
