"""Labels of the template: how probable each is, and which is the most probable, from the labels of its subjects."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medkit.atlas.outputs.label_maps import load_labels, smallest_type, votes
from medkit.atlas.outputs.saved_transforms import read_forward
from medkit.atlas.result import AtlasFolder, Member
from medkit.ops import identity_points
from medkit.workflow import atomic_path, write_nifti

logger = logging.getLogger(__name__)

LABELS = "atlas_labels.nii.gz"
PROBABILITIES = "atlas_label_probabilities.nii.gz"
VALUES = "atlas_labels.json"
STEPS = 255  # of a probability in the file
HEADER_BYTES = 352


def write_label_atlas(atlas: AtlasFolder, memory_mb: float = 1024.0) -> list[int]:
    """Write the labels of the template, from the label maps of its subjects and their saved transformations.

    ``atlas_labels.nii.gz`` holds the most probable label, ``atlas_label_probabilities.nii.gz`` for each label but the
    background how many of the subjects that are seen there have it, 0 to 1, in steps of 1/255, along a fourth axis, and
    ``atlas_labels.json`` the labels in that order and the names of the subjects. The template is done in slabs, so that
    memory does not grow with the number of subjects or labels.

    Args:
        atlas: the built atlas, its transformations written by :func:`write_transforms`.
        memory_mb: for the votes of a slab, MB.

    Returns:
        The labels; empty, and nothing is written, if no subject has any.

    Raises:
        ValueError: if a file is bad, or no slab fits into the memory.
        FileNotFoundError: if a file is gone.

    Example:
        >>> write_label_atlas(AtlasFolder("my_atlas"))
        [1, 2, 3]
    """
    members = [m for m in atlas.members if m.subject.labels is not None]
    if not members:
        return []
    found = [np.unique(load_labels(str(m.subject.labels))[0]) for m in members]
    values = np.union1d(np.concatenate(found), [0])
    size = atlas.frame.size
    # Votes and their sum over the labels, float32.
    thickness = int(memory_mb * 1e6 // (4 * (len(values) + 2) * size[0] * size[1]))
    if thickness < 1:
        raise ValueError(f"write_label_atlas: 'memory_mb' is too little for {len(values)} labels, got {memory_mb}")
    hard = torch.zeros(size, dtype=torch.int64)
    raw = atlas.folder / f".{PROBABILITIES}.raw"
    try:
        volumes = _open_volumes(raw, (*size, len(values) - 1), atlas.frame.affine)
        for start in range(0, size[2], thickness):
            stop = min(start + thickness, size[2])
            shares = _probabilities(atlas, members, values, start, stop)
            hard[:, :, start:stop] = shares.argmax(0)
            rounded = (shares[1:] * STEPS).round().to(torch.uint8).permute(1, 2, 3, 0)
            volumes[:, :, start:stop] = rounded.numpy()
        volumes.flush()
        del volumes
        with atomic_path(atlas.folder / PROBABILITIES) as temporary:
            with raw.open("rb") as source, gzip.open(temporary, "wb", compresslevel=4) as target:
                shutil.copyfileobj(source, target, 2**20)
    finally:
        raw.unlink(missing_ok=True)
    labels = torch.from_numpy(values)[hard].to(smallest_type(values))
    write_nifti(atlas.folder / LABELS, labels, atlas.frame.affine)
    listed = [int(v) for v in values[1:]]
    with atomic_path(atlas.folder / VALUES) as temporary:
        text = json.dumps({"labels": listed, "subjects": [m.name for m in members]}, indent=1)
        temporary.write_text(text, encoding="utf-8")
    logger.info("%d labels of %d subjects are in %s", len(listed), len(members), atlas.folder / LABELS)
    return listed


def _probabilities(atlas: AtlasFolder, members: Sequence[Member], values: np.ndarray, start: int, stop: int) -> Tensor:
    """Probability of each label in a slab of the template, ``(n_labels, X, Y, stop - start)``."""
    size = (*atlas.frame.size[:2], stop - start)
    n = int(np.prod(size))
    sums = torch.zeros(len(values) * n)
    places = torch.arange(n)
    for member in members:
        placed, forward = read_forward(atlas, member)
        labels, grid = load_labels(str(member.subject.labels))
        indices = torch.from_numpy(np.searchsorted(values, labels).astype(np.int32))
        points = identity_points(atlas.frame.size, torch.zeros((), dtype=torch.float64)) + forward.double()
        whole = np.linalg.inv(grid.affine) @ placed.matrix @ atlas.frame.affine
        slab = points[0, :, :, :, start:stop].reshape(3, -1)
        mapped = torch.from_numpy(whole[:3, :3]) @ slab + torch.from_numpy(whole[:3, 3:])
        for label, weight in votes(indices, mapped, all(member.is_whole.values())):
            sums[label * n + places] += weight  # no place twice in one vote
    shares = sums.reshape(len(values), n)
    total = shares.sum(0)
    shares = shares / total.clamp(min=1e-6)
    shares[0] += total < 1e-3  # seen by nobody: background
    return shares.reshape(-1, *size)


def _open_volumes(path: Path, shape: tuple[int, ...], affine: np.ndarray) -> np.memmap:
    """Make an uncompressed NIfTI file of probabilities, its values to be filled in."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1 / STEPS, 0)
    header["magic"], header["vox_offset"] = b"n+1", HEADER_BYTES
    path.write_bytes(header.binaryblock + bytes(HEADER_BYTES - len(header.binaryblock)))
    return np.memmap(path, np.uint8, "r+", HEADER_BYTES, shape, order="F")


def read_probabilities(atlas: AtlasFolder) -> Iterator[tuple[int, np.ndarray]]:
    """Read the probabilities of the labels one after the other, without holding them all.

    Args:
        atlas: the atlas, its labels written by :func:`write_label_atlas`.

    Yields:
        A label, and its probability in steps of 1/255, uint8, ``frame.size``.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the file is damaged.
    """
    for name in (VALUES, PROBABILITIES):
        if not (atlas.folder / name).is_file():
            raise FileNotFoundError(f"read_probabilities: there is no {name} in {atlas.folder}; write the label atlas")
    values = json.loads((atlas.folder / VALUES).read_text(encoding="utf-8"))["labels"]
    n = int(np.prod(atlas.frame.size))
    try:
        with gzip.open(atlas.folder / PROBABILITIES, "rb") as file:
            file.read(HEADER_BYTES)
            for value in values:
                volume = np.frombuffer(file.read(n), np.uint8)
                if len(volume) != n:
                    raise ValueError(f"read_probabilities: {atlas.folder / PROBABILITIES} ends before label {value}")
                yield value, volume.reshape(atlas.frame.size, order="F")
    except (OSError, EOFError) as error:
        raise ValueError(f"read_probabilities: {atlas.folder / PROBABILITIES} is damaged: {error}") from error
