"""Intensities of several scanners on one scale: percentiles to 0 and 1, and quantiles to those of a reference."""

import torch
from monai.transforms import ScaleIntensityRange
from monai.transforms.utils_pytorch_numpy_unification import percentile
from torch import Tensor

LOWER, UPPER = 0.5, 99.5  # percent


def _counted(name: str, image: Tensor, weight: Tensor | None, argument: str = "weight") -> Tensor:
    """Values that count, float32, flat: where the weight is above 0.5, else all that are not 0."""
    if not image.is_floating_point() or not bool(torch.isfinite(image).all()):
        raise ValueError(f"{name}: images must be real and finite, got {image.dtype} {tuple(image.shape)}")
    if weight is not None and weight.shape != image.shape:
        raise ValueError(
            f"{name}: '{argument}' must be of the image's shape {tuple(image.shape)}, got {tuple(weight.shape)}"
        )
    return image[image != 0 if weight is None else weight > 0.5].detach().float()


def normalised(image: Tensor, weight: Tensor | None = None) -> Tensor:
    """Bring the percentiles 0.5 and 99.5 of an object to 0 and 1, and cut off what lies beyond.

    Args:
        image: real, any shape and unit.
        weight: of that shape, the object is where it is above 0.5; ``None``: where the image is not 0.

    Returns:
        Of that shape, float32, 0 to 1; zeros if the object is constant or empty.

    Raises:
        ValueError: if the image is not real and finite, or the shapes differ.

    Example:
        >>> normalised(torch.tensor([0.0, 10.0, 20.0, 30.0]), torch.tensor([0.0, 1.0, 1.0, 1.0]))[2]
        tensor(0.5000)
    """
    values = _counted("normalised", image, weight)
    if not len(values):
        return torch.zeros_like(image, dtype=torch.float32)
    low, high = (float(percentile(values, q)) for q in (LOWER, UPPER))
    if not high > low:
        return torch.zeros_like(image, dtype=torch.float32)
    scaled = ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(image)
    return torch.as_tensor(scaled).as_subclass(Tensor).float()


def match_intensities(
    image: Tensor,
    weight: Tensor | None,
    reference: Tensor,
    reference_weight: Tensor | None,
    n_quantiles: int = 16,
) -> Tensor:
    """Bring the quantiles of an object to those of a reference, by a rising curve of straight pieces.

    The curve never falls, so what was brighter stays brighter; beyond the outer quantiles (0.5 and 99.5 %) it goes on
    straight. Where quantiles of the image coincide, as on a flat background, their targets are averaged.

    Args:
        image: real, any shape and unit.
        weight: of that shape, the object is where it is above 0.5; ``None``: where the image is not 0.
        reference: real, any shape and unit, which the result has.
        reference_weight: of the reference's shape.
        n_quantiles: knots of the curve, at least 2.

    Returns:
        Of the image's shape, float32; the image itself where either object is constant or empty. Voxels that are 0
        stay 0 where no weight is given: they are background.

    Raises:
        ValueError: if an image is not real and finite, shapes differ, or there are fewer than 2 quantiles.

    Example:
        >>> image = torch.rand(16, 16)
        >>> (match_intensities(image, None, 5 * image, None) - 5 * image).abs().max() < 1e-4
        tensor(True)
    """
    if n_quantiles < 2:
        raise ValueError(f"match_intensities: 'n_quantiles' must be at least 2, got {n_quantiles}")
    here = _counted("match_intensities", image, weight)
    there = _counted("match_intensities", reference, reference_weight, "reference_weight")
    out = image.float()
    if not len(here) or not len(there) or here.min() == here.max() or there.min() == there.max():
        return out.clone()
    places = torch.linspace(LOWER, UPPER, n_quantiles, dtype=torch.float64)
    knots, targets = (_percentiles(x, places) for x in (here, there))
    knots, group = knots.unique_consecutive(return_inverse=True)
    targets = torch.zeros_like(knots).index_add(0, group, targets) / group.bincount()
    if len(knots) < 2:
        return out.clone()
    slopes = targets.diff() / knots.diff()
    piece = (torch.bucketize(out.double(), knots) - 1).clamp(0, len(slopes) - 1)
    matched = (targets[piece] + slopes[piece] * (out.double() - knots[piece])).float()
    return matched if weight is not None else torch.where(image == 0, out, matched)


def _percentiles(values: Tensor, places: Tensor) -> Tensor:
    return torch.as_tensor([float(percentile(values, float(q))) for q in places], dtype=torch.float64).to(values.device)
