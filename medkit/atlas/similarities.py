r"""How unlike two images are when their intensities cannot be compared directly: by local correlation, or information.

Both are means over voxels, 0 or more, and differentiable; both are computed in float32 or float64 whatever autocast
says. For intensities that a local straight line relates, as under a bias field, take :func:`local_decorrelation`; for
any other relation, as between contrasts, :func:`conditional_entropy`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_VARIANCE = 1e-12
SMALLEST_PROBABILITY = 1e-7
SIMILARITIES = ("lncc", "mi")
# Contrast, as a share of the range of intensities, at which each weighs what squared differences do.
CONTRASTS = {"lncc": 0.3, "mi": 0.2}
WIDTH_OF_BINS = 0.5  # standard deviation of Parzen windows, in bins


def _checked(name: str, a: Tensor, b: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    if a.ndim not in (4, 5) or a.shape != b.shape or not a.is_floating_point() or not b.is_floating_point():
        raise ValueError(
            f"{name}: images must be real (B, C, *S) of one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if weight is not None and weight.shape != (a.shape[0], 1, *a.shape[2:]):
        raise ValueError(f"{name}: 'weight' must be (B, 1, *S) for images {tuple(a.shape)}, got {tuple(weight.shape)}")
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype), b.to(dtype), None if weight is None else weight.to(dtype)


def _box_means(x: Tensor, window: int) -> Tensor:
    """Means over windows around each voxel, of zeros outside: one axis after the other."""
    n_axes = x.ndim - 2
    pool = F.avg_pool2d if n_axes == 2 else F.avg_pool3d
    for axis in range(n_axes):
        size = [window if k == axis else 1 for k in range(n_axes)]
        x = pool(x, size, stride=1, padding=[n // 2 for n in size])
    return x


def local_decorrelation(
    a: Tensor, b: Tensor, weight: Tensor | None = None, window: int = 9, noise: float = 0.01
) -> Tensor:
    r"""One minus the squared correlation within a window around each voxel, averaged.

    .. math:: 1 - \frac{\mathrm{cov}(a, b)^2}{(\mathrm{var}(a) + s^2) (\mathrm{var}(b) + s^2)}

    No straight line :math:`\alpha a + \beta`, another one in each window, changes it, but for the noise :math:`s`,
    without which flat windows would count as much as edges.

    Args:
        a: real, ``(B, C, *S)``, any unit; two or three axes.
        b: real, ``(B, C, *S)``, any unit.
        weight: ``(B, 1, *S)``, at least 0: how much each voxel counts, in the windows and in the mean; ``None``: 1.
        window: voxels along each side, odd.
        noise: standard deviation below which an image counts as flat, in its unit.

    Returns:
        ``(B,)``, 0 (related) to 1 (unrelated).

    Raises:
        ValueError: if a shape does not fit or an option is out of its range.

    Example:
        >>> a = torch.rand(1, 1, 16, 16)
        >>> float(local_decorrelation(a, 3 - 2 * a, noise=0.0)) < 1e-4
        True
    """
    if window < 3 or window % 2 == 0 or not noise >= 0:
        raise ValueError(
            f"local_decorrelation: 'window' must be odd, at least 3, and 'noise' at least 0, got {window} and {noise}"
        )
    with torch.autocast(a.device.type, enabled=False):
        a, b, weight = _checked("local_decorrelation", a, b, weight)
        n_channels = a.shape[1]
        one = torch.ones_like(a[:, :1]) if weight is None else weight
        # Windows of products lose digits where the mean is large.
        a, b = (x - _mean(x, one) for x in (a, b))
        means = _box_means(torch.cat([one, one * a, one * b, one * a * a, one * b * b, one * a * b], 1), window)
        share = means[:, :1].clamp(min=1e-6)
        means_a, means_b, squares_a, squares_b, products = (means[:, 1:] / share).split(n_channels, 1)
        variance_a = (squares_a - means_a.square()).clamp(min=0) + noise**2
        variance_b = (squares_b - means_b.square()).clamp(min=0) + noise**2
        covariance = products - means_a * means_b
        squared = covariance.square() / (variance_a * variance_b).clamp(min=SMALLEST_VARIANCE)
        unlike = (1 - squared.clamp(max=1)).mean(1, keepdim=True)
        return (one * unlike).flatten(1).sum(1) / one.flatten(1).sum(1).clamp(min=1e-6)


def _mean(x: Tensor, weight: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    return ((weight * x).sum(axes, keepdim=True) / weight.sum(axes, keepdim=True).clamp(min=1e-6)).detach()


def mutual_information(
    a: Tensor, b: Tensor, weight: Tensor | None = None, n_bins: int = 32, n_samples: int = 100_000, seed: int = 0
) -> Tensor:
    """Mutual information of intensities at voxels drawn by a seed, with Gaussian Parzen windows.

    Args:
        a: real, ``(B, C, *S)``, intensities 0 to 1; beyond, they count as 0 and 1.
        b: real, ``(B, C, *S)``, intensities 0 to 1.
        weight: ``(B, 1, *S)``, at least 0; only voxels above 0 are drawn; ``None``: 1.
        n_bins: of each axis of the joint histogram, at least 2.
        n_samples: voxels at most, the same ones for the same seed and shape; memory is that of these alone.
        seed: of the draw.

    Returns:
        ``(B,)``, in nats, the mean over channels.

    Raises:
        ValueError: if a shape does not fit or an option is out of its range.

    Example:
        >>> a = torch.rand(1, 1, 32, 32)
        >>> bool(mutual_information(a, 1 - a) > mutual_information(a, a.flip(2)))
        True
    """
    return _information("mutual_information", a, b, weight, n_bins, n_samples, seed)[0]


def conditional_entropy(
    a: Tensor, b: Tensor, weight: Tensor | None = None, n_bins: int = 32, n_samples: int = 100_000, seed: int = 0
) -> Tensor:
    """What ``a`` does not tell about ``b``: the entropy of ``b`` less the mutual information of both.

    It is the negative log-likelihood of a voxel of ``b`` under the best relation to ``a`` that intensities can have.

    Args:
        a: as for :func:`mutual_information`.
        b: as there; the image that is explained.
        weight: as there.
        n_bins: as there.
        n_samples: as there.
        seed: as there.

    Returns:
        ``(B,)``, in nats per voxel, at least 0, the mean over channels.

    Raises:
        ValueError: if a shape does not fit or an option is out of its range.

    Example:
        >>> a = torch.rand(1, 1, 32, 32)
        >>> bool(conditional_entropy(a, 1 - a) < conditional_entropy(a, a.flip(2)))
        True
    """
    information, entropy = _information("conditional_entropy", a, b, weight, n_bins, n_samples, seed)
    return (entropy - information).clamp(min=0)


def similarity_term(
    image: Tensor,
    explained: Tensor,
    weight: Tensor | None,
    similarity: str,
    sigma: float = 0.03,
    voxel_volume: float = 1.0,
    window: int = 9,
) -> Tensor:
    r"""Data term of a registration for intensities that cannot be subtracted, in the unit of :func:`data_term`.

    .. math:: h^D \sum_x w(x) \, \frac{c^2}{2 \sigma^2} \, d

    where :math:`d` is :func:`local_decorrelation` or :func:`conditional_entropy`. Both measure squared differences as
    a share of the squared contrast there, so that times a typical contrast :math:`c` (0.3 and 0.2, intensities being 0
    to 1) they weigh against smoothness as squared differences do, and ``sigma`` keeps its meaning.

    Args:
        image: real, ``(B, C, *S)``, intensities 0 to 1.
        explained: real, ``(B, C, *S)``, the image that is explained.
        weight: ``(B, 1, *S)``, at least 0; ``None``: 1.
        similarity: ``"lncc"`` or ``"mi"``.
        sigma: standard deviation of the noise.
        voxel_volume: of the grid, in mm³ (mm² in 2-D).
        window: of local correlation, in voxels.

    Returns:
        ``(B,)``.

    Raises:
        ValueError: if a shape does not fit or the similarity is unknown.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> bool(similarity_term(image, image, None, "lncc") < similarity_term(image, image.flip(2), None, "lncc"))
        True
    """
    if similarity == "lncc":
        unlike = local_decorrelation(image, explained, weight, window)
    elif similarity == "mi":
        unlike = conditional_entropy(image, explained, weight)
    else:
        raise ValueError(f"similarity_term: 'similarity' must be 'lncc' or 'mi', got {similarity!r}")
    amount = float(explained[0, 0].numel()) if weight is None else weight.flatten(1).sum(1)
    return voxel_volume * amount * CONTRASTS[similarity] ** 2 / (2 * sigma**2) * unlike


def _information(
    name: str, a: Tensor, b: Tensor, weight: Tensor | None, n_bins: int, n_samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mutual information, and the entropy of ``b``."""
    if n_bins < 2 or n_samples < 2:
        raise ValueError(f"{name}: 'n_bins' and 'n_samples' must be at least 2, got {n_bins} and {n_samples}")
    with torch.autocast(a.device.type, enabled=False):
        a, b, weight = _checked(name, a, b, weight)
        found = [
            _information_of_one(a[i].flatten(1), b[i].flatten(1), None if weight is None else weight[i].flatten(), *how)
            for how in [(n_bins, n_samples, seed)]
            for i in range(len(a))
        ]
        return torch.stack([x[0] for x in found]), torch.stack([x[1] for x in found])


def _information_of_one(
    a: Tensor, b: Tensor, weight: Tensor | None, n_bins: int, n_samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Of images ``(C, N)``, with a weight ``(N,)``."""
    places = None if weight is None else weight.nonzero()[:, 0]
    n = a.shape[1] if places is None else len(places)
    if n > n_samples:
        drawn = torch.randint(n, (n_samples,), generator=torch.Generator().manual_seed(seed)).to(a.device)
        places = drawn if places is None else places[drawn]
    if places is not None:
        a, b = a[:, places], b[:, places]
    shares = a.new_ones(a.shape[1]) if weight is None or places is None else weight[places]
    shares = shares / shares.sum().clamp(min=1e-6)
    totals, entropies = [], []
    for x, y in zip(a, b, strict=True):
        in_a, in_b = _parzen(x, n_bins), _parzen(y, n_bins)
        joint = in_a.mT @ (shares[:, None] * in_b)
        alone_a, alone_b = joint.sum(1), joint.sum(0)
        tiny = SMALLEST_PROBABILITY
        ratio = (joint + tiny) / (alone_a[:, None] * alone_b + tiny)
        totals.append((joint * (ratio + tiny).log()).sum())
        entropies.append(-(alone_b * (alone_b + tiny).log()).sum())
    return torch.stack(totals).mean(), torch.stack(entropies).mean()


def _parzen(x: Tensor, n_bins: int) -> Tensor:
    """Share of each value ``(N,)`` in each bin, ``(N, n_bins)``."""
    steps = x.clamp(0, 1)[:, None] * (n_bins - 1) - torch.arange(n_bins, dtype=x.dtype, device=x.device)
    return (-0.5 * (steps / WIDTH_OF_BINS).square()).softmax(1)
