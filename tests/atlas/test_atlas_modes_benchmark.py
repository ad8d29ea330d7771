"""The comparison of modes: energies are stamped with CPU time, and the table says who was first."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkit.atlas import AtlasSettings, RegistrationModel, list_subjects
from tests.atlas.phantom import cohort
from tests.benchmarks import atlas_modes


def test_the_curve_falls_while_time_passes(tmp_path):
    _, images, _ = cohort((16, 16, 16), 3, amplitude=1.0, width=2.0, noise=0.0)
    (tmp_path / "images").mkdir()
    for i, image in enumerate(images):
        nibabel.save(nibabel.Nifti1Image(image[0].numpy(), np.eye(4)), tmp_path / "images" / f"s{i}.nii.gz")
    settings = AtlasSettings(
        factors=(2, 1), n_rounds=(1, 2), n_steps=(3, 3), n_template_steps=(0, 1), margin=0, alignment="none",
        tolerance=0.0, smallest_motion=0.0,
    )  # fmt: skip
    subjects = list_subjects(tmp_path / "images")
    curve = atlas_modes.energy_curve(tmp_path / "atlas", subjects, settings, None, None)
    moments, energies = zip(*curve, strict=True)
    assert len(curve) == 2  # after each round
    assert 0 < moments[0] < moments[1]
    assert energies[0] > energies[1]


def test_the_table_says_who_was_first():
    curves = {"slow": [(5.0, 200.0), (9.0, 104.0), (20.0, 100.0)], "fast": [(4.0, 108.0), (8.0, 103.0)]}
    assert atlas_modes.first_time(curves["slow"], 105.0) == 9.0
    assert atlas_modes.first_time(curves["fast"], 102.0) is None
    _, _, slow, fast, *_ = atlas_modes.table(curves)
    assert slow == "| slow | 9 | 9 | 20 | 20 | 1.0000 | 20 |"
    assert fast == "| fast | 4 | 8 | never | never | 1.0300 | 8 |"


@pytest.mark.parametrize("name", json.loads(Path(atlas_modes.__file__).with_suffix(".json").read_text())["modes"])
def test_the_protocol_is_made_of_settings(name):
    protocol = json.loads(Path(atlas_modes.__file__).with_suffix(".json").read_text())
    settings = AtlasSettings(model=RegistrationModel(**protocol["model"]), **protocol["modes"][name])
    assert settings.n_rounds[-1] == 4
