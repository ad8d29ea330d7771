"""The released weights of mc_cdic: they restore, they use the reference, and it does not lead them astray."""

from __future__ import annotations

import json

import pytest

from tests.bundle_runs import MC_CDIC, run

COARSE = {"spacing": 2.0, "n_slices": 4, "device": "cpu"}


@pytest.mark.parametrize(("guide", "gain"), [("t1", 0.3), ("flair", 0.3), ("pd", 0.0)])
def test_released_weights_gain_by_the_reference(guide, gain, tmp_path):
    psnr = {}
    for use_guide in (True, False):
        out = tmp_path / str(use_guide)
        run(MC_CDIC, ["inference"], output_dir=str(out), guide_contrasts=[guide], use_guide=use_guide, **COARSE)
        summary = json.loads((out / "metrics.json").read_text())["summary"]
        psnr[use_guide], zero_filled = summary["mc_cdic"]["psnr"], summary["zero_filled"]["psnr"]
    assert psnr[False] > zero_filled + 0.5
    assert psnr[True] > psnr[False] + gain


def test_a_reference_of_another_subject_does_not_lead_them_astray(tmp_path):
    weights = str(MC_CDIC / "models" / "model.pt")
    options = {"ckpt_path": weights, "n_test_subjects": 2, "guide_contrasts": ["t1"], **COARSE}
    psnr = {}
    for name, change in (("wrong", {"mispaired": 1.0}), ("hidden", {"use_guide": False})):
        out = tmp_path / name
        run(MC_CDIC, ["train", "evaluate"], output_dir=str(tmp_path), eval_dir=str(out), **options, **change)
        psnr[name] = json.loads((out / "metrics.json").read_text())["summary"]["mc_cdic"]["psnr"]
    assert psnr["wrong"] > psnr["hidden"] - 0.5
