"""Registration of one subject to a template: velocities on a coarser grid, a pyramid, and a prior that may start it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medkit.atlas.descent import FIRST_STEP, Descent, descend, regulariser
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.priors import RegistrationPrior, predict_velocity
from medkit.atlas.pyramid import Grid, downsampled
from medkit.atlas.shooting import GeodesicShooting
from medkit.atlas.similarities import SIMILARITIES, similarity_term
from medkit.atlas.template import check_images, data_term
from medkit.atlas.transformation import StationaryVelocity, Transformation
from medkit.ops import resize_field, warp

logger = logging.getLogger(__name__)

MODELS = ("svf", "lddmm")


@dataclass(frozen=True)
class RegistrationModel:
    """Energy of a registration: noise, smoothness, kind of path, grid of the velocities.

    Args:
        sigma: standard deviation of the noise, intensities being 0 to 1; smaller fits closer.
        alpha: weight of the Laplacian in the metric, mm².
        gamma: weight of the identity in the metric.
        power: exponent of the metric.
        path: ``"svf"``, a stationary velocity, or ``"lddmm"``, a geodesic.
        velocity_factor: velocities live on a grid that is coarser by this factor.
        n_squarings: of the exponential; ``None``: as many as needed.
        n_steps: of a geodesic.
        n_modes: frequencies of a geodesic's velocity along each axis.
        form: of the data term, see :func:`data_term`.
        similarity: ``"ssd"``, squared differences; ``"lncc"``, local correlation, for bias fields; ``"mi"``, mutual
            information, for other contrasts; see :func:`similarity_term`.
        window: of local correlation, voxels along each side, odd.

    Raises:
        ValueError: if the path or the similarity is unknown, or a number is none or out of its range.

    Example:
        >>> RegistrationModel(path="lddmm").sigma
        0.03
    """

    sigma: float = 0.03
    alpha: float = 3.0
    gamma: float = 1.0
    power: float = 3.0
    path: str = "svf"
    velocity_factor: float = 2.0
    n_squarings: int | None = None
    n_steps: int = 10
    n_modes: int = 32
    form: str = "subject"
    similarity: str = "ssd"
    window: int = 9

    def __post_init__(self) -> None:
        """Check what is not checked where it is used, before anything is computed."""
        for name in ("sigma", "gamma", "power", "alpha"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and 0 <= value < math.inf
            if not is_number or (value == 0 and name != "alpha"):
                limit = "of at least 0" if name == "alpha" else "above 0"
                raise ValueError(f"RegistrationModel: '{name}' must be a number {limit}, got {value!r}")
        if self.path not in MODELS:
            raise ValueError(f"RegistrationModel: 'path' must be one of {', '.join(MODELS)}, got {self.path!r}")
        if self.similarity not in ("ssd", *SIMILARITIES):
            raise ValueError(
                f"RegistrationModel: 'similarity' must be one of ssd, {', '.join(SIMILARITIES)}, got "
                f"{self.similarity!r}"
            )
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"RegistrationModel: 'window' must be odd and at least 3, got {self.window}")

    def metric(self, grid: Grid) -> SobolevMetric:
        """Metric of the velocities for images on ``grid``."""
        coarse = grid.coarser(self.velocity_factor)
        return SobolevMetric(coarse.size, coarse.spacing, self.alpha, self.gamma, self.power)

    def transformation(self, metric: SobolevMetric) -> Transformation:
        """Path of a velocity on the metric's grid."""
        if self.path == "svf":
            return StationaryVelocity(self.n_squarings)
        return GeodesicShooting(metric, self.n_steps, self.n_modes)


@dataclass
class PairEnergy:
    """Data term of one subject as a function of its velocity, on one grid.

    Args:
        model: the energy.
        grid: of the images.
        template: ``(1, C, *grid.size)``.
        subject: ``(1, C, *grid.size)``.
        weight: ``(1, 1, *grid.size)``, in the subject's space; ``None``: 1.
    """

    model: RegistrationModel
    grid: Grid
    template: Tensor
    subject: Tensor
    weight: Tensor | None = None
    metric: SobolevMetric = field(init=False)
    transformation: Transformation = field(init=False)

    def __post_init__(self) -> None:
        """Check the images and make the metric."""
        check_images("PairEnergy", self.template, self.subject, self.weight)
        if tuple(self.template.shape[2:]) != self.grid.size:
            raise ValueError(
                f"PairEnergy: images must lie on the grid {self.grid.size}, got {tuple(self.template.shape)}"
            )
        self.metric = self.model.metric(self.grid)
        self.transformation = self.model.transformation(self.metric)

    def displacement(self, velocity: Tensor, inverse: bool = False) -> Tensor:
        """Displacement on the images' grid, ``(1, D, *grid.size)``, of a velocity on the metric's."""
        return resize_field(self.transformation.displacement(velocity, inverse), self.grid.size, corners=False)

    def data(self, velocity: Tensor) -> Tensor:
        """Return the data term ``(1,)`` of a velocity ``(1, D, *metric.size)``."""
        moved = self.displacement(velocity, inverse=self.model.form == "subject")
        model, volume = self.model, self.grid.voxel_volume
        if model.similarity == "ssd":
            return data_term(self.template, self.subject, moved, self.weight, model.sigma, volume, model.form)
        if model.form == "subject":
            image, explained, weight = warp(self.template, moved), self.subject, self.weight
        else:
            image, explained = warp(self.subject, moved), self.template
            weight = None if self.weight is None else warp(self.weight, moved)
        return similarity_term(image, explained, weight, model.similarity, model.sigma, volume, model.window)

    @torch.no_grad()
    def energy(self, velocity: Tensor) -> float:
        """Return data term and regulariser together."""
        return float(self.data(velocity) + regulariser(self.metric, velocity))

    def best_start(self, candidates: Sequence[Tensor]) -> tuple[int, float]:
        """Return which of several velocities has the least energy, the first of equals, and that energy.

        What is not finite never wins.
        """
        energies = [self.energy(v) if bool(torch.isfinite(v).all()) else float("inf") for v in candidates]
        energies = [e if e == e else float("inf") for e in energies]  # NaN is no energy
        index = min(range(len(energies)), key=energies.__getitem__)
        return index, energies[index]


def velocity_step(
    problem: PairEnergy,
    velocity: Tensor,
    n_steps: int,
    step: float = FIRST_STEP,
    prediction: Tensor | None = None,
    prior_weight: float = 0.0,
    name: str = "subject",
    rounded: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Descent, str]:
    """Improve one subject's velocity, from the best of where it is, what a prior says, half of that, and rest.

    So the energy can only fall, whatever the prior says: with a useless one the path is that without it.

    Args:
        problem: the energy.
        velocity: where it is, ``(1, D, *metric.size)``.
        n_steps: tries of the descent.
        step: length of the first one, in voxels.
        prediction: of a prior; ``None``: none.
        prior_weight: how strongly to stay near the prediction, at least 0. A prediction that is not better than rest
            does not count.
        name: of the subject, for the log.
        rounded: what storing makes of a velocity, see :func:`descend`.

    Returns:
        Where it ended, and where it began: ``"current"``, ``"prior"``, ``"half_prior"`` or ``"rest"``.

    Raises:
        ValueError: if a shape does not fit.

    Example:
        >>> grid = Grid((16, 16), (1.0, 1.0))
        >>> problem = PairEnergy(RegistrationModel(), grid, torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
        >>> velocity_step(problem, torch.zeros(1, 2, 8, 8), 3)[1]
        'current'
    """
    names, candidates = ["current"], [velocity]
    if prediction is not None:
        names += ["prior", "half_prior"]
        candidates += [prediction, 0.5 * prediction]
    if bool(velocity.any()):
        names.append("rest")
        candidates.append(torch.zeros_like(velocity))
    if rounded is not None:
        candidates = [rounded(v) for v in candidates]
    index = problem.best_start(candidates)[0] if len(candidates) > 1 else 0
    anchor = None
    if prediction is not None and prior_weight > 0:
        still, guessed = (problem.energy(v) for v in (torch.zeros_like(velocity), prediction))
        if guessed < still:
            anchor = prediction
        else:
            logger.info("%s: the prior's prediction is no better than no motion and does not count", name)
    found = descend(
        problem.data,
        problem.metric,
        candidates[index],
        n_steps,
        step if index == 0 else FIRST_STEP,
        anchor,
        prior_weight if anchor is not None else 0.0,
        rounded,
    )
    return found, names[index]


@dataclass(frozen=True)
class Registration:
    """Two images brought together.

    Args:
        velocity: ``(1, D, *T)``, in voxels of its own, coarser grid.
        forward: ``(1, D, *S)``, in voxels: ``warp(moving, forward)`` resembles ``fixed``.
        inverse: ``(1, D, *S)``, in voxels: ``warp(fixed, inverse)`` resembles ``moving``.
        warped: ``(1, C, *S)``, the moving image on the fixed one.
        energies: of each level, at its start and after each step.
    """

    velocity: Tensor
    forward: Tensor
    inverse: Tensor
    warped: Tensor
    energies: tuple[tuple[float, ...], ...]


def register_pair(
    fixed: Tensor,
    moving: Tensor,
    spacing: Sequence[float] | float = 1.0,
    weight: Tensor | None = None,
    model: RegistrationModel | None = None,
    factors: Sequence[float] = (4, 2, 1),
    n_steps: Sequence[int] = (60, 40, 20),
    prior: RegistrationPrior | None = None,
    prior_weight: float = 0.0,
) -> Registration:
    """Register two images that are affinely aligned, by a smooth invertible map.

    Args:
        fixed: real, ``(1, C, *S)``, 0 to 1.
        moving: real, ``(1, C, *S)``, 0 to 1, on the same grid.
        spacing: mm between voxels, one number or one for each axis.
        weight: ``(1, 1, *S)``, how much each voxel of ``moving`` counts; ``None``: 1.
        model: the energy; ``None``: its defaults.
        factors: how much coarser each level is than the images, from coarse to fine, the last one 1.
        n_steps: gradient steps at each level.
        prior: asked once at the first level; ``None``: none.
        prior_weight: how strongly to stay near its prediction at the first level.

    Returns:
        The registration.

    Raises:
        ValueError: if shapes do not fit, something is not finite, or the levels are out of order.

    Example:
        >>> image = torch.rand(1, 1, 24, 24)
        >>> float(register_pair(image, image, factors=(1,), n_steps=(2,)).forward.abs().max())
        0.0
    """
    model = RegistrationModel() if model is None else model
    check_images("register_pair", fixed, moving, weight)
    if len(fixed) != 1 or len(moving) != 1 or not all(torch.isfinite(x).all() for x in (fixed, moving)):
        raise ValueError("register_pair: 'fixed' and 'moving' must be one finite image each (1, C, *S)")
    if (
        len(factors) != len(n_steps)
        or not factors
        or list(factors) != sorted(factors, reverse=True)
        or factors[-1] != 1
    ):
        raise ValueError(
            f"register_pair: 'factors' must fall to 1, with one of 'n_steps' for each, got {factors} and {n_steps}"
        )
    n_axes = fixed.ndim - 2
    steps = (float(spacing),) * n_axes if isinstance(spacing, int | float) else tuple(float(h) for h in spacing)
    grid = Grid(tuple(fixed.shape[2:]), steps)
    velocity = fixed.new_zeros(1, n_axes, *[1] * n_axes, dtype=torch.float32)
    energies = []
    for i_level, (factor, n) in enumerate(zip(factors, n_steps, strict=True)):
        level = grid.coarser(factor)
        images = [downsampled(x, level.size) for x in (fixed, moving)]
        counted = None if weight is None else downsampled(weight, level.size)
        problem = PairEnergy(model, level, images[0], images[1], counted)
        prediction = None
        if prior is not None and i_level == 0:
            prediction = predict_velocity(prior, images[0], images[1], problem.metric, "moving")
        velocity = resize_field(velocity, problem.metric.size, corners=False)
        found, start = velocity_step(problem, velocity, n, FIRST_STEP, prediction, prior_weight, "moving")
        velocity = found.velocity
        energies.append(found.energies)
        logger.info(
            "level %d of %d, %s voxels, from %s: energy %.6g to %.6g in %d steps",
            i_level + 1,
            len(factors),
            "x".join(map(str, level.size)),
            start,
            found.energies[0],
            found.energy,
            found.n_accepted,
        )
    with torch.no_grad():
        forward, inverse = (problem.displacement(velocity, inverse=i) for i in (False, True))
        return Registration(velocity, forward, inverse, warp(moving, forward), tuple(energies))
