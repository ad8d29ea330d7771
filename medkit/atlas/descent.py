"""Descent of one velocity in the metric of the velocities: steps of a given length in voxels, halved when they fail."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.atlas.metric import SobolevMetric

FIRST_STEP = 0.5  # voxels
SMALLEST_STEP = 5e-4  # voxels
GROWTH = 1.1
SMALLEST_GAIN = 1e-4

DataTerm = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Descent:
    """Where a descent ended.

    Args:
        velocity: ``(1, D, *S)``, in voxels.
        energy: data term plus regulariser there.
        data: the data term alone.
        step: length of the next step, in voxels, with which to go on.
        n_accepted: steps that lowered the energy.
        has_converged: whether steps or gains became too small.
        energies: energy at the start and after each accepted step.
    """

    velocity: Tensor
    energy: float
    data: float
    step: float
    n_accepted: int
    has_converged: bool
    energies: tuple[float, ...]


def regulariser(
    metric: SobolevMetric, velocity: Tensor, anchor: Tensor | None = None, anchor_weight: float = 0.0
) -> Tensor:
    r"""What a velocity costs by itself, :math:`\frac12 (Lv, v) + \frac{\lambda}{2} (L(v - a), v - a)`.

    Args:
        metric: of the velocity's grid.
        velocity: ``(B, D, *S)``, in voxels.
        anchor: velocity :math:`a` to stay near; ``None``: none.
        anchor_weight: :math:`\lambda`, at least 0.

    Returns:
        ``(B,)``, in the unit of :meth:`SobolevMetric.inner`.

    Example:
        >>> regulariser(SobolevMetric((4, 4)), torch.ones(1, 2, 4, 4))
        tensor([16.])
    """
    cost = 0.5 * metric.inner(velocity, velocity)
    if anchor is not None and anchor_weight:
        cost = cost + 0.5 * anchor_weight * metric.inner(velocity - anchor, velocity - anchor)
    return cost


def descend(
    data: DataTerm,
    metric: SobolevMetric,
    velocity: Tensor,
    n_steps: int,
    step: float = FIRST_STEP,
    anchor: Tensor | None = None,
    anchor_weight: float = 0.0,
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> Descent:
    r"""Lower the energy of a velocity by gradient steps in its own metric.

    The gradient there is :math:`d = v + K \nabla E_{data} + \lambda (v - a)`; a step goes ``step`` voxels along it at
    its largest. It is taken if the energy falls, and the next one may be longer; otherwise it is halved. No learning
    rate, and no step that makes things worse.

    Args:
        data: from a velocity ``(1, D, *S)`` to the data term ``(1,)``, differentiable.
        metric: of the velocity's grid.
        velocity: ``(1, D, *S)``, in voxels, the start.
        n_steps: tries at most, at least 0.
        step: length of the first one, in voxels, at most 0.5.
        anchor: as for :func:`regulariser`.
        anchor_weight: as for :func:`regulariser`.
        rounded: what storing makes of a velocity. Each one is judged as it will be read again, so that the energy does
            not rise between runs. ``None``: nothing.

    Returns:
        Where it ended.

    Raises:
        ValueError: if the start is not one finite velocity, or a number is out of its range.

    Example:
        >>> metric = SobolevMetric((8, 8))
        >>> pull = lambda v: 0.5 * (v - 1).square().flatten(1).sum(1)
        >>> found = descend(pull, metric, torch.zeros(1, 2, 8, 8), 20)
        >>> found.energies[-1] < found.energies[0]
        True
    """
    if len(velocity) != 1 or not torch.isfinite(velocity).all():
        raise ValueError(f"descend: 'velocity' must be one finite field (1, D, *S), got {tuple(velocity.shape)}")
    if n_steps < 0 or not 0 < step <= FIRST_STEP or anchor_weight < 0:
        raise ValueError(
            f"descend: 'n_steps' and 'anchor_weight' must be at least 0 and 'step' in 0 to {FIRST_STEP}, got "
            f"{n_steps}, {anchor_weight} and {step}"
        )

    def valued(v: Tensor) -> tuple[float, float, Callable[[], Tensor]]:
        """Energy, data term, and what computes the gradient of the energy in the metric when it is wanted."""
        free = v.detach().requires_grad_()
        misfit = data(free)

        def downhill() -> Tensor:
            (slope,) = torch.autograd.grad(misfit.sum(), free)
            direction = v + metric.gradient(slope)
            if anchor is not None and anchor_weight:
                direction = direction + anchor_weight * (v - anchor)
            return direction

        energy = misfit.detach() + regulariser(metric, v, anchor, anchor_weight)
        return float(energy), float(misfit.detach()), downhill

    kept = rounded or (lambda v: v)
    v = kept(velocity.detach())
    energy, misfit, downhill = valued(v)
    energies, has_converged, direction = [energy], False, None
    for _ in range(n_steps):
        # Only where a step begins: tries that fail, and the last point, need no gradient.
        if direction is None:
            direction = downhill()
            length = float(direction.square().sum(1).max().sqrt())
        if length == 0 or step < SMALLEST_STEP:
            has_converged = True
            break
        tried = kept(v - (step / length) * direction)
        lower, its_misfit, its_downhill = valued(tried)
        if not lower < energy:
            step = step / 2
            del its_downhill  # or its graph stays in memory beside the next one
            continue
        gain = (energy - lower) / max(abs(energy), 1e-30)
        v, energy, misfit, downhill, direction = tried, lower, its_misfit, its_downhill, None
        energies.append(energy)
        step = min(GROWTH * step, FIRST_STEP)
        if gain < SMALLEST_GAIN:
            has_converged = True
            break
    return Descent(v, energy, misfit, step, len(energies) - 1, has_converged, tuple(energies))
