"""Geodesic shooting: the flow that an initial velocity starts, with band-limited velocities (EPDiff)."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.atlas.metric import SobolevMetric
from medkit.ops import compose

INTEGRATORS = ("rk4", "euler")


class GeodesicShooting:
    r"""Transformation whose path is a geodesic of a metric, given by its initial velocity.

    .. math:: \dot v = -K \left[ (Dv)^T m + \mathrm{div}(m \otimes v) \right], \quad m = L v

    Velocities evolve on a band of low frequencies, products being formed on a grid half as fine again so that nothing
    aliases; energy :math:`(Lv, v)` is constant along the path but for the steps in time. The map follows on the
    velocity's own grid: each step composes the flow of the velocity in its middle. Periodic, like the metric. Sources:
    Miller et al. 2006, doi:10.1007/s10851-005-3624-0; Zhang and Fletcher 2019, doi:10.1007/s11263-018-1099-x.

    Args:
        metric: of the grid on which velocities are given.
        n_steps: steps in time from 0 to 1, at least 1.
        n_modes: frequencies kept along each axis, made odd downwards; at most as many as the grid has.
        integrator: ``"rk4"``, or ``"euler"``, of first order.

    Raises:
        ValueError: if a number is out of its range, or the integrator is unknown.

    Example:
        >>> shoot = GeodesicShooting(SobolevMetric((32, 32)))
        >>> shoot.displacement(torch.full((1, 2, 32, 32), 0.5))[0, 0, 3, 3]
        tensor(0.5000)
    """

    def __init__(self, metric: SobolevMetric, n_steps: int = 10, n_modes: int = 32, integrator: str = "rk4"):
        if n_steps < 1 or n_modes < 1:
            raise ValueError(f"GeodesicShooting: 'n_steps' and 'n_modes' must be at least 1, got {n_steps}, {n_modes}")
        if integrator not in INTEGRATORS:
            raise ValueError(f"GeodesicShooting: 'integrator' must be one of {INTEGRATORS}, got {integrator!r}")
        self.metric = metric
        self.n_steps = n_steps
        self.integrator = integrator
        # Odd, so that each frequency has its negative and the highest one no sign of its own.
        kept = [min(n_modes, n) for n in metric.size]
        self.band = tuple(m if m % 2 else m - 1 for m in kept)
        # Products of two fields of the band reach twice its width; what folds back must miss the band.
        self.product_grid = tuple(m + m // 2 + (m + m // 2 + 1) % 2 for m in self.band)
        frequencies = [torch.fft.fftfreq(m, 1 / m) for m in self.band]
        self._operator = metric.symbol(frequencies)
        self._derivatives = [
            (torch.sin(2 * math.pi * f.double() / n) / h).reshape([-1 if a == k else 1 for a in range(len(self.band))])
            for k, (f, n, h) in enumerate(zip(frequencies, metric.size, metric.spacing, strict=True))
        ]

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(2, 2 + len(self.band)))

    def _spectrum(self, field: Tensor) -> Tensor:
        """Fourier coefficients of the band, ``(B, C, *band)``, of a field on any grid over the same space."""
        spectrum = torch.fft.fftn(field, dim=self._axes, norm="forward")
        return _copied(spectrum, self.band, self.band)

    def _on_grid(self, spectrum: Tensor, size: Sequence[int]) -> Tensor:
        """Field ``(B, C, *size)`` of coefficients ``(B, C, *band)``."""
        return torch.fft.ifftn(_copied(spectrum, size, self.band), dim=self._axes, norm="forward").real

    def _rate(self, velocity: Tensor) -> Tensor:
        """Change of the coefficients ``(B, D, *band)`` of the velocity in mm in a unit of time."""
        real = velocity.real.dtype
        operator = self._operator.to(velocity.device, real)
        derivatives = [1j * d.to(velocity.device, real) for d in self._derivatives]
        n_axes = len(self.band)
        momentum = operator * velocity
        slopes = torch.cat([d * velocity for d in derivatives], 1)
        fields = self._on_grid(torch.cat([velocity, momentum, slopes], 1), self.product_grid)
        v, m = fields[:, :n_axes], fields[:, n_axes : 2 * n_axes]
        slope = fields[:, 2 * n_axes :].unflatten(1, (n_axes, n_axes))  # [derivative, component]
        products = (slope * m[:, None]).sum(2)
        fluxes = (m[:, :, None] * v[:, None]).flatten(1, 2)
        spectra = self._spectrum(torch.cat([products, fluxes], 1))
        flux = spectra[:, n_axes:].unflatten(1, (n_axes, n_axes))
        divergence = sum((derivatives[b] * flux[:, :, b] for b in range(n_axes)), torch.zeros_like(momentum))
        return -(spectra[:, :n_axes] + divergence) / operator

    def path(self, velocity: Tensor) -> list[Tensor]:
        """Velocities along the geodesic.

        Args:
            velocity: initial velocity, real, ``(B, D, *size)``, in voxels; its low frequencies are used.

        Returns:
            ``n_steps + 1`` spectra, complex ``(B, D, *band)``, of the velocity in mm.

        Raises:
            ValueError: if it is no field on the metric's grid.
        """
        state = self._spectrum(self.metric.to_mm(velocity))
        states, h = [state], 1.0 / self.n_steps
        for _ in range(self.n_steps):
            first = self._rate(state)
            if self.integrator == "euler":
                state = state + h * first
            else:
                second = self._rate(state + 0.5 * h * first)
                third = self._rate(state + 0.5 * h * second)
                fourth = self._rate(state + h * third)
                state = state + h / 6 * (first + 2 * second + 2 * third + fourth)
            states.append(state)
        return states

    def energies(self, velocity: Tensor) -> Tensor:
        """Energy (Lv, v) at each time of the path, which a geodesic keeps.

        Args:
            velocity: as for :meth:`path`.

        Returns:
            ``(n_steps + 1, B)``, in the unit of :meth:`SobolevMetric.inner`.
        """
        extent = self.metric.voxel_volume * math.prod(self.metric.size)
        values = []
        for state in self.path(velocity):
            operator = self._operator.to(state.device, state.real.dtype)
            values.append(extent * (operator * state.abs().square()).flatten(1).sum(1))
        return torch.stack(values)

    def displacement(self, velocity: Tensor, inverse: bool = False) -> Tensor:
        r"""End of the path, :math:`\phi_1 - id`, or that of its inverse.

        Args:
            velocity: initial velocity, real, ``(B, D, *size)``, in voxels.
            inverse: give :math:`\phi_1^{-1} - id`.

        Returns:
            ``(B, D, *size)``, in voxels.

        Raises:
            ValueError: if it is no field on the metric's grid.
        """
        states = self.path(velocity)
        total = torch.zeros_like(velocity, dtype=states[0].real.dtype)
        sign = -1.0 if inverse else 1.0
        for before, after in itertools.pairwise(states):
            middle = self.metric.to_voxels(self._on_grid(0.5 * (before + after), self.metric.size))
            half = 0.5 * sign / self.n_steps * middle
            step = compose(half, half)
            total = compose(total, step) if inverse else compose(step, total)
        return total


def _copied(spectrum: Tensor, size: Sequence[int], band: Sequence[int]) -> Tensor:
    """Bring a spectrum to ``size`` frequencies, those of the band kept in place, others zero."""
    for k, (n, m) in enumerate(zip(size, band, strict=True)):
        axis = k + 2
        low, high = m // 2 + 1, m // 2
        parts = [spectrum.narrow(axis, 0, low)]
        if n > m:
            shape = list(spectrum.shape)
            shape[axis] = n - m
            parts.append(spectrum.new_zeros(shape))
        if high:
            parts.append(spectrum.narrow(axis, spectrum.shape[axis] - high, high))
        spectrum = torch.cat(parts, axis)
    return spectrum
