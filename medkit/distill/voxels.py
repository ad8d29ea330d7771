"""Logits of images and of voxels alike: labels, weights of places, and means over them."""

from __future__ import annotations

import torch
from torch import Tensor

from medkit.distill.contract import Hints


def class_labels(name: str, target: Tensor | None, logits: Tensor) -> Tensor:
    """Bring labels to one class number for each place.

    Args:
        name: who asks, for the error.
        target: classes ``(B, *S)`` or ``(B, 1, *S)``, or one-hot ``(B, C, *S)``.
        logits: ``(B, C, *S)``.

    Returns:
        int64, ``(B, *S)``.

    Raises:
        ValueError: if there are no labels, or their shape fits nothing.
    """
    places = (logits.shape[0], *logits.shape[2:])
    if target is None:
        raise ValueError(f"{name}: 'target' is needed: the classes, {places}")
    if target.shape == places:
        return target.long()
    if target.shape == (places[0], 1, *places[1:]):
        return target[:, 0].long()
    if target.shape == logits.shape:
        return target.argmax(1)
    raise ValueError(
        f"{name}: 'target' must be classes {places} or one-hot {tuple(logits.shape)}, got {tuple(target.shape)}"
    )


def place_weights(name: str, logits: Tensor, hints: Hints, ignore_label: int | None = None) -> Tensor:
    """Weight of each place: the mask, and 0 where the label is the one to ignore.

    Args:
        name: who asks, for the error.
        logits: ``(B, C, *S)``.
        hints: mask ``(B, 1, *S)`` and labels.
        ignore_label: label of places that do not count; ``None``: all count.

    Returns:
        ``(B, *S)``, of the dtype of ``logits``.

    Raises:
        ValueError: if the mask has another shape.
    """
    places = (logits.shape[0], *logits.shape[2:])
    weights = logits.new_ones(places)
    if hints.mask is not None:
        if hints.mask.shape != (places[0], 1, *places[1:]):
            raise ValueError(f"{name}: 'mask' must be {(places[0], 1, *places[1:])}, got {tuple(hints.mask.shape)}")
        weights = hints.mask[:, 0]
    if ignore_label is not None:
        weights = weights * (class_labels(name, hints.target, logits) != ignore_label)
    return weights


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``values`` with ``weights`` of the same shape; 0 where all weights are 0."""
    return (values * weights).sum() / or_one(weights.sum())


def or_one(total: Tensor) -> Tensor:
    """What to divide by: ``total`` where it is above 0, else 1; a tiny number instead would give an infinite slope."""
    return torch.where(total > 0, total, torch.ones_like(total))


def as_rows(logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Places ``(N, C)`` of logits ``(B, C, *S)``, and their weights ``(N,)``, without those of weight 0."""
    rows, weights = logits.movedim(1, -1).flatten(0, -2), weights.flatten()
    counts = weights > 0
    return rows[counts], weights[counts]
