"""Who tells a network how noisy its image is: the user, an estimate, the simulation, or nobody."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import MapTransform, Randomizable, Transform

from medkit.data import keys as names
from medkit.denoise.estimation import background_sigma, white_noise_sigma

MAX_SHARE = 0.5  # of the window: a standard deviation beyond it leaves no image


class RandTellSigmad(Randomizable, Transform):
    """Keep the level of the noise of some samples, and write 0, "nobody tells", for the others.

    A network that is trained so with a noise map denoises blindly where the map is 0, and by the level where it is not.
    Reads and writes ``sigma``, float32 ``()``; a sample without it (counts, dose) gets 0.

    Args:
        prob: probability that the level is told.

    Raises:
        ValueError: if ``prob`` is not 0 to 1.

    Example:
        >>> float(RandTellSigmad(prob=0.0)({"sigma": torch.tensor(0.1)})["sigma"])
        0.0
    """

    def __init__(self, prob: float = 0.5) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f"RandTellSigmad: 'prob' must be 0 to 1, got {prob}")
        self.prob = prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with ``sigma`` told or not; see the class."""
        is_told = self.R.random_sample() < self.prob
        level = data[names.SIGMA] if is_told and names.SIGMA in data else torch.zeros(())
        return {**data, names.SIGMA: torch.as_tensor(level, dtype=torch.float32)}


class GivenSigmad(MapTransform):
    """Write the level of the noise as the user gave it, or as it is estimated from the image.

    Reads ``keys``, the noisy image ``(C, *S)``, and ``window``; writes ``sigma``, float32 ``()``, in units of the
    image, and where it is estimated, the mean over channels.

    Args:
        keys: one key, the noisy image.
        sigma: standard deviation in the unit of the file (grey levels, HU); ``None``: 0, nobody tells; ``"white"``:
            estimated as white noise (:func:`white_noise_sigma`); ``"background"``: from the air of a magnitude image
            (:func:`background_sigma`).
        is_used: whether the network takes a level at all.

    Raises:
        ValueError: if ``sigma`` is none of these, or is given to a network that takes none; on a call, if it is beyond
            half of the image's window.

    Example:
        >>> sample = {"image": torch.zeros(1, 8, 8), "window": torch.tensor([0.0, 255.0])}
        >>> round(float(GivenSigmad(sigma=51)(sample)["sigma"]), 6)
        0.2
    """

    def __init__(
        self,
        keys: str = names.IMAGE,
        sigma: float | str | None = None,
        is_used: bool = True,
    ) -> None:
        super().__init__(keys)
        is_number = isinstance(sigma, (int, float)) and not isinstance(sigma, bool)
        if not (sigma is None or sigma in ("white", "background") or (is_number and 0 <= float(sigma) < float("inf"))):
            raise ValueError(
                "GivenSigmad: 'sigma' must be a number of at least 0 in the unit of the file (grey levels, HU), None, "
                f"'white' or 'background', got {sigma!r}"
            )
        if sigma is not None and not is_used:
            raise ValueError(
                f"GivenSigmad: this network is trained without a noise map and takes no 'sigma', got {sigma!r}; "
                "leave it away"
            )
        self.sigma = sigma

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with ``sigma``; see the class."""
        image = torch.as_tensor(data[self.keys[0]])
        if self.sigma is None:
            level = 0.0
        elif self.sigma == "white":
            level = float(white_noise_sigma(image).mean())
        elif self.sigma == "background":
            level = background_sigma(image.clamp(min=0))
        else:
            low, high = (float(x) for x in data[names.WINDOW])
            level = float(self.sigma) / (high - low)
            if level > MAX_SHARE:
                raise ValueError(
                    f"GivenSigmad: 'sigma' must be at most {MAX_SHARE * (high - low):.4g}, half of the range "
                    f"{low:.4g} to {high:.4g} of this image, got {self.sigma:g}; it is in the unit of the file"
                )
        return {**data, names.SIGMA: torch.tensor(level, dtype=torch.float32)}
