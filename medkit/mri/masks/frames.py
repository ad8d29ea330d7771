"""Patterns for dynamic scans, which change from frame to frame: interleaved lines, random lines, turning spokes."""

import math

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask
from medkit.mri.masks.lines import centre_lines, gaussian_lines, line_counts, line_distance
from medkit.mri.masks.points import radial_frames

_GOLDEN_PART = (math.sqrt(5) - 1) / 2


class KtMask(SamplingMask):
    """A sampling pattern over k-space and time: each frame has its own, of one acceleration.

    Space is as for :class:`SamplingMask`, and ``spatial_dims`` counts it alone. ``draw`` takes the number of frames
    first, ``(T, H, W)``, and returns ``(T, 1, W)`` for lines, ``(T, H, W)`` for points. A call takes k-space of clips,
    ``(…, T, coil, H, W)``. In dictionaries frames stand where slices stand: :class:`Undersampled` takes k-space
    ``(coil, H, W, T)`` and writes a mask ``(1, 1 or H, W, T)``, so that what follows treats each frame by itself.

    Args:
        center_fractions: part of the samples of each frame's grid that its fully sampled centre takes; see
            :class:`SamplingMask`.
        accelerations: of each frame; see :class:`SamplingMask`.
        spatial_dims: 2 or 3; 3 for k-space ``(…, T, coil, H, W, D)``.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
    """

    is_dynamic = True


class KtEquispacedMask(KtMask):
    """Equispaced lines that move from frame to frame, so that few frames together sample everything.

    With ``distance`` between lines, any ``distance`` frames in a row together are fully sampled: the interleave of
    TGRAPPA (``shift`` 1) and the sheared lattice of k-t SENSE. Without a centre the distance is the rounded
    acceleration. Sources: Breuer et al. 2005, doi:10.1002/mrm.20430; Tsao et al. 2003, doi:10.1002/mrm.10611.

    Args:
        center_fractions: see :class:`KtMask`; 0 for the interleaved lines alone.
        accelerations: see :class:`KtMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        count_centre: choose the distance such that the lines of a frame, its centre included, come nearest to the
            acceleration; otherwise the distance is the acceleration itself, and the centre comes on top.
        shift: by how many lines each frame is moved against the one before, at least 1.

    Raises:
        ValueError: if ``shift`` is below 1, besides the reasons of :class:`SamplingMask`; on ``draw``, if it has a
            common divisor with the distance, for then some lines are never sampled.

    Example:
        >>> KtEquispacedMask(0.0, 4).draw((4, 1, 8)).sum(0)
        tensor([[1, 1, 1, 1, 1, 1, 1, 1]])
    """

    def __init__(
        self,
        center_fractions: Rates = 0.0,
        accelerations: Rates = 4.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        count_centre: bool = True,
        shift: int = 1,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if shift < 1:
            raise ValueError(f"KtEquispacedMask: 'shift' must be at least 1, got {shift}")
        self.count_centre = count_centre
        self.shift = shift

    def _pattern(
        self, shape: tuple[int, int, int], fraction: float, rate: float, rng: np.random.RandomState
    ) -> np.ndarray:
        n_frames, _, width = shape
        n_lines, n_centre = line_counts(width, fraction, rate)
        centre = centre_lines(width, n_centre)
        if self.count_centre and n_lines == n_centre:
            return np.repeat(centre[None], n_frames, axis=0)
        if self.count_centre and n_centre:
            distance = line_distance(width, n_lines, n_centre)
        else:
            distance = min(max(1, round(rate)), width)
        if math.gcd(self.shift, distance) > 1:
            raise ValueError(
                f"KtEquispacedMask: 'shift' and the distance between lines must have no common divisor, for every line "
                f"to be sampled, got {self.shift} and {distance}; take shift=1"
            )
        first = rng.randint(distance) + self.shift * np.arange(n_frames)
        return ((np.arange(width) - first[:, None]) % distance == 0) | centre


class KtGaussianMask(KtMask):
    """Lines drawn anew for each frame by a Gaussian density: always ``round(W / acceleration)``, the centre included.

    Args:
        center_fractions: see :class:`KtMask`; every frame has the centre.
        accelerations: see :class:`KtMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        std: standard deviation of the density, as a part of the width.

    Raises:
        ValueError: if ``std`` is not positive, besides the reasons of :class:`SamplingMask`.

    Example:
        >>> KtGaussianMask(0.04, 8).draw((3, 256, 256)).sum((1, 2))
        tensor([32, 32, 32])
    """

    def __init__(
        self,
        center_fractions: Rates = 0.04,
        accelerations: Rates = 8.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        std: float = 0.2,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if not std > 0:
            raise ValueError(f"KtGaussianMask: 'std' must be positive, got {std}")
        self.std = std

    def _pattern(
        self, shape: tuple[int, int, int], fraction: float, rate: float, rng: np.random.RandomState
    ) -> np.ndarray:
        return np.stack([gaussian_lines(shape[-1], fraction, rate, self.std, rng) for _ in range(shape[0])])


class KtRadialMask(KtMask):
    """Spokes at equal angles, as in :class:`RadialMask`, that turn from frame to frame and never come back.

    Each frame is turned by the golden part, 0.618, of the angle between two spokes, after which the pattern would be
    the same: the spokes of any number of frames are spread nearly evenly. All frames have as many spokes, the number
    whose points come nearest to the acceleration on average; :func:`actual_acceleration` tells the rate. Source of the
    angle: Winkelmann et al. 2007, doi:10.1109/TMI.2006.885337.

    Args:
        center_fractions: see :class:`KtMask`; 0 for the spokes alone.
        accelerations: see :class:`KtMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.

    Example:
        >>> KtRadialMask(accelerations=10).draw((2, 64, 64))[:, 32, 32]
        tensor([True, True])
    """

    def __init__(
        self, center_fractions: Rates = 0.0, accelerations: Rates = 8.0, spatial_dims: int = 2, is_complex: bool = True
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)

    def _pattern(
        self, shape: tuple[int, int, int], fraction: float, rate: float, rng: np.random.RandomState
    ) -> np.ndarray:
        turns = (rng.random_sample() + _GOLDEN_PART * np.arange(shape[0])) % 1
        return radial_frames((shape[1], shape[2]), fraction, rate, turns)
