"""Pictures in a ``.npz`` file: MedMNIST's arrays of three splits, or plain arrays of images and labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medkit.distill.readers.records import SPLITS, Records, check_labels, split_name

_PREFIXES = {"train": "train", "validation": "val", "test": "test"}


def read_arrays(path: Path) -> Records:
    """Read labelled pictures from a ``.npz`` file; nothing is unpickled.

    Args:
        path: holds ``train_images``, ``train_labels``, and the same with ``val`` and ``test`` (any of the three), as
            MedMNIST does; or ``images`` and ``labels``, where wanted with ``class_names``, ``subjects``, ``splits`` and
            ``cases``. Images are ``(N, H, W)`` or ``(N, H, W, 3)``; labels ``(N,)``, ``(N, 1)``, or for several at a
            time ``(N, n_classes)``.

    Returns:
        The records.

    Raises:
        ValueError: if the file is not of this form.
    """
    arrays = load_arrays(path)
    names = [split for split in SPLITS if f"{_PREFIXES[split]}_images" in arrays]
    if names:
        parts = [(arrays[f"{_PREFIXES[s]}_images"], _asked(arrays, f"{_PREFIXES[s]}_labels", path)) for s in names]
        sizes = {tuple(images.shape[1:]) for images, _ in parts}
        if len(sizes) > 1:
            raise ValueError(f"image_list: {path}: the splits must have pictures of one size, got {sorted(sizes)}")
        for name, (images, own) in zip(names, parts, strict=True):
            if len(images) != len(own):
                raise ValueError(f"image_list: {path}: {name} has {len(images)} images and {len(own)} labels")
        images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        splits: list[str] | None = [name for name, (part, _) in zip(names, parts, strict=True) for _ in part]
    elif "images" in arrays:
        images, labels = arrays["images"], _asked(arrays, "labels", path)
        splits = [split_name(str(name), str(path)) for name in arrays["splits"]] if "splits" in arrays else None
    else:
        raise ValueError(
            f"image_list: {path} must hold 'images' and 'labels', or MedMNIST's 'train_images', 'train_labels', …; "
            f"got {sorted(arrays)}"
        )
    check_images(images, path)
    labels = _classes_of(labels, path)
    classes = [str(name) for name in arrays.get("class_names", [])]
    if not classes:
        classes = [
            str(i) for i in range(labels.shape[1] if labels.ndim == 2 else max(2, int(labels.max(initial=0)) + 1))
        ]
    check_labels(labels, len(images), len(classes), str(path))
    for key in ("subjects", "splits", "cases"):
        if key in arrays and len(arrays[key]) != len(images):
            raise ValueError(
                f"image_list: {path}: '{key}' must be of all {len(images)} pictures, got {len(arrays[key])}"
            )
    cases = (
        [str(name) for name in arrays["cases"]]
        if "cases" in arrays
        else [f"{path.stem}_{i:06d}" for i in range(len(images))]
    )
    subjects = [str(name) for name in arrays["subjects"]] if "subjects" in arrays else None
    return Records(str(path), images, labels, classes, cases, subjects, splits)


def load_arrays(path: Path) -> Mapping[str, np.ndarray]:
    """Load a ``.npz`` file without unpickling.

    Raises:
        ValueError: if it is no such file, or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(
            f"image_list: {path} must be a .npz of plain arrays ({error}); "
            "arrays of Python objects are not read, since reading them runs code"
        ) from error


def check_images(images: np.ndarray, path: Path) -> None:
    """Refuse what are no pictures.

    Raises:
        ValueError: if the array is not ``(N, H, W)`` or ``(N, H, W, 1 or 3)`` of finite numbers.
    """
    is_flat = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))
    if not is_flat or images.dtype.kind not in "uif":
        raise ValueError(
            f"image_list: {path}: images must be numbers (N, H, W) or (N, H, W, 3), got {images.dtype} {images.shape}"
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise ValueError(f"image_list: {path}: images must be finite, got nan or infinity")


def _asked(arrays: Mapping[str, np.ndarray], key: str, path: Path) -> np.ndarray:
    if key not in arrays:
        raise ValueError(f"image_list: {path} must hold {key!r} beside its images, got {sorted(arrays)}")
    return arrays[key]


def _classes_of(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "uib" or (labels.ndim == 2 and not labels.shape[1]):
        raise ValueError(
            f"image_list: {path}: labels must be whole numbers (N,), (N, 1) or (N, n_classes), "
            f"got {labels.dtype} {labels.shape}"
        )
    if labels.ndim == 2 and labels.shape[1] > 1:
        return labels.astype(np.float32)
    return labels.reshape(-1).astype(np.int64)
