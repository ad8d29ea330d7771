"""What every sampling pattern shares: checked rates, a seeded draw, and application to k-space as MONAI does it."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.apps.reconstruction.transforms.array import KspaceMask
from monai.utils import ensure_tuple
from torch import Tensor

from medkit.mri.coils import root_sum_of_squares
from medkit.ops import centered_ifft

Rates = Sequence[float] | float


def actual_acceleration(mask: Tensor) -> float:
    """Say how many samples there are for each one that is taken.

    Args:
        mask: bool or 0/1, any shape; axes of size 1 stand for whole lines and change nothing.

    Returns:
        Number of elements divided by the number of true ones, at least 1.

    Raises:
        ValueError: if nothing is sampled.

    Example:
        >>> actual_acceleration(torch.tensor([True, False, False, True]))
        2.0
    """
    n_sampled = int(torch.count_nonzero(mask))
    if n_sampled == 0:
        raise ValueError(f"actual_acceleration: 'mask' must sample something, got {tuple(mask.shape)} without any")
    return mask.numel() / n_sampled


def choose(log_weight: np.ndarray, n: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw ``n`` distinct flat indices, the likelier the greater ``exp(log_weight)``; -inf is never drawn."""
    if n <= 0:
        return np.empty(0, dtype=np.int64)
    # Gumbel noise on the logarithms: the n largest are a draw without replacement, at any range of weights.
    score = log_weight.ravel() + rng.gumbel(size=log_weight.size)
    return np.argpartition(-score, n - 1)[:n]


class SamplingMask(KspaceMask):
    """A sampling pattern over the last axes of k-space; each kind says how it is drawn.

    A subclass of MONAI's ``KspaceMask``: it takes the same arguments, gives the same pair, and keeps the pattern in
    ``mask``, of which :func:`actual_acceleration` tells the rate. Differs from MONAI's own masks: ``mask`` is bool, as
    MONAI's ``VarNetBlock`` needs it, and complex tensors are taken besides real ones with a trailing 2.
    ``set_random_state`` seeds it; ``draw`` also takes a generator.

    Args:
        center_fractions: part of all samples (0 to 1) spent on the fully sampled centre; one for each acceleration.
        accelerations: samples of the grid for each one taken, at least 1; one is drawn each time if there are several.
        spatial_dims: 2 for k-space ``(…, coil, H, W)``, 3 for ``(…, coil, H, W, D)``. Patterns of lines vary along the
            last axis, patterns of points over the last two.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.

    Raises:
        ValueError: if the two lists differ in length, an acceleration is below 1, a fraction lies outside 0 to 1, or
            the centre alone would exceed what the acceleration allows.
    """

    is_dynamic = False  # whether the pattern changes from frame to frame, see KtMask

    def __init__(
        self,
        center_fractions: Rates = 0.08,
        accelerations: Rates = 4.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
    ):
        fractions = tuple(float(f) for f in ensure_tuple(center_fractions))
        rates = tuple(float(r) for r in ensure_tuple(accelerations))
        name = type(self).__name__
        if not rates or len(fractions) != len(rates):
            raise ValueError(
                f"{name}: 'center_fractions' and 'accelerations' must be as many as each other and at least one, "
                f"got {fractions} and {rates}"
            )
        for fraction, rate in zip(fractions, rates, strict=True):
            if not 1 <= rate < math.inf:
                raise ValueError(f"{name}: 'accelerations' must be at least 1, got {rate}")
            if not 0 <= fraction <= 1:
                raise ValueError(f"{name}: 'center_fractions' must lie in 0 to 1, got {fraction}")
            if fraction * rate > 1 + 1e-6:
                raise ValueError(
                    f"{name}: 'center_fractions' {fraction} alone exceeds acceleration {rate}; "
                    f"give at most {1 / rate:.4g}"
                )
        if spatial_dims not in (2, 3):
            raise ValueError(f"{name}: 'spatial_dims' must be 2 or 3, got {spatial_dims}")
        super().__init__(fractions, rates, spatial_dims, is_complex)
        self.mask: Tensor | None = None

    @abstractmethod
    def _pattern(self, shape: tuple[Any, ...], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        """Return the bool pattern (W,) or (H, W) over the last two axes of k-space; ``shape`` is (H, W)."""

    def draw(self, shape: Sequence[int], rng: np.random.RandomState | None = None) -> Tensor:
        """Draw a pattern for a grid.

        Args:
            shape: spatial size of k-space, ``(H, W)`` or ``(H, W, D)``.
            rng: source of randomness; ``None``: the transform's own, seeded by ``set_random_state``.

        Returns:
            Bool, true where sampled, centred, as many axes as ``shape`` with size 1 where the pattern does not vary:
            ``(1, W)`` for lines, ``(H, W)`` for points.

        Raises:
            ValueError: if ``shape`` is not of ``spatial_dims`` positive sizes.
        """
        size = tuple(int(n) for n in shape)
        n_frame_axes = int(self.is_dynamic)
        n_sizes = n_frame_axes + self.spatial_dims
        if len(size) != n_sizes or min(size) < 1:
            frames = ", the number of frames first" if self.is_dynamic else ""
            raise ValueError(
                f"{type(self).__name__}.draw: 'shape' must be {n_sizes} positive sizes{frames}, got {tuple(shape)}"
            )
        rng = self.R if rng is None else rng
        i_rate = rng.randint(len(self.accelerations))
        pattern = self._pattern(
            (*size[:n_frame_axes], *size[-2:]), self.center_fractions[i_rate], self.accelerations[i_rate], rng
        )
        whole_axes = (1,) * (n_sizes - pattern.ndim)
        return torch.from_numpy(np.ascontiguousarray(pattern)).reshape(
            pattern.shape[:n_frame_axes] + whole_axes + pattern.shape[n_frame_axes:]
        )

    def __call__(self, kspace: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
        """Under-sample k-space with a newly drawn pattern, which is left in ``mask``.

        Args:
            kspace: complex ``(…, coil, H, W)``, or real ``(…, coil, H, W, 2)`` as in MONAI; centred, any unit. For a
                pattern that changes from frame to frame ``(…, T, coil, H, W)``.

        Returns:
            Under-sampled k-space in the layout it came in, and the root-sum-of-squares image ``(…, H, W)`` of it.

        Raises:
            ValueError: if the layout is neither, or there is no coil axis, or no axis of frames where one is needed.
        """
        x = torch.as_tensor(kspace)
        is_pair = self.is_complex and not x.is_complex()
        if is_pair and x.shape[-1:] != (2,):
            raise ValueError(
                f"{type(self).__name__}: 'kspace' must be complex, or real with a last axis of size 2, got {x.dtype} "
                f"{tuple(x.shape)}; for real-valued k-space set is_complex=False"
            )
        spatial = tuple(x.shape[:-1] if is_pair else x.shape)
        n_frame_axes = int(self.is_dynamic)
        first = len(spatial) - n_frame_axes - 1 - self.spatial_dims
        if first < 0:
            missing = "axes of frames and coils" if self.is_dynamic else "a coil axis"
            raise ValueError(
                f"{type(self).__name__}: 'kspace' must have {missing} before its {self.spatial_dims} spatial axes, "
                f"got {tuple(x.shape)}"
            )
        frames, space = spatial[first : first + n_frame_axes], spatial[-self.spatial_dims :]
        pattern = self.draw((*frames, *space)).to(x.device).unsqueeze(n_frame_axes)  # one for all coils
        pattern = pattern.reshape((1,) * first + tuple(pattern.shape))
        self.mask = pattern[..., None] if is_pair else pattern
        masked = x * self.mask
        samples = torch.view_as_complex(masked.contiguous()) if is_pair else masked
        if not samples.is_complex():
            samples = torch.complex(samples, torch.zeros_like(samples))
        image = root_sum_of_squares(centered_ifft(samples, self.spatial_dims), dim=-self.spatial_dims - 1)
        return masked, image
