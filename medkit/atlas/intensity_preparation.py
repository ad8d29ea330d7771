"""Images of subjects before they are compared: without the bias of coils, and with intensities on one scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from medkit.atlas.bias_field import bias_corrected
from medkit.atlas.frame import Frame, resampled
from medkit.atlas.intensities import match_intensities
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import appearance, load_volume, scaled
from medkit.workflow import write_nifti

FOLDER = "prepared"
OBJECT = 0.05  # of intensities from 0 to 1, where no mask tells
ENOUGH = 1e5  # voxels for the histogram of N4: with a few thousand it finds next to nothing
N_PIECES = 200  # of a curve of quantiles


@dataclass(frozen=True)
class IntensityPreparation:
    """What an atlas does to intensities.

    Args:
        bias_correction: whether N4 takes a bias field out.
        reference: for each contrast the 201 quantiles that all images get, 0 to 1; empty: none.
        originals: for each subject the files that it was made from.
    """

    bias_correction: bool = False
    reference: Mapping[str, Sequence[float]] = field(default_factory=dict)
    originals: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def does_nothing(self) -> bool:
        """Whether images are taken as they are."""
        return not self.bias_correction and not self.reference


def corrected(subject: AtlasSubject, contrast: str, bias_correction: bool) -> tuple[Tensor, Tensor, Frame]:
    """Read an image of a subject, and take its bias out.

    Args:
        subject: with the contrast.
        contrast: which image.
        bias_correction: whether to take the bias out.

    Returns:
        The image, float32, ``(1, 1, X, Y, Z)``, in the file's unit; where its object is, which is what the mask and the
        weight count, or else what is brighter than the background, bool, the same shape; and the grid.

    Raises:
        ValueError: if a file is bad, or nothing is in the mask.
    """
    volume, frame = load_volume(subject.images[contrast])
    inside = torch.ones_like(volume, dtype=torch.bool)
    for path in (subject.mask, subject.weight):
        if path is not None:
            values, grid = load_volume(path)
            inside &= resampled(values, grid, frame, mode="nearest", padding="zeros") > (
                0 if path is subject.mask else 0.5
            )
    if not bool(inside.any()):
        raise ValueError(f"corrected: mask and weight of {subject.name!r} leave nothing of {subject.images[contrast]}")

    def seen(image: Tensor) -> Tensor:
        if subject.mask is not None:
            return inside
        look = appearance(image, frame, inside.float())
        return inside & (scaled(image, look.low, look.high) > OBJECT)

    if bias_correction:
        lifted = volume - volume.min().clamp(max=0)
        shrink = max(1, min(4, int((volume.numel() / ENOUGH) ** (1 / 3))))
        volume = bias_corrected(lifted[0, 0], frame.affine, seen(volume)[0, 0], shrink)[None, None]
    return volume, seen(volume), frame


def quantiles(volume: Tensor, inside: Tensor) -> Tensor:
    """Quantiles of an object whose lowest intensity is 0 and whose brightest are 1, float64, ``(201,)``."""
    values = volume[inside].double().sort().values
    places = torch.linspace(0, 1, N_PIECES + 1, dtype=torch.float64) * (len(values) - 1)
    low = places.long().clamp(max=max(len(values) - 2, 0))
    part = places - low
    found = values[low] * (1 - part) + values[(low + 1).clamp(max=len(values) - 1)] * part
    bright = found[-2]  # the 99.5th percentile
    return found / bright if float(bright) > 0 else found


def matched(volume: Tensor, inside: Tensor, reference: Sequence[float]) -> Tensor:
    """Give an object the quantiles of a reference; what is darker around it falls to 0 as it did.

    Args:
        volume: float32, any shape, background near 0.
        inside: bool, where the object is.
        reference: see :class:`IntensityPreparation`.

    Returns:
        Of that shape, float32, at least 0; 0 to 1 but for the brightest 0.5 %.
    """
    edge = volume[inside].min().clamp(min=0)
    flat = torch.cat([volume.reshape(-1), edge.reshape(1)])
    counted = torch.cat([inside.reshape(-1).float(), torch.zeros(1)])
    target = torch.tensor([float(x) for x in reference])
    out = match_intensities(flat, counted, target, torch.ones_like(target)).clamp(min=0)
    around = volume.clamp(min=0) * (out[-1] / edge.clamp(min=1e-12))
    return torch.where(inside, out[:-1].reshape(volume.shape), around.clamp(max=float(target.max())))


def prepared(folder: Path, subject: AtlasSubject, preparation: IntensityPreparation) -> AtlasSubject:
    """Write the images of a subject as an atlas takes them, and return it with these files.

    Args:
        folder: of the atlas; the files go into ``prepared``.
        subject: any.
        preparation: what is done.

    Raises:
        ValueError: if a file is bad, or its intensities are the same everywhere.
    """
    if preparation.does_nothing:
        return subject
    paths = {contrast: prepared_path(folder, subject.name, contrast) for contrast in subject.images}
    for contrast, path in paths.items():
        volume, inside, frame = corrected(subject, contrast, preparation.bias_correction)
        if contrast in preparation.reference:
            volume = matched(volume, inside, preparation.reference[contrast])
        write_nifti(path, volume[0, 0], frame.affine)
    return replace(subject, images={contrast: str(path.absolute()) for contrast, path in paths.items()})


def prepared_path(folder: Path, name: str, contrast: str) -> Path:
    """Return where a subject's prepared image is."""
    return folder / FOLDER / f"{name}_{contrast}.nii.gz"
