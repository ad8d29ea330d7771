"""Answers from stored velocities: templates for an age, new subjects, and the ways in which subjects differ."""

import csv
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import (
    AtlasFolder,
    AtlasSubject,
    add_subject,
    component_template,
    conditional_template,
    finish_atlas,
    recompute_template,
    shape_components,
    write_measures,
    write_shape,
)
from medkit.atlas.outputs.label_maps import dice_scores, load_labels
from medkit.ops import identity_points, warp
from tests.atlas.phantom import correlation, intensity, velocities
from tests.atlas.small_atlas import BRIGHT, label_map, save, small_atlas, subject_matrix, template_points

SIZE = (32, 34, 36)


def with_attributes(atlas, ages):
    members = (replace(m, subject=replace(m.subject, attributes={} if a is None else {"age": a}))
               for m, a in zip(atlas.members, ages, strict=True))  # fmt: skip
    atlas.members = tuple(members)
    return atlas


def with_velocities(atlas, fields):
    for member, field in zip(atlas.members, fields, strict=True):
        np.save(atlas.folder / "velocities" / f"{member.name}.npy", field.numpy())
    return AtlasFolder(atlas.folder)


# Templates for a value


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers") / "atlas"
    small_atlas(folder, SIZE, high=850.0)
    return finish_atlas(folder)


def test_a_wide_bandwidth_gives_the_template_itself(atlas):
    found = conditional_template(atlas, "age", 30.0, bandwidth=1e6)
    # Their mean is 0 but for the rounding to half precision.
    assert (found.template - atlas.template()).abs().max() < 0.01
    assert correlation(found.template, atlas.template()) > 0.9999


def test_a_narrow_bandwidth_gives_the_shape_of_the_subject(atlas):
    member = atlas.members[2]
    found = conditional_template(atlas, "age", member.subject.attributes["age"], bandwidth=0.5).template
    own, _ = atlas.aligned(member)
    assert correlation(found, own) > 0.999
    assert correlation(atlas.template(), own) < 0.98


def test_between_two_subjects_the_shape_is_between_them(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, n=2)  # velocities v and -v
    atlas = with_attributes(atlas, (20.0, 40.0))
    truth = intensity(identity_points(SIZE), SIZE)
    middle = conditional_template(atlas, "age", 30.0, bandwidth=5.0).template
    assert correlation(middle, truth) > 0.995
    shares = np.exp(-0.5 * (np.array([24.0 - 20, 24 - 40]) / 8) ** 2)
    mean = (shares[0] - shares[1]) / shares.sum()
    velocity = mean * atlas.velocity(atlas.members[0])
    pushed = warp(truth, atlas.moved(velocity, inverse=True))
    nearer = conditional_template(atlas, "age", 24.0, bandwidth=8.0).template
    assert correlation(nearer, pushed) > 0.995
    assert correlation(nearer, truth) < 0.99


def test_subjects_without_the_attribute_do_not_count(atlas):
    ages = (20.0, 40.0, None)
    other = with_attributes(AtlasFolder(atlas.folder), ages)
    found = conditional_template(other, "age", 30.0, bandwidth=10.0)
    assert float(found.weight.mean()) == pytest.approx(2.0, rel=0.05)


def test_wrong_conditions_are_refused(atlas):
    with pytest.raises(ValueError, match="no subject has the attribute 'height'; there are age"):
        conditional_template(atlas, "height", 1.7, 0.1)
    with pytest.raises(ValueError, match="'bandwidth' must be positive"):
        conditional_template(atlas, "age", 30.0, 0.0)
    with pytest.raises(ValueError, match="the nearest age is 40"):
        conditional_template(atlas, "age", 90.0, 5.0)


# Ways to differ


def test_two_opposite_modes_are_found(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, n=6)
    size = atlas.metric.size
    first, second = velocities(size, 3, 1.0, 3.0, seed=9)[:2].unsqueeze(1)
    second = second - atlas.metric.inner(first, second) / atlas.metric.inner(first, first) * first
    a, b = torch.tensor([2.0, -2, 1, -1, 0, 0]), torch.tensor([0.0, 0, 0.5, 0.5, -0.5, -0.5])
    common = velocities(size, 2, 0.5, 3.0, seed=3)[:1]
    # b has a mean of its own, 0 in the end, and no correlation with a.
    atlas = with_velocities(atlas, [(common + x * first + y * second)[0] for x, y in zip(a, b, strict=True)])
    found = shape_components(atlas, 2)
    norms = [float(atlas.metric.inner(x, x)) for x in (first, second)]
    variances = [float((x - x.mean()).square().sum()) * norm for x, norm in zip((a, b), norms, strict=True)]
    assert variances[0] > variances[1]
    np.testing.assert_allclose(found.shares, np.array(variances) / sum(variances), rtol=1e-3)
    for k, (truth, scores) in enumerate(((first, a), (second, b - b.mean()))):
        cosine = (
            atlas.metric.inner(truth, found.velocities[k : k + 1])
            / (norms[k] * atlas.metric.inner(found.velocities[k : k + 1], found.velocities[k : k + 1])).sqrt()
        )
        assert abs(float(cosine)) > 0.999
        expected = scores / scores.std()
        np.testing.assert_allclose(found.scores[:, k] * cosine.sign().item(), expected, atol=0.01)
    back = found.mean + torch.einsum("nk,kdxyz->ndxyz", found.scores.float(), found.velocities)
    for velocity, member in zip(back, atlas.members, strict=True):
        torch.testing.assert_close(velocity[None], atlas.velocity(member), atol=1e-3, rtol=0)
    assert len(shape_components(atlas, 5).shares) == 2  # there is no third


def test_blocks_change_nothing(atlas, monkeypatch):
    expected = shape_components(atlas, 2)
    monkeypatch.setattr("medkit.atlas.outputs.shape_analysis.BLOCK", 1)
    found = shape_components(atlas, 2)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.velocities, expected.velocities)


def test_shape_is_written(atlas):
    found = write_shape(atlas, 2)
    with (atlas.folder / "shape.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["subject"] for row in rows] == ["s0", "s1", "s2"]
    assert float(rows[1]["component_2"]) == pytest.approx(float(found.scores[1, 1]), rel=1e-4)
    shares = json.loads((atlas.folder / "shape.json").read_text())["explained_shares"]
    assert sum(shares) == pytest.approx(1)
    assert (atlas.folder / "shape.png").read_bytes().startswith(b"\x89PNG")
    # A subject's own scores give its shape.
    k = int(found.scores[0].abs().argmax())
    toward = component_template(atlas, found, k, float(found.scores[0, k]))
    own, _ = atlas.aligned(atlas.members[0])
    away = component_template(atlas, found, k, -float(found.scores[0, k]))
    assert correlation(toward, own) > correlation(away, own) + 0.01


def test_wrong_numbers_of_components_are_refused(atlas, tmp_path):
    for n in (0, 3):
        with pytest.raises(ValueError, match="'n' must be 1 to 2"):
            shape_components(atlas, n)
    same = small_atlas(tmp_path / "atlas", SIZE, n=2, amplitude=0.0)
    with pytest.raises(ValueError, match="the velocities of all subjects are the same"):
        shape_components(same, 1)


# New subjects


@pytest.fixture
def newcomer(atlas, tmp_path):
    """A subject made by a velocity that nobody of the atlas has."""
    member = replace(atlas.members[1], subject=replace(atlas.members[1].subject, name="new"), matrix=subject_matrix(2))
    field = velocities(atlas.metric.size, 3, 0.4, 5.0, seed=21)[0]
    np.save(atlas.folder / "velocities" / "new.npy", field.numpy())
    file = nibabel.load(member.subject.images["image"])
    grid = replace(atlas.frame, size=file.shape, affine=file.affine)
    points = template_points(atlas, member, grid)
    (atlas.folder / "velocities" / "new.npy").unlink()
    image = save(tmp_path / "new.nii.gz", (BRIGHT * intensity(points, SIZE)[0, 0]).float(), grid)
    labels = save(tmp_path / "labels.nii.gz", label_map(points, SIZE)[0, 0].to(torch.int16), grid)
    return AtlasSubject("new", {"image": image}, labels=labels)


def test_a_new_subject_is_aligned_labelled_and_changes_nothing(atlas, newcomer):
    before, template = (atlas.folder / "atlas.nii.gz").read_bytes(), atlas.template()
    member = add_subject(atlas, newcomer, subject_matrix(2), n_steps=(20, 15, 10))
    assert (atlas.folder / "atlas.nii.gz").read_bytes() == before
    again = AtlasFolder(atlas.folder)
    assert [m.name for m in again.members] == ["s0", "s1", "s2"]
    assert [m.name for m in again.added] == ["new"]
    assert again.member("new").energy == member.energy
    torch.testing.assert_close(recompute_template(again).template, template, atol=1e-6, rtol=0)
    own, _ = load_labels(newcomer.labels)
    found, _ = load_labels(atlas.folder / "subjects" / "new_labels.nii.gz")
    scores = dice_scores(found, own)
    assert min(scores[2], scores[3]) > 0.94
    assert scores[7] > 0.8  # its edge is nowhere in the image
    cases = {case["case"]: case for case in json.loads((atlas.folder / "metrics.json").read_text())["cases"]}
    assert set(cases) == {"s0", "s1", "s2", "new"}
    assert cases["new"]["added"]["dice"] == pytest.approx(sum(scores.values()) / 3)
    assert cases["new"]["added"]["ncc_to_subject"] > 0.99
    warped = torch.from_numpy(nibabel.load(atlas.folder / "subjects" / "new_warped.nii.gz").get_fdata())
    assert correlation(warped, template) > 0.99
    # Measures that are written anew keep the overlap, which they do not compute, and the subjects that were added.
    write_measures(again)
    anew = {case["case"]: case for case in json.loads((atlas.folder / "metrics.json").read_text())["cases"]}
    assert {name: list(case) for name, case in anew.items()} == {name: list(case) for name, case in cases.items()}
    assert anew["new"]["added"] == pytest.approx(cases["new"]["added"])
    assert anew["s1"]["atlas"]["dice"] == cases["s1"]["atlas"]["dice"]
    # The same name again takes its place, if that is wanted.
    record = (atlas.folder / "atlas.json").read_bytes()
    with pytest.raises(ValueError, match=r"a subject 'new' was added before; replace it by 'replace' \(--replace\)"):
        add_subject(again, newcomer, subject_matrix(2), n_steps=(1, 1, 1))
    assert (atlas.folder / "atlas.json").read_bytes() == record
    add_subject(again, newcomer, subject_matrix(2), n_steps=(1, 1, 1), replace=True)
    assert [m.name for m in AtlasFolder(atlas.folder).added] == ["new"]


def test_wrong_new_subjects_are_refused(atlas, newcomer):
    before = (atlas.folder / "atlas.json").read_bytes()
    with pytest.raises(ValueError, match="the atlas was built of 's1'"):
        add_subject(atlas, replace(newcomer, name="s1"))
    with pytest.raises(ValueError, match="must have one of the contrasts image, it has t9"):
        add_subject(atlas, replace(newcomer, images={"t9": newcomer.images["image"]}))
    with pytest.raises(ValueError, match="'matrix' must be an invertible"):
        add_subject(atlas, newcomer, np.zeros((4, 4)))
    assert (atlas.folder / "atlas.json").read_bytes() == before
