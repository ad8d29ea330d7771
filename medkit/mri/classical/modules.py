"""Classical methods as modules without parameters that stand where a reconstruction network stands."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from medkit.mri.channels import channels_to_complex, complex_to_channels
from medkit.mri.classical.gradients import cg_sense
from medkit.mri.classical.problem import check_settings
from medkit.mri.classical.sparsity import l1_wavelet
from medkit.mri.classical.variation import total_variation


class ClassicalReconstruction(nn.Module):
    """A method from the zero-filled image, the mask and the maps to an image: what its subclasses have in common.

    Inside a :class:`PackedReconstructor` it takes the place of a network, so that a bundle runs it in the same way.
    Images are in the unit of the network's input, scaled to about 1: weights hold for this scale.

    Example:
        >>> from medkit.mri import PackedReconstructor
        >>> PackedReconstructor(CGSense())(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    @abstractmethod
    def reconstruct(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Reconstruct from complex ``(B, 1, H, W)``, a centred bool mask and complex maps; complex ``(B, 1, H, W)``."""

    def forward(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Reconstruct in the form of networks.

        Args:
            zero_filled: float32, ``(B, 2, H, W)``, Re and Im of the zero-filled image, scaled to about 1.
            mask: ``(B, 1, H, W)``, 1 where sampled, frequency 0 at index 0.
            sens_maps: float32, ``(B, 2 coil, H, W)``, Re and Im of each coil; ``None``: one uniform coil.

        Returns:
            float32, ``(B, 2, H, W)``, same unit.
        """
        maps = None if sens_maps is None else channels_to_complex(sens_maps)
        centred = torch.fft.fftshift(mask > 0.5, dim=(-2, -1))
        return complex_to_channels(self.reconstruct(channels_to_complex(zero_filled), centred, maps))


class ZeroFilled(ClassicalReconstruction):
    """Leave the zero-filled image as it is: what every method must surpass.

    Example:
        >>> ZeroFilled().reconstruct(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 2)).shape
        torch.Size([1, 1, 2, 2])
    """

    def reconstruct(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Return ``zero_filled``."""
        return zero_filled


class _Iterative(ClassicalReconstruction):
    def __init__(self, weight: float, n_iterations: int):
        super().__init__()
        check_settings(type(self).__name__, weight, n_iterations)
        self.weight = weight
        self.n_iterations = n_iterations

    def extra_repr(self) -> str:
        """Weight and number of iterations."""
        return f"weight={self.weight}, n_iterations={self.n_iterations}"


class CGSense(_Iterative):
    """Module over :func:`cg_sense`.

    Args:
        weight: of the energy of the image, at least 0.
        n_iterations: at least 1.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> CGSense(n_iterations=10)
        CGSense(weight=0.01, n_iterations=10)
    """

    def __init__(self, weight: float = 0.01, n_iterations: int = 30):
        super().__init__(weight, n_iterations)

    def reconstruct(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """See :func:`cg_sense`."""
        return cg_sense(zero_filled, mask, sens_maps, self.weight, self.n_iterations)


class L1Wavelet(_Iterative):
    """Module over :func:`l1_wavelet`.

    Args:
        weight: of the magnitudes of the wavelet coefficients, at least 0.
        n_iterations: at least 1.
        order: vanishing moments of the Daubechies wavelet, 1 to 10.
        n_levels: number of levels; ``None``: as many as leave the coarsest longer than the filter.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> L1Wavelet()
        L1Wavelet(weight=0.001, n_iterations=100)
    """

    def __init__(self, weight: float = 0.001, n_iterations: int = 100, order: int = 4, n_levels: int | None = None):
        super().__init__(weight, n_iterations)
        self.order = order
        self.n_levels = n_levels

    def reconstruct(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """See :func:`l1_wavelet`."""
        return l1_wavelet(zero_filled, mask, sens_maps, self.weight, self.n_iterations, self.order, self.n_levels)


class TotalVariation(_Iterative):
    """Module over :func:`total_variation`.

    Args:
        weight: of the magnitudes of differences between neighbours, at least 0.
        n_iterations: at least 1.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> TotalVariation()
        TotalVariation(weight=0.001, n_iterations=100)
    """

    def __init__(self, weight: float = 0.001, n_iterations: int = 100):
        super().__init__(weight, n_iterations)

    def reconstruct(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """See :func:`total_variation`."""
        return total_variation(zero_filled, mask, sens_maps, self.weight, self.n_iterations)
