"""The energy of a pair, both ways, as the loss of a network that predicts velocities and as its metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.metrics import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor, nn

from medkit.atlas.descent import regulariser
from medkit.atlas.pyramid import Grid
from medkit.atlas.registration import PairEnergy, RegistrationModel
from medkit.ops import resize_field

SMALLEST_ENERGY = 1e-12


@dataclass(frozen=True)
class PairProblem:
    """What a velocity, as a network gives it on the images' grid, does to a pair.

    Args:
        there: energy of the template pushed to the subject.
        back: energy of the subject pushed to the template.
        velocity: ``(B, D, *T)``, on the grid of velocities.
    """

    there: PairEnergy
    back: PairEnergy
    velocity: Tensor

    @property
    def forward(self) -> Tensor:
        """Displacement ``(B, D, *S)`` by which the subject is warped to the template."""
        return self.there.displacement(self.velocity)

    def energies(self, velocity: Tensor) -> Tensor:
        """Return the symmetrised energies ``(B,)`` of velocities on their grid, divided by the volume of the images."""
        data = 0.5 * (self.there.data(velocity) + self.back.data(-velocity))
        total = data + regulariser(self.there.metric, velocity)
        grid = self.there.grid
        return total / (grid.voxel_volume * math.prod(grid.size))


def pair_problem(
    pred: Tensor, images: Tensor, model: RegistrationModel, spacing: Sequence[float] | float = 1.0
) -> PairProblem:
    """Make the energies of a prediction.

    Args:
        pred: velocity, real, ``(B, D, *S)``, in voxels.
        images: real, ``(B, 2 C, *S)``, 0 to 1: subject, then template.
        model: the energy, of a stationary velocity.
        spacing: mm between voxels, one number or one for each axis.

    Raises:
        ValueError: if the shapes do not fit.
    """
    n_axes = pred.ndim - 2
    if images.shape[2:] != pred.shape[2:] or images.shape[1] % 2 or len(images) != len(pred) or pred.shape[1] != n_axes:
        raise ValueError(
            f"pair_problem: 'pred' must be (B, D, *S) and 'images' (B, 2 C, *S), got {tuple(pred.shape)} and "
            f"{tuple(images.shape)}"
        )
    steps = (float(spacing),) * n_axes if isinstance(spacing, int | float) else tuple(float(h) for h in spacing)
    subject, template = images.float().chunk(2, dim=1)
    grid = Grid(tuple(pred.shape[2:]), steps)
    there, back = PairEnergy(model, grid, template, subject), PairEnergy(model, grid, subject, template)
    return PairProblem(there, back, resize_field(pred.float(), there.metric.size, corners=False))


class SymmetricPairEnergy(nn.Module):
    r"""Loss of a network that predicts velocities: the energy that registration lowers, in both directions.

    .. math:: \frac{1}{2} \left[ D(I \circ \exp(-v), J) + D(J \circ \exp(v), I) \right] + \frac12 (Lv, v)

    with :math:`D` the data term and :math:`L` the metric of ``model``, divided by the volume of the images in mm³ (mm²
    in 2-D), so that it has about one size at every resolution.

    Args:
        model: the energy, of a stationary velocity; ``None``: its defaults.
        spacing: mm between voxels, one number or one for each axis.

    Raises:
        ValueError: if the model's path is a geodesic.

    Example:
        >>> SymmetricPairEnergy()(torch.zeros(1, 2, 16, 16), torch.ones(1, 2, 16, 16))
        tensor(0.)
    """

    def __init__(self, model: RegistrationModel | None = None, spacing: Sequence[float] | float = 1.0):
        super().__init__()
        self.model = RegistrationModel() if model is None else model
        self.spacing = spacing
        if self.model.path != "svf":
            raise ValueError(f"SymmetricPairEnergy: the path of 'model' must be 'svf', got {self.model.path!r}")

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Return the mean over the batch.

        Args:
            pred: velocity, real, ``(B, D, *S)``, in voxels.
            label: the pair itself, real, ``(B, 2 C, *S)``, 0 to 1: subject, then template.

        Raises:
            ValueError: if the shapes do not fit.
        """
        with torch.autocast(pred.device.type, enabled=False):
            problem = pair_problem(pred, label, self.model, self.spacing)
            return problem.energies(problem.velocity).mean()


class RelativeEnergy(CumulativeIterationMetric):
    """Energy of a pair with its predicted velocity as a part of that with no motion: 1 is useless, smaller is better.

    For MONAI's engines; see :class:`SymmetricPairEnergy` for the energy and the inputs.

    Args:
        model: the energy; ``None``: its defaults.
        spacing: mm between voxels.

    Example:
        >>> RelativeEnergy()(torch.zeros(1, 2, 16, 16), torch.rand(1, 2, 16, 16))
        tensor([[1.]])
    """

    def __init__(self, model: RegistrationModel | None = None, spacing: Sequence[float] | float = 1.0):
        super().__init__()
        self.model = RegistrationModel() if model is None else model
        self.spacing = spacing

    @torch.no_grad()
    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if y is None:
            raise ValueError("RelativeEnergy: 'y' must be the pairs (B, 2 C, *S), got none")
        problem = pair_problem(y_pred, y, self.model, self.spacing)
        still = problem.energies(torch.zeros_like(problem.velocity)).clamp(min=SMALLEST_ENERGY)
        return (problem.energies(problem.velocity) / still)[:, None]

    def aggregate(self) -> Tensor:
        """Return the mean over all pairs, 0-dim.

        Raises:
            ValueError: if there was none.
        """
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError("RelativeEnergy: there must be a pair to aggregate, got none")
        return do_metric_reduction(values, MetricReduction.MEAN)[0]
