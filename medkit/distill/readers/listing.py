"""The pictures of a split as MONAI's list of dictionaries, from any of the formats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

from medkit.distill.artefacts import ArtefactSlices
from medkit.distill.readers.arrays import check_images, load_arrays, read_arrays
from medkit.distill.readers.files import VOLUMES, is_image, read_folder, read_table
from medkit.distill.readers.records import Records


def class_names(dataset_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """Return the names of the classes of a data set, in the order of their numbers.

    Args:
        dataset_dir: as of :func:`image_list`; ``None``: the simulated slices.

    Returns:
        The names.

    Example:
        >>> class_names()[:2]
        ['T1 clean', 'T1 motion']
    """
    return list(ArtefactSlices.CLASSES) if dataset_dir is None else list(_records(dataset_dir).classes)


def image_list(
    dataset_dir: str | os.PathLike[str] | None,
    split: str,
    slices: ArtefactSlices | None = None,
    classes: Sequence[str] | None = None,
    same_size: bool = True,
    labelled: bool = True,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """List labelled pictures for a MONAI data set.

    Args:
        dataset_dir: a folder with a sub-folder for each class (where wanted below ``train``, ``val``, ``test``); a
            ``.npz`` file, MedMNIST's or one with ``images`` and ``labels``; or a ``.csv`` table with the columns
            ``path,label[,split][,subject]``. ``None``: the simulated slices.
        split: ``train``, ``validation``, ``test`` or ``all``. A source without splits is split 70/10/20 by a hash of
            its subjects, or of its pictures where it knows no subjects.
        slices: the simulated slices; those of another split are refused.
        classes: names that the network was made for; ``None``: whatever there is.
        same_size: refuse pictures of different sizes, which do not fit into one batch.
        labelled: ``False``: ``dataset_dir`` is one image file, a folder of them or a ``.npz``, without labels; each
            slice of a volume is a picture of its own.
        limit: at most so many, taken evenly.

    Returns:
        For each picture ``case``, ``image`` (a path, or an array ``(H, W[, C])``), ``label`` (an int, or float32
        ``(n_classes,)``), and where they are known ``subject`` and ``i_slice``.

    Raises:
        ValueError: if the data are not of such a form, or do not fit ``classes``.
        FileNotFoundError: if there is nothing.

    Example:
        >>> image_list("pneumoniamnist.npz", "validation")[0].keys()
        dict_keys(['case', 'image', 'label'])
    """
    if dataset_dir is None:
        if slices is None or slices.split != split:
            came = "none" if slices is None else f"those of {slices.split!r}"
            raise ValueError(f"image_list: without 'dataset_dir' wanted 'slices' of the split {split!r}, got {came}")
        records = read_arrays(slices.write())
        split = "all"
    elif labelled:
        records = _records(dataset_dir)
    else:
        return _evenly(_unlabelled(Path(dataset_dir)), limit)
    if classes is not None and len(classes) != len(records.classes):
        raise ValueError(
            f"image_list: {records.source} has {len(records.classes)} classes, {records.classes[:5]}…, and the network "
            f"was made for {len(classes)}, {list(classes)[:5]}…; give the network the classes of its data"
        )
    items = _evenly([_item(records, i) for i in records.indices(split)], limit)
    if same_size:
        _check_sizes(items, records.source)
    return items


def _item(records: Records, i: int) -> dict[str, Any]:
    label = records.labels[i]
    item = {"case": records.cases[i], "image": records.images[i], "label": label if label.ndim else int(label)}
    if records.subjects is not None:
        item["subject"] = records.subjects[i]
    return item


def _records(dataset_dir: str | os.PathLike[str]) -> Records:
    path = Path(dataset_dir)
    if path.is_dir():
        return read_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"image_list: 'dataset_dir' does not exist: {path}")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)  # the splits and the names of one file are asked for one after the other
def _read(path: Path, _: int) -> Records:
    if path.suffix.lower() == ".npz":
        return read_arrays(path)
    if path.suffix.lower() == ".csv":
        return read_table(path)
    raise ValueError(f"image_list: 'dataset_dir' must be a folder, a .npz or a .csv file, got {path}")


def _unlabelled(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".npz":
        arrays = load_arrays(path)
        images = next(
            (arrays[key] for key in ("images", "test_images", "val_images", "train_images") if key in arrays), None
        )
        if images is None:
            raise ValueError(f"image_list: {path} must hold 'images' or 'test_images', got {sorted(arrays)}")
        check_images(images, path)
        return [{"case": f"{path.stem}_{i:06d}", "image": image} for i, image in enumerate(images)]
    if not path.exists():
        raise FileNotFoundError(f"image_list: 'dataset_dir' does not exist: {path}")
    root = path if path.is_dir() else path.parent
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and is_image(file)] if path.is_dir() else [path]
    if not files or not is_image(files[0]):
        raise FileNotFoundError(f"image_list: no pictures (.png, .jpg, .tif, …) and no .nii or .nii.gz in {path}")
    items: list[dict[str, Any]] = []
    for file in files:
        case = str(file.relative_to(root))
        if not file.name.lower().endswith(VOLUMES):
            items.append({"case": case, "image": str(file)})
            continue
        shape = nibabel.as_closest_canonical(nibabel.load(file)).shape
        n_slices = shape[2] if len(shape) > 2 else 1
        items += [{"case": f"{case}_{k:03d}", "image": str(file), "i_slice": k} for k in range(n_slices)]
    return items


def _evenly(items: list[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    if limit is None or len(items) <= limit:
        return items
    return [items[round(i)] for i in np.linspace(0, len(items) - 1, limit)]


def _check_sizes(items: Sequence[dict[str, Any]], source: str) -> None:
    sizes: dict[tuple[int, ...], str] = {}
    for item in items:
        if isinstance(item["image"], str):
            sizes.setdefault(_size(item["image"]), item["case"])
    if len(sizes) > 1:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise ValueError(
            f"image_list: the pictures of {source} must have one size, got {one} ({first}) and {two} ({second}); "
            "'image_size' brings them to one"
        )


def _size(path: str) -> tuple[int, ...]:
    """Height and width from the header."""
    if path.lower().endswith(VOLUMES):
        return tuple(nibabel.load(path).shape[1::-1])
    with Image.open(path) as picture:
        return picture.height, picture.width
