"""A sampling pattern read from a file: NumPy, MATLAB, PNG or NIfTI."""

from pathlib import Path

import numpy as np

from medkit.mri.masks.base import SamplingMask


def _named(arrays: dict[str, np.ndarray], path: Path, key: str | None) -> np.ndarray:
    if key is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    if key not in arrays:
        raise ValueError(f"FileMask: 'key' must name one of {sorted(arrays)} in {path}, got {key!r}")
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
    name = path.name.lower()
    if name.endswith(".npy"):
        return np.load(path)
    if name.endswith(".npz"):
        with np.load(path) as arrays:
            return _named(dict(arrays), path, key)
    if name.endswith(".mat"):
        return _named(_read_matlab(path), path, key)
    if name.endswith(".png"):
        from PIL import Image

        with Image.open(path) as picture:
            return np.asarray(picture.convert("L"))
    if name.endswith((".nii", ".nii.gz")):
        import nibabel

        return np.asanyarray(nibabel.load(path).dataobj)
    raise ValueError(f"FileMask: 'path' must end in .npy, .npz, .mat, .png, .nii or .nii.gz, got {path}")


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
            raise ValueError(f"FileMask: 'path' must be a file, got {path}")
        values = _read(self.path, key)
        pattern = values != 0
        if pattern.ndim > 1:
            pattern = pattern.reshape([n for n in pattern.shape if n > 1] or [1])
        if pattern.ndim not in (1, 2):
            raise ValueError(f"FileMask: 'path' must hold a pattern (W,) or (H, W), got {values.shape} in {path}")
        if not pattern.any():
            raise ValueError(f"FileMask: 'path' must hold at least one sampled point, got none in {path}")
        self.pattern = pattern if is_centered else np.fft.fftshift(pattern)

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        if self.pattern.shape != shape[-self.pattern.ndim :]:
            raise ValueError(
                f"FileMask: the pattern in {self.path} is for {self.pattern.shape}, k-space is {shape}; "
                "they must be of one size"
            )
        return self.pattern
