"""Lines tossed one by one, as published multi-contrast studies drew them, with what a real inverse transform left."""

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask
from medkit.mri.masks.lines import centre_lines


class BernoulliMask(SamplingMask):
    r"""Lines tossed one by one beside a full centre, so that their number is right on average only.

    Each line outside the centre is sampled with probability
    :math:`(N / R - n_{low}) / (N - n_{low})`, :math:`n_{low} = \mathrm{round}(f N)`, as in fastMRI and MONAI.
    :class:`RandomMask` has exact counts instead; this one reproduces what was published.

    ``legacy_hermitian``: some published loaders went back to the image by a *real* inverse transform, which reads the
    lines of non-negative frequency and mirrors them. What they really sampled is then not the mask that they drew, but
    the mirrored half of it. That mask is returned, so that measurement, zero-filled image and data consistency agree;
    of real images without phase the zero-filled image is the same as theirs.

    Args:
        center_fractions: f, see :class:`SamplingMask`; published for R = 2, 4, 6, 8: 0.1, 0.08, 0.06, 0.04.
        accelerations: R, see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        seed: one mask for everything, drawn from this seed (published: 42); ``None``: a new one each time.
        legacy_hermitian: return what a real inverse transform left of the mask.

    Example:
        >>> mask = BernoulliMask(0.08, 4, seed=42)
        >>> int(mask.draw((240, 240)).sum())
        66
    """

    def __init__(
        self,
        center_fractions: Rates = 0.08,
        accelerations: Rates = 4.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        seed: int | None = None,
        legacy_hermitian: bool = False,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        self.seed = seed
        self.legacy_hermitian = legacy_hermitian

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        width = shape[-1]
        n_low = round(width * fraction)
        probability = (width / rate - n_low) / (width - n_low) if n_low < width else 1.0
        rng = rng if self.seed is None else np.random.RandomState(self.seed)
        lines = rng.uniform(size=width) < probability
        lines |= centre_lines(width, n_low)
        if not self.legacy_hermitian:
            return lines
        frequency = np.abs(np.arange(width) - width // 2)
        return lines[(width // 2 + frequency) % width]  # +N/2 of an even width is stored as -N/2, at index 0
