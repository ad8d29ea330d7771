"""A DICOM series is read where it lies and in its unit, or refused in one sentence."""

import shutil
import sys

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import JPEG2000Lossless, RLELossless

from medkit.denoise import read_dicom_series
from tests.denoise.dicom_slices import COLUMNS, OBLIQUE, ROWS, SLICES, change, stored_values, write_slices


@pytest.mark.parametrize("axes", [np.eye(3), OBLIQUE], ids=["axial", "oblique"])
def test_affine_is_the_formula_of_the_standard(tmp_path, axes):
    write_slices(tmp_path, stored_values(), axes=axes)
    series = read_dicom_series(tmp_path)
    normal = np.cross(axes[0], axes[1])
    for column, row, i_slice in [(0, 0, 0), (COLUMNS - 1, 1, 2), (2, ROWS - 1, SLICES - 1)]:
        lps = np.array([-31.5, 12.25, 40]) + i_slice * 2.5 * normal + axes[0] * 0.75 * column + axes[1] * 0.5 * row
        found = series.affine @ [column, row, i_slice, 1]
        np.testing.assert_allclose(found[:3], lps * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("axes", [np.eye(3), OBLIQUE], ids=["axial", "oblique"])
def test_values_and_space_are_those_of_simpleitk(tmp_path, axes):
    sitk = pytest.importorskip("SimpleITK")
    write_slices(tmp_path, stored_values(), axes=axes, order=[3, 0, 4, 1, 2])
    series = read_dicom_series(tmp_path)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    np.testing.assert_array_equal(series.volume.numpy(), sitk.GetArrayFromImage(image).T)
    for index in [(0, 0, 0), (5, 3, 4), (1, 2, 3)]:
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((series.affine @ [*index, 1])[:3], lps * [-1, -1, 1], atol=1e-5)


def test_order_of_files_does_not_matter(tmp_path):
    stored = stored_values()
    write_slices(tmp_path / "a", stored)
    write_slices(tmp_path / "b", stored, order=[4, 1, 3, 0, 2])
    a, b = read_dicom_series(tmp_path / "a"), read_dicom_series(tmp_path / "b")
    assert torch.equal(a.volume, torch.from_numpy(stored.T - 1024.0).float())
    assert torch.equal(a.volume, b.volume)
    assert [path.name for path in b.files] == ["04.dcm", "01.dcm", "03.dcm", "00.dcm", "02.dcm"]
    np.testing.assert_array_equal(a.affine, b.affine)


def test_signed_pixels_with_dirt_above_the_stored_bits(tmp_path):
    stored = stored_values(low=-2048, high=2047)
    write_slices(tmp_path, np.bitwise_and(stored, 0xFFF) | 0x5000, PixelRepresentation=1, RescaleSlope=0.5)
    expected = torch.from_numpy(stored.T * 0.5 - 1024).float()
    assert torch.equal(read_dicom_series(tmp_path).volume, expected)


def test_mr_without_rescale_and_slopes_that_change(tmp_path):
    stored = stored_values()
    write_slices(tmp_path / "mr", stored, "MR")
    assert torch.equal(read_dicom_series(tmp_path / "mr").volume, torch.from_numpy(stored.T).float())
    change(tmp_path / "mr" / "02.dcm", RescaleSlope=2, RescaleIntercept=1)
    assert torch.equal(
        read_dicom_series(tmp_path / "mr").volume[..., 2], torch.from_numpy(stored[2].T * 2.0 + 1).float()
    )


@pytest.mark.parametrize(
    ("tags", "limits"),
    [
        ({"PixelPaddingValue": 130}, (130, 130)),
        ({"PixelPaddingValue": 200, "PixelPaddingRangeLimit": 120}, (120, 200)),
    ],
)
def test_padding_is_told(tmp_path, tags, limits):
    stored = stored_values(high=300)
    stored[:, 0] = 130
    write_slices(tmp_path, stored, **tags)
    expected = ((stored >= limits[0]) & (stored <= limits[1])).T
    assert read_dicom_series(tmp_path).padding.numpy().tolist() == expected.tolist()


def test_compressed_slices_are_decoded(tmp_path):
    stored = stored_values()
    write_slices(tmp_path, stored)
    for path in tmp_path.iterdir():
        image = pydicom.dcmread(path)
        image.compress(RLELossless, generate_instance_uid=False)
        image.save_as(path)
    assert torch.equal(read_dicom_series(tmp_path).volume, torch.from_numpy(stored.T - 1024.0).float())


def test_one_slice_is_a_volume(tmp_path):
    write_slices(tmp_path, stored_values(1))
    series = read_dicom_series(tmp_path)
    assert series.volume.shape == (COLUMNS, ROWS, 1)
    assert np.linalg.norm(series.affine[:3, 2]) == pytest.approx(2.5)


def test_rounded_positions_are_no_gap_and_a_tilted_gantry_is_a_sheared_affine(tmp_path, caplog):
    images = write_slices(tmp_path, stored_values())
    for i_slice, image in enumerate(images):
        x, y, z = image.ImagePositionPatient
        change(tmp_path / f"{i_slice:02d}.dcm", ImagePositionPatient=[x, y + 0.5 * i_slice, z + 0.04 * (i_slice % 2)])
    series = read_dicom_series(tmp_path)
    np.testing.assert_allclose(series.affine[:3, 2], [0, -0.5, 2.5], atol=0.02)
    assert "sheared by 11.3 degrees" in caplog.text


def test_other_files_and_other_series(tmp_path):
    stored = stored_values()
    write_slices(tmp_path, stored, uid="1.2.3")
    write_slices(tmp_path, stored[:2], uid="1.2.4", order=[10, 11])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").touch()
    assert read_dicom_series(tmp_path, "1.2.4").volume.shape == (COLUMNS, ROWS, 2)
    with pytest.raises(ValueError, match=r"several series; .*1\.2\.3 \(5 images, CT, 'Head'\); 1\.2\.4 \(2 images"):
        read_dicom_series(tmp_path)
    with pytest.raises(ValueError, match=r"holds no series 1\.2; give 'series_uid' as one of: 1\.2\.3"):
        read_dicom_series(tmp_path, "1.2")


def test_no_dicom_at_all(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(FileNotFoundError, match=r"there is no DICOM image in .*name the folder"):
        read_dicom_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="must be a folder of DICOM files"):
        read_dicom_series(tmp_path / "a.txt")


@pytest.mark.parametrize("i_missing", [1, 2, 3])
def test_a_gap_is_named(tmp_path, i_missing):
    write_slices(tmp_path, stored_values())
    (tmp_path / f"{i_missing:02d}.dcm").unlink()
    before, after = f"{i_missing - 1:02d}.dcm", f"{i_missing + 1:02d}.dcm"
    words = rf"5 mm between {before} and {after} \(at {37.5 + 2.5 * i_missing:g} and .*: 1 missing there"
    with pytest.raises(ValueError, match=words):
        read_dicom_series(tmp_path)


def test_steps_that_change_slices_twice_and_slices_aside(tmp_path):
    write_slices(tmp_path, stored_values())
    for name, tags, words in [
        ("uneven", {"ImagePositionPatient": [-31.5, 12.25, 43.5]}, "steps must be equal"),
        ("double", {"ImagePositionPatient": [-31.5, 12.25, 42.5]}, "two images at one position; keep one echo"),
        ("aside", {"ImagePositionPatient": [-30.0, 12.25, 45.0]}, "must lie on one line"),
    ]:
        shutil.copytree(tmp_path, tmp_path.parent / name)
        change(tmp_path.parent / name / "02.dcm", **tags)
        with pytest.raises(ValueError, match=words):
            read_dicom_series(tmp_path.parent / name)
    shutil.copy(tmp_path / "01.dcm", tmp_path / "copy.dcm")
    with pytest.raises(ValueError, match=r"01\.dcm and copy\.dcm are the same image; remove one"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"Rows": 2}, r"00\.dcm and 02\.dcm differ in Rows 4 and 2"),
        ({"PixelSpacing": [0.5, 0.8]}, r"differ in PixelSpacing \[0\.5, 0\.75\] and"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "differ in ImageOrientationPatient"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "differ in PhotometricInterpretation"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "must be two perpendicular unit vectors"),
        ({"PixelSpacing": [0, 1]}, "PixelSpacing of .* must be positive"),
        ({"NumberOfFrames": 3}, "is a multi-frame object; convert"),
        ({"ImagePositionPatient": None}, r"02\.dcm has no tag ImagePositionPatient;"),
        ({"PixelSpacing": None, "BitsStored": None}, "has no tag BitsStored, PixelSpacing;"),
        ({"SeriesInstanceUID": None}, "has no tag SeriesInstanceUID"),
        ({"PixelData": None}, "has no tag PixelData"),
        ({"PixelData": b"\0" * 6}, "the pixels of 02.dcm cannot be decoded: the file seems to be damaged"),
        ({"RescaleIntercept": None}, "is CT without RescaleSlope and RescaleIntercept, so HU are unknown"),
        ({"RescaleSlope": 0}, "RescaleSlope of 02.dcm must not be 0"),
        ({"SamplesPerPixel": 3}, "must be monochrome"),
        ({"BitsAllocated": 32}, "must hold pixels of 8 or 16 bits"),
        ({"ModalityLUTSequence": [pydicom.Dataset()]}, "has a Modality LUT"),
    ],
)
def test_a_slice_that_does_not_belong_is_refused_by_name(tmp_path, tags, words):
    write_slices(tmp_path, stored_values())
    change(tmp_path / "02.dcm", **tags)
    with pytest.raises(ValueError, match=words) as caught:
        read_dicom_series(tmp_path)
    assert str(caught.value).startswith("read_dicom_series: ")
    assert "\n" not in str(caught.value)


def test_undecodable_compression_is_named(tmp_path):
    write_slices(tmp_path, stored_values())
    image = pydicom.dcmread(tmp_path / "01.dcm")
    image.PixelData = pydicom.encaps.encapsulate([b"no such code"])
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    image.save_as(tmp_path / "01.dcm")
    with pytest.raises(ValueError, match=r"01\.dcm cannot be decoded: they are compressed as JPEG 2000 .*decompress"):
        read_dicom_series(tmp_path)


def test_without_pydicom_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"read_dicom_series: this needs pydicom; .*medkit\[dicom\]"):
        read_dicom_series(tmp_path)


@pytest.mark.real
def test_real_series_of_mr(real_data):
    folder = real_data / "denoising" / "niivue_dicom"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    series = read_dicom_series(folder)
    assert (series.modality, tuple(series.volume.shape)) == ("MR", (512, 512, 6))
    np.testing.assert_allclose(np.linalg.norm(series.affine[:3, :3], axis=0), [0.41015625, 0.41015625, 3], atol=1e-6)
    assert [path.name for path in series.files] == [f"1-{i:03d}.dcm" for i in (1, 3, 5, 7, 9, 11)]
