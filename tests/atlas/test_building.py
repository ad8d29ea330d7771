"""Building an atlas: one energy that only falls, the same atlas wherever it started, was killed, or was shared."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medkit.atlas import AtlasFolder, AtlasSettings, HybridAtlas, PriorSpec, list_subjects
from medkit.atlas.building import preparation
from medkit.atlas.building.jobs import Jobs
from medkit.atlas.building.level import blocks_of, mirrored
from tests.atlas.phantom import cohort, correlation

SIZE = (20, 24, 20)
SPACING = 3.0
SMALL = {"factors": (2, 1), "n_rounds": (2, 2), "n_steps": (5, 4), "n_template_steps": (0, 1), "alignment": "none",
         "margin": 2, "tolerance": 0.0, "smallest_motion": 0.0}  # fmt: skip


def save(folder: Path, images: torch.Tensor, ending: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    for i, image in enumerate(images):
        nibabel.save(nibabel.Nifti1Image(image[0].numpy(), affine), folder / f"s{i}{ending}.nii")
    return folder


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("brains"), cohort(SIZE, 3, amplitude=1.0, width=3.0)[1])


@pytest.fixture(scope="module")
def built(brains, tmp_path_factory) -> AtlasFolder:
    folder = tmp_path_factory.mktemp("built") / "atlas"
    return HybridAtlas(folder, AtlasSettings(**SMALL)).build(list_subjects(brains))


def state(atlas: AtlasFolder) -> list[torch.Tensor]:
    return [atlas.template(), *(atlas.velocity(member) for member in atlas.members)]


def same(a: AtlasFolder, b: AtlasFolder) -> bool:
    return a.trace == b.trace and all(torch.equal(x, y) for x, y in zip(state(a), state(b), strict=True))


def check_the_fall(atlas: AtlasFolder) -> None:
    before: dict[int, float] = {}
    for row in atlas.trace:
        if row["round"]:
            limit = 1.02 if row["step"] == "template" else 1 + 1e-6
            assert row["energy"] <= limit * before[row["level"]], row
        before[row["level"]] = row["energy"]


def test_the_energy_only_falls_but_for_centring(built):
    check_the_fall(built)
    first, last = (
        next(row for row in rows if row["level"] == 2)["energy"] for rows in (built.trace, built.trace[::-1])
    )
    assert last < 0.9 * first
    assert sum(member.energy for member in built.members) <= last * 1.02


def test_the_mean_of_the_velocities_is_none(built):
    mean = sum(built.velocity(member) for member in built.members) / len(built.members)
    largest = max(float(built.velocity(member).abs().max()) for member in built.members)
    assert largest > 0.2
    assert float(mean.abs().max()) < 1e-3 * largest + 1e-3


def test_the_template_is_nearer_to_the_truth_than_the_mean_is(built, brains):
    truth, images, _ = cohort(SIZE, 3, amplitude=1.0, width=3.0)
    low, high = np.mean([member.intensities["image"] for member in built.members], axis=0)
    origin = np.linalg.inv(built.frame.affine) @ np.array([0, 0, 0, 1.0])
    inner = tuple(slice(round(a), round(a) + n) for a, n in zip(origin[:3], SIZE, strict=True))
    found = built.template()[(slice(None), slice(None), *inner)] * float(high - low) + float(low)
    assert correlation(found, truth) > correlation(images.mean(0, keepdim=True), truth)
    assert (found - truth).norm() < 0.8 * (images.mean(0, keepdim=True) - truth).norm()


def test_the_atlas_of_one_image_is_that_image(tmp_path):
    image = cohort(SIZE, 2)[0]
    subjects = list_subjects(save(tmp_path / "same", image.expand(3, -1, -1, -1, -1)))
    atlas = HybridAtlas(tmp_path / "atlas", AtlasSettings(**SMALL), report=False).build(subjects)
    assert all(not bool(atlas.velocity(member).any()) for member in atlas.members)
    expected = atlas.aligned(atlas.members[0])[0]
    torch.testing.assert_close(atlas.template(), expected, atol=1e-6, rtol=0)


class Guess:
    """A prior that says what it was told to."""

    def __init__(self, answer):
        self.spec, self.answer = PriorSpec("svf", 3, divisor=1, antisymmetric=False), answer

    def predict(self, template, subjects, *, spacing=None, attributes=None, **others):
        return self.answer(subjects)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.new_full((1, 3, *x.shape[2:]), torch.nan),
        lambda x: x.new_full((1, 3, *x.shape[2:]), 1e9),
        lambda x: x.new_zeros(1, 2, *x.shape[2:]),
        lambda x: 1 / 0,
    ],
)
def test_a_prior_of_nonsense_changes_nothing(answer, built, brains, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        settings = AtlasSettings(**{**SMALL, "mode": "hybrid"})
        atlas = HybridAtlas(tmp_path / "atlas", settings, Guess(answer), report=False).build(list_subjects(brains))
    assert same(atlas, built)
    assert "the prior" in caplog.text


def test_noise_for_a_prior_does_no_harm(built, brains, tmp_path):
    def noise(x):
        return 3 * torch.randn(1, 3, *x.shape[2:], generator=torch.Generator().manual_seed(0))

    settings = AtlasSettings(**{**SMALL, "mode": "hybrid"})
    atlas = HybridAtlas(tmp_path / "atlas", settings, Guess(noise), report=False).build(list_subjects(brains))
    check_the_fall(atlas)  # also where the prior was asked: what is worse than where it was is not taken
    assert atlas.trace[-1]["energy"] <= 1.02 * built.trace[-1]["energy"]


class Killed(BaseException):
    """What a killed process does not survive."""


@pytest.mark.parametrize("after", [1, 16, 25, 40])
def test_a_killed_run_goes_on_to_the_same_atlas(after, built, brains, tmp_path, monkeypatch):
    whole, left = Jobs.each, [after]

    def each(self, phase, names, work, show=None):
        def mortal(name):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return work(name)

        return whole(self, phase, names, mortal, show)

    monkeypatch.setattr(Jobs, "each", each)
    with pytest.raises(Killed):
        HybridAtlas(tmp_path / "atlas", AtlasSettings(**SMALL), report=False).build(list_subjects(brains))
    monkeypatch.setattr(Jobs, "each", whole)
    assert same(
        HybridAtlas(tmp_path / "atlas", AtlasSettings(**SMALL), report=False).build(list_subjects(brains)), built
    )


SHARED = """
import json, sys, torch
from medkit.atlas import AtlasSettings, HybridAtlas, list_subjects
torch.set_num_threads(1)
folder, brains, settings = sys.argv[1:]
settings = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(settings).items()}
HybridAtlas(folder, AtlasSettings(**settings), shared=True, report=False).build(list_subjects(brains))
"""


def test_two_processes_build_the_same_atlas(built, brains, tmp_path):
    command = [sys.executable, "-c", SHARED, str(tmp_path / "atlas"), str(brains), json.dumps(SMALL)]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert not list((tmp_path / "atlas" / "work").rglob("*.npy"))
    assert (tmp_path / "atlas" / "work" / "outputs" / "result.json").exists(), "who is late finds that all is done"
    found = AtlasFolder(tmp_path / "atlas")
    for a, b in zip(state(found), state(built), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)  # other numbers of threads round otherwise


def test_a_symmetric_template_is_its_own_mirror_image(brains, tmp_path):
    settings = AtlasSettings(**{**SMALL, "symmetric": True})
    template = HybridAtlas(tmp_path / "atlas", settings, report=False).build(list_subjects(brains)).template()
    assert torch.equal(template, template.flip(2))


def test_contrasts_may_be_missing(tmp_path):
    _, images, _ = cohort(SIZE, 3, amplitude=1.0, width=3.0)
    save(tmp_path / "t1", images)
    save(tmp_path / "t2", 1 - images[:2])
    subjects = list_subjects({"t1": tmp_path / "t1", "t2": tmp_path / "t2"})
    atlas = HybridAtlas(tmp_path / "atlas", AtlasSettings(**SMALL), report=False).build(subjects)
    assert atlas.contrasts == ("t1", "t2")
    t1, t2 = atlas.template()[0]
    middle = tuple(slice(6, n - 6) for n in t1.shape)
    assert correlation(t1[middle], t2[middle]) < -0.9


def test_what_has_no_weight_changes_nothing(tmp_path):
    _, images, _ = cohort(SIZE, 3, amplitude=1.0, width=3.0)
    weights = torch.ones_like(images)
    hole = (slice(None), slice(4, 14), slice(4, 14), slice(4, 14))
    weights[0][hole] = 0
    save(tmp_path / "w", weights)
    found = []
    for name, value in (("clean", None), ("spoilt", 0.4)):
        spoilt = images.clone()
        if value is not None:
            spoilt[0][hole] = value
        subjects = list_subjects(save(tmp_path / name, spoilt), weights=tmp_path / "w")
        found.append(HybridAtlas(tmp_path / f"{name}-atlas", AtlasSettings(**SMALL), report=False).build(subjects))
    assert found[0].members[0].intensities != {}
    torch.testing.assert_close(found[0].template(), found[1].template(), atol=1e-6, rtol=0)


def test_another_atlas_in_the_folder_is_refused(built, brains, tmp_path):
    with pytest.raises(ValueError, match="holds an atlas of other subjects or settings"):
        HybridAtlas(built.folder, AtlasSettings(**{**SMALL, "n_final_steps": 1}), report=False).build(
            list_subjects(brains)
        )
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds other files"):
        HybridAtlas(tmp_path, AtlasSettings(**SMALL), report=False).build(list_subjects(brains))
    with pytest.raises(ValueError, match="at least two"):
        HybridAtlas(tmp_path / "one", AtlasSettings(**SMALL), report=False).build(list_subjects(brains)[:1])
    with pytest.raises(ValueError, match="needs a 'prior'"):
        HybridAtlas(tmp_path / "one", AtlasSettings(mode="hybrid"))
    assert same(HybridAtlas(built.folder, AtlasSettings(**SMALL), report=False).build(list_subjects(brains)), built)


def test_a_bad_file_ends_the_run_by_its_name(brains, tmp_path):
    save(tmp_path / "bad", cohort(SIZE, 3, amplitude=1.0, width=3.0)[1])
    volume = np.full(SIZE, np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "bad" / "s1.nii")
    with pytest.raises(ValueError, match=r"the subject 's1' cannot be used: .* must hold finite numbers"):
        HybridAtlas(tmp_path / "atlas", AtlasSettings(**SMALL), report=False).build(list_subjects(tmp_path / "bad"))


@pytest.mark.parametrize(
    ("shift", "scale", "message"), [(1000.0, 1, "lie outside the image"), (0.0, 0.5, "must hold whole numbers")]
)
def test_bad_labels_end_the_run_before_it_begins(shift, scale, message, brains, tmp_path):
    subjects = list_subjects(brains)
    affine = nibabel.load(next(iter(subjects[0].images.values()))).affine.copy()
    affine[0, 3] += shift
    labels = np.zeros(SIZE, np.float32)
    labels[8:12, 8:12, 8:12] = scale
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "labels.nii")
    subjects[0] = replace(subjects[0], labels=str(tmp_path / "labels.nii"))
    with pytest.raises(ValueError, match=f"the subject '{subjects[0].name}' cannot be used: .*{message}"):
        HybridAtlas(tmp_path / "atlas", AtlasSettings(**SMALL), report=False).build(subjects)


def test_blocks_are_few_and_keep_the_order():
    names = [str(i) for i in range(100)]
    blocks = blocks_of(names)
    assert len(blocks) <= 16
    assert [name for block in blocks.values() for name in block] == names
    assert len(blocks_of(names[:3])) == 3


def test_a_mirror_twice_is_none():
    field = torch.randn(1, 3, 4, 5, 6)
    assert torch.equal(mirrored(mirrored(field)), field)
    shift = torch.zeros(1, 3, 4, 4, 4)
    shift[:, 0] = 1.0
    assert torch.equal(mirrored(shift), -shift)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "fast"}, "'mode' must be one of"),
        ({"alignment": "similar"}, "'alignment' must be one of"),
        ({"factors": (1, 2)}, "'factors' must fall to 1"),
        ({"n_rounds": (1,)}, "'n_rounds' must be 3 whole numbers"),
        ({"n_rounds": (0, 1, 1)}, "'n_rounds' must be 3 whole numbers"),
        ({"factors": (2, 1), "n_rounds": (1, 1), "n_template_steps": (0, 0)}, "'n_steps' must be given"),
        ({"margin": -1}, "'margin' must be at least 0"),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        AtlasSettings(**change)


def test_steps_of_the_template_follow_the_levels():
    for factors, expected in (((1,), (2,)), ((2, 1), (1, 2)), ((4, 2, 1), (0, 1, 2)), ((8, 4, 2, 1), (0, 0, 1, 2))):
        n = (1,) * len(factors)
        assert AtlasSettings(factors=factors, n_rounds=n, n_steps=n).n_template_steps == expected


@pytest.mark.parametrize("spacing", [0, -1.0, math.nan, "fine"])
def test_a_spacing_that_is_none_is_refused_before_anything_is_written(spacing, brains, tmp_path):
    with pytest.raises(ValueError, match="'spacing' must be a positive number of mm"):
        HybridAtlas(tmp_path / "atlas", spacing=spacing).build(list_subjects(brains))
    with pytest.raises(ValueError, match="'jacobian_smoothing' must be at least 0 mm, got -1"):
        HybridAtlas(tmp_path / "atlas", jacobian_smoothing=-1)
    assert not (tmp_path / "atlas").exists()


def test_subjects_of_other_scanners_come_into_one_frame(tmp_path):
    _, images, _ = cohort((24, 28, 24), 3, amplitude=0.8, width=4.0)
    folder = tmp_path / "far"
    folder.mkdir()
    for i, image in enumerate(images):
        affine = np.diag([3.0, 3.0, 3.0, 1.0])
        affine[:3, 3] = (400.0 * i, -150.0 * i, 30.0)
        nibabel.save(nibabel.Nifti1Image(image[0].numpy(), affine), folder / f"s{i}.nii")
    settings = AtlasSettings(**{**SMALL, "alignment": "rigid", "n_alignment_rounds": 2, "margin": 4})
    atlas = HybridAtlas(tmp_path / "atlas", settings, report=False).build(list_subjects(folder))
    template = atlas.template()[0, 0]
    outside = template.clone()
    outside[1:-1, 1:-1, 1:-1] = 0
    assert float(outside.max()) < 0.1, "the head lies within the frame"
    mass = template.clamp(min=0.1) - 0.1
    centre = [float((mass.sum(tuple(k for k in range(3) if k != axis)) * torch.arange(n)).sum() / mass.sum())
              for axis, n in enumerate(template.shape)]  # fmt: skip
    np.testing.assert_allclose(centre, [(n - 1) / 2 for n in template.shape], atol=1.5)
    assert all(
        np.linalg.norm(member.matrix[:3, 3] - atlas.members[0].matrix[:3, 3]) > 100 for member in atlas.members[1:]
    )


def test_who_does_not_fit_is_not_what_others_are_judged_by():
    def record(score, overlap=0.9, stretch=1.0):
        return {"score": score, "overlap": overlap, "matrix": np.diag([stretch, 1, 1, 1]).tolist()}

    good = record(0.1)
    assert preparation._trusted([good, record(0.001), good, good]) == [0, 2, 3]
    assert preparation._trusted([good, good, record(0.1, stretch=1.9), good]) == [0, 1, 3]
    assert preparation._trusted([good, record(0.1, overlap=0.5)]) == [0, 1]  # one alone makes no mean
    # Where hardly any fits the first one, it is the one that is unlike the others.
    assert preparation._trusted([record(1.0), *[record(0.001)] * 3]) == [0, 1, 2, 3]


@pytest.mark.parametrize("n_rounds", [1, 2])
def test_a_subject_that_cannot_be_aligned_is_drawn_and_named(n_rounds, tmp_path, monkeypatch, caplog):
    _, images, _ = cohort((24, 28, 24), 4, amplitude=0.8, width=4.0)
    folder = save(tmp_path / "images", images)
    monkeypatch.setattr(preparation, "misaligned", lambda scores, maps, overlaps: [(2, "it is upside down")])
    settings = AtlasSettings(**{**SMALL, "alignment": "rigid", "n_alignment_rounds": n_rounds, "n_rounds": (1, 1)})
    picture = tmp_path / "atlas" / "failed_s2.png"
    with pytest.raises(ValueError, match=r"the alignment of 's2' failed; look at .*failed_s2\.png"):
        HybridAtlas(tmp_path / "atlas", settings, report=False).build(list_subjects(folder))
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 300
        assert np.asarray(drawn.convert("L")).std() > 10
    assert not list((tmp_path / "atlas").glob("*.tmp*"))
    picture.unlink()
    atlas = HybridAtlas(tmp_path / "atlas", settings, exclude_failed=True, report=False).build(list_subjects(folder))
    assert [member.name for member in atlas.members] == ["s0", "s1", "s3"]
    assert picture.is_file()
    assert f"look at {picture}" in caplog.text
