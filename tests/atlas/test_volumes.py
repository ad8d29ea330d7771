"""Volumes: read with their place in space, measured, and bad files refused by name."""

import gzip

import nibabel
import numpy as np
import pytest
import torch

from medkit.atlas import Frame
from medkit.atlas.volumes import appearance, load_volume, scaled

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 1, -10], [0, 0, 0, 1]])


def save(path, array, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(np.asarray(array), affine), path)
    return path


def ball(size=(30, 32, 34)):
    points = np.indices(size) - (np.array(size).reshape(3, 1, 1, 1) - 1) / 2
    return (100.0 * (np.linalg.norm(points, axis=0) < 9)).astype(np.float32)


def test_a_volume_has_its_place(tmp_path):
    array = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    image, frame = load_volume(save(tmp_path / "a.nii.gz", array[..., None]))
    np.testing.assert_array_equal(image[0, 0], array)
    assert frame.size == (5, 6, 7)
    np.testing.assert_allclose(frame.affine, AFFINE)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 4, 4, 2), np.float32), "must be one volume of three axes"),
        (np.ones((4, 4), np.float32), "must be one volume of three axes"),
        (np.zeros((4, 4, 4), np.float32), "is empty"),
        (np.full((4, 4, 4), np.nan, np.float32), "64 of its voxels are NaN or infinite; replace them"),
        (np.ones((4, 4, 4), np.complex64), "must hold real numbers"),
    ],
)
def test_bad_volumes_are_refused(tmp_path, array, message):
    with pytest.raises(ValueError, match=message):
        load_volume(save(tmp_path / "a.nii", array))


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_volume(tmp_path / "none.nii")
    whole = save(tmp_path / "a.nii.gz", ball()).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "short.nii").write_bytes(gzip.decompress(whole)[:5000])
    for name in ("cut.nii.gz", "text.nii", "short.nii"):
        with pytest.raises(ValueError, match="must be a readable NIfTI file"):
            load_volume(tmp_path / name)


def test_what_a_volume_looks_like(tmp_path):
    image, frame = load_volume(save(tmp_path / "a.nii", ball()))
    seen = appearance(image, frame)
    assert (seen.low, seen.high) == (0.0, 100.0)
    assert seen.is_whole
    indices = np.argwhere(ball() > 0)
    points = indices @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    np.testing.assert_allclose(seen.lowest, points.min(0))
    np.testing.assert_allclose(seen.highest, points.max(0))
    assert torch.equal(scaled(image, seen.low, seen.high), image / 100)
    assert not appearance(image[..., 14:20, :, :], Frame((6, 32, 34), AFFINE)).is_whole
    with pytest.raises(ValueError, match="it is the same everywhere"):
        appearance(torch.ones(1, 1, 4, 4, 4), Frame((4, 4, 4), AFFINE))


def test_noise_around_a_head_is_no_foreground():
    noise = np.random.default_rng(0).normal(0, 1.5, ball().shape).astype(np.float32)
    frame = Frame((30, 32, 34), AFFINE)
    clean, noisy = (appearance(torch.from_numpy(x)[None, None], frame) for x in (ball(), ball() + noise))
    np.testing.assert_allclose(noisy.lowest, clean.lowest, atol=1e-6)
    np.testing.assert_allclose(noisy.highest, clean.highest, atol=1e-6)
    assert noisy.is_whole
    assert noisy.high == pytest.approx(clean.high, rel=0.05)
