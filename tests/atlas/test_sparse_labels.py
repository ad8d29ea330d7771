"""The most probable label at points: that of every label's volume interpolated by itself, whatever is left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medkit.atlas import AtlasFolder, Frame
from medkit.atlas.outputs import sparse_labels as module
from medkit.atlas.outputs.label_atlas import HEADER_BYTES, PROBABILITIES, VALUES
from medkit.atlas.outputs.sparse_labels import SparseLabels, sparse_labels
from medkit.ops import sample

SIZE = (7, 9, 8)
LABELS = [3, 17, 18, 2000, 614454277]


class Atlas:
    """What an atlas's labels are read from."""

    def __init__(self, folder: Path):
        self.folder, self.frame = folder, Frame(SIZE, np.eye(4))


def written(folder: Path, volumes: np.ndarray) -> AtlasFolder:
    """Write probabilities of labels in steps of 1/255, uint8, ``(n, X, Y, Z)``."""
    raw = bytes(HEADER_BYTES) + b"".join(volume.tobytes(order="F") for volume in volumes)
    (folder / PROBABILITIES).write_bytes(gzip.compress(raw))
    (folder / VALUES).write_text(json.dumps({"labels": LABELS[: len(volumes)]}))
    return Atlas(folder)  # type: ignore[return-value]


def probabilities(seed: int = 0) -> np.ndarray:
    """Each voxel has few labels, some have none, and some leave a share to the background."""
    generator = np.random.default_rng(seed)
    shares = generator.random((len(LABELS), *SIZE)) * (generator.random((len(LABELS), *SIZE)) < 0.3)
    total = shares.sum(0) + 0.5 * (generator.random(SIZE) < 0.3)
    return (255 * shares / np.maximum(total, 1e-9)).astype(np.uint8)


def dense(volumes: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label, and by how much it is more probable than the next, by interpolating every volume."""
    places = torch.from_numpy(points).reshape(1, 3, -1, 1, 1)
    read = [sample(torch.from_numpy(v / 255.0)[None, None], places, padding="zeros").reshape(-1) for v in volumes]
    found = torch.stack(read).numpy()
    found = np.concatenate([1 - found.sum(0, keepdims=True), found])
    ordered = np.sort(found, axis=0)
    return np.array([0, *LABELS])[found.argmax(0)], ordered[-1] - ordered[-2]


@pytest.mark.parametrize("votes", [1, 100, 2**21])
def test_labels_are_those_of_all_volumes_interpolated(votes: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "VOTES", votes)
    volumes = probabilities()
    atlas = written(tmp_path, volumes)
    points = np.random.default_rng(1).uniform(-3, 12, (3, 4000))
    points[:, :50] = points[:, :50].round()  # on voxels, where seven of eight weights are 0
    points[:, 50:56] = np.array([[-1.0, 0, 0], [0, 8, 7], [6, 8, 7], [7, 8, 7], [6, 8, 8], [-1, -1, -1]]).T
    found = SparseLabels(atlas).most_probable(points)
    expected, margin = dense(volumes, points)
    sure = margin > 1e-12
    assert sure.mean() > 0.9
    assert set(np.unique(found)) == {0, *LABELS}
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_a_shifted_grid_would_be_seen(tmp_path: Path) -> None:
    volumes = probabilities()
    points = np.random.default_rng(1).uniform(0, 6, (3, 1000))
    expected, _ = dense(volumes, points)
    found = SparseLabels(written(tmp_path, np.roll(volumes, 1, axis=1))).most_probable(points)
    assert (found != expected).mean() > 0.3


def test_no_label_anywhere_is_background(tmp_path: Path) -> None:
    atlas = written(tmp_path, np.zeros((2, *SIZE), np.uint8))
    assert not SparseLabels(atlas).most_probable(np.full((3, 5), 2.5)).any()
    assert SparseLabels(atlas).most_probable(np.empty((3, 0))).shape == (0,)


def test_labels_that_were_written_anew_are_read_anew(tmp_path: Path) -> None:
    points = np.full((3, 1), 2.0)
    full = np.full((1, *SIZE), 255, np.uint8)
    atlas = written(tmp_path, full)
    first = sparse_labels(atlas)
    assert first.most_probable(points) == [3]
    assert sparse_labels(atlas) is first
    written(tmp_path, np.concatenate([0 * full, full]))
    assert sparse_labels(atlas).most_probable(points) == [17]
    with pytest.raises(FileNotFoundError, match="write the label atlas"):
        sparse_labels(Atlas(tmp_path / "none"))  # type: ignore[arg-type]
