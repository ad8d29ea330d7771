"""Rigid alignment of a reference contrast: known motions are found and undone, geometry is kept."""

from __future__ import annotations

import logging

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medkit.mri import LoadGuided, open_acquisition, pair_list
from medkit.mri.readers import aligning
from medkit.mri.readers.aligning import aligned_guide

SITK = pytest.importorskip("SimpleITK")
AFFINE = np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -36], [0, 0, 3.0, -30], [0, 0, 0, 1]])
SIZE = (40, 36, 20)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MEDKIT_CACHE", str(folder))
    return folder


def rotation(degrees, translation):
    """Rigid motion of RAS millimetres about the z axis."""
    angle = np.radians(degrees)
    motion = np.eye(4)
    motion[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    motion[:3, 3] = translation
    return motion


def contrasts(motion, affine=AFFINE, size=SIZE):
    """Two contrasts of one head on a grid; the head lies moved by ``motion`` in the second. And the second unmoved."""
    rng = np.random.default_rng(0)
    middles, widths = rng.uniform(-22, 22, (14, 3)), rng.uniform(4, 9, 14)

    def render(levels, motion):
        index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1)
        world = np.concatenate([index, np.ones((*size, 1))], -1) @ affine.T
        place = (world @ np.linalg.inv(motion).T)[..., :3]
        image = (np.linalg.norm(place / [32, 24, 26], axis=-1) < 1) * 0.5
        for middle, width, level in zip(middles, widths, levels, strict=True):
            image = np.where(np.linalg.norm(place - middle, axis=-1) < width, level, image)
        return gaussian_filter(image.astype(np.float32), 0.6)

    first, second = rng.uniform(0.1, 1, 14), rng.uniform(0.1, 1, 14)
    return render(first, np.eye(4)), render(second, motion), render(second, np.eye(4))


def save(folder, volumes, affines=(AFFINE, AFFINE)):
    for name, volume, affine in zip(("a-t2", "a-t1"), volumes, affines, strict=False):
        nibabel.save(nibabel.Nifti1Image(volume, affine), folder / f"{name}.nii")
    return folder


def test_volumes_that_do_not_overlap_are_refused(tmp_path, cache):
    away = AFFINE.copy()
    away[0, 3] += 900
    save(tmp_path, contrasts(np.eye(4)), (AFFINE, away))
    with pytest.raises(ValueError, match=r"a-t1.nii must show what .*a-t2.nii shows, .* no voxel in common"):
        pair_list(tmp_path, align="grid", per="volume")
    assert not (cache / "aligned").exists()


def error(image, truth):
    return float(np.abs(image - truth)[4:-4, 4:-4, 3:-3].mean())


def test_motion_on_equal_grids_is_found_reported_and_undone(tmp_path, caplog):
    target, moved, truth = contrasts(rotation(4.0, [3.0, -2.0, 2.5]))
    save(tmp_path, (target, moved))
    with caplog.at_level(logging.INFO):
        (entry,) = pair_list(tmp_path, align="rigid", per="volume")
    guide = LoadGuided()(entry)["guide"][0].numpy()
    assert error(guide, truth) < 0.3 * error(moved, truth)
    _, motion = aligned_guide(*(open_acquisition(tmp_path / f"a-{c}.nii") for c in ("t2", "t1")), "rigid")
    assert motion["rotation_deg"] == pytest.approx(4.0, abs=0.7)
    assert motion["translation_mm"] == pytest.approx(np.linalg.norm([3.0, -2.0, 2.5]), abs=0.8)
    (record,) = [record for record in caplog.records if "had moved" in record.getMessage()]
    assert f"{motion['translation_mm']:.2f} mm and {motion['rotation_deg']:.2f} degrees" in record.getMessage()


def test_no_motion_is_hardly_any(tmp_path):
    target, moved, _ = contrasts(np.eye(4))
    save(tmp_path, (target, moved))
    _, motion = aligned_guide(*(open_acquisition(tmp_path / f"a-{c}.nii") for c in ("t2", "t1")), "rigid")
    assert motion["rotation_deg"] < 0.5
    assert motion["translation_mm"] < 0.5


def test_another_grid_is_resampled_by_its_geometry(tmp_path):
    target, _, truth = contrasts(np.eye(4))
    finer = np.array([[0, 1.5, 0, -45], [1.5, 0, 0, -40], [0, 0, 1.5, -35], [0, 0, 0, 1.0]])
    _, other, _ = contrasts(np.eye(4), finer, (60, 56, 48))
    save(tmp_path, (target, other), (AFFINE, finer))
    with pytest.raises(ValueError, match="its axes run ARS, the target's LAS"):
        pair_list(tmp_path, per="volume")
    (entry,) = pair_list(tmp_path, align="grid", per="volume")
    guide = LoadGuided()(entry)["guide"][0].numpy()
    assert guide.shape == truth.shape
    assert error(guide, truth) < 0.03
    np.testing.assert_allclose(nibabel.load(entry["guide"][0]).affine, AFFINE, atol=1e-5)


def test_slices_along_another_axis_stay_paired(tmp_path):
    target, moved, _ = contrasts(np.eye(4))
    save(tmp_path, (target, moved))
    (entry,) = pair_list(tmp_path, align="grid", per="volume", slice_axis=0)
    guide = LoadGuided(slice_axis=0)(entry)["guide"][0].numpy()
    np.testing.assert_allclose(guide, moved.transpose(1, 2, 0), atol=1e-4)


def test_alignment_is_done_once_and_again_for_a_changed_file(tmp_path, monkeypatch):
    target, moved, _ = contrasts(np.eye(4))
    save(tmp_path, (target, moved))
    calls = []
    original = aligning._registered
    monkeypatch.setattr(aligning, "_registered", lambda *args: calls.append(1) or original(*args))
    first = pair_list(tmp_path, align="grid", per="volume")
    assert pair_list(tmp_path, align="grid", per="volume") == first
    assert len(calls) == 1
    save(tmp_path, (target, np.pad(moved, ((0, 0), (0, 0), (0, 1)))))
    assert pair_list(tmp_path, align="grid", per="volume") != first
    assert len(calls) == 2


def test_what_cannot_be_aligned_is_named(tmp_path, cache):
    target, moved, _ = contrasts(np.eye(4))
    save(tmp_path, (target[..., :4], moved))
    with pytest.raises(ValueError, match=r"a-t2.nii must have at least 8 slices"):
        pair_list(tmp_path, align="rigid")
    assert not list(cache.rglob("*.nii"))
    np.save(tmp_path / "b-t2.npy", target.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"only volumes with geometry can be aligned, .*b-t2.npy is none"):
        pair_list(tmp_path / "b-t2.npy", guide_path=tmp_path / "a-t1.nii", align="rigid")
    far = AFFINE.copy()
    far[:3, 3] += 1000
    save(tmp_path, (target, moved), (AFFINE, far))
    with pytest.raises(ValueError, match=r"a-t1.nii cannot be aligned with .*a-t2.nii"):
        pair_list(tmp_path, align="rigid")
