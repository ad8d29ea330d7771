"""Random noise whose level and field are kept, so that it can be had again, weaker or stronger."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor
from torch import Tensor

from medkit.data import keys as names
from medkit.data.seeding import generator_of
from medkit.denoise.physics import (
    MODES,
    count_noise,
    dose_noise,
    gaussian_noise,
    magnitude_noise,
    sinogram_size,
)

Level = float | Sequence[float]


class RandNoise(RandomizableTransform):
    """What the noises share: a level that is fixed or drawn, a field that is drawn, and both kept.

    MONAI's ``RandGaussianNoise`` and ``RandRicianNoise`` draw the same numbers from the same seed, where their standard
    deviation is fixed (``sample_std=False``), but do not tell the standard deviation that they drew, nor take a field
    back; the second one, with ``channel_wise=True``, writes into its input.

    Args:
        level: a number, or a pair ``(low, high)`` between which it is drawn.
        prob: probability that there is noise at all.

    Attributes:
        level: of the last call; where there was no noise, the level that means none.
        field: of the last call, standard normal, float32; zeros where there was no noise.

    Raises:
        ValueError: if a level is outside its range.
    """

    # Level that means no noise, and whether levels are drawn evenly on a logarithmic scale.
    none, is_logarithmic = 0.0, False

    def __init__(self, level: Level, prob: float = 1.0) -> None:
        super().__init__(prob)
        pair = tuple(float(x) for x in level) if isinstance(level, Sequence) else (float(level), float(level))
        least = 0 < pair[0] if self.is_logarithmic else 0 <= pair[0]
        if len(pair) != 2 or not (least and pair[0] <= pair[1] < math.inf):
            raise ValueError(
                f"{type(self).__name__}: the level must be {'positive' if self.is_logarithmic else 'at least 0'}, or a "
                f"pair (low, high) of such numbers, got {level}"
            )
        self.range = pair
        self.level = self.none
        self.field: Tensor = torch.zeros(0)

    def field_shape(self, image: Tensor) -> tuple[int, ...]:
        """Return the shape of the field for an image ``(C, *S)``."""
        return tuple(image.shape)

    @abstractmethod
    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Return the noisy image that a level and a field make; nothing is drawn.

        Args:
            image: clean image, ``(C, *S)``.
            level: how much noise.
            field: standard normal, of :meth:`field_shape`.

        Returns:
            Noisy image, ``(C, *S)``.
        """

    def randomize(self, data: Tensor) -> None:
        """Draw whether there is noise, its level and its field for an image ``(C, *S)``."""
        super().randomize(None)
        shape = self.field_shape(data)
        if not self._do_transform:
            self.level, self.field = self.none, torch.zeros(shape)
            return
        low, high = self.range
        if low == high:
            self.level = low
        elif self.is_logarithmic:
            self.level = math.exp(self.R.uniform(math.log(low), math.log(high)))
        else:
            self.level = self.R.uniform(low, high)
        # As it will be recorded, so that the record makes the same noise to the last bit.
        self.level = float(np.float32(self.level))
        self.field = torch.from_numpy(self.R.standard_normal(shape).astype(np.float32))

    def __call__(self, img: Any, randomize: bool = True) -> Tensor:
        """Return a noisy copy of ``img``.

        Args:
            img: clean image, real, ``(C, *S)``.
            randomize: whether to draw; otherwise level and field are those of the last call.

        Returns:
            float32, shape of ``img``; MONAI's metadata stay.
        """
        image = convert_to_tensor(img, track_meta=True, dtype=torch.float32)
        if randomize:
            self.randomize(image)
        if self.level == self.none:
            return image.clone()
        return self.apply(image, self.level, self.field.to(image.device))


class RandWhiteNoise(RandNoise):
    """White Gaussian noise.

    Args:
        sigma: standard deviation in units of the image, or a range to draw it from.
        noise_mode: ``"float"`` or ``"uint8_clip"``, see :func:`gaussian_noise`.
        prob: probability that there is noise at all.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> noise = RandWhiteNoise(0.1).set_random_state(0)
        >>> noisy = noise(torch.ones(1, 8, 8))
        >>> round(noise.level, 6)
        0.1
    """

    def __init__(self, sigma: Level = 25 / 255, noise_mode: str = "float", prob: float = 1.0) -> None:
        super().__init__(sigma, prob)
        if noise_mode not in MODES:
            raise ValueError(f"RandWhiteNoise: 'noise_mode' must be one of {MODES}, got {noise_mode!r}")
        self.noise_mode = noise_mode

    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Add ``level * field``, see :meth:`RandNoise.apply`."""
        return gaussian_noise(image, level, field, self.noise_mode)


class RandMagnitudeNoise(RandNoise):
    """Noise of magnitude images: Rician for one coil, non-central χ for several; see :func:`magnitude_noise`.

    Args:
        sigma: standard deviation of the real part in each coil in units of the image, or a range to draw it from.
        n_coils: coils that a root sum of squares combined.
        prob: probability that there is noise at all.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, sigma: Level = 0.05, n_coils: int = 1, prob: float = 1.0) -> None:
        super().__init__(sigma, prob)
        if n_coils < 1:
            raise ValueError(f"RandMagnitudeNoise: 'n_coils' must be at least 1, got {n_coils}")
        self.n_coils = n_coils

    def field_shape(self, image: Tensor) -> tuple[int, ...]:
        """Return ``(2 n_coils, *image.shape)``."""
        return (2 * self.n_coils, *image.shape)

    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Return the magnitude of the noisy signal, see :meth:`RandNoise.apply`."""
        return magnitude_noise(image, level, field)


class RandCountNoise(RandNoise):
    """Poisson noise; see :func:`count_noise`.

    Args:
        peak: expected counts where the image is 1, or a range to draw its logarithm from.
        prob: probability that there is noise at all.

    Raises:
        ValueError: if ``peak`` is not positive; on a call, if the image is negative somewhere.
    """

    none, is_logarithmic = math.inf, True

    def __init__(self, peak: Level = 100.0, prob: float = 1.0) -> None:
        super().__init__(peak, prob)

    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Return counts over ``level``, see :meth:`RandNoise.apply`."""
        return count_noise(image, level, field)


class RandDoseNoise(RandNoise):
    """Noise of a CT scan at a dose, in HU; see :func:`dose_noise`. A slice of 512² takes a second.

    Takes whole slices in HU, ``(1, H, W)`` or ``(1, H, W, S)``: before they are scaled, cropped or turned.

    Args:
        dose: share of the full dose, or a range to draw its logarithm from.
        photons: quanta on a detector element at full dose in air, in all views together.
        pixel_spacing: in mm.
        measured: whether images have the noise of the full dose already.
        n_views: views in half a turn; with few, noise is streaky.
        kernel: filter of the back-projection.
        prob: probability that there is noise at all.

    Raises:
        ValueError: if an argument is outside its range; on a call, if the image has other axes.
    """

    none, is_logarithmic = math.inf, True

    def __init__(
        self,
        dose: Level = 0.25,
        photons: float = 3e8,
        pixel_spacing: float = 0.8,
        measured: bool = False,
        n_views: int = 180,
        kernel: str = "hann",
        prob: float = 1.0,
    ) -> None:
        super().__init__(dose, prob)
        if measured and self.range[1] > 1:
            raise ValueError(f"RandDoseNoise: 'dose' must be at most 1 for images of the full dose, got {dose}")
        if n_views < 1:
            raise ValueError(f"RandDoseNoise: 'n_views' must be at least 1, got {n_views}")
        self.n_views = n_views
        self.options: dict[str, Any] = {
            "photons": photons,
            "pixel_spacing": pixel_spacing,
            "measured": measured,
            "kernel": kernel,
        }

    def field_shape(self, image: Tensor) -> tuple[int, ...]:
        """Return detector elements by views, of a volume by slices."""
        if image.ndim not in (3, 4) or image.shape[0] != 1:
            raise ValueError(f"RandDoseNoise: the image must be (1, H, W) or (1, H, W, S), got {tuple(image.shape)}")
        return (*sinogram_size(image.shape[1], image.shape[2], self.n_views), *image.shape[3:])

    def apply(self, image: Tensor, level: float, field: Tensor) -> Tensor:
        """Return the image at dose ``level``, see :meth:`RandNoise.apply`."""
        if image.ndim == 3:
            return dose_noise(image[0], level, field, **self.options)[None]
        slices = [dose_noise(image[0, ..., i], level, field[..., i], **self.options) for i in range(image.shape[3])]
        return torch.stack(slices, -1)[None]


class RandNoised(RandomizableTransform, MapTransform):
    """Make images noisy, and write how noisy and from which field; the dictionary form of each noise.

    Reads and writes ``keys``, real ``(C, *S)``, all with the same noise; writes ``level_key``, float32 ``()`` (no
    noise: 0 for a sigma, infinity for a peak or a dose), and ``field_key``. Not invertible: keep the clean image under
    another key.

    Args:
        noise: :class:`RandWhiteNoise`, :class:`RandMagnitudeNoise`, :class:`RandCountNoise` or :class:`RandDoseNoise`.
        keys: images to change.
        level_key: where the level goes; ``None``: ``sigma``, ``peak`` or ``dose``.
        field_key: where the field goes; ``None``: nowhere.
        allow_missing_keys: whether a sample without a key passes.
        seed_key: key of a name by which, with ``i_slice``, all draws are fixed; ``None``: new draws each time.
        seed: with ``seed_key``, another seed gives other noise.

    Raises:
        ValueError: on a call, if the sample has no ``seed_key``.

    Example:
        >>> noisy = RandNoised(RandWhiteNoise((0, 0.2)))({"image": torch.ones(1, 8, 8)})
        >>> sorted(noisy)
        ['image', 'sigma', 'unit_noise']
    """

    def __init__(
        self,
        noise: RandNoise,
        keys: KeysCollection = (names.IMAGE,),
        level_key: str | None = None,
        field_key: str | None = names.UNIT_NOISE,
        allow_missing_keys: bool = False,
        seed_key: str | None = None,
        seed: int = 0,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.seed_key, self.seed = seed_key, seed
        self.noise = noise
        self.level_key = _level_key(noise) if level_key is None else level_key
        self.field_key = field_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandNoised:
        """Seed the noise; see MONAI's ``Randomizable``."""
        self.noise.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a noisy copy of ``data``; see the class."""
        d = dict(data)
        if self.seed_key is not None:
            series = f"RandNoised {d.get(names.I_SLICE, '')}"
            self.noise.R = generator_of(self.R, d, self.seed_key, self.seed, series)
        for i, key in enumerate(self.key_iterator(d)):
            d[key] = self.noise(d[key], randomize=i == 0)
            d[self.level_key] = torch.tensor(self.noise.level, dtype=torch.float32)
            if self.field_key is not None:
                d[self.field_key] = self.noise.field
        return d


class SameNoised(MapTransform):
    r"""Write the clean image with the same noise at another level, for a teacher that sees less of it.

    Reads ``keys``, the clean images ``(C, *S)``, ``level_key`` and ``field_key``, as :class:`RandNoised` wrote them;
    writes ``out_key``. With white noise the result is :math:`x + (\sigma' / \sigma) n`. Not invertible.

    Args:
        noise: the noise of :class:`RandNoised`.
        level: the other level; or
        ratio: the other level as a multiple of the first one: below 1 for a sigma, above 1 for a peak or a dose.
        keys: the clean image.
        out_key: where the result goes.
        level_key: as in :class:`RandNoised`.
        field_key: as in :class:`RandNoised`.

    Raises:
        ValueError: if not exactly one of ``level`` and ``ratio`` is given, or it is not positive; on a call, if the
            sample has no level or no field.
    """

    def __init__(
        self,
        noise: RandNoise,
        level: float | None = None,
        ratio: float | None = None,
        keys: KeysCollection = (names.LABEL,),
        out_key: str = names.QUIETER,
        level_key: str | None = None,
        field_key: str = names.UNIT_NOISE,
    ) -> None:
        super().__init__(keys)
        given = [x for x in (level, ratio) if x is not None]
        if len(given) != 1 or not given[0] > 0:
            raise ValueError(f"SameNoised: give one positive 'level' or 'ratio', got {level} and {ratio}")
        if len(self.keys) != 1:
            raise ValueError(f"SameNoised: 'keys' must be one key, got {self.keys}")
        self.noise, self.level, self.ratio, self.out_key = noise, level, ratio, out_key
        self.level_key = _level_key(noise) if level_key is None else level_key
        self.field_key = field_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with one more image; see the class."""
        d = dict(data)
        for key in (self.level_key, self.field_key):
            if key not in d:
                raise ValueError(f"SameNoised: the sample must have {key!r}, got {sorted(map(str, d))}")
        level = float(d[self.level_key])
        if level != self.noise.none:
            level = self.level if self.level is not None else level * (self.ratio or 0.0)
        image = convert_to_tensor(d[self.keys[0]], track_meta=True, dtype=torch.float32)
        is_clean = level == self.noise.none
        d[self.out_key] = image.clone() if is_clean else self.noise.apply(image, level, d[self.field_key])
        return d


def _level_key(noise: RandNoise) -> str:
    kinds = {RandCountNoise: names.PEAK, RandDoseNoise: names.DOSE}
    inner = getattr(noise, "noise", noise)  # of a noise in another unit
    return next((key for kind, key in kinds.items() if isinstance(inner, kind)), names.SIGMA)
