"""Which axis of a stored array is which: axis names, the documented guesses, and one slice arranged as (coil, H, W)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

AXIS_NAMES = ("slice", "coil", "H", "W", "average", "frame", "ri", "coil_ri", "1")
MAX_GUESSED_COILS = 128

# (order, content, number of axes) -> axes. Order "C": numpy and HDF5, slowest axis first; "F": MATLAB, as size(x).
GUESSES = {
    ("C", "kspace", 2): "H,W",
    ("C", "kspace", 3): "coil,H,W",
    ("C", "kspace", 4): "slice,coil,H,W",
    ("C", "image", 2): "H,W",
    ("C", "image", 3): "slice,H,W",
    ("F", "kspace", 2): "H,W",
    ("F", "kspace", 3): "H,W,coil",
    ("F", "kspace", 4): "H,W,slice,coil",
    ("F", "image", 2): "H,W",
    ("F", "image", 3): "H,W,slice",
}

# CMRxRecon names k-space by what it is: (variable, axes in MATLAB's order, of which the first ones are there).
NAMED = (
    (re.compile(r"kspace_single_(full|sub\w*)"), ("H", "W", "slice", "frame")),
    (re.compile(r"kspace_(full|sub\w*)|kus"), ("H", "W", "coil", "slice", "frame")),
)


@dataclass(frozen=True)
class Layout:
    """The axes of a stored array, in its order, and their lengths.

    Args:
        axes: a name for each axis: ``slice``, ``coil``, ``H``, ``W``, ``average`` (repetitions of the same lines, of
            which the mean is taken), ``frame`` (each frame of each slice counts as a slice), ``ri`` (real and imaginary
            part, length 2), ``coil_ri`` (real and imaginary parts of the coils in turn: re 0, im 0, re 1, ...), ``1``
            (an axis of length 1 to drop).
        shape: length of each axis.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]

    def _length(self, name: str, absent: int = 1) -> int:
        return self.shape[self.axes.index(name)] if name in self.axes else absent

    @property
    def n_frames(self) -> int:
        """Number of time frames of each slice; 1 without such an axis."""
        return self._length("frame")

    @property
    def n_slices(self) -> int:
        """Number of slices, each frame of each counted; 1 without such axes."""
        return self._length("slice") * self.n_frames

    @property
    def n_coils(self) -> int:
        """Number of coils; 1 without such an axis."""
        return self._length("coil_ri", 0) // 2 or self._length("coil")

    @property
    def matrix(self) -> tuple[int, int]:
        """Height and width of a slice in samples."""
        return self._length("H"), self._length("W")

    @property
    def has_parts(self) -> bool:
        """Whether real and imaginary parts are stored along an axis of their own."""
        return "ri" in self.axes or "coil_ri" in self.axes

    def select(self, i_slice: int) -> tuple[Any, ...]:
        """Return the index that takes one slice, and nothing else, from the stored array."""
        index = {"slice": i_slice // self.n_frames, "frame": i_slice % self.n_frames, "1": 0}
        return tuple(index.get(name, slice(None)) for name in self.axes)

    def arrange(self, part: np.ndarray, dtype: type, copy: bool, is_kspace: bool = False) -> np.ndarray:
        """Bring what :meth:`select` took into shape.

        Args:
            part: one slice in the axes of the file, without ``slice``, ``frame`` and ``1``.
            dtype: ``numpy.complex64`` or ``numpy.float32``.
            copy: whether ``part`` is a view of a file or of a kept array, so that the result must not share its memory.
            is_kspace: whether a sample that is zero in all coils was not measured, so that the mean over repetitions
                leaves it out.

        Returns:
            A contiguous array, ``(coil, H, W)``, of ``dtype``.
        """
        names = [name for name in self.axes if name not in ("slice", "frame", "1")]
        part = complex_of(part)
        for name in ("ri", "coil_ri"):
            if name in names:
                at = names.index(name)
                part = np.moveaxis(part, at, -1)
                names.append(names.pop(at))
                part = part[..., 0::2] + 1j * part[..., 1::2]
                if name == "ri":
                    part = part[..., 0]
                    names.pop()
                else:
                    names[-1] = "coil"
        if "coil" not in names:
            part, names = part[None], ["coil", *names]
        if "average" in names:
            part = part.transpose([names.index(name) for name in ("average", "coil", "H", "W")])
            measured = (part != 0).any(1, keepdims=True) if is_kspace else np.ones((len(part), 1, 1, 1), bool)
            part, names = part.sum(0) / np.maximum(measured.sum(0), 1), ["coil", "H", "W"]
        part = part.transpose([names.index(name) for name in ("coil", "H", "W")])
        return np.array(part, dtype=dtype, order="C") if copy else np.ascontiguousarray(part, dtype=dtype)


def complex_of(part: np.ndarray) -> np.ndarray:
    """Return stored numbers; MATLAB v7.3 and some HDF5 writers store a complex one as a record of two reals."""
    if part.dtype.names is None:
        return part
    real, imaginary = part.dtype.names
    return part[real] + 1j * part[imaginary]


def joined_axes(axes: str | Sequence[object] | None) -> str | None:
    """Join names of axes by commas; a command line turns ``slice,coil,H,1`` into a tuple of words and a number."""
    return axes if axes is None or isinstance(axes, str) else ",".join(map(str, axes))


def is_named(name: str) -> bool:
    """Return whether a variable's name is one of CMRxRecon's k-space."""
    return any(pattern.fullmatch(name) for pattern, _ in NAMED)


def is_mask(name: str) -> bool:
    """Return whether a variable's name is that of a sampling mask: ``mask``, ``mask04``."""
    return re.fullmatch(r"mask\d*", name) is not None


def named_axes(name: str, n_axes: int) -> str | None:
    """Return the axes, in MATLAB's order, that the name of a variable of CMRxRecon tells; ``None`` for another one."""
    for pattern, axes in NAMED:
        if pattern.fullmatch(name) and 2 <= n_axes <= len(axes):
            return ",".join(axes[:n_axes])
    return None


def is_complex(dtype: np.dtype) -> bool:
    """Return whether a stored type is complex: a complex number, or a record of real and imaginary part."""
    names = tuple(name.lower() for name in dtype.names or ())
    return dtype.kind == "c" or names in (("r", "i"), ("re", "im"), ("real", "imag"), ("real", "imaginary"))


def is_number(dtype: np.dtype) -> bool:
    """Return whether a stored type can be read as an image or as k-space."""
    return dtype.kind in "fiub" or is_complex(dtype)


def find_layout(
    where: str, shape: tuple[int, ...], dtype: np.dtype, axes: str | None, domain: str, order: str, stack: bool = False
) -> Layout:
    """Name the axes of a stored array as the caller says, else by the table of guesses.

    Args:
        where: file and array, for errors.
        shape: of the array.
        dtype: of the array.
        axes: names of :class:`Layout`, with commas, or ``None`` to guess.
        domain: ``"kspace"`` or ``"image"``.
        order: ``"C"`` or ``"F"``, which half of the table.
        stack: whether three axes of k-space are slices of one coil (fastMRI), not coils of one slice.

    Returns:
        The layout.

    Raises:
        ValueError: if the names are unknown, repeated, too few, or do not fit, or if nothing can be guessed.
    """
    is_guess = axes is None
    if axes is None:
        parts = domain == "kspace" and not is_complex(dtype) and len(shape) > 2 and shape[-1] == 2
        n_axes = len(shape) - parts
        axes = "slice,H,W" if stack and n_axes == 3 else GUESSES.get((order, domain, n_axes))
        if axes is None:
            raise ValueError(
                f"open_acquisition: {where} has shape {shape}, and only 2, 3 or (k-space) 4 axes can be guessed; "
                "name them, e.g. axes='slice,average,coil,H,W' where the scan was repeated, 'frame' for time; of "
                "echoes save one first"
            )
        axes += ",ri" * parts
    layout = Layout(tuple(name.strip() for name in axes.split(",")), tuple(int(n) for n in shape))
    _check(where, layout, dtype, axes)
    height, width = layout.matrix
    if is_guess and layout.n_coils > min(MAX_GUESSED_COILS, height, width):
        raise ValueError(
            f"open_acquisition: {where} has shape {shape}; read as '{axes}' it would have {layout.n_coils} coils of "
            f"{height} x {width} samples, which is not likely; name its axes, e.g. axes='H,W,coil'"
        )
    return layout


def _check(where: str, layout: Layout, dtype: np.dtype, axes: str) -> None:
    names = layout.axes
    if len(names) != len(layout.shape):
        raise ValueError(
            f"open_acquisition: 'axes' names {len(names)} axes ('{axes}'), but {where} has {len(layout.shape)}: "
            f"{layout.shape}; name each one"
        )
    unknown = [name for name in names if name not in AXIS_NAMES]
    repeated = [name for name in set(names) - {"1"} if names.count(name) > 1]
    if unknown or repeated or not {"H", "W"} <= set(names) or {"coil", "coil_ri"} <= set(names):
        raise ValueError(
            f"open_acquisition: 'axes' must name H and W once, and other axes by {', '.join(AXIS_NAMES)}; got '{axes}'"
        )
    for name, length in zip(names, layout.shape, strict=True):
        fits = {"1": length == 1, "ri": length == 2, "coil_ri": length % 2 == 0}.get(name, True)
        if length == 0 or not fits:
            wanted = {"1": "length 1", "ri": "length 2", "coil_ri": "an even length"}.get(name, "at least one entry")
            raise ValueError(
                f"open_acquisition: axis '{name}' of {where} must have {wanted}, got {length} of shape {layout.shape}; "
                "name its axes with axes="
            )
    if layout.has_parts and is_complex(dtype):
        raise ValueError(f"open_acquisition: {where} is already complex ({dtype}); leave 'ri' out of 'axes'")
