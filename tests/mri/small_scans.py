"""Scans with several coils: a simulated one whose maps are known, and the raw ones of two scanners."""

import h5py
import numpy as np
import torch

from medkit.ops import centered_fft


def make_scan(size=(48, 40), n_coils=4):
    """Smooth coils around a disc with smooth phase; returns k-space, true maps, object."""
    row, column = (torch.linspace(-1, 1, n) for n in size)
    row, column = row[:, None], column[None, :]
    angle = torch.arange(n_coils) * (2 * torch.pi / n_coils)
    distance = (row - 1.5 * torch.sin(angle)[:, None, None]) ** 2 + (
        column - 1.5 * torch.cos(angle)[:, None, None]
    ) ** 2
    maps = torch.polar(1 / (1 + distance), 0.5 * distance)
    maps = maps / torch.linalg.vector_norm(maps, dim=0)
    disc = torch.sigmoid((0.7 - torch.hypot(row, column)) * 20)
    image = torch.polar(disc, 1.0 + 0.8 * row * torch.ones_like(column))
    return centered_fft(image * maps)[None], maps[None], image[None, None]


def read_eight_coils(folder):
    array = np.fromfile(folder / "mri_recon/sidward__espirit-python/full.cfl", dtype=np.complex64)
    return torch.from_numpy(array.reshape(230, 180, 8, order="F").transpose(2, 0, 1).copy())[None]


def read_sixteen_coils(folder):
    with h5py.File(folder / "mri_recon/mchiew__SENSE-tutorial/raw_data.mat") as file:
        raw = file["raw"][()]
    return torch.from_numpy((raw["real"] + 1j * raw["imag"])[:, 0].astype(np.complex64))[None]
