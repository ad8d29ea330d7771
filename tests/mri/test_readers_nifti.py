"""Magnitude volumes: slices of every axis, their geometry, and what is no volume."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import torch

from medkit.mri import LoadAcquisitiond, open_acquisition

AFFINE = np.array([[0.0, -2.0, 0.1, 30.0], [1.5, 0.2, 0.0, -20.0], [0.0, 0.3, 4.0, 7.0], [0.0, 0.0, 0.0, 1.0]])


def volume_of(*shape, dtype=np.int16):
    return np.random.default_rng(0).integers(0, 1000, shape).astype(dtype)


def save(path, volume, affine=AFFINE, kind=nibabel.Nifti1Image):
    nibabel.save(kind(volume, affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgz", ".img"])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_slices_and_volume_of_every_axis(tmp_path, suffix, slice_axis):
    volume = volume_of(5, 6, 7)
    kind = nibabel.MGHImage if suffix == ".mgz" else nibabel.Nifti1Pair if suffix == ".img" else nibabel.Nifti1Image
    exam = open_acquisition(save(tmp_path / f"sub-01{suffix}", volume, kind=kind), slice_axis=slice_axis)
    turned = np.moveaxis(volume, slice_axis, -1)
    assert (exam.name, exam.kind, exam.n_coils) == ("sub-01", "magnitude", 1)
    assert (*exam.shape, exam.n_slices) == turned.shape
    for i in range(exam.n_slices):
        assert exam.read_slice(i).dtype == torch.float32
        np.testing.assert_array_equal(exam.read_slice(i)[0].numpy(), turned[..., i])
    np.testing.assert_array_equal(exam.read_volume()[0].numpy(), turned)
    assert exam.file_mask is None


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_a_voxel_of_a_slice_lies_where_the_file_says(tmp_path, slice_axis):
    exam = open_acquisition(save(tmp_path / "a.nii", volume_of(5, 6, 7)), slice_axis=slice_axis)
    assert exam.has_geometry
    row, column, i = 2, 3, 4
    voxel = np.insert([row, column], slice_axis, i)
    where = AFFINE @ [*voxel, 1]
    np.testing.assert_allclose(exam.affine @ [row, column, i, 1], where, atol=1e-4)
    np.testing.assert_allclose(exam.slice_affine(i) @ [row, column, 0, 1], where, atol=1e-4)
    np.testing.assert_allclose(exam.slice_affine(0), exam.affine)


@pytest.mark.parametrize(("qform", "sform", "code"), [(0, 0, 0), (1, 0, 1), (1, 4, 4), (0, 2, 2)])
def test_the_code_of_the_space_is_the_files(tmp_path, qform, sform, code):
    image = nibabel.Nifti1Image(volume_of(5, 6, 7), AFFINE)
    image.set_qform(AFFINE, code=qform)
    image.set_sform(AFFINE, code=sform)
    nibabel.save(image, tmp_path / "a.nii")
    assert LoadAcquisitiond()({"path": tmp_path / "a.nii"})["space_code"] == code


def test_only_kinds_of_files_with_an_orientation_have_a_code(tmp_path):
    mgh = save(tmp_path / "a.mgz", volume_of(5, 6, 7), kind=nibabel.MGHImage)
    analyze = nibabel.AnalyzeImage(volume_of(5, 6, 7), None)
    analyze.header.set_zooms((2, 3, 4))
    nibabel.save(analyze, tmp_path / "b.img")
    nibabel.save(nibabel.Spm99AnalyzeImage(volume_of(5, 6, 7), AFFINE), tmp_path / "c.img")  # with a .mat
    paths = (mgh, tmp_path / "b.img", tmp_path / "c.img")
    assert [open_acquisition(path).space_code for path in paths] == [1, 0, 1]
    np.testing.assert_allclose(np.abs(open_acquisition(paths[1]).affine).diagonal(), (2, 3, 4, 1))


def test_a_slice_saved_with_its_affine_overlays_the_volume(tmp_path):
    """Round trip: a slice written as a volume of its own, read back, keeps values and place."""
    exam = open_acquisition(save(tmp_path / "a.nii", volume_of(5, 6, 7)), slice_axis=1)
    saved = save(tmp_path / "one.nii", exam.read_slice(4)[0].numpy()[..., None], exam.slice_affine(4))
    again = open_acquisition(saved)
    torch.testing.assert_close(again.read_slice(0), exam.read_slice(4), rtol=0, atol=0)
    np.testing.assert_allclose(again.affine, exam.slice_affine(4), atol=1e-4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_intensities(tmp_path, suffix):
    image = nibabel.Nifti1Image(np.linspace(-1.5, 9.0, 60).reshape(3, 4, 5), AFFINE)
    image.set_data_dtype(np.int16)  # nibabel chooses slope and offset
    nibabel.save(image, tmp_path / f"a{suffix}")
    truth = nibabel.load(tmp_path / f"a{suffix}").get_fdata()
    exam = open_acquisition(tmp_path / f"a{suffix}")
    assert exam.slope != 1
    np.testing.assert_allclose(exam.read_volume()[0].numpy(), truth, rtol=1e-5, atol=1e-5)


def test_big_endian_files(tmp_path):
    volume = volume_of(3, 4, 5)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE, header), tmp_path / "a.nii")
    np.testing.assert_array_equal(open_acquisition(tmp_path / "a.nii").read_volume()[0].numpy(), volume)


def test_one_slice_files_and_a_trailing_axis_of_one(tmp_path):
    flat = volume_of(5, 6)
    exam = open_acquisition(save(tmp_path / "flat.nii", flat))
    assert (exam.n_slices, exam.shape) == (1, (5, 6))
    np.testing.assert_array_equal(exam.read_slice(0)[0].numpy(), flat)
    volume = volume_of(5, 6, 7, 1)
    exam = open_acquisition(save(tmp_path / "long.nii.gz", volume))
    np.testing.assert_array_equal(exam.read_slice(6)[0].numpy(), volume[:, :, 6, 0])


def test_compressed_volumes_are_decompressed_once(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii.gz", volume_of(5, 6, 7))
    calls = []
    original = gzip.decompress
    monkeypatch.setattr(gzip, "decompress", lambda content: calls.append(1) or original(content))
    for _ in range(3):
        exam = open_acquisition(path)
        exam.read_slice(1)
        exam.read_volume()
    assert len(calls) == 1


def test_uncompressed_volumes_are_mapped_not_read(tmp_path):
    """A volume of 12 GB, most of it a hole on disk, gives a slice."""
    path = save(tmp_path / "a.nii", np.ones((1, 1, 1), np.float32))
    image = nibabel.load(path)
    image.header.set_data_shape((1000, 1000, 3000))
    start = image.dataobj.offset
    plane = np.random.default_rng(0).random((1000, 1000)).astype(np.float32)
    with path.open("r+b") as stream:
        image.header.write_to(stream)
        stream.seek(start + 5 * plane.nbytes)
        stream.write(plane.tobytes(order="F"))
        stream.truncate(start + 3000 * plane.nbytes)
    np.testing.assert_array_equal(open_acquisition(path).read_slice(5)[0].numpy(), plane)


def test_series_are_refused(tmp_path):
    path = save(tmp_path / "a.nii", volume_of(5, 6, 7, 2))
    with pytest.raises(
        ValueError, match=r"a.nii must be one volume of 3 axes, got shape \(5, 6, 7, 2\); split a series"
    ):
        open_acquisition(path)


def test_colours_and_complex_numbers_are_refused(tmp_path):
    colours = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for volume in (colours, np.ones((3, 4, 5), np.complex64)):
        with pytest.raises(ValueError, match=r"a.nii must hold real numbers, got"):
            open_acquisition(save(tmp_path / "a.nii", volume))


@pytest.mark.parametrize("slice_axis", [3, -1, 1.5, "z", None])
def test_other_slice_axes_are_refused(tmp_path, slice_axis):
    path = save(tmp_path / "a.nii", volume_of(5, 6, 7))
    with pytest.raises(ValueError, match=r"'slice_axis' must be 0, 1 or 2, got"):
        open_acquisition(path, slice_axis=slice_axis)


@pytest.mark.parametrize("options", [{"key": "a"}, {"axes": "H,W,slice"}, {"domain": "kspace"}])
def test_options_of_arrays_are_refused(tmp_path, options):
    path = save(tmp_path / "a.nii", volume_of(5, 6, 7))
    with pytest.raises(ValueError, match=r"is a magnitude volume: it takes 'slice_axis'"):
        open_acquisition(path, **options)


def test_incomplete_volumes(tmp_path):
    path = save(tmp_path / "a.nii", volume_of(5, 6, 7))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"a.nii must hold 772 bytes for \(5, 6, 7\) int16, got 763; it is incomplete"):
        open_acquisition(path)
    for content in (b"", b"no header", path.read_bytes()[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.nii must be a volume that nibabel reads"):
            open_acquisition(path)


def test_incomplete_compressed_volumes(tmp_path):
    path = save(tmp_path / "a.nii.gz", volume_of(20, 30, 40))
    whole = path.read_bytes()
    path.write_bytes(whole[:-3000])
    exam = open_acquisition(path)
    with pytest.raises(ValueError, match=r"slice 0 of .*a.nii.gz cannot be read"):
        exam.read_slice(0)
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-100]))
    with pytest.raises(ValueError, match=r"slice 0 of .*a.nii.gz cannot be read"):
        open_acquisition(path).read_slice(0)
    path.write_bytes(whole[:5000] + bytes([whole[5000] ^ 4]) + whole[5001:])  # one bit has changed
    with pytest.raises(ValueError, match=r"slice 0 of .*a.nii.gz cannot be read"):
        open_acquisition(path).read_slice(0)
    path.write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"a.nii.gz must be a volume that nibabel reads"):
        open_acquisition(path)


def test_nan_is_refused(tmp_path):
    volume = np.ones((3, 4, 5), np.float32)
    volume[0, 0, 2] = np.nan
    exam = open_acquisition(save(tmp_path / "a.nii", volume))
    with pytest.raises(ValueError, match=r"slice 2 of .*a.nii must hold finite values, got 1 of 12"):
        exam.read_slice(2)
