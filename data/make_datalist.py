r"""List a folder of exams, split it by subject, and write a datalist that every bundle takes as dataset_dir.

    python data/make_datalist.py ~/IXI-T2 --pattern "*-T2.nii.gz" --subject "IXI\d+" --output ixi_t2.json
    medkit run clgnet train --dataset_dir ixi_t2.json

The subjects are ordered by a hash of their names and cut by the shares that are wanted, so that the same folder gives
the same lists on every machine, and every split that is wanted has a subject, if there are enough. A folder that
already has sub-folders train, validation (or val) and test keeps them with --keep_folders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medkit.mri import acquisition_list, open_acquisition
from medkit.workflow import atomic_path

SPLITS = ("train", "validation", "test")


def split_by_subject(entries: list[dict[str, Any]], subject: str | None, shares: Sequence[float]) -> dict[str, list]:
    """Cut exams into splits, all exams of a subject into the same one.

    Args:
        entries: of ``acquisition_list(..., per="volume")``.
        subject: regular expression that finds the subject in ``case``; its first group, if it has one. ``None``: each
            exam is a subject.
        shares: of train, validation and test; they add up to 1.

    Returns:
        Entries by split.

    Raises:
        ValueError: if the shares are none, or a case names no subject.
    """
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"split_by_subject: 'shares' must be three from 0 that add up to 1, got {list(shares)}")
    subjects: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        found = re.search(subject, entry["case"]) if subject is not None else None
        if subject is not None and found is None:
            raise ValueError(
                f"split_by_subject: 'subject' {subject!r} must be found in each case, not in {entry['case']}"
            )
        name = entry["case"] if found is None else found.group(1) if found.re.groups else found.group()
        subjects.setdefault(name, []).append(entry)
    order = sorted(subjects, key=lambda name: hashlib.sha256(name.encode("utf-8")).hexdigest())
    ends = [round(len(order) * sum(shares[: i + 1])) for i in range(3)]
    counts = [end - start for start, end in zip([0, *ends[:2]], ends, strict=True)]
    for i, share in enumerate(shares):  # a split that is wanted gets a subject of the largest one
        if share > 0 and counts[i] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    cuts = [order[sum(counts[:i]) : sum(counts[: i + 1])] for i in range(3)]
    return {
        split: sorted((entry for name in cut for entry in subjects[name]), key=lambda entry: entry["case"])
        for split, cut in zip(SPLITS, cuts, strict=True)
    }


def unpack(path: Path, folder: Path) -> Path:
    """Write a compressed volume uncompressed into ``folder``, unless it is there; return its path."""
    import nibabel

    if not path.name.endswith((".nii.gz", ".mgz")):
        return path
    unpacked = folder / f"{path.name.removesuffix('.nii.gz').removesuffix('.mgz')}.nii"
    if unpacked.exists():
        return unpacked
    image = nibabel.load(path)
    with atomic_path(unpacked) as temporary:
        nibabel.save(nibabel.Nifti1Image(image.dataobj, image.affine, image.header), temporary)
    return unpacked


def make_datalist(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return the datalist that the options of the command ask for; see ``--help``."""
    common = {"per": "volume", "pattern": options.pattern or "*"}
    folder = Path(options.folder)
    try:
        lists = {split: acquisition_list(folder, split, **common) for split in SPLITS} if options.keep_folders else {}
    except ValueError as error:
        raise ValueError(f"--keep_folders: {error}") from error
    lists = lists or split_by_subject(acquisition_list(folder, "all", **common), options.subject, options.shares)
    output = Path(options.output).resolve()
    for entry in (entry for entries in lists.values() for entry in entries):
        path = Path(entry["path"])
        if options.unpack:
            path = unpack(path, Path(options.unpack).resolve() / entry["case"])
        exam = open_acquisition(path, options.key, options.axes)
        entry |= {"kind": exam.kind, "n_slices": exam.n_slices, "n_coils": exam.n_coils, "shape": list(exam.shape)}
        entry["path"] = Path(os.path.relpath(path, output.parent)).as_posix() if options.relative else str(path)
    return lists


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="folder of exams, at any depth")
    parser.add_argument("--output", default="datalist.json", help="file to write (default: %(default)s)")
    parser.add_argument(
        "--pattern", action="append", help="file names to keep; may be repeated (default: all that can be read)"
    )
    parser.add_argument("--subject", help="regular expression that finds the subject in a file's name")
    parser.add_argument(
        "--shares", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar=("TRAIN", "VALIDATION", "TEST")
    )
    parser.add_argument("--keep_folders", action="store_true", help="split by sub-folders train, validation, test")
    parser.add_argument("--key", help="name of the array in .h5, .mat and .npz")
    parser.add_argument("--axes", help="names of the array's axes, e.g. slice,coil,H,W")
    parser.add_argument("--unpack", metavar="FOLDER", help="write .nii.gz uncompressed there: slices are read faster")
    parser.add_argument("--relative", action="store_true", help="paths relative to the datalist, to move both together")
    options = parser.parse_args(arguments)
    try:
        lists = make_datalist(options)
        with atomic_path(options.output) as temporary:
            temporary.write_text(json.dumps(lists, indent=1) + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"make_datalist: error: {error}", file=sys.stderr)
        return 1
    for split, entries in lists.items():
        print(f"{split:<11}{len(entries):>6} exams {sum(entry['n_slices'] for entry in entries):>8} slices")
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
