"""The loading transform, and handles that stay in the process that opened them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import Compose

from medkit.mri import LoadAcquisitiond, open_acquisition
from medkit.mri.readers.caching import HANDLES, ProcessStore

SHAPE = (6, 2, 12, 10)


def write_kspace(path, value=0, shape=SHAPE):
    rng = np.random.default_rng(value)
    kspace = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
    return kspace


def test_a_slice_is_loaded(tmp_path):
    kspace = write_kspace(tmp_path / "a.h5")
    given = {"path": str(tmp_path / "a.h5"), "i_slice": 4, "other": 1}
    d = LoadAcquisitiond()(given)
    np.testing.assert_array_equal(d["kspace"].numpy(), kspace[4])
    assert d["affine"].dtype == torch.float64
    assert d["affine"][2, 3] == 4
    assert (d["case"], d["other"]) == ("a", 1)
    assert set(d) == {"path", "i_slice", "other", "kspace", "affine", "space_code", "case"}
    assert set(given) == {"path", "i_slice", "other"}, "the input is not changed"


def test_a_whole_exam_is_loaded_without_i_slice(tmp_path):
    kspace = write_kspace(tmp_path / "a.h5")
    d = LoadAcquisitiond()({"path": tmp_path / "a.h5", "case": "patient 1"})
    np.testing.assert_array_equal(d["kspace"].numpy(), np.moveaxis(kspace, 0, -1))
    assert d["case"] == "patient 1"
    d = LoadAcquisitiond(n_slices=3)({"path": tmp_path / "a.h5"})
    np.testing.assert_array_equal(d["kspace"].numpy(), np.moveaxis(kspace[1:4], 0, -1))
    assert d["affine"][2, 3] == 1
    assert LoadAcquisitiond(n_slices=30)({"path": tmp_path / "a.h5"})["kspace"].shape[-1] == 6
    with pytest.raises(ValueError, match="'n_slices' must be at least 1 or None, got 0"):
        LoadAcquisitiond(n_slices=0)


def test_magnitude_of_a_volume(tmp_path):
    volume = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 3.0, 4.0, 1.0])), tmp_path / "a.nii.gz")
    d = LoadAcquisitiond(slice_axis=0)({"path": tmp_path / "a.nii.gz", "i_slice": torch.tensor(3)})
    np.testing.assert_array_equal(d["magnitude"].numpy(), volume[3][None])
    np.testing.assert_allclose(d["affine"].numpy() @ [1, 2, 0, 1], [6, 3, 8, 1])
    assert "mask" not in d
    assert LoadAcquisitiond()({"path": tmp_path / "a.nii.gz"})["magnitude"].shape == (1, 5, 6, 7)


def test_the_mask_of_an_undersampled_exam(tmp_path):
    lines = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0, 1], bool)
    kspace = write_kspace(tmp_path / "a.h5") * lines
    kspace[5] = 0
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["kspace"][...] = kspace
    for i_slice in (0, 5):  # the last one is empty, and has the mask of the others
        d = LoadAcquisitiond()({"path": tmp_path / "a.h5", "i_slice": i_slice})
        np.testing.assert_array_equal(d["mask"].numpy(), lines[None, None])
    d["mask"][:] = False
    d = LoadAcquisitiond()({"path": tmp_path / "a.h5"})
    np.testing.assert_array_equal(d["mask"].numpy(), lines[None, None, :, None])


def test_axes_are_text_or_a_sequence(tmp_path):
    kspace = write_kspace(tmp_path / "a.h5", shape=(6, 1, 2, 12, 10))
    for axes in ("slice,1,coil,H,W", ("slice", 1, "coil", "H", "W"), ["slice", "1", "coil", "H", "W"]):
        d = LoadAcquisitiond(axes=axes)({"path": tmp_path / "a.h5", "i_slice": 3})
        np.testing.assert_array_equal(d["kspace"].numpy(), kspace[3, 0])
    with pytest.raises(ValueError, match="'centred' must be True or False, got 'false'"):
        LoadAcquisitiond(centred="false")({"path": tmp_path / "a.h5"})


def test_an_undersampled_exam_is_refused_where_full_ones_are_wanted(tmp_path):
    kspace = write_kspace(tmp_path / "full.h5")
    lines = np.array([1, 0, 1, 1, 0, 1, 1, 0, 0, 1], bool)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = kspace * lines
    load = LoadAcquisitiond(fully_sampled=True)
    assert load({"path": tmp_path / "full.h5"})["kspace"].shape == (2, 12, 10, 6)
    for sample in ({"path": tmp_path / "a.h5"}, {"path": tmp_path / "a.h5", "i_slice": 2}):
        with pytest.raises(ValueError, match=r"need fully sampled k-space, but the scanner measured 60% of .*a.h5; m"):
            load(sample)


def test_reading_a_slice_reads_the_disk_once(tmp_path, monkeypatch):
    write_kspace(tmp_path / "a.h5")
    taken = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(
        h5py.Dataset, "__getitem__", lambda self, index, *rest: taken.append(index) or original(self, index, *rest)
    )
    load = LoadAcquisitiond()
    for i in range(6):
        load({"path": tmp_path / "a.h5", "i_slice": i})
    assert [index[0] for index in taken] == list(range(6))


def test_pickles_carry_no_handle(tmp_path):
    kspace = write_kspace(tmp_path / "a.h5")
    exam = open_acquisition(tmp_path / "a.h5")
    _ = exam.read_slice(0), exam.file_mask
    text = pickle.dumps(exam)
    assert len(text) < 2000
    np.testing.assert_array_equal(pickle.loads(text).read_slice(5).numpy(), kspace[5])
    load = pickle.loads(pickle.dumps(Compose([LoadAcquisitiond()])))
    np.testing.assert_array_equal(load({"path": tmp_path / "a.h5", "i_slice": 1})["kspace"].numpy(), kspace[1])


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_the_parent_has_open(tmp_path, context):
    """The parent reads first, so that its handles are open when the workers start."""
    if context not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {context} processes")
    stacks = [write_kspace(tmp_path / f"{name}.h5", name) for name in range(3)]
    items = [{"path": str(tmp_path / f"{name}.h5"), "i_slice": i} for name in range(3) for i in range(6)]
    data = Dataset(items, LoadAcquisitiond())
    for i in range(len(items)):
        _ = data[i]
    loader = DataLoader(data, batch_size=3, num_workers=2, multiprocessing_context=context)
    for _ in range(2):
        read = torch.cat([batch["kspace"] for batch in loader])
        np.testing.assert_array_equal(read.numpy(), np.concatenate(stacks))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_opens_its_own_handle(tmp_path):
    write_kspace(tmp_path / "a.h5")
    open_acquisition(tmp_path / "a.h5").read_slice(0)
    handle = HANDLES.get(tmp_path / "a.h5", "hdf5", lambda: None)
    assert handle
    receive, send = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        n_inherited = len(HANDLES)
        open_acquisition(tmp_path / "a.h5").read_slice(0)
        own = HANDLES.get(tmp_path / "a.h5", "hdf5", lambda: None)
        send.send((n_inherited, own is handle, bool(handle)))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert receive.poll(30)
    assert receive.recv() == (0, False, True)
    process.join()
    assert handle, "the parent's handle is still open"


def test_threads_share_a_small_store(tmp_path):
    """More files than handles are kept, eight threads: nothing is closed under a reader's feet."""
    n_files = 20
    for name in range(n_files):
        write_kspace(tmp_path / f"{name}.h5", name)
    expected = [open_acquisition(tmp_path / f"{name}.h5").read_slice(3) for name in range(n_files)]
    wrong = []

    def read(seed):
        for name in np.random.default_rng(seed).integers(0, n_files, 60):
            if not LoadAcquisitiond()({"path": tmp_path / f"{name}.h5", "i_slice": 3})["kspace"].equal(expected[name]):
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(HANDLES) <= HANDLES.max_items < n_files


def test_monai_caches_what_is_loaded(tmp_path):
    kspace = write_kspace(tmp_path / "a.h5")
    items = [{"path": str(tmp_path / "a.h5"), "i_slice": i} for i in range(6)]
    data = CacheDataset(items, LoadAcquisitiond(), num_workers=3, progress=False)
    np.testing.assert_array_equal(torch.stack([d["kspace"] for d in data]).numpy(), kspace)


@pytest.mark.parametrize("given", ["scan.hdr", "scan.cfl"])
def test_a_pair_of_files_is_one_exam_and_is_read_anew_when_either_changes(tmp_path, given):
    header, load = tmp_path / "scan.hdr", LoadAcquisitiond()
    (tmp_path / "scan.cfl").write_bytes(np.arange(12 * 10, dtype="<c8").tobytes())
    shapes = []
    for numbers in ("12 10", "10 12", "8 15 "):
        header.write_text(f"# Dimensions\n{numbers}\n", encoding="utf-8")
        os.utime(header, ns=(0, len(shapes)))  # the data stay as they are, and the header's length too
        d = load({"path": tmp_path / given})
        assert d["case"] == "scan"
        shapes.append(tuple(d["kspace"].shape))
    assert shapes == [(1, 12, 10, 1), (1, 10, 12, 1), (1, 8, 15, 1)]
    (tmp_path / "scan.cfl").write_bytes(np.ones(8 * 15, "<c8").tobytes())
    os.utime(tmp_path / "scan.cfl", ns=(0, 1))
    assert load({"path": tmp_path / given})["kspace"].eq(1).all()


def test_the_store_keeps_the_newest(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    loads = []

    def get(store, tag, size=1):
        return store.get(tmp_path / "a", tag, lambda: loads.append(tag) or tag, lambda item: size)

    store = ProcessStore(max_items=2)
    for tag in "abacab":
        assert get(store, tag) == tag
    assert "".join(loads) == "abcb"
    loads.clear()
    store = ProcessStore(max_items=9, max_bytes=10)
    for tag, size in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("b", 4), ("d", 50), ("d", 50)):
        get(store, tag, size)
    assert "".join(loads) == "abcbd"
    assert len(store) == 1


def test_errors_name_the_file(tmp_path):
    load = LoadAcquisitiond()
    with pytest.raises(FileNotFoundError, match=r"there is none at .*gone.h5"):
        load({"path": tmp_path / "gone.h5"})
    with pytest.raises(ValueError, match="got the folder"):
        load({"path": tmp_path})
    with pytest.raises(KeyError):
        load({"file": "a.h5"})
    assert LoadAcquisitiond(allow_missing_keys=True)({"file": "a.h5"}) == {"file": "a.h5"}
    with pytest.raises(ValueError, match="'keys' must be one key of a path"):
        LoadAcquisitiond(keys=("path", "other"))
    write_kspace(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"'i_slice' must be 0 to 5 for .*a.h5, got 6"):
        load({"path": tmp_path / "a.h5", "i_slice": 6})


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's count of resident memory")
def test_memory_does_not_grow(tmp_path):
    """A leak of one slice per read would add 80 MB."""
    write_kspace(tmp_path / "a.h5", shape=(4, 4, 128, 128))
    load = LoadAcquisitiond()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def read(n):
        for i in range(n):
            load({"path": tmp_path / "a.h5", "i_slice": i % 4})

    read(20)
    before = resident()
    read(160)
    assert resident() - before < 20e6
