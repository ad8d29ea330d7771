"""A template for a value of an attribute, such as an age, from the stored velocities: nothing is registered anew."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from medkit.atlas.outputs.final_template import TemplateEstimate, estimate_template
from medkit.atlas.result import AtlasFolder, Member

logger = logging.getLogger(__name__)

SMALLEST_SHARE = 1e-4  # of the largest; who counts less is left out


def conditional_template(
    atlas: AtlasFolder, attribute: str, value: float, bandwidth: float, n_steps: int | None = None
) -> TemplateEstimate:
    r"""TemplateEstimate the template of subjects with some value of an attribute.

    Subjects count by a Gaussian of their attribute, :math:`w_i \propto \exp(-(a_i - a)^2 / 2 b^2)`. Their weighted mean
    velocity is subtracted from all, which gives the template the mean shape at this value, and it is estimated anew
    from the subjects' images, each interpolated once. Affine maps stay as they are: sizes that they took out are not in
    the template.

    Args:
        atlas: the built atlas, with its velocities.
        attribute: a column of numbers that the subjects were given, such as ``"age"``.
        value: wanted, in the unit of the attribute.
        bandwidth: standard deviation of the Gaussian, the same unit, positive.
        n_steps: steps that bring back what interpolation blurred; ``None``: as many as the template got.

    Returns:
        The estimate. Its weight adds up the shares, which are 1 on average over the subjects.

    Raises:
        ValueError: if no subject has the attribute, none is near the value, or ``bandwidth`` is not positive.
        FileNotFoundError: if a velocity or an image is gone.

    Example:
        >>> young = conditional_template(AtlasFolder("my_atlas"), "age", 25.0, bandwidth=5.0).template
    """
    if not 0 < bandwidth < math.inf or not math.isfinite(value):
        raise ValueError(
            f"conditional_template: 'bandwidth' must be positive and 'value' finite, got {bandwidth} and {value}"
        )
    known = [m for m in atlas.members if attribute in m.subject.attributes]
    if not known:
        names = sorted({name for m in atlas.members for name in m.subject.attributes})
        raise ValueError(
            f"conditional_template: no subject has the attribute {attribute!r}; there are {', '.join(names) or 'none'}"
        )
    distances = [(m.subject.attributes[attribute] - value) / bandwidth for m in known]
    if min(abs(d) for d in distances) > 3:
        nearest = min(known, key=lambda m: abs(m.subject.attributes[attribute] - value)).subject.attributes[attribute]
        raise ValueError(
            f"conditional_template: 'value' must be within three bandwidths of a subject, {value:g} is not: the "
            f"nearest {attribute} is {nearest:g}; take a larger 'bandwidth' than {bandwidth:g}"
        )
    shares = torch.tensor([math.exp(-0.5 * d * d) for d in distances], dtype=torch.float64)
    shares = torch.where(shares < SMALLEST_SHARE * shares.max(), 0.0, shares)
    n_effective = float(shares.sum().square() / shares.square().sum())
    logger.info("%s %g: as much as %.1f of %d subjects count", attribute, value, n_effective, len(known))
    shares = shares * len(known) / shares.sum()
    mean = torch.zeros(1, 3, *atlas.metric.size, dtype=torch.float64)
    for member, share in zip(known, shares.tolist(), strict=True):
        if share:
            mean += share / len(known) * atlas.velocity(member).double()

    def moved(member: Member, inverse: bool) -> Tensor:
        return atlas.moved((atlas.velocity(member).double() - mean).float(), inverse)

    return estimate_template(
        atlas,
        known,
        lambda member: (member, moved(member, False)),
        lambda member: moved(member, True),
        atlas.n_final_steps if n_steps is None else n_steps,
        shares.tolist(),
    )
