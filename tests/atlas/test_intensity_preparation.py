"""Bias and scales of intensities: what a scanner changed in an image does not come into the template."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import AtlasFolder, AtlasSettings, AtlasSubject, HybridAtlas, add_subject, list_subjects
from medkit.atlas.intensity_preparation import IntensityPreparation, corrected, matched, prepared, quantiles
from medkit.atlas.result import RECORD
from tests.atlas.phantom import cohort
from tests.atlas.test_building import SIZE, SMALL, save


def write(folder: Path, changed: bool, change) -> Path:
    """Write three heads; of one of them all intensities are changed."""
    images = cohort(SIZE, 3, amplitude=1.0, width=3.0, noise=0.0)[1]
    images = torch.where(images > 0.1, images, 0.0)  # as the skull-stripped are
    if changed:
        images = torch.cat([images[:1], change(images[1:2]), images[2:]])
    return save(folder, images)


def gamma(image: torch.Tensor) -> torch.Tensor:
    return 300 * image**0.5


def field(image: torch.Tensor) -> torch.Tensor:
    slope = torch.linspace(-0.6, 0.6, SIZE[1]).reshape(1, 1, 1, -1, 1)
    return 300 * image * slope.exp()


def differences(tmp_path: Path, change, **options) -> tuple[float, AtlasFolder]:
    """Return how much the template changes with one subject, RMS relative to its own, and the changed atlas."""
    found = []
    for changed in (False, True):
        folder = write(tmp_path / f"images{changed}", changed, change)
        name = "_".join(["atlas", str(changed), *options])
        settings = AtlasSettings(**{**SMALL, "n_rounds": (1, 1)}, **options)
        found.append(HybridAtlas(tmp_path / name, settings, report=False).build(list_subjects(folder)))
    first, second = (atlas.template() for atlas in found)
    return float((first - second).square().mean().sqrt() / first.square().mean().sqrt()), found[1]


# Laws


@pytest.mark.parametrize(
    ("change", "option", "share"), [(gamma, "match_intensities", 0.2), (field, "bias_correction", 0.4)]
)
def test_what_a_scanner_changed_is_taken_back(change, option, share, tmp_path):
    without, plain = differences(tmp_path, change)
    with_it, atlas = differences(tmp_path, change, **{option: True})
    assert without > 0.04
    assert with_it < share * without
    assert not (plain.folder / "prepared").exists()
    assert {p.name for p in (atlas.folder / "prepared").iterdir()} == {f"s{i}_image.nii.gz" for i in range(3)}
    assert all("prepared" in m.subject.images["image"] for m in atlas.members)
    assert atlas.intensities.originals["s1"]["image"].endswith("s1.nii")


def test_matching_restores_any_rising_curve_and_keeps_the_background():
    image = torch.rand(20, 20, 20, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1
    inside = torch.zeros(image.shape, dtype=torch.bool)
    inside[4:16, 4:16, 4:16] = True
    image = torch.where(inside, image, 0.02 * image)
    reference = quantiles(image, inside)
    assert float(reference[-2]) == 1
    other = 40 * image.square() + 3 * image
    out = matched(other, inside, reference.tolist())
    expected = image / torch.quantile(image[inside], 0.995)
    assert (out - expected)[inside].abs().max() < 0.02
    assert float(out[~inside].max()) < 0.02
    assert float(out.min()) >= 0
    order = other.flatten().sort().indices
    assert (out.flatten()[order].diff() >= -1e-6).all()


# Edges


def test_both_together_and_a_new_subject_gets_the_same(tmp_path):
    folder = write(tmp_path / "images", True, lambda image: field(gamma(image)))
    options = {**SMALL, "n_rounds": (1, 1), "bias_correction": True, "match_intensities": True}
    atlas = HybridAtlas(tmp_path / "atlas", AtlasSettings(**options), report=False).build(list_subjects(folder))
    again = AtlasFolder(tmp_path / "atlas")
    assert json.loads((atlas.folder / RECORD).read_text())["intensities"]["bias_correction"] is True
    stored = nibabel.load(folder / "s1.nii")
    twin = np.asarray(stored.dataobj).copy()
    twin[0, 0, 0] += 1e-6  # the same head, and not the same file
    nibabel.save(nibabel.Nifti1Image(twin, stored.affine), tmp_path / "new.nii")
    new = AtlasSubject("new", {"image": str(tmp_path / "new.nii")})
    member = add_subject(again, new, factors=(1,), n_steps=(1,))
    first = nibabel.load(atlas.folder / "prepared" / "s1_image.nii.gz")
    second = nibabel.load(member.subject.images["image"])
    np.testing.assert_allclose(first.get_fdata(), second.get_fdata(), atol=2e-3)
    # Other options make another atlas.
    with pytest.raises(ValueError, match="holds an atlas of other subjects or settings"):
        HybridAtlas(tmp_path / "atlas", AtlasSettings(**{**options, "bias_correction": False})).build(
            list_subjects(folder)
        )


def test_mask_and_weight_say_where_the_object_is(tmp_path):
    image = torch.rand(1, 1, 8, 8, 8) + 1
    half = torch.zeros(1, 1, 8, 8, 8)
    half[:, :, :4] = 1
    rows = torch.zeros(1, 1, 8, 8, 8)
    rows[:, :, :, :2] = 1
    paths = {name: str(save(tmp_path / name, x) / "s0.nii")
             for name, x in (("image", image), ("half", half), ("rows", rows), ("rest", 1 - half))}  # fmt: skip
    subject = AtlasSubject("s0", {"image": paths["image"]}, paths["half"], paths["rows"])
    _, inside, _ = corrected(subject, "image", bias_correction=False)
    assert torch.equal(inside, (half * rows).bool())
    nothing = prepared(tmp_path, subject, IntensityPreparation())
    assert nothing is subject
    with pytest.raises(ValueError, match="leave nothing"):
        corrected(AtlasSubject("s0", subject.images, paths["half"], paths["rest"]), "image", bias_correction=False)


# Errors


@pytest.mark.parametrize("option", ["bias_correction", "match_intensities"])
def test_a_bad_file_is_named(option, tmp_path):
    folder = write(tmp_path / "images", False, gamma)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SIZE, np.float32), np.eye(4)), folder / "s1.nii")
    settings = AtlasSettings(**{**SMALL, option: True})
    with pytest.raises(ValueError, match=r"the subject 's1' cannot be used: .*all voxels are 0"):
        HybridAtlas(tmp_path / "atlas", settings).build(list_subjects(folder))
