"""Trajectories and sums written out, for the tests of MRI off the Cartesian grid."""

import math

import torch

from medkit.mri import pipe_menon_weights, radial_trajectory, radial_weights, spiral_trajectory
from medkit.ops import centered_ifft


def grid(size):
    """Index units of every point of the Cartesian grid, in the order of a flattened image."""
    return torch.cartesian_prod(*[torch.arange(n) - n // 2 for n in size]).float()


def scattered(size, n_samples=40, n_batch=None, seed=0):
    """Points anywhere in the band, the ends of it among them."""
    shape = (n_samples, len(size)) if n_batch is None else (n_batch, n_samples, len(size))
    points = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.5
    points[..., 0, :], points[..., 1, :] = 0.5, -0.5
    return points * torch.tensor(size)


def fourier_matrix(trajectory, size):
    """The sum of :func:`nufft` as a matrix (n_samples, N), in double precision."""
    pixels = grid(size).double() / torch.tensor(size)
    return torch.exp(-2j * math.pi * (trajectory.double() @ pixels.T)) / math.sqrt(math.prod(size))


def sampled(kind, size):
    """A trajectory that samples the whole field of view fully, with its weights."""
    if kind == "spiral":
        # The diagonal of the field of view is sqrt(2) times as long.
        trajectory = spiral_trajectory(8, size, n_turns=max(size) / 16 * math.sqrt(2))
        return trajectory, pipe_menon_weights(trajectory, size)
    n_spokes = math.ceil(math.pi / 2 * max(size) * math.sqrt(2))
    return (f(n_spokes, size, order=kind) for f in (radial_trajectory, radial_weights))


def taper(trajectory, size):
    """A window that falls from 1 in the middle of k-space to 0 at the edge of the circle, or ball, and beyond it."""
    radius = (trajectory * 2 / torch.tensor(size)).norm(dim=-1)
    return torch.cos(math.pi / 2 * radius.clamp(max=1)).square()


def tapered(kspace):
    """The image of Cartesian k-space under that window, which has no ringing that the field of view cuts."""
    size = tuple(kspace.shape[2:])
    return centered_ifft(kspace * taper(grid(size), size).reshape(size), len(size))


def nrmse(image, reference):
    return float((image - reference).norm() / reference.norm())
