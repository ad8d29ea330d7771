"""The smoothness operator L = (-alpha Laplacian + gamma)^c in Fourier space, everything in millimetres."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.ops.warping import check_field


class SobolevMetric:
    r"""Inner product of velocities, :math:`(Lv, w)` with :math:`L = (-\alpha \Delta + \gamma)^c`.

    Velocities come and go in voxels of their grid, as everywhere; the operator acts on them in mm, and energies are
    integrals over space. So the same smooth velocity has the same energy on a fine and a coarse grid, and no weight is
    tuned anew for another resolution. The grid is taken as periodic: leave some background on each side of an object.
    The Laplacian is the one of three points along each axis. For smooth input :math:`K = L^{-1}` acts like a Gaussian
    with a standard deviation of about :math:`\sqrt{2 \alpha c}` mm (``gamma`` 1).

    Args:
        size: voxels along each axis, two or three.
        spacing: mm between voxels, one number or one for each axis.
        alpha: weight of the Laplacian, mm², at least 0.
        gamma: weight of the identity, positive.
        power: exponent c, positive.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> metric = SobolevMetric((16, 16), spacing=2.0)
        >>> metric.inner(torch.ones(1, 2, 16, 16), torch.ones(1, 2, 16, 16))  # gamma^c, 2 mm each, 32 mm x 32 mm
        tensor([8192.])
    """

    def __init__(
        self,
        size: Sequence[int],
        spacing: Sequence[float] | float = 1.0,
        alpha: float = 3.0,
        gamma: float = 1.0,
        power: float = 3.0,
    ):
        n_axes = len(size)
        steps = (float(spacing),) * n_axes if isinstance(spacing, int | float) else tuple(float(h) for h in spacing)
        if n_axes not in (2, 3) or min(size) < 1:
            raise ValueError(f"SobolevMetric: 'size' must be 2 or 3 positive numbers of voxels, got {tuple(size)}")
        if len(steps) != n_axes or not all(0 < h < math.inf for h in steps):
            raise ValueError(f"SobolevMetric: 'spacing' must be {n_axes} positive numbers of mm, got {spacing}")
        if not 0 <= alpha < math.inf or not 0 < gamma < math.inf or not 0 < power < math.inf:
            raise ValueError(
                "SobolevMetric: 'alpha' must be at least 0, 'gamma' and 'power' positive, got "
                f"{alpha}, {gamma} and {power}"
            )
        self.size = tuple(int(n) for n in size)
        self.spacing = steps
        self.alpha, self.gamma, self.power = float(alpha), float(gamma), float(power)
        self.voxel_volume = math.prod(steps)
        self._symbols: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    @property
    def spatial_dims(self) -> int:
        """Number of axes."""
        return len(self.size)

    def symbol(self, frequencies: Sequence[Tensor]) -> Tensor:
        """Eigenvalue of L at whole frequencies of this grid.

        Args:
            frequencies: for each axis the cycles over the grid, real, 1-D.

        Returns:
            float64, one axis for each of ``frequencies``.
        """
        total = torch.zeros((), dtype=torch.float64)
        for k, (n, h) in enumerate(zip(self.size, self.spacing, strict=True)):
            angle = 2 * math.pi * frequencies[k].double() / n
            term = 2 * (1 - torch.cos(angle)) / h**2
            total = total + term.reshape([-1 if axis == k else 1 for axis in range(self.spatial_dims)])
        return (self.alpha * total + self.gamma) ** self.power

    def _eigenvalues(self, like: Tensor) -> Tensor:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        key = (dtype, like.device)
        if key not in self._symbols:
            frequencies = [torch.fft.fftfreq(n, 1 / n) for n in self.size[:-1]]
            frequencies.append(torch.arange(self.size[-1] // 2 + 1))
            self._symbols[key] = self.symbol(frequencies).to(like.device, dtype)
        return self._symbols[key]

    def _steps(self, like: Tensor) -> Tensor:
        steps = torch.tensor(self.spacing, dtype=like.dtype, device=like.device)
        return steps.reshape(1, -1, *[1] * self.spatial_dims)

    def _checked(self, name: str, argument: str, field: Tensor) -> Tensor:
        check_field(f"SobolevMetric.{name}", argument, field)
        if tuple(field.shape[2:]) != self.size:
            raise ValueError(
                f"SobolevMetric.{name}: '{argument}' must lie on the grid {self.size}, got {tuple(field.shape)}"
            )
        return field.to(torch.promote_types(field.dtype, torch.float32))

    def to_mm(self, field: Tensor) -> Tensor:
        """Bring a field ``(B, D, *size)`` from voxels to mm.

        Raises:
            ValueError: if it is no field on this grid.
        """
        checked = self._checked("to_mm", "field", field)
        return checked * self._steps(checked)

    def to_voxels(self, field: Tensor) -> Tensor:
        """Bring a field ``(B, D, *size)`` from mm to voxels.

        Raises:
            ValueError: if it is no field on this grid.
        """
        checked = self._checked("to_voxels", "field", field)
        return checked / self._steps(checked)

    def _filtered(self, field: Tensor, invert: bool) -> Tensor:
        axes = tuple(range(2, 2 + self.spatial_dims))
        with torch.autocast(field.device.type, enabled=False):
            spectrum = torch.fft.rfftn(field, dim=axes)
            values = self._eigenvalues(field)
            return torch.fft.irfftn(spectrum / values if invert else spectrum * values, s=self.size, dim=axes)

    def momentum(self, velocity: Tensor) -> Tensor:
        """Apply L: the momentum of a velocity.

        Args:
            velocity: real, ``(B, D, *size)``, in voxels.

        Returns:
            ``(B, D, *size)``, L of the velocity in mm.

        Raises:
            ValueError: if it is no field on this grid.
        """
        return self._filtered(self.to_mm(velocity), invert=False)

    def velocity(self, momentum: Tensor) -> Tensor:
        """Apply K = L⁻¹: the velocity of a momentum; the inverse of :meth:`momentum`.

        Args:
            momentum: real, ``(B, D, *size)``.

        Returns:
            ``(B, D, *size)``, in voxels.

        Raises:
            ValueError: if it is no field on this grid.
        """
        return self.to_voxels(self._filtered(self._checked("velocity", "momentum", momentum), invert=True))

    def inner(self, velocity: Tensor, other: Tensor) -> Tensor:
        r"""Inner product :math:`\int \langle L v, w \rangle \, dx`.

        Args:
            velocity: real, ``(B, D, *size)``, in voxels.
            other: the same.

        Returns:
            ``(B,)``, in mm² times mm to the number of axes.

        Raises:
            ValueError: if one is no field on this grid.
        """
        product = self.momentum(velocity) * self.to_mm(other)
        return self.voxel_volume * product.flatten(1).sum(1)

    def gradient(self, slope: Tensor) -> Tensor:
        """Turn derivatives by the components in voxels into the gradient in this metric.

        The result ``g`` is the field with ``inner(g, w)`` = the sum of ``slope * w`` for all ``w``.

        Args:
            slope: real, ``(B, D, *size)``, the derivative of an energy by each component of a velocity in voxels.

        Returns:
            ``(B, D, *size)``, in voxels.

        Raises:
            ValueError: if it is no field on this grid.
        """
        # A step of a voxel is one of so many mm: the slope by mm is that by voxels divided by it.
        return self.velocity(self.to_voxels(slope)) / self.voxel_volume

    def __repr__(self) -> str:
        """Grid and weights."""
        return (
            f"SobolevMetric(size={self.size}, spacing={self.spacing}, alpha={self.alpha}, gamma={self.gamma}, "
            f"power={self.power})"
        )
