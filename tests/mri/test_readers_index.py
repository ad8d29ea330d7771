"""The index of exams: a listing is repeated without opening files, and with nothing kept that is out of date."""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import pytest

from medkit.mri import acquisition_list
from medkit.mri.readers import slice_signal


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MEDKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def exams(tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.ones((i + 1, 4, 5), np.float32) * np.arange(1, i + 2)[:, None, None])
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are opened."""
    names, original = [], slice_signal.open_acquisition

    def counted(path, **options):
        names.append(path.stem)
        return original(path, **options)

    monkeypatch.setattr(slice_signal, "open_acquisition", counted)
    return names


def index_of(cache):
    (path,) = (cache / "exam_index").iterdir()
    return path


def test_a_folder_is_opened_once(exams, cache, opened):
    first = acquisition_list(exams)
    assert len(first) == 10
    assert opened == ["0", "1", "2", "3"]
    assert acquisition_list(exams) == first
    assert acquisition_list(exams, central_fraction=0.5) != first
    assert len(opened) == 4
    files = json.loads(index_of(cache).read_text())["files"]
    assert files[str(exams / "2.npy")]["facts"] == {
        "kind": "magnitude", "n_slices": 3, "n_coils": 1, "shape": [4, 5],
    }  # fmt: skip


def test_signal_is_added_on_request_and_kept(exams, opened):
    acquisition_list(exams)
    strong = acquisition_list(exams, min_signal=0.6)
    assert [(entry["case"], entry["i_slice"]) for entry in strong] == [
        ("0", 0), ("1", 1), ("2", 1), ("2", 2), ("3", 2), ("3", 3),
    ]  # fmt: skip
    assert len(opened) == 8
    assert acquisition_list(exams, min_signal=0.6) == strong
    assert len(acquisition_list(exams)) == 10
    assert len(opened) == 8
    acquisition_list(exams, min_signal=0.6, fully_sampled=True)
    assert len(opened) == 12, "whether exams are fully sampled was not looked at before"
    acquisition_list(exams, min_signal=0.6)
    acquisition_list(exams, min_signal=0.6, fully_sampled=True)
    assert len(opened) == 12


def test_changed_new_and_lost_files(exams, cache, opened):
    acquisition_list(exams)
    np.save(exams / "1.npy", np.ones((7, 4, 5), np.float32))
    np.save(exams / "9.npy", np.ones((1, 4, 5), np.float32))
    (exams / "0.npy").unlink()
    assert len(acquisition_list(exams)) == 7 + 3 + 4 + 1
    assert opened[4:] == ["1", "9"]
    assert str(exams / "0.npy") not in json.loads(index_of(cache).read_text())["files"]
    status = (exams / "2.npy").stat()
    os.utime(exams / "2.npy", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    acquisition_list(exams)
    assert opened[6:] == ["2"]


def test_options_have_indices_of_their_own(exams, cache):
    assert len(acquisition_list(exams)) == 10
    assert len(acquisition_list(exams, axes="H,slice,W")) == 16
    assert len(acquisition_list(exams)) == 10
    assert len(list((cache / "exam_index").iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"files": 3}', '{"files": {"a": 1}}', "\0\xff", '{"files": {"a": {"stamp": [1], "facts": []}}}'],
)
def test_a_damaged_index_is_made_again(exams, cache, opened, caplog, content):
    first = acquisition_list(exams)
    index_of(cache).write_bytes(content.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert acquisition_list(exams) == first
    assert "is damaged and made again" in caplog.text
    assert len(opened) == 8
    assert acquisition_list(exams) == first
    assert len(opened) == 8


@pytest.mark.parametrize("facts", [{}, {"n_slices": 0}, {"n_slices": "3"}, {"n_slices": 3, "signal": [1.0]}])
def test_facts_that_make_no_sense_are_found_again(exams, cache, facts):
    first = acquisition_list(exams, min_signal=0.6)
    content = json.loads(index_of(cache).read_text())
    for kept in content["files"].values():
        kept["facts"] = facts
    index_of(cache).write_text(json.dumps(content))
    assert acquisition_list(exams, min_signal=0.6) == first


def test_it_can_be_deleted_and_switched_off(exams, cache, opened):
    first = acquisition_list(exams)
    index_of(cache).unlink()
    assert acquisition_list(exams) == first
    assert len(opened) == 8
    index_of(cache).unlink()
    for _ in range(2):
        assert acquisition_list(exams, use_index=False) == first
    assert len(opened) == 16
    assert not list((cache / "exam_index").iterdir())


def test_what_was_read_before_an_error_is_kept(exams, opened):
    (exams / "2.npy").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"2.npy must be a complete .npy"):
            acquisition_list(exams)
    assert opened == ["0", "1", "2", "2"]
