"""ISMRMRD raw files as exams: Cartesian readouts, read slice by slice in bulk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.mri.readers.acquisition import KSPACE, Acquisition, check_finite, readable
from medkit.mri.readers.caching import ARRAYS, open_file
from medkit.mri.readers.ismrmrd_geometry import slice_order, stack_affine
from medkit.mri.readers.ismrmrd_header import parse_encoding, parse_ismrmrd_header, spacing_affine
from medkit.mri.readers.ismrmrd_lines import Lines, parse_choice, sort_lines
from medkit.mri.readers.sampling import find_mask
from medkit.ops import centered_ifft

AT_ONCE = 2048  # lines that are read together


@dataclass(eq=False)
class IsmrmrdAcquisition(Acquisition):
    """An exam of raw readouts; see :class:`Acquisition`.

    Slices of one slab of partitions come from an inverse Fourier transform along it: the slab is read once per process.

    Args:
        group: where the file has its ``xml`` and ``data``.
        lines: where each readout lies.
        matrix: encoded samples (x, y, z): rows, columns, partitions.
        order: place of each slice among those of ``lines``.
        noise_scale: what turns samples of the noise scan into noise of the strength that k-space has.
    """

    group: str = ""
    lines: Lines | None = None
    matrix: tuple[int, int, int] = (1, 1, 1)
    order: tuple[int, ...] = (0,)
    noise_scale: float = 1.0

    def read_noise(self) -> Tensor | None:
        """Return the noise scan of the file; see :meth:`Acquisition.read_noise`."""
        numbers = self._lines.noise
        if len(numbers) == 0:
            return None
        where = f"the noise scan of {self.path}"
        with readable(where):
            coils = self._of_readouts("head", numbers)["active_channels"]
            parts = [_samples(data, int(n)) for data, n in zip(self._of_readouts("data", numbers), coils, strict=True)]
        if {len(part) for part in parts} != {self.n_coils}:
            raise ValueError(
                f"read_noise: {where} must have the {self.n_coils} coils of its k-space, it has "
                f"{' and '.join(map(str, sorted({len(part) for part in parts})))}; it belongs to another scan"
            )
        noise = np.concatenate(parts, 1)
        check_finite(noise, where)
        return torch.from_numpy(noise * np.float32(self.noise_scale))

    @property
    def _lines(self) -> Lines:
        if self.lines is None:
            raise ValueError(f"open_acquisition: no way to read {self.path}; open it with open_acquisition")
        return self.lines

    def _of_readouts(self, name: str, numbers: np.ndarray) -> np.ndarray:
        """Return the ``head`` or the ``data`` of some readouts, read together."""
        return open_file(self.path)[f"{self.group}/data"].fields(name)[numbers]

    def _read(self, i_slice: int) -> np.ndarray:
        if self.matrix[2] > 1:
            tag = ("slab", self.group, int(self._lines.index[0]))
            slab = ARRAYS.get(self.path, tag, self._slab, lambda array: array.nbytes)
            return slab[i_slice].copy()
        return self._filled(self.order[i_slice])[0]

    def _slab(self) -> np.ndarray:
        kspace = self._filled(0)
        check_finite(kspace, str(self.path))
        return centered_ifft(torch.from_numpy(kspace).movedim(0, -1), 1).movedim(-1, 0).contiguous().numpy()

    def _filled(self, place: int) -> np.ndarray:
        """Return the k-space of a place, complex64 ``(partition, coil, H, W)``; the mean of what was repeated."""
        lines = self._lines
        n_rows, n_columns, n_partitions = self.matrix
        # Columns outermost: each line is then added to samples that lie together.
        filled = np.zeros((n_partitions, n_columns, lines.n_channels, n_rows), np.complex64)
        chosen = np.flatnonzero(lines.place == place)
        for start in range(0, len(chosen), AT_ONCE):
            some = chosen[start : start + AT_ONCE]
            for i, data in zip(some, self._of_readouts("data", lines.index[some]), strict=True):
                kept = slice(lines.first[i], int(lines.first[i]) + lines.n_samples[i])
                rows = slice(lines.row[i], int(lines.row[i]) + lines.n_samples[i])
                samples = _samples(data, lines.n_channels)
                if samples.shape[1] < kept.stop:
                    raise ValueError(
                        f"read_slice: readout {lines.index[i]} of {self.path} must have {kept.stop} samples of "
                        f"{lines.n_channels} coils, got {data.size // 2} numbers; the file is damaged or incomplete"
                    )
                filled[lines.partition[i], lines.column[i], :, rows] += samples[:, kept]
        count = lines.count(place, self.matrix)
        if count.max() > 1:
            filled /= np.maximum(count, 1)[:, :, None]
        return np.ascontiguousarray(filled.transpose(0, 2, 3, 1))

    def _stored_mask(self) -> Tensor | None:
        """Return which samples were measured where that is the same in all slices; else their zeros tell."""
        counts = [self._lines.count(place, self.matrix) > 0 for place in range(len(self.order))]
        if any((count != counts[0]).any() for count in counts[1:]):
            return None
        measured = np.any(counts[0], axis=0).T
        mask = find_mask(torch.from_numpy(measured[None].astype(np.complex64)))
        return torch.ones(1, 1, self.shape[1], dtype=torch.bool) if mask is None else mask


def _samples(data: np.ndarray, n_channels: int) -> np.ndarray:
    """Return a readout as stored, numbers in a row, as complex64 ``(coil, sample)``."""
    if data.size % (2 * n_channels):
        return np.zeros((n_channels, 0), np.complex64)
    return np.ascontiguousarray(data, np.float32).view(np.complex64).reshape(n_channels, -1)


def raw_group(file: Any) -> str | None:
    """Return where an HDF5 file has ISMRMRD readouts: ``dataset``, or else the first group that has; or ``None``."""
    for name in ("dataset", *(name for name in file if name != "dataset")):
        if name not in file or not hasattr(file[name], "keys") or not {"xml", "data"} <= set(file[name]):
            continue
        if "head" in (getattr(file[f"{name}/data"], "dtype", np.dtype("f4")).names or ()):
            return str(name)
    return None


def open_ismrmrd(
    path: Path, name: str, file: Any, group: str, key: str | None, axes: str | None, domain: str | None, centred: bool
) -> Acquisition:
    """Open the raw readouts of an HDF5 file; arguments and errors as :func:`open_acquisition`."""
    if axes is not None or domain == "image" or not centred:
        raise ValueError(
            f"open_acquisition: {path} holds ISMRMRD raw readouts, which say themselves where each sample lies: it "
            "takes no 'axes', domain='image' or centred=False"
        )
    choice = parse_choice(path, key)
    try:
        xml = np.ravel(file[f"{group}/xml"][()])[0]
        head = file[f"{group}/data"].fields("head")[()]
        facts = parse_ismrmrd_header(xml, choice["encoding"])
        encoding = parse_encoding(xml, choice["encoding"])
    except (OSError, RuntimeError, IndexError, KeyError, ValueError) as error:
        raise ValueError(
            f"open_acquisition: {path} must be a complete ISMRMRD file, but its headers cannot be read ({error}); copy "
            "or export it again"
        ) from error
    bent = encoding.trajectory or ("unknown" if (head["trajectory_dimensions"] > 0).any() else "cartesian")
    if bent != "cartesian":
        raise ValueError(
            f"open_acquisition: the trajectory of {path} must be cartesian, its header says {bent!r}; grid it first, "
            "e.g. with BART's nufft, and give the result as .cfl"
        )
    lines = sort_lines(path, head, encoding, choice)
    is_slab = encoding.matrix[2] > 1
    if is_slab:
        _check_slab(path, lines, encoding.matrix)
    heads = head[[int(lines.index[lines.place == place][0]) for place in range(len(lines.slices))]]
    order = slice_order(heads)
    fov = facts.get("encoded_fov_mm")
    affine = None if fov is None else stack_affine(path, heads[order], encoding.matrix, fov)
    has_orientation = affine is not None
    if affine is None:
        affine = spacing_affine(facts, encoding.matrix[:2], "encoded")
    return IsmrmrdAcquisition(
        path=path,
        name=name,
        kind=KSPACE,
        n_slices=encoding.matrix[2] if is_slab else len(lines.slices),
        n_coils=lines.n_channels,
        shape=encoding.matrix[:2],
        affine=np.eye(4) if affine is None else affine,
        has_geometry=affine is not None,
        space_code=int(has_orientation),
        header=facts,
        is_domain_given=True,
        mask_may_differ=True,
        group=group,
        lines=lines,
        matrix=encoding.matrix,
        order=tuple(int(i) for i in order),
        noise_scale=_noise_scale(head, lines),
    )


def _check_slab(path: Path, lines: Lines, matrix: tuple[int, int, int]) -> None:
    if len(lines.slices) > 1:
        raise ValueError(
            f"open_acquisition: {path} must hold one slab of partitions, it has {len(lines.slices)}; split it first"
        )
    measured = np.any(lines.count(0, matrix), axis=2)  # (partition, W)
    mask = find_mask(torch.from_numpy(measured[None].astype(np.complex64)))
    if mask is not None and mask.shape[1] > 1:
        raise ValueError(
            f"open_acquisition: {path} is under-sampled along its partitions ({measured.mean():.0%} of "
            f"{matrix[2]}x{matrix[1]} lines), so that its slices cannot be taken apart; reconstruct it as a volume"
        )


def _noise_scale(head: np.ndarray, lines: Lines) -> float:
    """Return the ratio of noise in k-space to noise in the noise scan: its variance goes with the bandwidth."""
    if len(lines.noise) == 0:
        return 1.0
    noise, own = (float(head["sample_time_us"][numbers[0]]) for numbers in (lines.noise, lines.index))
    return (noise / own) ** 0.5 if noise > 0 and own > 0 else 1.0
