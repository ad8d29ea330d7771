"""NumPy, MATLAB and BART arrays: what is written is read, mapped where it can be, and odd files are refused."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.io
import torch

from medkit.mri import find_mask, open_acquisition
from medkit.ops import centered_fft


def kspace_of(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def save_npy(folder, array):
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def save_cfl(folder, array, dimensions=None, name="a"):
    path = folder / f"{name}.cfl"
    array.astype("<c8").ravel(order="F").tofile(path)
    numbers = " ".join(str(n) for n in dimensions or array.shape)
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{numbers} \n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("shape", "n_slices", "n_coils"), [((12, 10), 1, 1), ((3, 12, 10), 1, 3), ((4, 3, 12, 10), 4, 3)]
)
def test_npy_kspace(tmp_path, shape, n_slices, n_coils):
    kspace = kspace_of(*shape)
    exam = open_acquisition(save_npy(tmp_path, kspace))
    assert (exam.kind, exam.n_slices, exam.n_coils, exam.shape) == ("kspace", n_slices, n_coils, (12, 10))
    whole = kspace.reshape(n_slices, n_coils, 12, 10)
    for i in range(n_slices):
        np.testing.assert_array_equal(exam.read_slice(i).numpy(), whole[i])
    np.testing.assert_array_equal(exam.read_volume().numpy(), np.moveaxis(whole, 0, -1))


def test_npy_with_trailing_real_and_imaginary_part(tmp_path):
    kspace = kspace_of(3, 12, 10)
    exam = open_acquisition(save_npy(tmp_path, np.stack([kspace.real, kspace.imag], -1)))
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace)


@pytest.mark.parametrize("dtype", [np.float64, np.int16, np.uint8, bool])
def test_real_npy_is_a_magnitude_stack(tmp_path, dtype):
    stack = (np.random.default_rng(0).random((4, 12, 10)) * 9).astype(dtype)
    exam = open_acquisition(save_npy(tmp_path, stack))
    assert (exam.kind, exam.n_slices, exam.file_mask) == ("magnitude", 4, None)
    assert exam.read_slice(2).dtype == torch.float32
    np.testing.assert_array_equal(exam.read_slice(2).numpy(), stack[2:3].astype(np.float32))


def test_npy_is_mapped_not_read(tmp_path):
    """A file of 64 GB, most of it a hole on disk, opens and gives a slice."""
    path = tmp_path / "huge.npy"
    kspace = kspace_of(8, 256, 256)
    shape = (16000, 8, 256, 256)
    with path.open("wb") as stream:
        header = {"descr": "<c8", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        start = stream.tell()
        stream.seek(start + 3 * kspace.nbytes)
        stream.write(kspace.tobytes())
        try:
            stream.truncate(start + shape[0] * kspace.nbytes)
        except OSError:
            pytest.skip("this file system has no files with holes")
    exam = open_acquisition(path)
    assert exam.n_slices == shape[0]
    np.testing.assert_array_equal(exam.read_slice(3).numpy(), kspace)


def test_what_is_read_can_be_written_to(tmp_path):
    path = save_npy(tmp_path, kspace_of(3, 12, 10))
    open_acquisition(path).read_slice(0).zero_()
    assert open_acquisition(path).read_slice(0).any()


def test_npz_by_name(tmp_path):
    kspace, images = kspace_of(3, 12, 10), kspace_of(4, 12, 10, seed=1)
    np.savez_compressed(tmp_path / "a.npz", kspace=kspace, images=images, subject=np.array(["x", "y"]))
    exam = open_acquisition(tmp_path / "a.npz")
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace)
    exam = open_acquisition(tmp_path / "a.npz", key="images")
    assert (exam.kind, exam.n_slices, exam.n_coils) == ("kspace", 4, 1)
    torch.testing.assert_close(exam.read_slice(3), centered_fft(torch.from_numpy(images[3:])))
    exam = open_acquisition(tmp_path / "a.npz", key="images", domain="kspace", axes="coil,H,W")
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), images)


def test_npz_is_decompressed_once(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.ones((4, 12, 10), np.float32))
    loads = []
    original = np.load
    monkeypatch.setattr(np, "load", lambda *args, **options: loads.append(args) or original(*args, **options))
    exam = open_acquisition(tmp_path / "a.npz")
    exam.read_volume()
    open_acquisition(tmp_path / "a.npz").read_slice(1)
    assert len(loads) == 1


def test_old_matlab_in_the_order_of_matlab(tmp_path):
    kspace = kspace_of(12, 10, 4, 3)
    scipy.io.savemat(tmp_path / "a.mat", {"ksp": kspace, "name": "brain", "te": 80.0})
    exam = open_acquisition(tmp_path / "a.mat")
    assert (exam.kind, exam.n_slices, exam.n_coils, exam.shape) == ("kspace", 4, 3, (12, 10))
    np.testing.assert_array_equal(exam.read_slice(2).numpy(), kspace[:, :, 2].transpose(2, 0, 1))
    scipy.io.savemat(tmp_path / "b.mat", {"image0": kspace.real[..., 0]}, do_compression=True)
    exam = open_acquisition(tmp_path / "b.mat")
    assert (exam.kind, exam.n_slices) == ("magnitude", 4)
    np.testing.assert_array_equal(exam.read_slice(3)[0].numpy(), kspace.real[:, :, 3, 0])


@pytest.mark.parametrize(
    ("dimensions", "axes", "matrix", "n_slices", "n_coils"),
    [
        ((1, 12, 10, 3), "-HWC", (12, 10), 1, 3),
        ((12, 10, 1, 3, 1, 1), "HW-C--", (12, 10), 1, 3),
        ((12, 1, 10, 3), "H-WC", (12, 10), 1, 3),
        ((12, 10, 4, 3), "HWSC", (12, 10), 4, 3),
        ((12, 10), "HW", (12, 10), 1, 1),
        ((12, 10, 1, 3, *[1] * 9, 4, 1, 1), "HW-C---------S--", (12, 10), 4, 3),
    ],
)
def test_bart_axes(tmp_path, dimensions, axes, matrix, n_slices, n_coils):
    kspace = kspace_of(*dimensions)
    exam = open_acquisition(save_cfl(tmp_path, kspace))
    assert (exam.name, exam.shape, exam.n_slices, exam.n_coils) == ("a", matrix, n_slices, n_coils)
    kept = [name for name in axes if name != "-"]
    truth = kspace.reshape([n for n, name in zip(dimensions, axes, strict=True) if name != "-"])
    for name in "SC":
        if name not in kept:
            truth, kept = truth[..., None], [*kept, name]
    truth = truth.transpose([kept.index(name) for name in "SCHW"])
    for i in range(n_slices):
        np.testing.assert_array_equal(exam.read_slice(i).numpy(), truth[i])


def test_bart_opens_by_its_header_too(tmp_path):
    kspace = kspace_of(12, 10, 1, 3)
    path = save_cfl(tmp_path, kspace)
    exam = open_acquisition(path.with_suffix(".hdr"))
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace[:, :, 0].transpose(2, 0, 1))


@pytest.mark.parametrize("axes", ["slice,average,coil,H,W", "H,average,W,coil_ri,slice", "average,ri,W,H,coil,slice"])
def test_repetitions_become_their_mean(tmp_path, axes):
    """Lines that a repetition did not measure are left out of the mean; those that none measured stay zero."""
    kspace = kspace_of(2, 3, 4, 12, 10)  # slice, average, coil, H, W
    measured = np.ones((3, 1, 12, 10), bool)
    measured[1:, :, :, 2] = measured[0, :, :, 5] = measured[:, :, :, 7] = measured[2, :, 3] = False
    kspace *= measured
    kspace[:, 0, 0, 0, 0] = 0  # by chance, in one coil
    truth = kspace.sum(1) / np.maximum(measured.sum(0), 1)
    names = axes.split(",")
    order = ["slice", "average", "coil", "H", "W"]
    array = kspace
    if "ri" in names:
        array, order = np.stack([kspace.real, kspace.imag], -1), [*order, "ri"]
    if "coil_ri" in names:
        array = np.stack([kspace.real, kspace.imag], 3).reshape(2, 3, 8, 12, 10)
        order[2] = "coil_ri"
    exam = open_acquisition(save_npy(tmp_path, array.transpose([order.index(name) for name in names])), axes=axes)
    assert (exam.n_slices, exam.n_coils, exam.shape) == (2, 4, (12, 10))
    np.testing.assert_allclose(exam.read_volume().numpy(), np.moveaxis(truth, 0, -1), rtol=1e-6)
    np.testing.assert_array_equal(exam.file_mask[0, 0].numpy(), measured.any((0, 1, 2)))


def test_repetitions_of_bart_and_of_images(tmp_path):
    kspace = kspace_of(12, 10, 1, 3, *[1] * 10, 2)
    exam = open_acquisition(save_cfl(tmp_path, kspace))
    truth = kspace.squeeze().mean(-1).transpose(2, 0, 1)
    np.testing.assert_allclose(exam.read_slice(0).numpy(), truth, rtol=1e-6)
    images = np.array([0, 4], np.int16)[:, None, None] * np.ones((2, 12, 10), np.int16)
    exam = open_acquisition(save_npy(tmp_path, images), axes="average,H,W")
    assert exam.read_slice(0).eq(2).all(), "a zero of an image is a number"


def test_mask_from_zeros_of_a_prospective_exam(tmp_path):
    kspace = kspace_of(3, 12, 10)
    lines = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0, 1], bool)
    exam = open_acquisition(save_npy(tmp_path, kspace * lines))
    np.testing.assert_array_equal(exam.file_mask.numpy(), lines[None, None])
    assert find_mask(exam.read_slice(0)).equal(exam.file_mask)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_are_never_loaded(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    objects = np.array([[1, "a"], [2, None]], dtype=object)
    np.save(path, objects) if suffix == "npy" else np.savez(path, kspace=objects)
    with pytest.raises(ValueError, match=rf"a.{suffix} must"):
        open_acquisition(path)


def test_incomplete_npy(tmp_path):
    path = save_npy(tmp_path, kspace_of(3, 12, 10))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a.npy must be a complete .npy of numbers.*save it again"):
        open_acquisition(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.npy must be a complete .npy"):
        open_acquisition(path)


@pytest.mark.parametrize("keep", [0, 40, -30])
def test_incomplete_npz(tmp_path, keep):
    path = tmp_path / "a.npz"
    np.savez(path, kspace=kspace_of(3, 12, 10))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a.npz must be a complete .npz"):
        open_acquisition(path)


@pytest.mark.parametrize("keep", [0, 100, 200, -30])
def test_incomplete_mat(tmp_path, keep):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"ksp": kspace_of(12, 10, 3)}, do_compression=True)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a.mat must (be a complete MATLAB file|hold)"):
        open_acquisition(path)


def test_incomplete_cfl(tmp_path):
    path = save_cfl(tmp_path, kspace_of(12, 10, 1, 3), (12, 10, 1, 4))
    with pytest.raises(ValueError, match=r"a.cfl must hold 3840 bytes for the dimensions \(12, 10, 1, 4\).*got 2880"):
        open_acquisition(path)
    for text in ("", "# Dimensions\n", "# Dimensions\n12 ten\n", "# Dimensions\n12 0 3\n", "12 10 1 3"):
        path.with_suffix(".hdr").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"a.hdr must have a line '# Dimensions'"):
            open_acquisition(path)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(FileNotFoundError, match=r"a.cfl needs its header .*a.hdr"):
        open_acquisition(path)


@pytest.mark.parametrize("dimensions", [(12, 10, 1, 3, 1, 5), (12, 10, 4, 3, *[1] * 9, 4), (12, 1, 1, 3)])
def test_bart_axes_that_are_no_exam(tmp_path, dimensions):
    path = save_cfl(tmp_path, kspace_of(*dimensions))
    with pytest.raises(ValueError, match=r"axes 0, 1, 2 .*got dimensions"):
        open_acquisition(path)


def test_bart_axes_by_name(tmp_path):
    kspace = kspace_of(12, 10, 1, 3, 1, 5)
    exam = open_acquisition(save_cfl(tmp_path, kspace), axes="H,W,1,coil,1,slice")
    np.testing.assert_array_equal(exam.read_slice(4).numpy(), kspace[:, :, 0, :, 0, 4].transpose(2, 0, 1))


def test_coils_last_are_not_taken_for_columns(tmp_path):
    kspace = kspace_of(12, 10, 3)
    path = save_npy(tmp_path, kspace)
    with pytest.raises(ValueError, match=r"12 coils of 10 x 3 samples, which is not likely.*axes='H,W,coil'"):
        open_acquisition(path)
    exam = open_acquisition(path, axes=("H", "W", "coil"))
    np.testing.assert_array_equal(exam.read_slice(0).numpy(), kspace.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.png", r"'path' must end in .h5, .hdf5, .mrd, .cfl, .*got .*a.png; convert it"),
        ("nothing", "'path' must end in"),
        (".", r"must be a file, got the folder .*acquisition_list"),
        ("alone.hdr", "'path' must end in"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, message):
    if name != ".":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=message):
        open_acquisition(tmp_path / name)


@pytest.mark.parametrize("name", ["a.h5", "a.cfl", "a.npy", "a.nii.gz", "a.png"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"there is none at .*{name}"):
        open_acquisition(tmp_path / name)


def test_arrays_to_choose_from(tmp_path):
    np.savez(tmp_path / "a.npz", one=np.ones((3, 4)), two=np.ones((3, 4)), text=np.array(["x"]))
    with pytest.raises(ValueError, match=r"one \(3, 4\), two \(3, 4\); say which by key="):
        open_acquisition(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"'key' must name an array of .*got 'three'"):
        open_acquisition(tmp_path / "a.npz", key="three")
    assert open_acquisition(tmp_path / "a.npz", key="two").shape == (3, 4)
    with pytest.raises(ValueError, match=r"'key' names an array of .h5, .mat or .npz"):
        open_acquisition(save_npy(tmp_path, np.ones((3, 4))), key="a")


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    path = save_npy(tmp_path, np.ones((3, 4)))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(ValueError, match=r"a.npy may not be read; change its permissions"):
        open_acquisition(path)
