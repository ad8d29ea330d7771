"""A sampling pattern read from a file: NumPy, MATLAB, PNG or NIfTI."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from medkit.mri.masks.base import SamplingMask

# What the libraries raise for a file that is cut off or not what its name says.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, IndexError, KeyError, NotImplementedError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
_SEVERAL = (".npz", ".mat")  # files that hold arrays by name
_SUFFIXES = (".npy", *_SEVERAL, ".png", ".nii", ".nii.gz")


def _named(arrays: dict[str, np.ndarray], path: Path, key: str | None) -> np.ndarray:
    if len(arrays) == 1 and (key is None or not path.name.lower().endswith(_SEVERAL)):
        return next(iter(arrays.values()))
    if key not in arrays:
        raise ValueError(f"FileMask: 'key' must name one of the arrays in {path}, {sorted(arrays)}, got {key!r}")
    return arrays[key]


def _read_matlab(path: Path) -> dict[str, np.ndarray]:
    import h5py
    from scipy.io import loadmat

    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            # MATLAB writes its arrays column by column: HDF5 shows their axes reversed.
            return {name: item[()].T for name, item in file.items() if isinstance(item, h5py.Dataset)}
    return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}


def _read(path: Path, key: str | None) -> np.ndarray:
    from nibabel.filebasedimages import ImageFileError
    from scipy.io.matlab import MatReadError

    name = path.name.lower()
    if not name.endswith(_SUFFIXES):
        raise ValueError(f"FileMask: 'path' must end in {', '.join(_SUFFIXES)}, got {path}; save the pattern as .npy")
    try:
        arrays = _arrays(path, name)
    except (*_UNREADABLE, MatReadError, ImageFileError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"FileMask: 'path' must be a complete file of the kind that its name says, {path} cannot be read "
            f"({reason}); save it again"
        ) from error
    return _named(arrays, path, key)


def _arrays(path: Path, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name; those of a kind that holds one alone under its own name."""
    if name.endswith(".npy"):
        return {path.stem: np.load(path)}
    if name.endswith(".npz"):
        with np.load(path) as arrays:
            return dict(arrays)
    if name.endswith(".mat"):
        return _read_matlab(path)
    if name.endswith(".png"):
        from PIL import Image

        with Image.open(path) as picture:
            return {path.stem: np.asarray(picture.convert("L"))}
    import nibabel

    return {path.stem: np.asanyarray(nibabel.load(path).dataobj)}


class FileMask(SamplingMask):
    """A fixed pattern from a file; every value other than 0 is sampled.

    Args:
        path: ``.npy``, ``.npz``, ``.mat`` (also v7.3), ``.png``, ``.nii`` or ``.nii.gz`` with a pattern ``(W,)``,
            ``(1, W)`` or ``(H, W)``; further axes of size 1 are dropped.
        key: name of the array in a ``.npz`` or ``.mat`` that holds several.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        is_centered: whether frequency 0 of the pattern lies at index ``n // 2``; otherwise at index 0.

    Raises:
        ValueError: if the file is missing or of another kind, has no pattern of lines or points, or is empty of
            samples; ``draw`` raises it for k-space of another size.

    Example:
        >>> np.save("/tmp/lines.npy", np.array([0, 1, 1, 0]))
        >>> FileMask("/tmp/lines.npy").draw((4, 4))
        tensor([[False,  True,  True, False]])
    """

    def __init__(
        self,
        path: str | Path,
        key: str | None = None,
        spatial_dims: int = 2,
        is_complex: bool = True,
        is_centered: bool = True,
    ):
        super().__init__(0.0, 1.0, spatial_dims, is_complex)
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"FileMask: 'path' must be a file with a pattern, there is none at {path}; give its path")
        values = _read(self.path, key)
        if values.dtype.kind not in "biufc" or not np.isfinite(values).all():
            what = "NaN or infinity" if values.dtype.kind in "fc" else f"values of {values.dtype}"
            raise ValueError(
                f"FileMask: 'path' must hold finite numbers or booleans, got {what} in {path}; save the pattern as "
                "0 and 1"
            )
        pattern = values != 0
        if pattern.ndim > 1:
            pattern = pattern.reshape([n for n in pattern.shape if n > 1] or [1])
        if pattern.ndim not in (1, 2):
            raise ValueError(
                f"FileMask: 'path' must hold a pattern (W,) or (H, W), got {values.shape} in {path}; save one slice "
                "and one coil of it"
            )
        if not pattern.any():
            raise ValueError(
                f"FileMask: 'path' must hold at least one sampled point, got only zeros of shape {values.shape} in "
                f"{path}; save a pattern with 1 where k-space is measured"
            )
        self.pattern = pattern if is_centered else np.fft.fftshift(pattern)

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        if self.pattern.shape != shape[-self.pattern.ndim :]:
            raise ValueError(
                f"FileMask: the pattern must be of the size of k-space, (H, W) = {shape}, or of its lines, "
                f"({shape[1]},), got {self.pattern.shape} in {self.path}; give the file that belongs to this k-space"
            )
        return self.pattern
