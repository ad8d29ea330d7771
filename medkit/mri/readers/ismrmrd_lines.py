"""The readouts of an ISMRMRD file, sorted: which line of which slice, and where its samples lie in k-space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medkit.mri.readers.ismrmrd_header import Encoding

# Numbers of ISMRMRD's flags, counted from 1 for the lowest bit.
NOISE, CALIBRATION, CALIBRATION_AND_IMAGING, REVERSE = 19, 20, 21, 22
# Navigator, phase correction, feedback (two), dummies, surface-coil correction, phase stabilisation (two).
OTHERS = (23, 24, 26, 28, 27, 29, 30, 31)
COMPRESSED = (53, 54, 55, 56)
SERIES = ("contrast", "phase", "repetition", "set")  # of each one value is read


@dataclass(frozen=True, eq=False)
class Lines:
    """The lines of an exam, each a readout of all coils, in the order of the file.

    Args:
        n_channels: coils of each line.
        index: int32, number of the readout in the file.
        place: uint16, its slice, 0 for the first one (of the value that the file counts by, see ``slices``).
        column: uint16, its phase encoding in the encoded matrix.
        partition: uint16, its partition encoding in the encoded matrix.
        row: uint16, where its first kept sample lies in the encoded matrix.
        first: uint16, its first kept sample.
        n_samples: uint16, number of kept samples.
        slices: the file's number of each slice, ascending.
        noise: int32, numbers of the readouts of the noise scan.
    """

    n_channels: int
    index: np.ndarray
    place: np.ndarray
    column: np.ndarray
    partition: np.ndarray
    row: np.ndarray
    first: np.ndarray
    n_samples: np.ndarray
    slices: tuple[int, ...]
    noise: np.ndarray

    def count(self, place: int, matrix: tuple[int, int, int]) -> np.ndarray:
        """Return how often each sample of a slice was measured, int32 ``(partition, W, H)``."""
        n_rows, n_columns, n_partitions = matrix
        count = np.zeros((n_partitions, n_columns, n_rows), np.int32)
        for i in np.flatnonzero(self.place == place):
            count[self.partition[i], self.column[i], self.row[i] : int(self.row[i]) + self.n_samples[i]] += 1
        return count


def parse_choice(path: Path, key: str | None) -> dict[str, int]:
    """Read ``"contrast=0,repetition=2"``; with ``encoding`` where the key names none it is 0.

    Raises:
        ValueError: if the key is of another form.
    """
    choice = {"encoding": 0}
    for part in (key or "").split(",") if key else ():
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in (*SERIES, "encoding") or not value.isdigit():
            raise ValueError(
                f"open_acquisition: {path} holds ISMRMRD raw readouts: 'key' must choose by {', '.join(SERIES)} or "
                f"encoding, e.g. key='contrast=0,repetition=2', got {key!r}"
            )
        choice[name] = int(value)
    return choice


def sort_lines(path: Path, head: np.ndarray, encoding: Encoding, choice: dict[str, int]) -> Lines:
    """Sort the readouts of a file.

    Noise, navigators and the like are left out. Lines for calibration alone count where no other line measured.

    Args:
        path: the file, for errors.
        head: the headers of all readouts, a record array.
        encoding: what the file's header says of them.
        choice: of :func:`parse_choice`.

    Returns:
        The lines.

    Raises:
        ValueError: if there is none, several series are there and none is chosen, coils differ, or a line is
            compressed, reversed, or lies outside of the encoded matrix.
    """
    is_noise = _has(head, NOISE)
    wanted = ~is_noise & ~_has(head, *OTHERS) & (head["encoding_space_ref"] == choice["encoding"])
    if not wanted.any():
        raise ValueError(
            f"open_acquisition: {path} must hold readouts of encoding {choice['encoding']}, it has {len(head)} "
            f"readouts of encodings {_values(head['encoding_space_ref'])}, {int(is_noise.sum())} of them noise"
        )
    for name in SERIES:
        there = _values(head["idx"][name][wanted])
        if name in choice:
            wanted &= head["idx"][name] == choice[name]
        if (name in choice and not wanted.any()) or (name not in choice and len(there) > 1):
            raise ValueError(
                f"open_acquisition: {path} holds {name} {', '.join(map(str, there))}; say which by "
                f"key='{name}={there[0]}' (several with commas)"
            )
    for flags, what, remedy in (
        (COMPRESSED, "compressed", "decompress it with the ISMRMRD tools"),
        ((REVERSE,), "read in reverse (EPI)", "reconstruct it with the scanner's or Gadgetron's EPI chain"),
    ):
        if (bad := wanted & _has(head, *flags)).any():
            raise ValueError(f"open_acquisition: {int(bad.sum())} readouts of {path} are {what}; {remedy}")
    coils = _values(head["active_channels"][wanted])
    if len(coils) > 1 or coils[0] == 0:
        raise ValueError(
            f"open_acquisition: the readouts of {path} must all have the same coils, they have "
            f"{' and '.join(map(str, coils))}; the file is damaged, or mixes scans"
        )
    return _placed(path, head, np.flatnonzero(wanted), np.flatnonzero(is_noise), encoding)


def _placed(path: Path, head: np.ndarray, index: np.ndarray, noise: np.ndarray, encoding: Encoding) -> Lines:
    chosen = head[index]
    n_rows, n_columns, n_partitions = encoding.matrix
    first, after = (chosen[name].astype(np.int64) for name in ("discard_pre", "discard_post"))
    n_samples = chosen["number_of_samples"].astype(np.int64) - first - after
    row = n_rows // 2 - chosen["center_sample"].astype(np.int64) + first
    row[(chosen["center_sample"] == 0) & (n_samples == n_rows)] = 0  # a centre that was not written
    column = chosen["idx"]["kspace_encode_step_1"].astype(np.int64) + n_columns // 2 - encoding.centres[0]
    partition = chosen["idx"]["kspace_encode_step_2"].astype(np.int64) + n_partitions // 2 - encoding.centres[1]
    outside = (row < 0) | (n_samples < 1) | (row + n_samples > n_rows)
    outside |= (column < 0) | (column >= n_columns) | (partition < 0) | (partition >= n_partitions)
    only_calibration = _has(chosen, CALIBRATION) & ~_has(chosen, CALIBRATION_AND_IMAGING)
    if (bad := outside & ~only_calibration).any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"open_acquisition: {int(bad.sum())} of {len(index)} readouts of {path} lie outside of the encoded matrix "
            f"{n_rows}x{n_columns}x{n_partitions}: readout {index[i]} has rows {row[i]} to {row[i] + n_samples[i] - 1}"
            f", column {column[i]}, partition {partition[i]}; its header does not belong to its readouts"
        )
    position = (chosen["idx"]["slice"].astype(np.int64) * n_partitions + partition) * n_columns + column
    kept = ~only_calibration | (~outside & ~np.isin(position, position[~only_calibration]))
    slices, place = np.unique(chosen["idx"]["slice"][kept], return_inverse=True)
    small: dict[str, Any] = {
        "place": place, "column": column[kept], "partition": partition[kept], "row": row[kept], "first": first[kept],
        "n_samples": n_samples[kept],
    }  # fmt: skip
    return Lines(
        n_channels=int(chosen["active_channels"][0]),
        index=index[kept].astype(np.int32),
        slices=tuple(int(i) for i in slices),
        noise=noise.astype(np.int32),
        **{name: values.astype(np.uint16) for name, values in small.items()},
    )


def _has(head: np.ndarray, *flags: int) -> np.ndarray:
    bits = np.uint64(sum(1 << (flag - 1) for flag in flags))
    return (head["flags"].astype(np.uint64) & bits) != 0


def _values(values: np.ndarray) -> list[int]:
    return [int(value) for value in np.unique(values)]
