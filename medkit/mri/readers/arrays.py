"""Plain arrays as exams: NumPy .npy and .npz, MATLAB up to v7, BART .cfl."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medkit.mri.readers.acquisition import KSPACE, MAGNITUDE, Acquisition
from medkit.mri.readers.caching import ARRAYS, HANDLES
from medkit.mri.readers.hdf5 import IMAGE_NAMES, KSPACE_NAMES
from medkit.mri.readers.layout import Layout, find_layout, is_complex, is_mask, is_named, is_number, named_axes

# BART's axes that an exam uses; the others must have length 1.
BART_NAMES = {3: "coil", 13: "slice", 14: "average"}


@dataclass(eq=False)
class ArrayAcquisition(Acquisition):
    """An exam in one array; see :class:`Acquisition`.

    Args:
        key: name of the array in its file; empty where it has none.
        layout: axes of the array.
        load: module-level function of ``(path, key)`` that maps or reads the array.
    """

    key: str = ""
    layout: Layout = field(default_factory=lambda: Layout(("H", "W"), (1, 1)))
    load: Callable[[Path, str], np.ndarray] | None = None

    def _read(self, i_slice: int) -> np.ndarray:
        array = _kept(self.path, self.key, self.load)
        part = array[self.layout.select(i_slice)]
        dtype = np.complex64 if self.kind == KSPACE else np.float32
        return self.layout.arrange(part, dtype, copy=True, is_kspace=self.holds_kspace)


def _kept(path: Path, key: str, load: Callable[[Path, str], np.ndarray] | None) -> np.ndarray:
    if load is None:
        raise ValueError(f"open_acquisition: no way to read {path}; open it with open_acquisition")
    store, size = (HANDLES, _nothing) if load in (load_npy, load_cfl) else (ARRAYS, _n_bytes)
    return store.get(path, key, lambda: load(path, key), size)


def _nothing(array: np.ndarray) -> int:
    return 0


def _n_bytes(array: np.ndarray) -> int:
    return array.nbytes


def load_npy(path: Path, key: str) -> np.ndarray:
    """Map a .npy into memory; pickled objects are refused."""
    return np.load(path, mmap_mode="r", allow_pickle=False)


def load_npz(path: Path, key: str) -> np.ndarray:
    """Read one array of a .npz; pickled objects are refused."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[key]


def load_mat(path: Path, key: str) -> np.ndarray:
    """Read one array of a MATLAB file up to v7."""
    from scipy.io import loadmat

    return np.asarray(loadmat(path, variable_names=[key])[key])


def load_cfl(path: Path, key: str) -> np.ndarray:
    """Map a BART array into memory; its axes are those of its .hdr, fastest first."""
    return np.memmap(path, dtype="<c8", mode="r", shape=_bart_shape(path), order="F")


def open_npy(
    path: Path, name: str, key: str | None, axes: str | None, domain: str | None, centred: bool
) -> Acquisition:
    """Open a .npy; arguments and errors as :func:`open_acquisition`."""
    if key is not None:
        raise ValueError(
            f"open_acquisition: 'key' names an array of .h5, .mat or .npz; {path} holds one without a name"
        )
    try:
        array = _kept(path, "", load_npy)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"open_acquisition: {path} must be a complete .npy of numbers (objects are never unpickled), but it cannot "
            f"be mapped ({error}); save it again with numpy.save"
        ) from error
    return _exam(path, name, "", axes, domain, centred, "C", array.shape, array.dtype, load_npy)


def open_npz(
    path: Path, name: str, key: str | None, axes: str | None, domain: str | None, centred: bool
) -> Acquisition:
    """Open a .npz; arguments and errors as :func:`open_acquisition`."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
            found = {member: _npy_header(archive, member) for member in members}
        key = _choose(path, {member: header for member, header in found.items() if header is not None}, key)
        array = _kept(path, key, load_npz)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError) as error:
        raise ValueError(
            f"open_acquisition: {path} must be a complete .npz, but it cannot be read ({error}); save it again with "
            "numpy.savez"
        ) from error
    return _exam(path, name, key, axes, domain, centred, "C", array.shape, array.dtype, load_npz)


def _npy_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Return shape and type of an array in a .npz without reading it; ``None`` for what is no array of numbers."""
    with archive.open(f"{member}.npy") as stream:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        except ValueError:
            return None
    return (shape, dtype) if is_number(dtype) else None


def open_mat(
    path: Path, name: str, key: str | None, axes: str | None, domain: str | None, centred: bool
) -> Acquisition:
    """Open a MATLAB file up to v7; arguments and errors as :func:`open_acquisition`."""
    from scipy.io import whosmat
    from scipy.io.matlab import MatReadError

    numeric = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
    try:
        found = {
            variable: (tuple(shape), np.dtype(np.float64)) for variable, shape, kind in whosmat(path) if kind in numeric
        }
        key = _choose(path, found, key)
        array = _kept(path, key, load_mat)
    except (MatReadError, NotImplementedError, TypeError, OSError, EOFError, zlib.error, IndexError) as error:
        raise ValueError(
            f"open_acquisition: {path} must be a complete MATLAB file, but it cannot be read ({error}); save it again, "
            "with '-v7.3' if it is large"
        ) from error
    return _exam(path, name, key, axes, domain, centred, "F", array.shape, array.dtype, load_mat)


def _choose(path: Path, found: dict[str, tuple[tuple[int, ...], np.dtype]], key: str | None) -> str:
    listed = ", ".join(f"{name} {shape}" for name, (shape, _) in found.items()) or "no array of numbers"
    if key is not None:
        if key not in found:
            raise ValueError(f"open_acquisition: 'key' must name an array of {path}, got {key!r}; it holds {listed}")
        return key
    names = [name for name, (shape, _) in found.items() if sum(n > 1 for n in shape) >= 2]
    names = [name for name in names if not is_mask(name)]
    for wanted in (*filter(is_named, names), *KSPACE_NAMES, *IMAGE_NAMES):
        if wanted in names:
            return wanted
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"open_acquisition: {path} must hold 'kspace' or 'images', or one array alone; it holds {listed}; "
        "say which by key="
    )


def open_cfl(
    path: Path, name: str, key: str | None, axes: str | None, domain: str | None, centred: bool
) -> Acquisition:
    """Open a BART .cfl beside its .hdr; arguments and errors as :func:`open_acquisition`."""
    if key is not None:
        raise ValueError(
            f"open_acquisition: 'key' names an array of .h5, .mat or .npz; {path} holds one without a name"
        )
    shape = _bart_shape(path)
    wanted, size = 8 * math.prod(shape), path.stat().st_size
    if size != wanted:
        raise ValueError(
            f"open_acquisition: {path} must hold {wanted} bytes for the dimensions {shape} in its .hdr, got {size}; it "
            "is incomplete, or its .hdr belongs to another file"
        )
    array = _kept(path, "", load_cfl)
    if axes is None:
        axes = _bart_axes(path, shape)
    return _exam(path, name, "", axes, domain, centred, "F", array.shape, array.dtype, load_cfl)


def _bart_shape(path: Path) -> tuple[int, ...]:
    header = path.with_suffix(".hdr")
    try:
        lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FileNotFoundError(
            f"open_acquisition: {path} needs its header {header}, which cannot be read ({error}); keep .cfl and .hdr "
            "side by side"
        ) from error
    titles = [i for i, line in enumerate(lines) if line.strip().lower() == "# dimensions"]
    words = lines[titles[0] + 1].split() if titles and titles[0] + 1 < len(lines) else []
    if not words or not all(word.isdigit() and int(word) > 0 for word in words):
        raise ValueError(
            f"open_acquisition: {header} must have a line '# Dimensions' and one of positive integers below, got "
            f"{' '.join(words)!r}; write it again with BART"
        )
    return tuple(int(word) for word in words)


def _bart_axes(path: Path, shape: tuple[int, ...]) -> str:
    """Name BART's axes: 0 readout, 1 and 2 phase, then BART_NAMES; one of 0 to 2 is a stack when all are long."""
    names = ["1"] * len(shape)
    space = [axis for axis in range(min(3, len(shape))) if shape[axis] > 1]
    long = [axis for axis, n in enumerate(shape) if n > 1 and axis not in (0, 1, 2, *BART_NAMES)]
    stacks = len(space) == 3 and len(shape) > 13 and shape[13] > 1
    if long or stacks or len(space) < 2:
        raise ValueError(
            f"open_acquisition: {path} must have two or three of the axes 0, 1, 2 (readout, phase, phase), coils on "
            f"axis 3, slices on axis 13 and averages on axis 14 alone, got dimensions {shape}; take one entry with "
            "'bart slice', or name the axes with axes="
        )
    names[space[0]], names[space[1]] = "H", "W"
    if len(space) == 3:
        names[space[2]] = "slice"
    for axis, name in BART_NAMES.items():
        if len(shape) > axis and shape[axis] > 1:
            names[axis] = name
    return ",".join(names)


def _exam(
    path: Path,
    name: str,
    key: str,
    axes: str | None,
    domain: str | None,
    centred: bool,
    order: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    load: Callable[[Path, str], np.ndarray],
) -> Acquisition:
    where = f"'{key}' in {path}" if key else str(path)
    if not is_number(dtype):
        raise ValueError(f"open_acquisition: {where} must hold numbers, got {dtype}")
    is_domain_given = domain is not None
    if domain is None:
        parts = (axes is not None and "ri" in axes) or (len(shape) > 2 and shape[-1] == 2)
        domain = "image" if key.lower() in IMAGE_NAMES or not (is_complex(dtype) or parts) else "kspace"
    if axes is None and order == "F" and domain == "kspace":
        axes = named_axes(key, len(shape))
    layout = find_layout(where, shape, dtype, axes, domain, order)
    complex_read = is_complex(dtype) or layout.has_parts
    if domain == "kspace" and not complex_read:
        raise ValueError(
            f"open_acquisition: k-space must be complex, {where} is {dtype} {shape}; say where real and imaginary "
            "parts lie, e.g. axes='coil,H,W,ri', or domain='image'"
        )
    return ArrayAcquisition(
        path=path,
        name=name,
        kind=KSPACE if complex_read else MAGNITUDE,
        n_slices=layout.n_slices,
        n_coils=layout.n_coils,
        shape=layout.matrix,
        centred=centred,
        is_complex_image=complex_read and domain == "image",
        is_domain_given=is_domain_given,
        key=key,
        n_frames=layout.n_frames,
        mask_may_differ=layout.n_frames > 1,
        layout=layout,
        load=load,
    )
