"""Magnitude volumes that nibabel opens (NIfTI, MGH, Analyze), slice by slice and with their geometry."""

from __future__ import annotations

import gzip
import math
import operator
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medkit.mri.readers.acquisition import MAGNITUDE, Acquisition
from medkit.mri.readers.caching import ARRAYS, HANDLES, file_stamp


@dataclass(eq=False)
class NiftiAcquisition(Acquisition):
    """A magnitude volume; see :class:`Acquisition`.

    Args:
        slice_axis: array axis of the file that counts the slices; the other two, in their order, are rows and columns.
        slope: factor from stored to real intensity.
        offset: added after the factor.
    """

    slice_axis: int = 2
    slope: float = 1.0
    offset: float = 0.0

    def _read(self, i_slice: int) -> np.ndarray:
        stored = _stored(self.path)
        index: list[Any] = [slice(None)] * 3
        index[self.slice_axis] = i_slice
        part = np.array(stored[tuple(index)], dtype=np.float32, order="C")[None]
        if self.slope != 1.0:
            part *= np.float32(self.slope)
        if self.offset != 0.0:
            part += np.float32(self.offset)
        return part


def _image(path: Path) -> Any:
    import nibabel

    return nibabel.load(path)


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() in (".gz", ".mgz")


def _stored(path: Path) -> np.ndarray:
    """Return the numbers of a volume as stored, three axes: mapped into memory, or decompressed once and kept."""

    def load() -> np.ndarray:
        proxy = _image(path).dataobj
        stored = _decompressed(path, proxy) if _is_compressed(path) else np.asanyarray(proxy.get_unscaled())
        return stored.reshape([*stored.shape, 1][:3]) if stored.ndim == 2 else stored.reshape(stored.shape[:3])

    if _is_compressed(path):
        return ARRAYS.get(path, "nifti", load, lambda array: array.nbytes)
    return HANDLES.get(path, "nifti", load)


def _decompressed(path: Path, proxy: Any) -> np.ndarray:
    """Decompress the whole file, so that its checksum is compared too, which nibabel leaves out."""
    content = gzip.decompress(path.read_bytes())
    wanted = proxy.offset + math.prod(proxy.shape) * proxy.dtype.itemsize
    if len(content) < wanted:
        raise EOFError(f"{wanted} bytes are wanted, {len(content)} are there")
    return np.ndarray(proxy.shape, proxy.dtype, buffer=content, offset=proxy.offset, order="F")


def open_nifti(path: Path, name: str, slice_axis: int) -> Acquisition:
    """Open a magnitude volume; arguments and errors as :func:`open_acquisition`."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        axis = operator.index(slice_axis)
    except TypeError:
        axis = -1
    if axis not in (0, 1, 2):
        raise ValueError(f"open_acquisition: 'slice_axis' must be 0, 1 or 2, got {slice_axis!r}")
    try:
        image = _image(path)
        shape = tuple(int(n) for n in image.shape)
        dtype = image.get_data_dtype()
        slope, offset = float(image.dataobj.slope), float(image.dataobj.inter)
        affine = np.asarray(image.affine, dtype=np.float64)
        code = _space_code(image)
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, AttributeError, zlib.error) as error:
        raise ValueError(
            f"open_acquisition: {path} must be a volume that nibabel reads, but it cannot be opened ({error}); it may "
            "be incomplete or of another kind: copy or convert it again"
        ) from error
    if len(shape) not in (2, 3) and not (len(shape) > 3 and set(shape[3:]) == {1}):
        raise ValueError(
            f"open_acquisition: {path} must be one volume of 3 axes, got shape {shape}; split a series first, e.g. "
            "with nibabel.four_to_three"
        )
    shape = (*shape, 1)[:3] if len(shape) == 2 else shape[:3]
    if dtype.kind not in "fiu" or 0 in shape:
        raise ValueError(f"open_acquisition: {path} must hold real numbers, got {dtype} {shape}; convert it to float32")
    if not _is_compressed(path):
        _check_size(path, image, shape, dtype)
    order = [axis_ for axis_ in range(3) if axis_ != axis] + [axis]
    return NiftiAcquisition(
        path=path,
        name=name,
        kind=MAGNITUDE,
        n_slices=shape[axis],
        n_coils=1,
        shape=(shape[order[0]], shape[order[1]]),
        affine=affine[:, [*order, 3]],
        has_geometry=True,
        space_code=code,
        header={"descrip": _description(image)} if _description(image) else {},
        slice_axis=axis,
        slope=slope,
        offset=offset,
    )


def _space_code(image: Any) -> int:
    """Return NIfTI's code of the image's space; of other kinds 1 (scanner) where the file tells its orientation."""
    header = image.header
    if "sform_code" in header:
        return int(header["sform_code"]) or int(header["qform_code"])
    is_mgh = "goodRASFlag" in header
    tells = bool(header["goodRASFlag"]) if is_mgh else not np.array_equal(image.affine, header.get_best_affine())
    return int(tells)


def _check_size(path: Path, image: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
    data = Path(image.file_map["image"].filename)
    wanted = int(image.dataobj.offset) + int(np.prod(shape)) * dtype.itemsize
    size = file_stamp(data)[1]
    if size < wanted:
        raise ValueError(
            f"open_acquisition: {path} must hold {wanted} bytes for {shape} {dtype}, got {size}; it is incomplete: "
            "copy or download it again"
        )


def _description(image: Any) -> str:
    try:
        stored = bytes(image.header["descrip"])
    except (KeyError, ValueError, TypeError):
        return ""
    return stored.split(b"\0")[0].decode("latin-1").strip()
