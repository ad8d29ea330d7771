"""Converted exams: the same facts and samples come back from a file that is fast to read; nothing is left half done."""

from __future__ import annotations

import logging

import h5py
import numpy as np
import pytest

from medkit.cli import main
from medkit.mri import convert_acquisitions, open_acquisition
from medkit.mri.readers import converting
from tests.mri.test_readers_frames import noise, save_v73
from tests.mri.test_readers_hdf5 import HEADER

FACTS = ("kind", "n_slices", "n_coils", "shape", "has_geometry", "space_code", "header", "n_frames", "mask_may_differ")


def same(before, after):
    for name in FACTS:
        assert getattr(before, name) == getattr(after, name), name
    np.testing.assert_array_equal(before.affine, after.affine)
    np.testing.assert_array_equal(before.read_volume().numpy(), after.read_volume().numpy())
    masks = before.file_mask, after.file_mask
    assert (masks[0] is None) == (masks[1] is None)
    if masks[0] is not None:
        np.testing.assert_array_equal(*masks)
    noises = before.read_noise(), after.read_noise()
    assert (noises[0] is None) == (noises[1] is None)
    if noises[0] is not None:
        np.testing.assert_array_equal(*noises)
    assert type(after.n_slices) is int


def write_fastmri(path):
    with h5py.File(path, "w") as file:
        lines = np.arange(10) % 2 == 0
        file["kspace"] = noise(3, 2, 12, 10) * lines
        file["mask"] = lines
        file["ismrmrd_header"] = HEADER
        file.attrs.update({"acquisition": "AXT2", "max": 0.5, "patient_id": "x"})


def write_bart(path):
    path.write_bytes(noise(10, 12, 1, 3).tobytes(order="F"))
    path.with_suffix(".hdr").write_text("# Dimensions\n10 12 1 3\n", encoding="utf-8")


def write_points(path):
    kspace = noise(4, 2, 12, 10)
    kspace[:, :, np.random.default_rng(0).random((12, 10)) < 0.4] = 0
    np.save(path, kspace)


def write_raw(path):
    pytest.importorskip("ismrmrd", reason="needs the extra [test]")
    from tests.mri.raw_files import header, kspace_of, line, phantom_slices, slice_lines, write

    kspace = kspace_of(phantom_slices())
    readouts = [line(noise(2, 50), flags=(19,))]
    readouts += [one for i in range(3) for one in slice_lines(kspace[i], [*range(0, 20, 2), 9, 11], place=i)]
    write(path, readouts, header((32, 20, 1), (16, 20, 1)))


SOURCES = {
    "fastmri.h5": write_fastmri,
    "raw.mrd": write_raw,
    "bart.cfl": write_bart,
    "points.npy": write_points,
    "images.npz": lambda path: np.savez(path, images=noise(4, 12, 10)),
    "cine.mat": lambda path: save_v73(path, kspace_full=noise(12, 10, 2, 2, 3)),
    "kt.mat": lambda path: save_v73(path, kus=noise(12, 10, 2, 1, 2) * (np.indices((10, 1, 1, 2)).sum(0) % 2)[None]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_same_exam_comes_back(tmp_path, name):
    SOURCES[name](tmp_path / name)
    (target,) = convert_acquisitions(tmp_path / name, tmp_path / "fast")
    assert target == tmp_path / "fast" / f"{name.partition('.')[0]}.h5"
    before, after = open_acquisition(tmp_path / name), open_acquisition(target)
    same(before, after)
    assert after.name == before.name
    with h5py.File(target) as file:
        dataset = file["kspace"]
        assert dataset.dtype == np.complex64
        assert dataset.chunks == (1, *dataset.shape[1:])
        assert dataset.compression is None
    (again,) = convert_acquisitions(target, tmp_path / "again")
    same(before, open_acquisition(again))


def test_options_and_the_domain_are_kept(tmp_path):
    """Samples that look like an image are k-space when the caller says so, and stay so."""
    image = np.ones((2, 1, 32, 32), np.complex64)
    np.save(tmp_path / "a.npy", image)
    with pytest.raises(ValueError, match=r"looks like images"):
        convert_acquisitions(tmp_path / "a.npy", tmp_path / "fast")
    assert not list((tmp_path / "fast").iterdir())
    (target,) = convert_acquisitions(tmp_path / "a.npy", tmp_path / "fast", domain="kspace")
    np.testing.assert_array_equal(open_acquisition(target).read_slice(1).numpy(), image[1])
    (target,) = convert_acquisitions(
        tmp_path / "a.npy", tmp_path / "b", axes="coil,slice,H,W", centred=False, domain="kspace"
    )
    same(open_acquisition(target), open_acquisition(tmp_path / "a.npy", None, "coil,slice,H,W", 2, "kspace", False))


def test_sub_folders_stay_and_work_that_is_done_is_not_repeated(tmp_path, monkeypatch):
    source, dest = tmp_path / "in", tmp_path / "out"
    for name in ("multicoil_train/a.npy", "multicoil_val/a.npy", "multicoil_val/b.npy", "multicoil_val/b.npz"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("npz"):
            np.savez(source / name, kspace=noise(2, 2, 8, 8))
        else:
            np.save(source / name, noise(2, 2, 8, 8))
    files = convert_acquisitions(source, dest)
    wanted = ["multicoil_train/a.h5", "multicoil_val/a.h5", "multicoil_val/b-npy.h5", "multicoil_val/b-npz.h5"]
    assert sorted(str(file.relative_to(dest)) for file in files) == wanted
    np.save(source / "multicoil_train" / "new.npy", noise(2, 2, 8, 8))
    opened, original = [], converting.open_acquisition
    monkeypatch.setattr(
        converting, "open_acquisition", lambda path, **o: opened.append(path.name) or original(path, **o)
    )
    assert len(convert_acquisitions(source, dest)) == 5
    assert opened == ["new.npy"]
    np.save(source / "multicoil_train" / "a.npy", noise(3, 2, 8, 8))
    with pytest.raises(ValueError, match=r"multicoil_train/a.h5 is there already, made of another file"):
        convert_acquisitions(source, dest)
    convert_acquisitions(source, dest, overwrite=True)
    assert open_acquisition(dest / "multicoil_train" / "a.h5").n_slices == 3
    assert not [file for file in dest.rglob(".*")]


def test_repetitions_become_their_mean(tmp_path):
    kspace = noise(3, 2, 2, 8, 8)
    kspace[2, :, :, :, 5] = 0  # the third repetition did not measure this line
    for i in range(3):
        np.save(tmp_path / f"2022061003_T10{i + 1}.npy", kspace[i])
    np.save(tmp_path / "2022061003_FLAIR01.npy", kspace[0])
    files = convert_acquisitions(tmp_path, tmp_path.parent / "mean", repetitions=r"\d\d$")
    assert sorted(file.name for file in files) == ["2022061003_FLAIR.h5", "2022061003_T1.h5"]
    wanted = kspace.sum(0) / np.where(np.arange(8) == 5, 2, 3)
    exam = open_acquisition(tmp_path.parent / "mean" / "2022061003_T1.h5")
    np.testing.assert_allclose(exam.read_volume().numpy(), np.moveaxis(wanted, 0, -1), rtol=1e-6)
    assert exam.file_mask is None
    np.save(tmp_path / "2022061003_T104.npy", kspace[0, :, :, :7])
    with pytest.raises(ValueError, match=r"repetitions must be alike, .*T104.npy has 2 slices of 2 coils and \(7, 8\)"):
        convert_acquisitions(tmp_path, tmp_path.parent / "other", repetitions=r"\d\d$")


def test_bad_exams_leave_nothing_or_are_skipped(tmp_path, caplog):
    source, dest = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    np.save(source / "a.npy", np.full((2, 2, 8, 8), np.nan, np.complex64))
    np.save(source / "b.npy", np.ones((2, 8, 8), np.float32))
    with pytest.raises(ValueError, match=r"slice 0 of .*a.npy must hold finite values"):
        convert_acquisitions(source, dest)
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match=r"all 2 exams are bad"):
        convert_acquisitions(source, dest, skip_bad=True)
    assert "a.npy is left out" in caplog.text
    assert "b.npy must hold k-space or complex images, it holds magnitudes" in caplog.text
    assert not list(dest.iterdir())
    np.save(source / "c.npy", noise(2, 2, 8, 8))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert convert_acquisitions(source, dest, skip_bad=True) == [dest / "c.h5"]
    assert caplog.messages[-1] == f"2 of 3 exams were left out: {source / 'a.npy'}, {source / 'b.npy'}"
    (dest / "c.h5").write_bytes(b"of somebody else")
    with pytest.raises(ValueError, match=r"c.h5 is there already"):
        convert_acquisitions(source / "c.npy", dest)
    for inside in (source, source / "fast", source / "c.npy"):
        with pytest.raises(ValueError, match=r"'dest' must be a folder outside of"):
            convert_acquisitions(source, inside)
    with pytest.raises(FileNotFoundError, match=r"there is none at .*gone"):
        convert_acquisitions(tmp_path / "gone", dest)


def test_facts_that_were_damaged_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", noise(2, 2, 8, 8))
    damages = (("medkit_facts", "{"), ("medkit_facts", "3"), ("medkit_affine", np.ones(3)))
    for i, (name, value) in enumerate(damages):
        (target,) = convert_acquisitions(tmp_path / "a.npy", tmp_path / f"fast{i}")
        with h5py.File(target, "r+") as file:
            file.attrs[name] = value
        with pytest.raises(ValueError, match=r"a.h5 is damaged, .*; convert its source again"):
            open_acquisition(target)


def test_the_command(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    np.save(tmp_path / "a.npy", noise(6, 2, 8, 8))
    words = [
        "convert",
        str(tmp_path / "a.npy"),
        str(tmp_path / "fast"),
        "--axes",
        "H,coil,slice,W",
        "--domain",
        "kspace",
    ]
    assert main([*words, "--not_centred", "--skip_bad"]) == 0
    assert "1 files are in" in capsys.readouterr().out
    exam = open_acquisition(tmp_path / "fast" / "a.h5")
    assert (exam.n_slices, exam.n_coils, exam.shape) == (8, 2, (6, 8))
    with pytest.raises(ValueError, match="there already"):
        main(words)
    assert main([*words, "--overwrite"]) == 0


def test_what_is_no_regular_expression_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", noise(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"'repetitions' must be a regular expression such as"):
        convert_acquisitions(tmp_path / "a.npy", tmp_path / "fast", repetitions=r"(\d")
    with pytest.raises(FileNotFoundError, match=r"'source' must be a folder or a file"):
        convert_acquisitions(tmp_path / "gone", tmp_path / "fast")
