"""ISMRMRD raw files, written by the format's own library: the phantom that goes in comes out, at its place in space."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pytest
import torch

from medkit.mri import (
    LoadAcquisitiond,
    PrewhitenKspaced,
    SensitivityMapsd,
    acquisition_list,
    noise_covariance,
    open_acquisition,
)
from medkit.ops import centered_fft, centered_ifft

pytest.importorskip("ismrmrd", reason="needs the extra [test]")

import ismrmrd

from tests.mri.raw_files import FOV, NORMAL, PHASE, READ, header, kspace_of, line, phantom_slices, slice_lines, write

MATRIX = (32, 20, 1)
NOISE = (ismrmrd.ACQ_IS_NOISE_MEASUREMENT,)


@pytest.fixture
def kspace():
    return kspace_of(phantom_slices())


def all_lines(kspace, **options):
    return [readout for place, one in enumerate(kspace) for readout in slice_lines(one, place=place, **options)]


@pytest.mark.parametrize(
    ("order", "name"), [("slice by slice", "a.h5"), ("interleaved", "a.mrd"), ("random", "a.hdf5")]
)
def test_the_phantom_comes_back_whatever_the_order(tmp_path, kspace, order, name):
    readouts = all_lines(kspace)
    if order == "interleaved":
        readouts = [readouts[20 * place + step] for step in range(20) for place in (0, 2, 1)]
    if order == "random":
        readouts = [readouts[i] for i in np.random.default_rng(0).permutation(60)]
    exam = open_acquisition(write(tmp_path / name, readouts, header(MATRIX, (16, 20, 1)), own_writer=True))
    assert (exam.name, exam.kind, exam.n_slices, exam.n_coils, exam.shape) == ("a", "kspace", 3, 2, (32, 20))
    for i, image in enumerate(phantom_slices()):
        part = exam.read_slice(i)
        np.testing.assert_array_equal(part.numpy(), kspace[i])
        torch.testing.assert_close(centered_ifft(part), image, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(exam.read_volume().numpy(), np.moveaxis(kspace, 0, -1))
    assert exam.file_mask is None
    assert exam.read_noise() is None
    assert pickle.loads(pickle.dumps(exam)).read_slice(2).equal(exam.read_slice(2))
    d = LoadAcquisitiond()({"path": tmp_path / name, "i_slice": 1})
    assert tuple(d["recon_size"]) == (16, 20)
    assert "noise" not in d
    assert exam.header["vendor"] == "ACME"


def test_slices_lie_where_the_scanner_says(tmp_path, kspace):
    """Slices are numbered against their normal: they are sorted by position, and the affine is the stack's."""
    readouts = [readout for place, one in enumerate(kspace) for readout in slice_lines(one, place=2 - place)]
    for readout in readouts:
        readout.idx.slice = 2 - readout.idx.slice
    exam = open_acquisition(write(tmp_path / "a.h5", readouts, header(MATRIX)))
    assert (exam.has_geometry, exam.space_code) == (True, 1)
    for i in range(3):
        np.testing.assert_array_equal(exam.read_slice(i).numpy(), kspace[2 - i])
        lps = np.array([10, -20, 30]) + 6 * i * NORMAL  # the middle of the image, row 16 and column 10
        np.testing.assert_allclose(exam.affine @ [16, 10, i, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-4)
        np.testing.assert_allclose(exam.slice_affine(i) @ [16, 10, 0, 1], [-lps[0], -lps[1], lps[2], 1], atol=1e-4)
    ras = np.array([-1, -1, 1])
    np.testing.assert_allclose(exam.affine[:3, 0], ras * READ * FOV[0] / 32, atol=1e-5)
    np.testing.assert_allclose(exam.affine[:3, 1], ras * PHASE * FOV[1] / 20, atol=1e-5)


def test_a_file_without_directions_has_spacing_alone(tmp_path, kspace, caplog):
    readouts = all_lines(kspace)
    for readout in readouts:
        readout.read_dir[:] = [0, 0, 0]
    exam = open_acquisition(write(tmp_path / "a.h5", readouts, header(MATRIX)))
    assert (exam.has_geometry, exam.space_code) == (True, 0)
    np.testing.assert_allclose(exam.affine, np.diag([12.5, 10, 5, 1]))
    assert not caplog.records


@pytest.mark.parametrize("fault", ["directions", "uneven"])
def test_slices_that_are_no_stack_lose_their_orientation(tmp_path, kspace, caplog, fault):
    readouts = all_lines(kspace)
    for readout in readouts[:20]:
        if fault == "directions":
            readout.read_dir[:], readout.phase_dir[:] = PHASE, READ
            readout.slice_dir[:] = -NORMAL
        else:
            readout.position[:] = np.array(readout.position) - 3 * NORMAL
    with caplog.at_level(logging.WARNING):
        exam = open_acquisition(write(tmp_path / "a.h5", readouts, header(MATRIX)))
    assert "orientation is left out" in caplog.text
    assert exam.space_code == 0
    assert exam.n_slices == 3


def test_a_slab_is_transformed_along_its_partitions(tmp_path):
    images = phantom_slices(6)
    slab = torch.fft.ifftshift(images, 0)
    slab = torch.fft.fftshift(torch.fft.fft(slab, dim=0, norm="ortho"), 0)  # along the partitions
    kspace = centered_fft(slab).numpy()
    readouts = [line(kspace[p, :, :, s], 0, s, p) for p in range(6) for s in range(20)]
    path = write(tmp_path / "a.h5", readouts, header((32, 20, 6), fov=(400.0, 200.0, 18.0)))
    exam = open_acquisition(path)
    assert (exam.n_slices, exam.n_coils) == (6, 2)
    for i in range(6):
        torch.testing.assert_close(centered_ifft(exam.read_slice(i)), images[i], atol=1e-5, rtol=1e-5)
    assert exam.file_mask is None
    np.testing.assert_allclose(exam.affine @ [16, 10, 3, 1], [-10, 20, 30, 1], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(exam.affine[:3, 2]), 3, atol=1e-6)

    lines_missing = [readout for readout in readouts if readout.idx.kspace_encode_step_1 % 2 == 0]
    exam = open_acquisition(write(tmp_path / "b.h5", lines_missing, header((32, 20, 6))))
    np.testing.assert_array_equal(exam.file_mask.numpy()[0, 0], np.arange(20) % 2 == 0)
    points = [r for r in readouts if (r.idx.kspace_encode_step_1 + r.idx.kspace_encode_step_2) % 2 == 0]
    with pytest.raises(ValueError, match=r"c.h5 is under-sampled along its partitions \(50% of 6x20 lines\)"):
        open_acquisition(write(tmp_path / "c.h5", points, header((32, 20, 6))))


def test_repeated_lines_become_their_mean(tmp_path, kspace):
    readouts = []
    for average, factor in enumerate((1, 3)):
        steps = range(20) if average == 0 else range(10)  # the second scan was stopped half way
        readouts += slice_lines(factor * kspace[0], steps, average=average)
    exam = open_acquisition(write(tmp_path / "a.h5", readouts, header(MATRIX)))
    wanted = kspace[0] * np.where(np.arange(20) < 10, 2, 1)
    np.testing.assert_allclose(exam.read_slice(0).numpy(), wanted, rtol=1e-6)
    assert exam.file_mask is None


def test_partial_fourier_and_partial_echo_keep_the_centre(tmp_path, kspace):
    """Lines from 6 on, of which the first 10 samples were not measured and two more on each side are to be dropped."""
    readouts = []
    for step in range(6, 20):
        samples = np.concatenate([np.full((2, 2), 7), kspace[0][:, 10:, step], np.full((2, 3), 9)], 1)
        readouts.append(line(samples, 0, step - 6, centre=8))
        readouts[-1].discard_pre, readouts[-1].discard_post = 2, 3
    exam = open_acquisition(write(tmp_path / "a.h5", readouts, header(MATRIX, centres=(4, 0))))
    wanted = kspace[0].copy()
    wanted[:, :10] = 0
    wanted[:, :, :6] = 0
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), wanted)
    assert exam.file_mask is None, "a border by itself is no under-sampling"


def test_the_mask_tells_the_lines_of_a_two_fold_scan_with_calibration(tmp_path, kspace):
    """Lines for calibration alone fill gaps; where an imaging line lies, it stays."""
    steps = np.arange(0, 20, 2)
    readouts = slice_lines(kspace[0], steps)
    flags = (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,)
    readouts += [line(kspace[0][:, :, s] * (100 if s % 2 == 0 else 1), 0, s, flags=flags) for s in range(7, 14)]
    readouts += [line(kspace[0][:, :, 0], 0, 400, flags=flags)]  # of a larger reference scan
    path = write(tmp_path / "a.h5", readouts, header(MATRIX))
    exam = open_acquisition(path)
    wanted = np.isin(np.arange(20), [*steps, *range(7, 14)])
    np.testing.assert_array_equal(exam.file_mask.numpy(), wanted[None, None])
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace[0] * wanted)
    d = LoadAcquisitiond()({"path": path})
    assert d["mask"].shape == (1, 1, 20, 1)
    with pytest.raises(ValueError, match=r"need fully sampled k-space"):
        LoadAcquisitiond(fully_sampled=True)({"path": path, "i_slice": 0})


def test_without_calibration_lines_maps_are_refused_by_their_own_error(tmp_path, kspace):
    path = write(tmp_path / "a.h5", slice_lines(kspace[0], range(0, 20, 2)), header(MATRIX))
    d = LoadAcquisitiond()({"path": path, "i_slice": 0})
    d["measured"] = d["kspace"]
    with pytest.raises(ValueError, match=r"calibration|centre"):
        SensitivityMapsd(mode="espirit")(d)


def test_slices_sampled_differently_are_loaded_one_by_one(tmp_path, kspace):
    readouts = slice_lines(kspace[0], range(0, 20, 2)) + slice_lines(kspace[1], range(1, 20, 2), place=1)
    path = write(tmp_path / "a.h5", readouts, header(MATRIX))
    for i in range(2):
        d = LoadAcquisitiond()({"path": path, "i_slice": i})
        np.testing.assert_array_equal(d["mask"].numpy()[0, 0], np.arange(20) % 2 == i)
    with pytest.raises(ValueError, match=r"the slices of .*a.h5 are sampled differently; load them one by one"):
        LoadAcquisitiond()({"path": path})


def test_the_noise_scan_whitens(tmp_path, kspace):
    """Correlated noise at four times the dwell time: half the strength, in the scan, of the noise in k-space."""
    rng = np.random.default_rng(0)
    mixture = np.array([[1, 0], [0.8j, 2]])

    def noise_of(*shape):
        white = (rng.standard_normal((2, *shape)) + 1j * rng.standard_normal((2, *shape))) / 2**0.5
        return np.einsum("cd,d...->c...", mixture, white)

    scans = [line(noise_of(64) / 2, flags=NOISE) for _ in range(40)]
    for scan in scans:
        scan.sample_time_us = 20.0
    noisy = 0 * kspace[0] + noise_of(32, 20)
    path = write(tmp_path / "a.h5", [*scans, *slice_lines(noisy)], header(MATRIX))
    exam = open_acquisition(path)
    assert exam.n_slices == 1
    np.testing.assert_allclose(exam.read_slice(0), noisy, rtol=1e-6)
    noise = exam.read_noise()
    assert noise.shape == (2, 40 * 64)
    np.testing.assert_allclose(noise_covariance(noise).numpy(), mixture @ mixture.conj().T, atol=0.25)
    white = PrewhitenKspaced()(LoadAcquisitiond()({"path": path, "i_slice": 0}))["kspace"].flatten(1).numpy()
    np.testing.assert_allclose(white @ white.conj().T / white.shape[1], np.eye(2), atol=0.12)


def test_navigators_and_the_like_are_no_lines(tmp_path, kspace):
    others = (
        ismrmrd.ACQ_IS_NAVIGATION_DATA,
        ismrmrd.ACQ_IS_PHASECORR_DATA,
        ismrmrd.ACQ_IS_HPFEEDBACK_DATA,
        ismrmrd.ACQ_IS_RTFEEDBACK_DATA,
        ismrmrd.ACQ_IS_DUMMYSCAN_DATA,
        ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION,
        ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE,
    )
    readouts = [line(np.full((1, 700), 9), 5, 900, flags=(flag,)) for flag in others] + slice_lines(kspace[0])
    exam = open_acquisition(write(tmp_path / "a.h5", readouts, header(MATRIX)))
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace[0])


def test_a_series_is_chosen_by_its_number(tmp_path, kspace):
    readouts = [r for i in range(2) for r in slice_lines(kspace[i], contrast=i, repetition=3)]
    path = write(tmp_path / "a.h5", readouts, header(MATRIX))
    for i in range(2):
        exam = open_acquisition(path, key=f"contrast={i}")
        np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace[i])
    assert open_acquisition(path, key="contrast = 1, repetition=3").n_slices == 1
    assert len(acquisition_list(path, key="contrast=1")) == 1
    for key, message in (
        (None, r"a.h5 holds contrast 0, 1; say which by key='contrast=0'"),
        ("contrast=5", r"a.h5 holds contrast 0, 1; say which"),
        ("echo=1", r"'key' must choose by contrast, phase, repetition, set or encoding.*got 'echo=1'"),
        ("contrast=a", r"'key' must choose by"),
        ("contrast=0,encoding=1", r"its headers cannot be read .*encoding 1 with its matrix, it has 1"),
    ):
        with pytest.raises(ValueError, match=message):
            open_acquisition(path, key=key)


def changed(kspace, fault):
    readouts = all_lines(kspace)
    if fault == "coils":
        readouts[7] = line(np.ones((1, 32)), 0, 7)
    if fault == "outside":
        readouts[7] = line(kspace[0][:, :, 7], 0, 20)
    if fault == "long":
        readouts[7] = line(np.ones((2, 40)), 0, 7)
    if fault == "reverse":
        readouts[7].setFlag(ismrmrd.ACQ_IS_REVERSE)
    if fault == "compressed":
        readouts[7].setFlag(ismrmrd.ACQ_COMPRESSION2)
    if fault == "noise":
        readouts = [line(np.ones((2, 64)), flags=NOISE)]
    return readouts


@pytest.mark.parametrize(
    ("fault", "xml", "message"),
    [
        (
            "",
            header(MATRIX, trajectory="radial"),
            r"trajectory of .*a.h5 must be cartesian, its header says 'radial'",
        ),
        ("", header(MATRIX, trajectory="spiral"), r"says 'spiral'; grid it first"),
        ("", b"<ismrmrdHeader>", r"a.h5 must be a complete ISMRMRD file, but its headers cannot be read"),
        ("", b"<ismrmrdHeader/>", r"must have an encoding 0 with its matrix, it has 0"),
        ("coils", header(MATRIX), r"the readouts of .*a.h5 must all have the same coils, they have 1 and 2"),
        ("outside", header(MATRIX), r"1 of 60 readouts of .*a.h5 lie outside of the encoded matrix 32x20x1: readout 7"),
        ("long", header(MATRIX), r"readout 7 has rows -4 to 35, column 7, partition 0"),
        ("", header((16, 20, 1)), r"60 of 60 readouts of .* lie outside of the encoded matrix 16x20x1"),
        ("reverse", header(MATRIX), r"1 readouts of .*a.h5 are read in reverse \(EPI\)"),
        ("compressed", header(MATRIX), r"1 readouts of .*a.h5 are compressed"),
        (
            "noise",
            header(MATRIX),
            r"must hold readouts of encoding 0, it has 1 readouts of .*1 of them noise",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path, kspace, fault, xml, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_acquisition(write(tmp_path / "a.h5", changed(kspace, fault), xml))
    assert str(caught.value).startswith("open_acquisition: ")


def test_slabs_next_to_each_other_are_refused(tmp_path):
    readouts = [line(np.ones((2, 8)), place, s, p) for place in range(2) for p in range(2) for s in range(4)]
    with pytest.raises(ValueError, match=r"must hold one slab of partitions, it has 2"):
        open_acquisition(write(tmp_path / "a.h5", readouts, header((8, 4, 2))))


@pytest.mark.parametrize("options", [{"axes": "H,W"}, {"domain": "image"}, {"centred": False}])
def test_readouts_take_no_axes(tmp_path, kspace, options):
    path = write(tmp_path / "a.h5", all_lines(kspace), header(MATRIX))
    with pytest.raises(ValueError, match=r"say themselves where each sample lies: it takes no"):
        open_acquisition(path, **options)


def test_bad_samples_are_refused(tmp_path, kspace, caplog):
    kspace[1, 0, 3, 4] = np.nan
    noise = [line(np.full((2, 8), np.inf), flags=NOISE)]
    exam = open_acquisition(write(tmp_path / "a.h5", noise + all_lines(kspace), header(MATRIX)))
    exam.read_slice(0)
    with pytest.raises(ValueError, match=r"slice 1 of .*a.h5 must hold finite values"):
        exam.read_slice(1)
    with pytest.raises(ValueError, match=r"the noise scan of .*a.h5 must hold finite values"):
        exam.read_noise()
    slab = [line(np.full((1, 8), np.nan), 0, s, p) for p in range(2) for s in range(4)]
    exam = open_acquisition(write(tmp_path / "b.h5", slab, header((8, 4, 2))))
    with pytest.raises(ValueError, match=r"b.h5 must hold finite values"):
        exam.read_slice(0)
    noise = [line(np.ones((3, 8)), flags=NOISE)]
    exam = open_acquisition(write(tmp_path / "c.h5", noise + all_lines(kspace[:1]), header(MATRIX)))
    with pytest.raises(ValueError, match=r"the noise scan of .*c.h5 must have the 2 coils of its k-space, it has 3"):
        exam.read_noise()
    with caplog.at_level("WARNING"):
        sample = LoadAcquisitiond()({"path": str(tmp_path / "c.h5"), "i_slice": 0})
    assert "c.h5 goes on without its noise scan" in caplog.text
    assert "noise" not in sample
    with pytest.raises(ValueError, match="noise"):
        PrewhitenKspaced()(sample)


def test_damaged_files_say_so(tmp_path, kspace):
    import h5py

    path = write(tmp_path / "a.h5", all_lines(kspace), header(MATRIX))
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=r"cut.h5 must be an HDF5 file.*copy or download it again"):
        open_acquisition(cut)
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][5]
        record["data"] = record["data"][:20]
        file["dataset/data"][5] = record
    exam = open_acquisition(path)
    with pytest.raises(ValueError, match=r"readout 5 of .*a.h5 must have 32 samples of 2 coils, got 10 numbers"):
        exam.read_slice(0)
    exam.read_slice(1)
