"""A finished atlas of phantoms with known velocities, its subjects' files on oblique grids behind known affine maps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from medkit.atlas import AtlasFolder, AtlasSubject, Frame, Member, RegistrationModel
from medkit.atlas.result import write_record
from medkit.ops import identity_points, sample
from tests.atlas.phantom import intensity, velocities

BRIGHT = 1000.0  # intensity in the files that becomes 1


def label_map(points: Tensor, size: tuple[int, ...]) -> Tensor:
    """Three structures of the phantom at points ``(B, 3, *T)``: 2 rind, 3 core, 7 ventricle."""
    centre = torch.tensor([(n - 1) / 2 for n in size], dtype=points.dtype).reshape(1, 3, 1, 1, 1)
    x = (points - centre) / (min(size) / 2)
    radius = x.square().sum(1, keepdim=True).sqrt()
    ventricle = (x[:, :1].square() * 2 + x[:, 1:2].square() * 6 + x[:, 2:3].square()).sqrt() < 0.3
    labels = torch.where(radius < 0.72, 2, 0)
    labels = torch.where(radius < 0.52, 3, labels)
    return torch.where(ventricle & (radius < 0.5), 7, labels)


def subject_matrix(i: int) -> np.ndarray:
    """A known affine map from template to subject, RAS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.05 * i, -0.1, 0.08 * i]).as_matrix() * (1 + 0.03 * (i - 1))
    matrix[:3, 3] = (3.0 * i, -2.0, 1.5 * i)
    return matrix


def native_frame(i: int, frame: Frame, matrix: np.ndarray, whole: bool = True) -> Frame:
    """An oblique, anisotropic grid that covers the head of a subject."""
    steps = np.array([(1.0, 1.2, 1.6), (1.3, 0.9, 1.1), (1.1, 1.1, 0.9), (1.5, 1.0, 1.2)][i % 4]) * frame.grid.spacing
    turned = Rotation.from_rotvec([0.1, 0.2 * i, -0.15]).as_matrix()
    if i % 2:
        turned[:, 0] *= -1  # left-handed, as files often are
    extent = np.array(frame.size) * frame.grid.spacing
    share = 1.25 if whole else 0.75
    size = tuple(int(n) for n in np.ceil(share * extent / steps))
    affine = np.eye(4)
    affine[:3, :3] = turned * steps
    middle = matrix[:3, :3] @ frame.centre + matrix[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(size) - 1) / 2)
    return Frame(size, affine)


def template_points(atlas: AtlasFolder, member: Member, grid: Frame) -> Tensor:
    """Where the true voxels of a subject's file are in the template, ``(1, 3, *grid.size)``."""
    whole = np.linalg.inv(member.matrix @ atlas.frame.affine) @ grid.affine
    points = torch.einsum("ij,bjxyz->bixyz", torch.from_numpy(whole[:3, :3]),
                          identity_points(grid.size, torch.zeros((), dtype=torch.float64)))  # fmt: skip
    points = points + torch.from_numpy(whole[:3, 3]).reshape(1, 3, 1, 1, 1)
    return points + sample(atlas.displacement(member, inverse=True).double(), points)


def save(path: Path, array: Tensor | np.ndarray, frame: Frame) -> str:
    image = nibabel.Nifti1Image(np.asarray(array), frame.affine)
    image.set_sform(frame.affine, 1)
    image.set_qform(frame.affine, 1)
    nibabel.save(image, path)
    return str(path)


def small_atlas(
    folder: Path,
    size: tuple[int, ...] = (32, 32, 32),
    n: int = 3,
    contrasts: tuple[str, ...] = ("image",),
    amplitude: float = 0.8,
    whole: bool = True,
    n_final_steps: int = 2,
    symmetric: bool = False,
    lacking: tuple[tuple[int, str], ...] = (),
    weighted: int | None = None,
    noise: float = 0.0,
    high: float = BRIGHT,
) -> AtlasFolder:
    """Write subjects, their velocities and the record of an atlas.

    Args:
        folder: where; the files of the subjects go into ``native``.
        size: of the template, voxels of 2 mm.
        n: subjects.
        contrasts: of each; the second one is the first one upside down.
        amplitude: of the velocities, RMS, voxels of their grid, which is half as fine; their mean is 0.
        whole: whether the files hold the whole object, or cut it.
        n_final_steps: of the record.
        symmetric: of the record.
        lacking: numbers of subjects and contrasts that they lack.
        weighted: number of a subject that has a weight, 0 in a fifth of its file.
        noise: standard deviation, the template being 0 to 0.85.
        high: intensity in the files that becomes 1; 850 is what a new subject's would be.

    Returns:
        The atlas, without anything that is made from the velocities.
    """
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-30.0, -34.0, -28.0)
    frame, model = Frame(size, affine), RegistrationModel()
    native = folder / "native"
    (folder / "velocities").mkdir(parents=True)
    native.mkdir()
    coarse = model.metric(frame.grid).size
    fields = velocities(coarse, n, amplitude, 3.0, seed=5).half().numpy()
    record = {"size": size, "affine": affine.tolist(), "contrasts": list(contrasts), "model": asdict(model),
              "n_final_steps": n_final_steps, "symmetric": symmetric,
              "trace": [{"level": 1, "round": k, "energy": 1000.0 / (k + 1) + 500} for k in range(5)]}  # fmt: skip
    for i in range(n):
        np.save(folder / "velocities" / f"s{i}.npy", fields[i])
    blank = [Member(AtlasSubject(f"s{i}", {}), subject_matrix(i), {}, {}) for i in range(n)]
    write_record(folder, record, tuple(blank))
    atlas = AtlasFolder(folder)
    generator = torch.Generator().manual_seed(0)
    members = []
    for i, member in enumerate(atlas.members):
        grid = native_frame(i, frame, member.matrix, whole)
        points = template_points(atlas, member, grid)
        image = intensity(points, size)[0, 0]
        image = image + noise * torch.randn(image.shape, generator=generator, dtype=image.dtype)
        images = {}
        for k, contrast in enumerate(contrasts):
            if (i, contrast) not in lacking:
                seen = image if k == 0 else (0.9 - image) * (image > 0.05)
                raw = (BRIGHT * seen).float()
                images[contrast] = save(native / f"s{i}_{contrast}.nii.gz", raw, grid)
        labels = save(native / f"s{i}_labels.nii.gz", label_map(points, size)[0, 0].to(torch.int16), grid)
        weight = None
        if i == weighted:
            counted = torch.ones(grid.size)
            counted[:, :, : grid.size[2] // 2] = torch.where(image[:, :, : grid.size[2] // 2] > 0.3, 0.0, 1.0).float()
            weight = save(native / f"s{i}_weight.nii.gz", counted, grid)
        subject = AtlasSubject(member.name, images, None, weight, labels, {"age": 20.0 + 10 * i})
        ranges = dict.fromkeys(images, (0.0, high))
        members.append(Member(subject, member.matrix, ranges, dict.fromkeys(images, whole), 100.0 + i))
    write_record(folder, record, tuple(members))
    return AtlasFolder(folder)
