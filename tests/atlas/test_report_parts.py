"""Parts of the report: alignments, intensities and volumes as numbers that follow from the maps and the files."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medkit.atlas import AtlasFolder, Frame, finish_atlas
from medkit.atlas.intensity_preparation import IntensityPreparation
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import draw_layers
from medkit.atlas.outputs.planes import Planes
from medkit.atlas.outputs.report import found_warnings
from medkit.atlas.outputs.report_parts import alignment_part, intensity_part, settings_table, volume_part
from tests.atlas.small_atlas import save, small_atlas

SIZE = (20, 22, 20)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> AtlasFolder:
    made = small_atlas(tmp_path_factory.mktemp("parts") / "atlas", SIZE)
    return finish_atlas(made.folder)


def rows(text: str) -> list[list[str]]:
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in re.findall(r"<tr>(.*?)</tr>", text)]


def test_maps_are_told_by_turn_shift_and_stretch(atlas: AtlasFolder) -> None:
    made = AtlasFolder(atlas.folder)
    matrix = np.eye(4)
    turn = Rotation.from_rotvec([0.0, 0.3, 0.1])
    matrix[:3, :3] = turn.as_matrix() @ np.diag([0.9, 1.0, 1.25])
    matrix[:3, 3] = made.frame.centre - matrix[:3, :3] @ made.frame.centre + np.array([3.0, 0.0, 4.0])
    first = replace(made.members[0], matrix=matrix, alignment={"score": 0.1234, "overlap": 0.9})
    made.members, made.added = (first, *made.members[1:]), (replace(first, subject=replace(first.subject, name="new")),)
    found = rows(alignment_part(made))
    angle = f"{math.degrees(turn.magnitude()):.1f}"
    assert found[0][0] == "subject"
    assert found[1:] == [
        ["s0", "0.123", "0.900", angle, "5.0", "0.90 to 1.25"],
        ["new (added)", "0.123", "0.900", angle, "5.0", "0.90 to 1.25"],
    ]
    assert "taken as aligned" in alignment_part(atlas)


def test_who_failed_is_named_and_shown(atlas: AtlasFolder) -> None:
    made = AtlasFolder(atlas.folder)
    made.excluded = {"bad <1>": "it is upside down", "lost": "no picture"}
    planes = Planes.through_middle(made.template()[0, 0], made.frame.affine, 0.05)
    data = png(draw_layers([Layer("bad", made.template()[0, 0])], planes))
    pictures = [made.folder / f"failed_{name}.png" for name in ("bad <1>", "scan")]
    for path in pictures:
        path.write_bytes(data)
    text = alignment_part(made)
    for path in pictures:
        path.unlink()
    assert text.count("data:image/png") == 2
    assert "<h3>bad &lt;1&gt; was left out: it is upside down</h3>" in text
    assert "<h3>lost was left out: no picture</h3>" in text
    assert "<h3>scan could not be aligned to be added</h3>" in text


def test_changes_of_intensities_are_those_of_the_files(atlas: AtlasFolder, tmp_path: Path) -> None:
    made = AtlasFolder(atlas.folder)
    assert intensity_part(made, made.members) == ""
    assert ["bias correction", "none"] in rows(settings_table(made, {}))
    generator = np.random.default_rng(0)
    before = (1 + generator.random((10, 12, 10))).astype(np.float32)
    before[:2] = 0
    members, originals = [], {}
    for i, member in enumerate(made.members):
        field = np.exp(0.1 * i * np.linspace(-1, 1, 10)).astype(np.float32)
        grid = Frame(before.shape, np.eye(4))
        original, prepared = (save(tmp_path / f"{member.name}_{k}.nii", x, grid)
                              for k, x in enumerate((before, 7 * before * field)))  # fmt: skip
        originals[member.name] = {"image": original}
        members.append(replace(member, subject=replace(member.subject, images={"image": prepared})))
    made.members = tuple(members)
    made.intensities = IntensityPreparation(True, {}, originals)
    text = intensity_part(made, made.members)
    expected = [100 * 0.1 * i * np.linspace(-1, 1, 10).std() for i in range(3)]
    found = [float(row[2]) for row in rows(text)[1:]]
    np.testing.assert_allclose(found, expected, atol=0.11)
    assert "N4 took slow changes" in text
    assert "quantiles" not in text
    assert "<h3>s2, image</h3>" in text, "the one that changed most is shown"
    assert ["bias correction", "N4"] in rows(settings_table(made, {}))
    made.intensities = IntensityPreparation(False, {"image": [0.0]}, {})  # originals are gone
    assert "All images got the median of their quantiles" in intensity_part(made, made.members)


def test_volumes_are_in_ml_and_those_of_the_table(atlas: AtlasFolder) -> None:
    with (atlas.folder / "label_volumes.csv").open() as file:
        told = {(row["subject"], row["label"]): row for row in csv.DictReader(file)}
    found = rows(volume_part(atlas))
    assert found[0] == ["label", "template", "mean", "SD", "least", "largest", "s0", "s1", "s2"]
    labels = nibabel.load(atlas.folder / "atlas_labels.nii.gz").get_fdata()
    for row in found[1:]:
        numbers = [float(x) for x in row[1:]]
        assert numbers[0] == pytest.approx((labels == int(row[0])).sum() * 8 / 1000, rel=1e-3)
        each = [float(told[f"s{i}", row[0]]["subject_mm3"]) / 1000 for i in range(3)]
        np.testing.assert_allclose(numbers[5:], each, rtol=1e-3)
        np.testing.assert_allclose(numbers[1:5], [np.mean(each), np.std(each, ddof=1), min(each), max(each)], rtol=2e-3)
    many = AtlasFolder(atlas.folder)
    many.added = tuple(replace(m, subject=replace(m.subject, name=f"new{i}"))
                       for i in range(5) for m in many.members[:1])  # fmt: skip
    assert rows(volume_part(many)) == found, "subjects without a row of the table have no column"


def test_copies_and_lookalikes_are_warned_of(atlas: AtlasFolder) -> None:
    made = AtlasFolder(atlas.folder)
    names = ("1000", "1000_copy", "1001")
    made.members = tuple(
        replace(m, subject=replace(m.subject, name=name), digests={"image": "abc" if i < 2 else "d"})
        for i, (m, name) in enumerate(zip(made.members, names, strict=True))
    )
    assert found_warnings(made, [], {}) == [
        "The images image of 1000 and 1000_copy are the same, voxel by voxel, and count as 2.",
        "1000 and 1000_copy look like one subject, and count as two.",
    ]
