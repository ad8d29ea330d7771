"""A built atlas on disk: its frame, its subjects, and their transformations, read without building anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medkit.atlas.frame import Frame, resampled
from medkit.atlas.intensity_preparation import IntensityPreparation
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.registration import RegistrationModel
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import load_volume, scaled
from medkit.ops import resize_field
from medkit.workflow import atomic_path

RECORD = "atlas.json"
FORMAT = 1
SMALLEST_SHARE = 1e-12


@dataclass(frozen=True, eq=False)
class Member:
    """A subject of an atlas, as it went in.

    Args:
        subject: its files.
        matrix: float64, ``(4, 4)``, from RAS mm of the template to RAS mm of the subject.
        intensities: for each of its contrasts the intensities that became 0 and 1.
        is_whole: for each of its contrasts whether there is background beyond the image, or nothing is known there.
        energy: data term and regulariser at the end.
        digests: of each of its images a word that tells its voxels, as the user gave it; empty: not known.
        alignment: ``score`` and ``overlap`` of the affine alignment, see :func:`register_affine`; empty: none.
    """

    subject: AtlasSubject
    matrix: np.ndarray
    intensities: Mapping[str, tuple[float, float]]
    is_whole: Mapping[str, bool]
    energy: float = float("nan")
    digests: Mapping[str, str] = field(default_factory=dict)
    alignment: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the subject."""
        return self.subject.name


class AtlasFolder:
    """Read a built atlas.

    Args:
        folder: where it was built.

    Raises:
        FileNotFoundError: if no atlas was finished there.
        ValueError: if its record cannot be read.

    Example:
        >>> atlas = AtlasFolder("my_atlas")
        >>> forward = atlas.displacement(atlas.members[0])
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / RECORD).is_file():
            begun = (self.folder / "started.json").is_file()
            more = "; its building was interrupted, give the same command again to go on" if begun else ""
            raise FileNotFoundError(
                f"AtlasFolder: {self.folder} must hold a finished atlas, there is no {RECORD}{more}"
            )
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"its format is {record['format']}, this version of medkit reads {FORMAT}")
            self.frame = Frame(tuple(record["size"]), np.array(record["affine"]))
            self.contrasts: tuple[str, ...] = tuple(record["contrasts"])
            self.model = RegistrationModel(**record["model"])
            self.n_final_steps = int(record["n_final_steps"])
            self.symmetric = bool(record["symmetric"])
            self.members = tuple(_member(entry) for entry in record["members"])
            self.trace: list[dict[str, Any]] = record["trace"]
            # Subjects that were registered to the finished template, and of which it knows nothing.
            self.added = tuple(_member(entry) for entry in record.get("added", ()))
            # Name and reason of each subject that was left out.
            self.excluded: dict[str, str] = dict(record.get("excluded", {}))
            # What was done to the images before: new subjects get the same.
            self.intensities = IntensityPreparation(**record.get("intensities", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"AtlasFolder: {self.folder / RECORD} cannot be read: {error}") from error

    @cached_property
    def metric(self) -> SobolevMetric:
        """Metric of the velocities."""
        return self.model.metric(self.frame.grid)

    def member(self, name: str) -> Member:
        """Return the member of a name, be it one that was added.

        Raises:
            ValueError: if there is none.
        """
        known = (*self.members, *self.added)
        for member in known:
            if member.name == name:
                return member
        raise ValueError(f"AtlasFolder: there is no subject {name!r}; there are {', '.join(m.name for m in known)}")

    def velocity(self, member: Member) -> Tensor:
        """Return the velocity of a subject, float32, ``(1, 3, *metric.size)``, in voxels of its own grid."""
        return torch.from_numpy(np.load(self.folder / "velocities" / f"{member.name}.npy")).float()[None]

    def displacement(self, member: Member, inverse: bool = False) -> Tensor:
        """Return how the template moves to a subject, or back, ``(1, 3, *frame.size)``, in voxels of the frame."""
        return self.moved(self.velocity(member), inverse)

    @torch.no_grad()
    def moved(self, velocity: Tensor, inverse: bool = False) -> Tensor:
        """Return the displacement of any velocity on the atlas's grid, ``(1, 3, *frame.size)``, in voxels."""
        found = self.model.transformation(self.metric).displacement(velocity, inverse)
        return resize_field(found, self.frame.size, corners=False)

    def template(self) -> Tensor:
        """Return the template, float32, ``(1, C, *frame.size)``, one channel for each contrast.

        Raises:
            FileNotFoundError: if it was not written.
        """
        paths = [self.folder / template_name(c, self.contrasts) for c in self.contrasts]
        lost = next((path for path in paths if not path.is_file()), None)
        if lost is not None:
            raise FileNotFoundError(
                f"AtlasFolder: there is no template {lost}; finish_atlas writes what is missing of a built atlas"
            )
        return torch.cat([torch.from_numpy(np.asarray(nib.load(p).dataobj, np.float32))[None, None] for p in paths], 1)

    def aligned(self, member: Member) -> tuple[Tensor, Tensor | None]:
        """Return a subject's images on the frame, affinely aligned, and their weight; see :func:`bring`."""
        return bring(member, self.contrasts, self.frame)


def template_name(contrast: str, contrasts: tuple[str, ...], part: str = "") -> str:
    """Return a template's file name: ``atlas.nii.gz``, or ``atlas_t1.nii.gz`` where there are several contrasts."""
    return "_".join(["atlas", *([contrast] if len(contrasts) > 1 else []), *([part] if part else [])]) + ".nii.gz"


def bring(
    member: Member, contrasts: tuple[str, ...], frame: Frame, displacement: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Bring the images of a subject to a frame, by one interpolation of its files.

    Args:
        member: the subject.
        contrasts: the atlas's; of those that the subject lacks the image and the weight are 0.
        frame: the atlas's.
        displacement: ``(1, 3, *frame.size)``, in voxels, after which the matrix comes; ``None``: the matrix alone.

    Returns:
        Images, float32, ``(1, C, *frame.size)``, 0 to 1, and how much each voxel counts, the same shape, 0 to 1: what
        is under the mask and within images that may go on beyond their edge; ``None`` if all counts fully. Voxels of
        a file that do not count take no part in the interpolation.
    """
    images, weights = [], []
    for contrast in contrasts:
        if contrast not in member.subject.images:
            images.append(torch.zeros(1, 1, *frame.size))
            weights.append(torch.zeros(1, 1, *frame.size))
            continue
        volume, source = stripped(member.subject, contrast)
        image, is_whole = scaled(volume, *member.intensities[contrast]), member.is_whole[contrast]

        def brought(values: Tensor, padding: str, source: Frame = source) -> Tensor:
            return resampled(values, source, frame, member.matrix, displacement, padding=padding)

        moved, seen = brought(image, "zeros" if is_whole else "border"), torch.ones(1, 1, *frame.size)
        if member.subject.weight is not None:
            weight, grid = load_volume(member.subject.weight)
            counted = resampled(weight, grid, source, padding="zeros").clamp(0, 1)
            # Weighted values and weights are interpolated, then divided: what does not count touches no neighbour.
            top, seen = brought(torch.cat([image * counted, counted], 1), "zeros").chunk(2, dim=1)
            moved = torch.where(seen > 0, top / seen.clamp(min=SMALLEST_SHARE), moved).clamp(0, 1)
        elif not is_whole:
            seen = brought(torch.ones_like(volume), "zeros")
        images.append(moved)
        weights.append(seen)
    whole = torch.cat(weights, 1)
    return torch.cat(images, 1), None if bool((whole == 1).all()) else whole


def stripped(subject: AtlasSubject, contrast: str) -> tuple[Tensor, Frame]:
    """Read an image of a subject; where its mask is 0, it has the image's lowest value.

    Raises:
        ValueError: if a file is bad, or the mask is empty.
    """
    volume, source = load_volume(subject.images[contrast])
    if subject.mask is None:
        return volume, source
    mask, grid = load_volume(subject.mask)
    kept = resampled((mask > 0).float(), grid, source, mode="nearest", padding="zeros") > 0.5
    if not bool(kept.any()):
        raise ValueError(
            f"stripped: the mask {subject.mask} covers nothing of {subject.images[contrast]}: are both in one space?"
        )
    return torch.where(kept, volume, volume.min()), source


def write_record(folder: str | Path, record: Mapping[str, Any], members: tuple[Member, ...]) -> None:
    """Write what :class:`AtlasFolder` reads.

    Args:
        folder: of the atlas.
        record: ``size``, ``affine``, ``contrasts``, ``model``, ``n_final_steps``, ``symmetric``, ``trace`` (a list of
            dictionaries, ``energy`` among them) and, if there are any, ``excluded``: names of subjects that were left
            out, and why, and ``intensities``: what was done to the images.
        members: the subjects.
    """
    _write(Path(folder), {"format": FORMAT, **record, "members": [_entry(m) for m in members]})


def add_to_record(folder: str | Path, member: Member) -> None:
    """Write a subject that was registered to the finished template into its record, in the place of an older one.

    Args:
        folder: of the atlas.
        member: the subject.

    Raises:
        ValueError: if the atlas was built of a subject of this name.
    """
    record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
    if member.name in {entry["name"] for entry in record["members"]}:
        raise ValueError(f"add_to_record: the atlas was built of {member.name!r}; give the new subject another name")
    others = [entry for entry in record.get("added", ()) if entry["name"] != member.name]
    _write(Path(folder), {**record, "added": [*others, _entry(member)]})


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _entry(member: Member) -> dict[str, Any]:
    return {**asdict(member.subject), "matrix": member.matrix.tolist(), "intensities": dict(member.intensities),
            "is_whole": dict(member.is_whole), "energy": member.energy, "digests": dict(member.digests),
            "alignment": dict(member.alignment)}  # fmt: skip


def _member(entry: Mapping[str, Any]) -> Member:
    subject = AtlasSubject(*(entry[key] for key in ("name", "images", "mask", "weight", "labels", "attributes")))
    intensities = {contrast: (float(low), float(high)) for contrast, (low, high) in entry["intensities"].items()}
    return Member(
        subject,
        np.array(entry["matrix"]),
        intensities,
        entry["is_whole"],
        float(entry["energy"]),
        entry.get("digests", {}),
        entry.get("alignment", {}),
    )
