"""CMRxRecon and M4Raw, in the layouts that they publish: they open without options; frames and repetitions."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import scipy.io

from medkit.mri import LoadAcquisitiond, acquisition_list, open_acquisition

RECORD = np.dtype([("real", "<f4"), ("imag", "<f4")])


def noise(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def save_v73(path, **arrays):
    """Write arrays, axes as in MATLAB, as its v7.3 does: HDF5 behind 512 bytes, axes reversed, complex as records."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            stored = np.ascontiguousarray(array.T)
            if np.iscomplexobj(stored):
                stored = stored.view(RECORD)
            file.create_dataset(name, data=stored, chunks=stored.shape, compression="gzip")
            file[name].attrs["MATLAB_class"] = np.bytes_("single")
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


@pytest.mark.parametrize("name", ["kspace_full", "kspace_sub04", "kspace_sub10", "kus"])
@pytest.mark.parametrize("version", ["v7.3", "v7"])
def test_frames_of_cine_are_slices(tmp_path, name, version):
    kspace = noise(16, 12, 3, 2, 5)  # kx, ky, coil, slice, time
    path = tmp_path / "cine_sax.mat"
    if version == "v7.3":
        save_v73(path, **{name: kspace})
    else:
        scipy.io.savemat(path, {name: kspace})
    exam = open_acquisition(path)
    assert (exam.n_slices, exam.n_frames, exam.n_coils, exam.shape) == (10, 5, 3, (16, 12))
    for i in range(10):
        np.testing.assert_array_equal(exam.read_slice(i).numpy(), kspace[:, :, :, i // 5, i % 5].transpose(2, 0, 1))
    assert exam.read_volume().shape == (3, 16, 12, 10)
    assert [entry["i_slice"] for entry in acquisition_list(path, use_index=False)] == list(range(10))


def test_one_frame_one_slice_and_one_coil(tmp_path):
    kinds = (
        ("kspace_full", (16, 12, 3, 4), (4, 1, 3)),
        ("kspace_full", (16, 12, 3), (1, 1, 3)),
        ("kspace_single_full", (16, 12, 4, 6), (24, 6, 1)),
        ("kspace_single_sub08", (16, 12, 4), (4, 1, 1)),
    )
    for i, (name, shape, wanted) in enumerate(kinds):
        kspace = noise(*shape)
        exam = open_acquisition(save_v73(tmp_path / f"{i}.mat", **{name: kspace}))
        assert (exam.n_slices, exam.n_frames, exam.n_coils) == wanted
        last = kspace[..., -1] if "single" in name or len(shape) == 4 else kspace
        last = last[..., -1] if len(shape) == 4 and "single" in name else last
        last = last[None] if "single" in name else last.transpose(2, 0, 1)
        np.testing.assert_array_equal(exam.read_slice(exam.n_slices - 1).numpy(), last)


def test_other_names_keep_the_usual_order(tmp_path):
    exam = open_acquisition(save_v73(tmp_path / "a.mat", kspace=noise(16, 12, 4, 3)))
    assert (exam.n_slices, exam.n_coils, exam.n_frames) == (4, 3, 1)
    exam = open_acquisition(save_v73(tmp_path / "b.mat", kspace_full=noise(16, 12, 4, 3)), axes="H,W,frame,coil")
    assert (exam.n_slices, exam.n_coils, exam.n_frames) == (4, 3, 4)


def test_masks_of_cmrxrecon_are_no_exams(tmp_path):
    mask = np.zeros((16, 12), np.float32)
    mask[:, ::4] = 1
    folder = tmp_path / "P001"
    folder.mkdir()
    save_v73(folder / "cine_sax.mat", kspace_sub04=noise(16, 12, 2, 2, 3) * mask[:, :, None, None, None])
    for name in ("cine_sax_mask.mat", "cine_lax_mask_Uniform4.mat"):
        save_v73(folder / name, mask04=mask)
    (entry,) = acquisition_list(tmp_path, per="volume")
    np.testing.assert_array_equal(LoadAcquisitiond()(entry)["mask"][0, 0, :, 0].numpy(), mask[0] > 0)
    with pytest.raises(ValueError, match=r"it holds mask04 \(12, 16\)"):
        open_acquisition(folder / "cine_sax_mask.mat")


def test_frames_with_masks_of_their_own_are_loaded_one_by_one(tmp_path):
    kspace = noise(16, 12, 2, 1, 3)
    lines = (np.arange(12)[:, None] + np.arange(3)) % 3 == 0
    path = save_v73(tmp_path / "a.mat", kus=kspace * lines[None, :, None, None])
    for entry in acquisition_list(path, use_index=False):
        mask = LoadAcquisitiond()(entry)["mask"]
        found = mask.expand(1, 1, 12) if mask.shape[-1] == 1 else mask
        np.testing.assert_array_equal(found.numpy()[0, 0] | ~lines[:, entry["i_slice"]], True)
    with pytest.raises(ValueError, match=r"the slices of .*a.mat are sampled differently; load them one by one"):
        LoadAcquisitiond()({"path": path})


def test_m4raw_repetitions_are_exams_of_one_subject(tmp_path):
    for subject in ("2022061003", "2022061104"):
        for name in ("T101", "T102", "FLAIR01"):
            with h5py.File(tmp_path / f"{subject}_{name}.h5", "w") as file:
                file["kspace"] = noise(3, 4, 16, 16)
                file["reconstruction_rss"] = np.ones((3, 16, 16), np.float32)
                file["ismrmrd_header"] = b"<ismrmrdHeader/>"
    entries = acquisition_list(tmp_path, per="volume")
    assert {entry["subject"] for entry in entries} == {"2022061003", "2022061104"}
    assert [entry["case"] for entry in entries][:3] == ["2022061003_FLAIR01", "2022061003_T101", "2022061003_T102"]
    exam = open_acquisition(entries[0]["path"])
    assert (exam.kind, exam.n_slices, exam.n_coils, exam.shape) == ("kspace", 3, 4, (16, 16))
    for split in ("train", "validation", "test"):
        try:
            found = acquisition_list(tmp_path, split, per="volume")
        except ValueError:
            continue
        assert len(found) % 3 == 0, "a subject's exams are in one split"
