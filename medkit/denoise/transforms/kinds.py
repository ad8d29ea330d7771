"""Noise by the name of its kind, and kinds mixed at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from medkit.denoise.transforms.noise import (
    Level,
    RandCountNoise,
    RandMagnitudeNoise,
    RandNoise,
    RandWhiteNoise,
)

KINDS = ("gaussian", "rician", "nc_chi", "poisson")
MAX_SIGMA = 1.0  # the whole range of an image


class RandOneNoise(RandNoise):
    """One of several noises, drawn anew each time, all of a level that means the same.

    Which one a field belongs to is told by its shape, so that :class:`SameNoised` finds it.

    Args:
        noises: whose fields differ in shape, such as :class:`RandWhiteNoise` and :class:`RandMagnitudeNoise`.

    Raises:
        ValueError: if there is none, or their levels differ in meaning; on a call, if two fields have one shape.

    Example:
        >>> noise = RandOneNoise([RandWhiteNoise(0.1), RandMagnitudeNoise(0.1)])
        >>> noise(torch.ones(1, 8, 8)).shape
        torch.Size([1, 8, 8])
    """

    def __init__(self, noises: Sequence[RandNoise]) -> None:
        if not noises or len({(noise.none, noise.is_logarithmic) for noise in noises}) != 1:
            kinds = [type(noise).__name__ for noise in noises]
            raise ValueError(
                f"RandOneNoise: 'noises' must be at least one, all with a sigma as their level, got {kinds}"
            )
        super().__init__(noises[0].range)
        self.noises = tuple(noises)
        self._drawn = self.noises[0]

    def field_shape(self, image: Tensor) -> tuple[int, ...]:
        """Return the shape of the field of the noise that was drawn."""
        return self._drawn.field_shape(image)

    def randomize(self, data: Tensor) -> None:
        """Draw the noise, then its level and field."""
        self._drawn = self.noises[self.R.randint(len(self.noises))]
        self._drawn.R = self.R
        self._drawn.randomize(data)
        self.level, self.field = self._drawn.level, self._drawn.field

    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Apply the noise whose field has this shape, see :meth:`RandNoise.apply`."""
        fitting = [noise for noise in self.noises if noise.field_shape(image) == tuple(field.shape)]
        if len(fitting) != 1:
            raise ValueError(
                f"RandOneNoise: 'field' must be that of one of the noises, {tuple(field.shape)} fits {len(fitting)}"
            )
        return fitting[0].apply(image, level, field)


class RandWindowedNoise(RandNoise):
    """Noise that is defined in the unit of the file, such as HU, on images scaled to a window.

    Args:
        noise: the noise.
        window: intensities that are 0 and 1 in the image.

    Raises:
        ValueError: if ``window`` is not two intensities, the lower one first.

    Example:
        >>> noise = RandWindowedNoise(RandDoseNoise(0.25), window=(-1024, 1024))
    """

    def __init__(self, noise: RandNoise, window: Sequence[float] | None) -> None:
        if window is None or len(window) != 2 or not window[1] > window[0]:
            raise ValueError(f"RandWindowedNoise: 'window' must be two intensities (low, high), got {window}")
        self.none, self.is_logarithmic = noise.none, noise.is_logarithmic
        super().__init__(noise.range)
        self.noise, self.window = noise, (float(window[0]), float(window[1]))

    def field_shape(self, image: Tensor) -> tuple[int, ...]:
        """Return the shape of the field of the noise."""
        return self.noise.field_shape(image)

    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Apply the noise in its own unit, see :meth:`RandNoise.apply`."""
        low, high = self.window
        return (self.noise.apply(image * (high - low) + low, level, field) - low) / (high - low)


def named_noise(
    kind: str | Sequence[str] = "gaussian",
    sigma: Level = (0.0, 0.2),
    n_coils: int = 4,
    peak: Level = (20.0, 500.0),
    noise_mode: str = "float",
) -> RandNoise:
    """Make a noise from the name of its kind; of several names one is drawn for each image.

    Args:
        kind: ``"gaussian"``, ``"rician"`` (a magnitude of one coil), ``"nc_chi"`` (of ``n_coils``) or ``"poisson"``,
            or a list of the first three.
        sigma: standard deviation in units of the image, whose bright tissue is 1, or a range to draw it from: blind.
        n_coils: of ``"nc_chi"``.
        peak: expected counts where the image is 1, or a range to draw its logarithm from; of ``"poisson"``.
        noise_mode: of ``"gaussian"``: ``"float"``, or ``"uint8_clip"``, what a file of 8 bits keeps.

    Returns:
        The noise, for :class:`RandNoised`.

    Raises:
        ValueError: if a kind is unknown or given twice, ``"poisson"`` is mixed, or a level is out of its range.

    Example:
        >>> named_noise(["rician", "gaussian"], sigma=[0.0, 0.2]).range
        (0.0, 0.2)
    """
    kinds = [kind] if isinstance(kind, str) else list(kind)
    if not kinds or not set(kinds) <= set(KINDS) or len(set(kinds)) < len(kinds):
        raise ValueError(f"named_noise: 'kind' must be of {', '.join(KINDS)}, each once, got {kind!r}")
    if "poisson" in kinds and len(kinds) > 1:
        raise ValueError(
            "named_noise: 'poisson' has counts for a level and cannot be mixed with a sigma, name it alone"
        )
    levels = np.atleast_1d(np.asarray(sigma, dtype=np.float64))
    if (
        levels.ndim != 1
        or len(levels) > 2
        or not ((levels >= 0) & (levels <= MAX_SIGMA)).all()
        or levels[-1] < levels[0]
    ):
        raise ValueError(
            f"named_noise: 'sigma' must be 0 to {MAX_SIGMA:g}, the range of an image (25 of 255 grey levels: 0.098), "
            f"or a pair (low, high), got {sigma}"
        )
    made: dict[str, Any] = {
        "gaussian": lambda: RandWhiteNoise(sigma, noise_mode),
        "rician": lambda: RandMagnitudeNoise(sigma, 1),
        "nc_chi": lambda: RandMagnitudeNoise(sigma, n_coils),
        "poisson": lambda: RandCountNoise(peak),
    }
    noises = [made[one]() for one in kinds]
    return noises[0] if len(noises) == 1 else RandOneNoise(noises)
