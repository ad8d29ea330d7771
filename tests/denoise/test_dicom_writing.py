"""A processed series comes out as a derived DICOM series: same study, same space, unbiased values, new UIDs."""

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import RLELossless

from medkit.denoise import read_dicom_series, write_dicom_series
from tests.denoise.dicom_slices import OBLIQUE, change, stored_values, write_slices


def shifted(series, scale=3.0, seed=0):
    """Return the volume with other, fractional values."""
    noise = torch.rand(series.volume.shape, generator=torch.Generator().manual_seed(seed))
    return series.volume + scale * (noise - 0.5)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("slope", [1.0, 0.25, 2.5])
@pytest.mark.parametrize("is_signed", [0, 1])
def test_round_trip_within_half_a_stored_step_and_unbiased(tmp_path, slope, is_signed):
    stored = np.random.default_rng(0).integers(100, 2000, (4, 64, 64))
    write_slices(tmp_path / "in", stored, PixelRepresentation=is_signed, RescaleSlope=slope, RescaleIntercept=-1000.5)
    series = read_dicom_series(tmp_path / "in")
    volume = shifted(series, 8 * slope)
    write_dicom_series(tmp_path / "out", volume, series)
    error = read_dicom_series(tmp_path / "out").volume.double() - volume.double()
    assert float(error.abs().max()) <= slope / 2 * (1 + 1e-3)
    # Rounding has the standard deviation slope / sqrt(12): five standard errors of the mean.
    assert abs(float(error.mean())) < 5 * slope / (12 * volume.numel()) ** 0.5


def test_untouched_values_come_back_exactly(tmp_path):
    write_slices(tmp_path / "in", stored_values(), "MR", axes=OBLIQUE, order=[4, 2, 0, 1, 3])
    series = read_dicom_series(tmp_path / "in")
    write_dicom_series(tmp_path / "out", series.volume, series)
    again = read_dicom_series(tmp_path / "out")
    assert torch.equal(again.volume, series.volume)
    np.testing.assert_array_equal(again.affine, series.affine)
    assert "RescaleSlope" not in pydicom.dcmread(again.files[0])


def test_tags_say_what_it_is_and_keep_what_it_was(tmp_path):
    given = {
        "WindowCenter": 40,
        "WindowWidth": 400,
        "LargestImagePixelValue": 4000,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    sources = write_slices(tmp_path / "in", stored_values(), **given)
    series = read_dicom_series(tmp_path / "in")
    files = write_dicom_series(tmp_path / "out", shifted(series), series, description="MDRN")
    images = [pydicom.dcmread(path) for path in files]
    kept = "PatientName PatientID StudyInstanceUID StudyID InstanceNumber SOPClassUID ImagePositionPatient Modality"
    kept += " ImageOrientationPatient PixelSpacing SliceThickness RescaleSlope RescaleIntercept WindowCenter BitsStored"
    kept += " BitsAllocated HighBit PixelRepresentation PhotometricInterpretation"
    for source, image in zip(sources, images, strict=True):
        assert [tag for tag in kept.split() if source[tag].value != image[tag].value] == []
        assert list(image.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert (image.SeriesDescription, image.SeriesNumber) == ("Head MDRN", 1004)
        assert image.DerivationDescription.endswith("MDRN")
        assert image.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.SourceImageSequence[0].ReferencedSOPClassUID == source.SOPClassUID
        assert image.ContributingEquipmentSequence[0].Manufacturer == "medkit"
        assert "LargestImagePixelValue" not in image
        meta = image.file_meta
        assert (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) == (
            image.SOPInstanceUID,
            image.SOPClassUID,
        )
        assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    uids = {image.SOPInstanceUID for image in images}
    assert len(uids) == len(images)
    assert not uids & {source.SOPInstanceUID for source in sources}
    assert len({image.SeriesInstanceUID for image in images} - {series.series_uid}) == 1
    assert all(uid.is_valid and len(uid) <= 64 for uid in [*uids, images[0].SeriesInstanceUID])


def test_a_single_image_type_a_second_derivation_and_long_descriptions(tmp_path):
    write_slices(tmp_path / "a", stored_values(), ImageType="ORIGINAL", SeriesDescription="x" * 64)
    for source, result in ("ab", "bc"):
        series = read_dicom_series(tmp_path / source)
        files = write_dicom_series(tmp_path / result, shifted(series), series, description=f"to {result}")
    image = pydicom.dcmread(files[0])
    assert list(image.ImageType) == ["DERIVED", "SECONDARY"]
    assert image.DerivationDescription.count("medkit") == 2
    assert [item.ContributionDescription for item in image.ContributingEquipmentSequence] == ["to b", "to c"]
    assert len(image.SeriesDescription) == 64
    assert image.SeriesDescription.endswith("x to c")


def test_uids_follow_from_the_result(tmp_path):
    write_slices(tmp_path / "in", stored_values())
    series = read_dicom_series(tmp_path / "in")
    for name, seed, description in [("a", 0, "one"), ("b", 0, "one"), ("c", 1, "one"), ("d", 0, "two")]:
        write_dicom_series(tmp_path / name, shifted(series, seed=seed), series, description)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len({read_dicom_series(tmp_path / name).series_uid for name in "abcd"}) == 3


def test_simpleitk_reads_one_series_in_the_same_space(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    write_slices(tmp_path / "in", stored_values(), axes=OBLIQUE)
    series = read_dicom_series(tmp_path / "in")
    write_dicom_series(tmp_path / "out", shifted(series), series)
    assert len(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(tmp_path / "out"))) == 1
    before, after = (
        sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / name))) for name in ("in", "out")
    )
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after).T, read_dicom_series(tmp_path / "out").volume.numpy())
    for of in ("GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(before, of)() == getattr(after, of)()


def test_nifti_beside_it_is_not_rounded_and_has_the_affine(tmp_path):
    write_slices(tmp_path / "in", stored_values(), axes=OBLIQUE)
    series = read_dicom_series(tmp_path / "in")
    volume = shifted(series)
    write_dicom_series(tmp_path / "out", volume, series, nifti=True)
    image = nibabel.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.numpy())
    np.testing.assert_allclose(image.affine, series.affine, atol=1e-5)
    (tmp_path / "out2.nii.gz").touch()
    with pytest.raises(ValueError, match=r"there is .*out2\.nii\.gz already"):
        write_dicom_series(tmp_path / "out2", volume, series, nifti=True)


def test_what_does_not_fit_is_clipped_and_counted(tmp_path, caplog):
    write_slices(tmp_path / "in", stored_values())
    series = read_dicom_series(tmp_path / "in")
    volume = series.volume.clone()
    volume[0, 0, 0], volume[1, 0, 0], volume[2, 0, 0] = -1024.4, -1025.0, 9000.0
    write_dicom_series(tmp_path / "out", volume, series)
    assert "2 of 120 values did not fit the stored type and were clipped" in caplog.text
    assert read_dicom_series(tmp_path / "out").volume[:3, 0, 0].tolist() == [-1024, -1024, 4095 - 1024]


def test_padding_comes_back_as_it_was(tmp_path, caplog):
    stored = stored_values()
    stored[:, 0], stored[0, 1, 0] = 7, 9
    write_slices(tmp_path / "in", stored, PixelPaddingValue=7, PixelPaddingRangeLimit=9)
    series = read_dicom_series(tmp_path / "in")
    assert int(series.padding.sum()) == 31
    volume = torch.zeros_like(series.volume)
    volume[3, 3, 3] = 8 - 1024
    write_dicom_series(tmp_path / "out", volume, series)
    again = read_dicom_series(tmp_path / "out")
    assert torch.equal(again.volume[series.padding], series.volume[series.padding])
    assert bool((again.volume[~series.padding] == volume[~series.padding]).all())
    assert "1 values fell on the padding value" in caplog.text
    assert pydicom.dcmread(again.files[0]).PixelPaddingValue == 7


def test_compressed_source_and_8_bits_of_odd_size(tmp_path):
    write_slices(tmp_path / "in", stored_values(3, high=250)[:, :3, :5], "MR")
    for path in (tmp_path / "in").iterdir():
        image = pydicom.dcmread(path)
        image.BitsAllocated, image.BitsStored, image.HighBit = 8, 8, 7
        pixels = np.frombuffer(image.PixelData, "<u2").astype("u1").tobytes() + b"\0"
        image.PixelData = pixels
        image["PixelData"].VR = "OB"
        image.compress(RLELossless, generate_instance_uid=False)
        image.save_as(path)
    series = read_dicom_series(tmp_path / "in")
    assert series.volume.shape == (5, 3, 3)
    write_dicom_series(tmp_path / "out", series.volume - 1, series)
    assert torch.equal(read_dicom_series(tmp_path / "out").volume, series.volume - 1)


def test_nothing_is_written_over_and_nothing_by_halves(tmp_path):
    write_slices(tmp_path / "in", stored_values())
    series = read_dicom_series(tmp_path / "in")
    before = contents(tmp_path / "in")
    with pytest.raises(ValueError, match="'folder' must be new or empty"):
        write_dicom_series(tmp_path / "in", series.volume, series)
    change(tmp_path / "in" / "04.dcm", SeriesInstanceUID="1.2.3")
    with pytest.raises(ValueError, match="no longer belongs to series"):
        write_dicom_series(tmp_path / "out", series.volume, series)
    (tmp_path / "in" / "04.dcm").unlink()
    with pytest.raises(FileNotFoundError, match=r"04\.dcm of the source series is gone"):
        write_dicom_series(tmp_path / "out", series.volume, series)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert contents(tmp_path / "in") == {name: before[name] for name in sorted(before)[:4]}


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    write_slices(tmp_path / "in", stored_values())
    series = read_dicom_series(tmp_path / "in")
    save_as, calls = pydicom.dataset.FileDataset.save_as, []

    def full_disk(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("no space left")
        save_as(self, *args, **kwargs)

    monkeypatch.setattr(pydicom.dataset.FileDataset, "save_as", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_dicom_series(tmp_path / "out", series.volume, series, nifti=True)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("change_volume", "options", "words"),
    [
        (lambda v: v[1:], {}, r"must be real \(6, 4, 5\) as the series, got torch.float32 \(5, 4, 5\)"),
        (lambda v: v + 1j, {}, r"must be real \(6, 4, 5\)"),
        (lambda v: v / 0 * 0, {}, "must be finite"),
        (lambda v: v, {"description": "späť"}, "must be up to 64 printable ASCII"),
        (lambda v: v, {"description": "a\\b"}, "must be up to 64 printable ASCII"),
    ],
)
def test_wrong_volumes_are_refused(tmp_path, change_volume, options, words):
    write_slices(tmp_path / "in", stored_values())
    series = read_dicom_series(tmp_path / "in")
    with pytest.raises(ValueError, match=words):
        write_dicom_series(tmp_path / "out", change_volume(series.volume), series, **options)
    assert not (tmp_path / "out").exists()


def test_nifti_of_a_sheared_series_is_refused_and_dicom_is_not(tmp_path):
    for i_slice, image in enumerate(write_slices(tmp_path / "in", stored_values())):
        x, y, z = image.ImagePositionPatient
        change(tmp_path / "in" / f"{i_slice:02d}.dcm", ImagePositionPatient=[x, y + 0.5 * i_slice, z])
    series = read_dicom_series(tmp_path / "in")
    with pytest.raises(ValueError, match="the series is sheared"):
        write_dicom_series(tmp_path / "out", series.volume, series, nifti=True)
    assert len(write_dicom_series(tmp_path / "out", series.volume, series)) == 5


@pytest.mark.real
def test_real_series_of_mr_goes_out_and_comes_in(real_data, tmp_path):
    folder = real_data / "denoising" / "niivue_dicom"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    series = read_dicom_series(folder)
    write_dicom_series(tmp_path / "out", series.volume, series)
    again = read_dicom_series(tmp_path / "out")
    assert torch.equal(again.volume, series.volume)
    np.testing.assert_array_equal(again.affine, series.affine)
