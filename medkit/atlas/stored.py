"""Priors that read what was computed before: displacements of other programs, velocities of an earlier build."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.prior_spec import PriorSpec
from medkit.atlas.priors import register_prior
from medkit.atlas.transform_files import read_displacement
from medkit.ops import resize_field

AnyPath = str | os.PathLike[str]


def _one_of_each(name: str, names: Sequence[str] | None, subjects: Tensor) -> Sequence[str]:
    if names is None or len(names) != len(subjects):
        raise ValueError(f"{name}: 'names' must hold a name for each of {len(subjects)} subjects, got {names}")
    return names


def _found(name: str, folder: Path, pattern: str, subject: str) -> Path:
    file = folder / pattern.format(name=subject)
    if not file.is_file():
        raise FileNotFoundError(f"{name}: there must be a file of the subject {subject!r}, but there is none at {file}")
    return file


def _checked_folder(name: str, folder: AnyPath, pattern: str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"{name}: 'folder' must be a folder, but there is none at {path}")
    if "{name}" not in pattern:
        raise ValueError(f"{name}: 'pattern' must have {{name}} where the subject's name stands, got {pattern!r}")
    return path


class DisplacementFiles:
    """Displacements that another program computed, one file for each subject: of ANTs, ITK, 3D Slicer, FireANTs.

    A file holds the map from the template's space to the subject's, as ``antsRegistration`` writes it for the template
    as fixed image, see :func:`read_displacement`. Its grid covers the same box with the same axes as the atlas, with
    any number of voxels. Subjects without a file go on without a prior, and the log says so.

    Args:
        folder: of the files.
        pattern: name of a file, ``{name}`` standing for the subject's.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if ``pattern`` has no ``{name}``.

    Example:
        >>> prior = DisplacementFiles("ants", "{name}_1Warp.nii.gz")
    """

    spec = PriorSpec("ddf", 3, divisor=1, antisymmetric=False, needs_names=True)

    def __init__(self, folder: AnyPath, pattern: str = "{name}_1Warp.nii.gz"):
        self.folder = _checked_folder("DisplacementFiles", folder, pattern)
        self.pattern = pattern

    def predict(
        self,
        template: Tensor,
        subjects: Tensor,
        *,
        spacing: Tensor | None = None,
        attributes: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> Tensor:
        """Read the files of the subjects, see :meth:`RegistrationPrior.predict`.

        Raises:
            FileNotFoundError: if a subject has no file.
            ValueError: if names are missing, or a file holds no field over the same box.
        """
        size, fields = tuple(subjects.shape[2:]), []
        for name in _one_of_each("DisplacementFiles.predict", names, subjects):
            file = _found("DisplacementFiles.predict", self.folder, self.pattern, name)
            field, affine = read_displacement(file)
            if spacing is not None:
                steps = np.linalg.norm(affine[:3, :3], axis=0)
                box = steps * np.array(field.shape[2:])
                wanted = spacing.double().cpu().numpy() * np.array(size)
                if not (np.abs(box - wanted) <= np.maximum(steps, 0.02 * wanted)).all():
                    raise ValueError(
                        f"DisplacementFiles.predict: {file} must cover the box of the atlas, "
                        f"{np.round(wanted, 1).tolist()} mm, got {np.round(box, 1).tolist()} mm"
                    )
            fields.append(resize_field(field, size, corners=False))
        return torch.cat(fields).to(subjects.device)


class CachedVelocities:
    """Velocities that are known, from an earlier build or another method.

    Args:
        source: velocities by the subjects' names, real, ``(D, *T)`` or ``(1, D, *T)``, in voxels of any grid over the
            box of the atlas; or a folder of such arrays, ``.npy`` or ``.pt``.
        pattern: name of a file in the folder, ``{name}`` standing for the subject's.
        spatial_dims: 2 or 3.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if ``pattern`` has no ``{name}``.

    Example:
        >>> prior = CachedVelocities({"anna": torch.zeros(2, 4, 4)}, spatial_dims=2)
        >>> prior.predict(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), names=["anna"]).shape
        torch.Size([1, 2, 8, 8])
    """

    def __init__(self, source: Mapping[str, Tensor] | AnyPath, pattern: str = "{name}.npy", spatial_dims: int = 3):
        self.spec = PriorSpec("svf", spatial_dims, divisor=1, antisymmetric=False, needs_names=True)
        self.pattern = pattern
        self.source = (
            dict(source) if isinstance(source, Mapping) else _checked_folder("CachedVelocities", source, pattern)
        )

    def predict(
        self,
        template: Tensor,
        subjects: Tensor,
        *,
        spacing: Tensor | None = None,
        attributes: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the velocities of the subjects, see :meth:`RegistrationPrior.predict`.

        Raises:
            FileNotFoundError: if a subject has no file.
            ValueError: if names are missing, nothing is known of a subject, or it is no field.
        """
        fields = [self._velocity(name) for name in _one_of_each("CachedVelocities.predict", names, subjects)]
        return torch.cat([resize_field(f, subjects.shape[2:], corners=False) for f in fields]).to(subjects.device)

    def _velocity(self, name: str) -> Tensor:
        if isinstance(self.source, dict):
            if name not in self.source:
                raise ValueError(f"CachedVelocities.predict: 'source' must hold a velocity of {name!r}, it has none")
            field = self.source[name]
        else:
            file = _found("CachedVelocities.predict", self.source, self.pattern, name)
            loads_arrays = file.suffix == ".npy"
            field = (
                torch.from_numpy(np.load(file, allow_pickle=False))
                if loads_arrays
                else torch.load(file, map_location="cpu", weights_only=True)
            )
        field = field.float()
        return field if field.ndim == self.spec.spatial_dims + 2 else field[None]


register_prior("displacement_files", DisplacementFiles)
register_prior("cached", CachedVelocities)
