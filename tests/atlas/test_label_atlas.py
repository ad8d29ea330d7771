"""Labels of an atlas: votes of subjects add up, memory does not change them, and they come back to their subjects."""

import csv
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import finish_atlas
from medkit.atlas.building.jobs import Jobs
from medkit.atlas.outputs import (
    propagate_labels,
    read_probabilities,
    write_label_atlas,
    write_label_volumes,
    write_subject_labels,
    write_transforms,
)
from medkit.atlas.outputs.label_maps import dice_scores, load_labels, smallest_type, votes
from medkit.ops import identity_points, sample
from tests.atlas.small_atlas import label_map, save, small_atlas

SIZE = (46, 44, 48)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    made = small_atlas(tmp_path_factory.mktemp("labels") / "atlas", SIZE)
    write_transforms(made)
    assert write_label_atlas(made) == [2, 3, 7]
    return made


def truth():
    return label_map(identity_points(SIZE), SIZE)[0, 0].numpy()


def test_votes_are_the_linear_interpolation_of_each_label():
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(0, 4, (5, 6, 7), generator=generator)
    points = 9 * torch.rand(3, 200, generator=generator, dtype=torch.float64) - 1.5
    for is_whole in (True, False):
        sums = torch.zeros(4, 200)
        for label, weight in votes(indices, points, is_whole):
            sums[label, torch.arange(200)] += weight
        for k in range(4):
            one = (indices == k).double()[None, None]
            expected = sample(one, points.reshape(1, 3, -1, 1, 1), padding="zeros").reshape(-1).float()
            if k == 0 and is_whole:
                expected = expected + 1 - sample(torch.ones_like(one), points.reshape(1, 3, -1, 1, 1),
                                                 padding="zeros").reshape(-1).float()  # fmt: skip
            torch.testing.assert_close(sums[k], expected, atol=1e-6, rtol=0)


def test_the_labels_of_the_template_are_the_true_ones(atlas):
    found, frame = load_labels(atlas.folder / "atlas_labels.nii.gz")
    assert frame.shares_grid_with(atlas.frame)
    assert nibabel.load(atlas.folder / "atlas_labels.nii.gz").get_data_dtype() == np.uint8
    scores = dice_scores(found, truth())
    assert set(scores) == {2, 3, 7}
    assert min(scores.values()) > 0.95


def test_probabilities_are_shares_of_the_subjects(atlas):
    values = json.loads((atlas.folder / "atlas_labels.json").read_text())
    assert values == {"labels": [2, 3, 7], "subjects": ["s0", "s1", "s2"]}
    file = nibabel.load(atlas.folder / "atlas_label_probabilities.nii.gz")
    assert file.shape == (*SIZE, 3)
    np.testing.assert_allclose(file.affine, atlas.frame.affine)
    probabilities = file.get_fdata()
    assert probabilities.min() == 0
    assert probabilities.max() == pytest.approx(1)
    assert probabilities.sum(-1).max() < 1 + 3 / 255
    for k, (value, volume) in enumerate(read_probabilities(atlas)):
        assert value == values["labels"][k]
        np.testing.assert_allclose(volume / 255, probabilities[..., k], atol=1e-6)
    winner = np.array([0, 2, 3, 7])[
        np.concatenate([1 - probabilities.sum(-1, keepdims=True), probabilities], -1).argmax(-1)
    ]
    hard, _ = load_labels(atlas.folder / "atlas_labels.nii.gz")
    assert (winner != hard).mean() < 1e-3  # ties that rounding decides


def test_slabs_change_nothing(atlas):
    first = nibabel.load(atlas.folder / "atlas_label_probabilities.nii.gz").get_fdata()
    write_label_atlas(atlas, memory_mb=4 * 6 * SIZE[0] * SIZE[1] * 5 / 1e6)  # five planes
    np.testing.assert_array_equal(nibabel.load(atlas.folder / "atlas_label_probabilities.nii.gz").get_fdata(), first)
    assert not list(atlas.folder.glob(".*"))
    with pytest.raises(ValueError, match="'memory_mb' is too little for 4 labels"):
        write_label_atlas(atlas, memory_mb=1e-3)


def test_labels_come_back_to_their_subjects(atlas):
    scores = write_subject_labels(atlas)
    assert set(scores) == {"s0", "s1", "s2"}
    for name, found in scores.items():
        assert min(found.values()) >= 0.95
        file = nibabel.load(atlas.folder / "subjects" / f"{name}_labels.nii.gz")
        image = nibabel.load(atlas.member(name).subject.images["image"])
        assert file.shape == image.shape
        np.testing.assert_allclose(file.affine, image.affine)
    rough = write_subject_labels(atlas, mode="nearest")
    assert min(min(found.values()) for found in rough.values()) > 0.8
    unmoved = replace(atlas.members[0], matrix=np.eye(4))
    write_transforms(atlas, [replace(unmoved, subject=replace(unmoved.subject, name="s0"))])
    own, grid = load_labels(atlas.members[0].subject.labels)
    wrong = dice_scores(propagate_labels(atlas, unmoved, grid), own)
    write_transforms(atlas, atlas.members[:1])
    assert min(wrong.values()) < 0.9


def test_volumes_of_labels_follow_the_jacobian(atlas):
    write_label_volumes(atlas)
    with (atlas.folder / "label_volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    for row in rows:
        own, grid = load_labels(atlas.member(row["subject"]).subject.labels)
        true_volume = (own == int(row["label"])).sum() * grid.grid.voxel_volume
        assert float(row["subject_mm3"]) == pytest.approx(true_volume, rel=0.06)
        assert np.log(float(row["volume_change"])) == pytest.approx(float(row["mean_log_jacobian"]), abs=0.05)


def test_large_numbers_of_labels_are_kept(tmp_path, atlas):
    values = np.zeros((4, 4, 4), np.int32)
    values[1], values[2] = 614454277, 614454278  # equal in float32
    path = save(tmp_path / "a.nii.gz", values, replace(atlas.frame, size=(4, 4, 4)))
    assert np.unique(load_labels(path)[0]).tolist() == [0, 614454277, 614454278]
    assert [smallest_type(np.array([n])) for n in (255, 256, 2**15)] == [torch.uint8, torch.int16, torch.int32]


def test_wrong_labels_are_refused(tmp_path, atlas):
    for bad in (np.full((4, 4, 4), 0.5, np.float32), np.full((4, 4, 4), -1, np.int16)):
        path = save(tmp_path / "a.nii.gz", bad, replace(atlas.frame, size=(4, 4, 4)))
        with pytest.raises(ValueError, match="must hold whole numbers from 0 on"):
            load_labels(path)
    with pytest.raises(ValueError, match="'mode' must be one of probabilities, nearest"):
        propagate_labels(atlas, atlas.members[0], atlas.frame, mode="best")
    with pytest.raises(ValueError, match="must be of one shape"):
        dice_scores(np.zeros(3), np.zeros(4))


def test_labels_of_each_subject_are_a_piece_of_work(tmp_path):
    made = small_atlas(tmp_path / "atlas", (24, 24, 24), n=2)
    finish_atlas(made.folder, jobs=Jobs(tmp_path / "work"))
    whole = json.loads((made.folder / "metrics.json").read_text())
    names = [member.name for member in made.members]
    paths = [made.folder / "subjects" / f"{name}_labels.nii.gz" for name in names]
    for path in paths:
        path.unlink()
    for piece in ("outputs-report/result", f"outputs-subject-labels/{names[1]}"):  # as if it was killed in the second
        (tmp_path / "work" / f"{piece}.json").unlink()
    finish_atlas(made.folder, jobs=Jobs(tmp_path / "work"))
    assert [path.exists() for path in paths] == [False, True]
    assert json.loads((made.folder / "metrics.json").read_text()) == whole


def test_without_labels_nothing_is_written(tmp_path):
    made = small_atlas(tmp_path / "atlas", (24, 24, 24), n=2)
    made.members = tuple(replace(m, subject=replace(m.subject, labels=None)) for m in made.members)
    assert write_label_atlas(made) == []
    assert not (made.folder / "atlas_labels.nii.gz").exists()
    with pytest.raises(FileNotFoundError, match="write the label atlas"):
        list(read_probabilities(made))
