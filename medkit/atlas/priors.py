"""What a learned registration network, or anything else that guesses a transformation, must offer to be a prior."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from medkit.atlas.linear_velocity import velocity_of_affine
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.prior_grids import fitted_images
from medkit.atlas.prior_spec import PriorSpec
from medkit.ops import logarithm, resize_field

logger = logging.getLogger(__name__)

# A prediction that moves a point further than the whole grid is no prediction.
MAX_GRID_SHARE = 1.0
# What foreign code raises when it fails on its input; the build goes on without it.
FAILURES = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


class RegistrationPrior(Protocol):
    """Guesses a transformation from the template to a subject; never has the last word."""

    spec: PriorSpec

    def predict(
        self, template: Tensor, subjects: Tensor, *, spacing: Tensor | None = None, attributes: Tensor | None = None
    ) -> Tensor:
        """Guess.

        Args:
            template: float32, ``(1 or B, C, *S)``, 0 to 1.
            subjects: float32, ``(B, C, *S)``, affinely aligned with the template, same grid and device.
            spacing: of the images given, mm, ``(D,)``.
            attributes: of the subjects (age, ...), ``(B, n)``.

        One more keyword, ``names``, a sequence of str, one for each subject, comes to priors whose ``spec`` has
        ``needs_names``.

        Returns:
            ``(B, D, *S)``, float32, in voxels, from the template to the subject: subjects warped by the
            exponential of a velocity, or by a displacement, resemble the template. For an affine prior
            ``(B, D, D + 1)``, on voxel coordinates from the centre of the grid.
        """


class IdentityPrior:
    """Guesses that nothing moves: with it, atlas building is the classical iterative method.

    Args:
        spatial_dims: 2 or 3.

    Example:
        >>> IdentityPrior(2).predict(torch.ones(1, 1, 8, 8), torch.ones(3, 1, 8, 8)).shape
        torch.Size([3, 2, 8, 8])
    """

    def __init__(self, spatial_dims: int = 3):
        self.spec = PriorSpec("svf", spatial_dims, divisor=1, max_batch=64)

    def predict(
        self, template: Tensor, subjects: Tensor, *, spacing: Tensor | None = None, attributes: Tensor | None = None
    ) -> Tensor:
        """Return zeros."""
        return subjects.new_zeros(len(subjects), self.spec.spatial_dims, *subjects.shape[2:])


REGISTRY: dict[str, Callable[..., RegistrationPrior]] = {"identity": IdentityPrior}


def register_prior(name: str, factory: Callable[..., RegistrationPrior]) -> None:
    """Give a prior a short name.

    Args:
        name: the name, an identifier.
        factory: makes the prior.

    Raises:
        ValueError: if the name is none, or taken by another factory.

    Example:
        >>> register_prior("still", IdentityPrior)
    """
    if not name.isidentifier():
        raise ValueError(f"register_prior: 'name' must be an identifier, got {name!r}")
    if REGISTRY.get(name, factory) is not factory:
        raise ValueError(f"register_prior: the name {name!r} is taken; choose another one")
    REGISTRY[name] = factory


def make_prior(name: str, **options: Any) -> RegistrationPrior:
    """Make a prior from its registered name, or from ``module:factory``.

    Args:
        name: a name given to :func:`register_prior`, or where a factory is.
        options: for the factory.

    Returns:
        The prior.

    Raises:
        ValueError: if there is no such name, module or factory, or what it makes is no prior.

    Example:
        >>> make_prior("medkit.atlas:IdentityPrior", spatial_dims=2).spec.kind
        'svf'
    """
    factory = REGISTRY.get(name)
    if factory is None:
        module, colon, attribute = name.partition(":")
        if not colon:
            raise ValueError(
                f"make_prior: 'name' must be one of {', '.join(sorted(REGISTRY))}, or module:factory, got {name!r}"
            )
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"make_prior: cannot find {name!r}: {error}") from error
    prior = cast(Any, factory)(**options)
    if not isinstance(getattr(prior, "spec", None), PriorSpec) or not callable(getattr(prior, "predict", None)):
        raise ValueError(f"make_prior: {name!r} must make an object with 'spec' and 'predict', got {type(prior)}")
    return prior


def predict_velocity(
    prior: RegistrationPrior,
    template: Tensor,
    subject: Tensor,
    metric: SobolevMetric,
    name: str = "subject",
    attributes: Tensor | None = None,
) -> Tensor | None:
    """Ask a prior, and turn what it says into a velocity on the metric's grid; nonsense becomes no answer.

    The images are padded or resampled to what the prior takes, both directions are combined if it is antisymmetric, a
    displacement becomes a velocity by :func:`medkit.ops.logarithm`, a momentum by the metric, an affine map by
    :func:`velocity_of_affine`.

    Args:
        prior: of any kind.
        template: ``(1, C, *S)``, 0 to 1.
        subject: ``(1, C, *S)``, 0 to 1.
        metric: of the grid on which velocities live, over the same box as the images.
        name: of the subject, for the log, and for priors that need it.
        attributes: of the subject, ``(1, n)``.

    Returns:
        ``(1, D, *metric.size)``, in voxels of that grid; ``None``, with a line in the log, where the prior raised an
        error, or gave another shape, something not finite, or further than the grid is long.
    """
    with torch.inference_mode():
        field = _asked(prior, template, subject, metric, name, attributes)
    # Outside of the inference mode, so that descent may begin there.
    return None if field is None else field.clone()


def _asked(
    prior: RegistrationPrior,
    template: Tensor,
    subject: Tensor,
    metric: SobolevMetric,
    name: str,
    attributes: Tensor | None,
) -> Tensor | None:
    """What a prior says as a velocity, or ``None``."""
    spec = prior.spec
    sizes = zip(metric.spacing, metric.size, template.shape[2:], strict=True)
    inputs, steps, back = fitted_images(
        spec, torch.cat([template, subject]).float(), [step * coarse / fine for step, coarse, fine in sizes]
    )
    fixed, moving = inputs[:1], inputs[1:]
    given: dict[str, Any] = {"spacing": torch.tensor(steps, device=subject.device), "attributes": attributes}
    if spec.needs_names:
        given["names"] = [name]
    wanted: tuple[int, ...] = (1, spec.spatial_dims, *fixed.shape[2:])
    try:
        out = prior.predict(fixed, moving.clone(), **given)
        if spec.antisymmetric and spec.kind in ("svf", "momentum"):
            out = 0.5 * (out - prior.predict(moving.clone(), fixed.clone(), **given))
        if spec.kind == "affine" and isinstance(out, Tensor) and out.ndim == 3:
            out = velocity_of_affine(out, fixed.shape[2:])
    except FAILURES as error:
        logger.warning("%s: the prior failed and is left out: %s: %s", name, type(error).__name__, error)
        return None
    if not isinstance(out, Tensor) or tuple(out.shape) != wanted:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        logger.warning("%s: the prior is left out: it gave %s instead of %s", name, got, wanted)
        return None
    field = resize_field(back(out.float()), metric.size, corners=False)
    if spec.kind == "momentum":
        field = metric.velocity(field)
    largest = float(field.abs().max())
    if not largest <= MAX_GRID_SHARE * max(metric.size):
        logger.warning("%s: the prior is left out: it moves points by up to %g voxels", name, largest)
        return None
    if spec.kind == "ddf":
        field = logarithm(field)[0]
    return field
