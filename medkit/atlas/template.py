r"""The template that explains subjects best, for given transformations, in one energy with the velocities.

The data term is :math:`E = \sum_i \frac{h^D}{2 \sigma_i^2} \sum_y w_i(y) \, (I(\phi_i^{-1}(y)) - I_i(y))^2`, in the
space of the subjects (form A), or :math:`\sum_i \frac{h^D}{2 \sigma_i^2} \sum_x w_i(\phi_i(x)) \,
(I(x) - I_i(\phi_i(x)))^2`, in that of the template (form B), which no change of volume pays for.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.ops import jacobian_determinant, warp, warp_adjoint

SMALLEST_VOLUME = 1e-6
SMALLEST_WEIGHT = 1e-3


def data_term(
    template: Tensor,
    subject: Tensor,
    displacement: Tensor,
    weight: Tensor | None = None,
    sigma: float = 0.03,
    voxel_volume: float = 1.0,
    form: str = "subject",
) -> Tensor:
    r"""How far a template is from a subject, for a given transformation.

    Args:
        template: real, ``(1 or B, C, *S)``, intensities in about 0 to 1.
        subject: real, ``(B, C, *S)``, the same unit, aligned up to the transformation.
        displacement: ``(B, D, *S)``, in voxels: of :math:`\phi^{-1}` for form ``"subject"``, of :math:`\phi` for form
            ``"template"``.
        weight: ``(B, 1, *S)``, at least 0, in the subject's space: a mask, or how much each voxel counts; ``None``: 1.
        sigma: standard deviation of the noise, in the unit of the images, positive.
        voxel_volume: of the grid, in mm³ (mm² in 2-D).
        form: ``"subject"`` (A): the template is pushed to the subject; ``"template"`` (B): the subject is pulled.

    Returns:
        ``(B,)``: half the weighted sum of squares over sigma², times the voxel's volume.

    Raises:
        ValueError: if a shape does not fit or an argument is out of its range.

    Example:
        >>> data_term(torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4), torch.zeros(1, 2, 4, 4), sigma=1.0)
        tensor([8.])
    """
    check_images("data_term", template, subject, weight)
    if not 0 < sigma < math.inf or not 0 < voxel_volume < math.inf:
        raise ValueError(f"data_term: 'sigma' and 'voxel_volume' must be positive, got {sigma} and {voxel_volume}")
    if form == "subject":
        difference = warp(template, displacement) - subject
        counted = weight
    elif form == "template":
        difference = template - warp(subject, displacement)
        counted = None if weight is None else warp(weight, displacement)
    else:
        raise ValueError(f"data_term: 'form' must be 'subject' or 'template', got {form!r}")
    squares = difference.square()
    if counted is not None:
        squares = squares * counted
    return voxel_volume / (2 * sigma**2) * squares.flatten(1).sum(1)


def check_images(name: str, template: Tensor, subject: Tensor, weight: Tensor | None) -> None:
    """Check that template, subjects and weight lie on one grid.

    Raises:
        ValueError: if they do not.
    """
    if template.ndim not in (4, 5) or template.shape[1:] != subject.shape[1:] or subject.ndim != template.ndim:
        raise ValueError(
            f"{name}: 'template' and 'subject' must be (B, C, *S) on one grid, got {tuple(template.shape)} and "
            f"{tuple(subject.shape)}"
        )
    if weight is not None and (weight.shape[0], *weight.shape[2:]) != (subject.shape[0], *subject.shape[2:]):
        raise ValueError(
            f"{name}: 'weight' must be (B, 1, *S) on the grid of 'subject' {tuple(subject.shape)}, got "
            f"{tuple(weight.shape)}"
        )


@dataclass
class TemplateSums:
    """Running sums over subjects, from which the template follows; their order and grouping change only rounding.

    Sums are kept in float64, so that the template does not depend on the size of batches beyond float32 rounding.

    Args:
        numerator: ``(1, C, *S)``, weighted images.
        denominator: ``(1, C, *S)``, weights.

    Example:
        >>> sums = TemplateSums.zeros(torch.zeros(1, 1, 4, 4))
        >>> sums.add_pulled(torch.ones(2, 1, 4, 4), torch.zeros(2, 2, 4, 4))
        >>> sums.template()[0, 0, 0, 0]
        tensor(1.)
    """

    numerator: Tensor
    denominator: Tensor

    @classmethod
    def zeros(cls, like: Tensor) -> "TemplateSums":
        """Return empty sums for templates like ``(1, C, *S)``."""
        empty = torch.zeros(1, *like.shape[1:], dtype=torch.float64, device=like.device)
        return cls(empty, empty.clone())

    def _add(self, numerator: Tensor, denominator: Tensor) -> None:
        # One subject after the other: the result does not depend on how they were grouped.
        for top, bottom in zip(numerator.double(), denominator.double(), strict=True):
            self.numerator += top
            self.denominator += bottom

    def add(self, values: Tensor, weight: Tensor) -> None:
        """Add subjects that lie on the template's grid already.

        Args:
            values: real, ``(B, C, *S)``.
            weight: ``(B, 1 or C, *S)``, how much each voxel counts, at least 0.

        Raises:
            ValueError: if the shapes do not fit.
        """
        check_images("TemplateSums.add", self.numerator, values, weight)
        share = weight.double().expand(values.shape)
        self._add(share * values.double(), share)

    def mirrored(self) -> "TemplateSums":
        """Return the sums of the subjects and of their mirror images along the first axis, halved."""
        return TemplateSums(*((x + x.flip(2)) / 2 for x in (self.numerator, self.denominator)))

    def add_pulled(
        self,
        subject: Tensor,
        displacement: Tensor,
        weight: Tensor | None = None,
        sigma: float = 0.03,
        form: str = "subject",
    ) -> None:
        r"""Add subjects pulled to the template, weighted by :math:`w_i(\phi_i) \, |D\phi_i| / \sigma_i^2`.

        Args:
            subject: real, ``(B, C, *S)``.
            displacement: ``(B, D, *S)``, of :math:`\phi_i`, in voxels.
            weight: ``(B, 1 or C, *S)``, in the subject's space; ``None``: 1.
            sigma: of the subject's noise.
            form: ``"subject"``; ``"template"`` leaves out the change of volume.

        Raises:
            ValueError: if the shapes do not fit.
        """
        check_images("TemplateSums.add_pulled", self.numerator, subject, weight)
        share = torch.full_like(subject[:, :1], 1 / sigma**2)
        if form == "subject":
            share = share * jacobian_determinant(displacement).clamp(min=SMALLEST_VOLUME)
        if weight is None:
            pulled = warp(subject, displacement)
            self._add(share * pulled, share.expand_as(pulled))
            return
        # Weighted values are interpolated, not values: what does not count touches no neighbour.
        both = warp(torch.cat([subject * weight, weight.expand_as(subject)], 1), displacement)
        pulled, counted = both.chunk(2, dim=1)
        self._add(share * pulled, share * counted)

    def add_residual(
        self, template: Tensor, subject: Tensor, inverse: Tensor, weight: Tensor | None = None, sigma: float = 0.03
    ) -> None:
        r"""Add what a template leaves unexplained, splatted back to it: one subject's part of :func:`majorised`.

        Args:
            template: real, ``(1, C, *S)``.
            subject: real, ``(B, C, *S)``.
            inverse: ``(B, D, *S)``, of :math:`\phi_i^{-1}`, in voxels.
            weight: ``(B, 1 or C, *S)``, in the subject's space; ``None``: 1.
            sigma: of the subject's noise.

        Raises:
            ValueError: if the shapes do not fit.
        """
        check_images("TemplateSums.add_residual", template, subject, weight)
        share = torch.ones_like(subject) if weight is None else weight.expand_as(subject).to(subject.dtype)
        share = share / sigma**2
        residual = share * (subject - warp(template, inverse))
        both = warp_adjoint(torch.cat([residual, share], 1), inverse)
        self._add(*both.chunk(2, dim=1))

    def template(self, previous: Tensor | None = None) -> Tensor:
        """Return the weighted mean of what was added with :meth:`add_pulled`.

        Args:
            previous: ``(1, C, *S)``, kept where the weights add up to less than 0.001; ``None``: 0 there.

        Returns:
            ``(1, C, *S)``, float32.
        """
        known = self.denominator >= SMALLEST_WEIGHT
        fallback = torch.zeros_like(self.numerator) if previous is None else previous.double()
        return torch.where(known, self.numerator / self.denominator.clamp(min=SMALLEST_WEIGHT), fallback).float()

    def majorised(self, template: Tensor) -> Tensor:
        r"""Return the template after one majorise-minimise step, from residuals added for it.

        .. math:: I + \frac{\sum_i W_i^T w_i (I_i - W_i I) / \sigma_i^2}{\sum_i W_i^T w_i / \sigma_i^2}

        where :math:`W_i` interpolates at :math:`\phi_i^{-1}`. It never raises the data term, without any step size,
        for :math:`W_i^T W_i` is bounded by its row sums. Few steps: many fit the noise.

        Args:
            template: ``(1, C, *S)``, the one that the residuals were taken of.

        Returns:
            ``(1, C, *S)``, float32; unchanged where the weights add up to less than 0.001.
        """
        known = self.denominator >= SMALLEST_WEIGHT
        change = torch.where(known, self.numerator / self.denominator.clamp(min=SMALLEST_WEIGHT), 0.0)
        return (template.double() + change).float()
