"""The Spatial and Fourier Layer, which sees near and far at once, and the residual block made of two."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from medkit.mri.clgnet.spectrum import from_spectrum, to_spectrum

FOURIER_MODES = ("crelu", "modrelu")
NEGATIVE_SLOPE = 0.1  # of every LeakyReLU here; scripted code sees no constants, so it is written out there


class _FourierMixing(nn.Module):
    """Two channel mixings of a half spectrum with a nonlinearity between, the same at every frequency.

    The weights of mode ``crelu`` are ``(2 C, 2 C)``, real and imaginary part of a channel side by side; those of mode
    ``modrelu`` are complex matrices, kept as ``(2, C, C)``: real part, imaginary part.
    """

    def __init__(self, channels: int, mode: str):
        super().__init__()
        self.mode = mode
        if mode == "crelu":
            first, second = torch.empty(2 * channels, 2 * channels), torch.empty(2 * channels, 2 * channels)
            for weight in (first, second):
                nn.init.orthogonal_(weight, gain=math.sqrt(0.5))
            self.threshold = None
        else:
            first, second = (_random_unitary(channels) * math.sqrt(0.5) for _ in range(2))
            self.threshold = nn.Parameter(torch.full((channels,), 0.02))
        self.first = nn.Parameter(first)
        self.second = nn.Parameter(second)

    def matrices(self, mixing: Tensor) -> tuple[Tensor, Tensor]:
        """Both mixings as real ``(2 C, 2 C)`` matrices, the second followed by ``mixing`` (C, C) of the channels."""
        if self.mode == "crelu":
            return self.first, torch.matmul(mixing, self.second.view(mixing.shape[0], -1)).view_as(self.second)
        return _as_real_matrix(self.first), _as_real_matrix(torch.matmul(mixing, self.second))

    def activate(self, spectrum: Tensor) -> Tensor:
        """Apply the nonlinearity to ``(B, 2 C, N)``: on each part (crelu), or on the magnitude alone (modrelu)."""
        threshold = self.threshold
        if threshold is None:
            return leaky_relu(spectrum, 0.1, inplace=True)
        pairs = spectrum.unflatten(1, [-1, 2])
        re, im = pairs.unbind(2)
        inverse_magnitude = torch.rsqrt(torch.addcmul(re * re, im, im) + 1e-12)
        gate = (1.0 - threshold.abs()[:, None] * inverse_magnitude).relu()
        return (pairs * gate.unsqueeze(2)).flatten(1, 2)

    def forward(self, spectrum: Tensor, mixing: Tensor) -> Tensor:
        """Spectrum ``(B, C, 2, H, W // 2 + 1)`` in and out, followed by ``mixing`` of the channels."""
        first, second = self.matrices(mixing)
        columns, n = spectrum.flatten(3).flatten(1, 2), spectrum.shape[0]
        # Batched products: with a plain one, torch would transpose the spectrum.
        columns = torch.bmm(first.expand(n, -1, -1), columns)
        columns = torch.bmm(second.expand(n, -1, -1), self.activate(columns))
        return columns.view_as(spectrum)


def _random_unitary(channels: int) -> Tensor:
    """Random unitary matrix as (2, C, C): real part, imaginary part."""
    q, _ = torch.linalg.qr(torch.complex(*torch.randn(2, channels, channels)))
    return torch.stack([q.real, q.imag])


def _as_real_matrix(weight: Tensor) -> Tensor:
    """Complex matrix (2, C, C) as the real (2 C, 2 C) that acts on real and imaginary parts side by side."""
    re, im = weight[0], weight[1]
    blocks = torch.stack([torch.stack([re, -im], -1), torch.stack([im, re], -1)], 1)
    return blocks.flatten(2).flatten(0, 1)


class SpatialFourierLayer(nn.Module):
    r"""A 3×3 convolution beside a mixing of the whole spectrum, fused: near and far in one layer (SFL).

    .. math:: SFL(z) = W_a\,(K_{3×3} * z) + W_g\, F^{-1} W_2\, \phi(W_1 F z) + b

    :math:`F` is the orthonormal real 2-D transform. :math:`W_1` and :math:`W_2` mix channels, the same at every
    frequency and without bias (a bias there is an impulse at pixel (0, 0)). Far reach comes from :math:`\phi` alone:
    without it, a pixel sees one pixel and its mirror images.

    Since nothing nonlinear follows the 3×3 convolution or :math:`W_2` inside the layer, the fusing 1×1 convolution is
    multiplied into both of them before they meet the image. This is the same function with the same parameters, and
    saves a concatenation and a convolution.

    Args:
        channels: C.
        fourier_mode: ``"crelu"``: real mixing of real and imaginary parts, LeakyReLU 0.1 on each, as in Fast Fourier
            Convolution; not equivariant to shifts. ``"modrelu"``: complex mixing, and a learned threshold on the
            magnitude (its absolute value counts), which leaves the phase alone; the Fourier branch is then equivariant
            to circular shifts.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> SpatialFourierLayer(8)(torch.rand(1, 8, 15, 16)).shape
        torch.Size([1, 8, 15, 16])
    """

    def __init__(self, channels: int = 64, fourier_mode: str = "crelu"):
        super().__init__()
        if channels < 1:
            raise ValueError(f"SpatialFourierLayer: 'channels' must be at least 1, got {channels}")
        if fourier_mode not in FOURIER_MODES:
            raise ValueError(
                f"SpatialFourierLayer: 'fourier_mode' must be one of {FOURIER_MODES}, got {fourier_mode!r}"
            )
        self.channels = channels
        self.near_weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.near_bias = nn.Parameter(torch.zeros(channels))
        self.fourier = _FourierMixing(channels, fourier_mode)
        self.fuse_weight = nn.Parameter(torch.empty(channels, 2 * channels))
        self.fuse_bias = nn.Parameter(torch.zeros(channels))
        nn.init.kaiming_normal_(self.near_weight, a=NEGATIVE_SLOPE)
        nn.init.kaiming_normal_(self.fuse_weight, a=NEGATIVE_SLOPE)

    def forward(self, z: Tensor, matrices: list[Tensor] | None = None, scale: Tensor | None = None) -> Tensor:
        """Apply the layer.

        Args:
            z: features, ``(B, C, H, W)``, any size.
            matrices: of ``fourier_matrices``, for exports without complex numbers; ``None``: by FFT.
            scale: factor of each output channel, ``(C,)``.

        Returns:
            float32, ``(B, C, H, W)``, under autocast as well.
        """
        mixing: Tensor = self.fuse_weight
        bias = self.fuse_bias + torch.mv(mixing[:, : self.channels], self.near_bias)
        if scale is not None:
            mixing, bias = mixing * scale[:, None], bias * scale
        mixing_near, mixing_far = mixing[:, : self.channels], mixing[:, self.channels :]
        kernel = torch.matmul(mixing_near, self.near_weight.flatten(1)).view_as(self.near_weight)
        return self.far(z, mixing_far, matrices).add_(conv2d(z, kernel, bias, padding=1))

    def far(self, z: Tensor, mixing: Tensor, matrices: list[Tensor] | None = None) -> Tensor:
        """Fourier branch alone, in float32 whatever autocast says: half-precision FFTs are limited in size and range.

        Args:
            z: features, ``(B, C, H, W)``.
            mixing: what follows the branch, ``(C, C)``.
            matrices: of ``fourier_matrices``, or ``None``.

        Returns:
            float32, ``(B, C, H, W)``.
        """
        if not torch.jit.is_scripting():
            if torch.is_autocast_enabled(z.device.type):
                with torch.autocast(z.device.type, enabled=False):
                    return self._far(z.float(), mixing.float(), matrices)
        return self._far(z.float(), mixing, matrices)

    def _far(self, z: Tensor, mixing: Tensor, matrices: list[Tensor] | None) -> Tensor:
        return from_spectrum(self.fourier(to_spectrum(z, matrices), mixing), z.shape[-1], matrices)


class _ConvolutionPair(nn.Module):
    """Two 3×3 convolutions around a LeakyReLU: near alone, with 18 C² weights where the layer above has 19 C²."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, a=NEGATIVE_SLOPE)

    def forward(self, z: Tensor, matrices: list[Tensor] | None = None, scale: Tensor | None = None) -> Tensor:
        """Same arguments as :class:`SpatialFourierLayer`; ``matrices`` are not used."""
        z = self.second(leaky_relu(self.first(z), 0.1, inplace=True))
        return z if scale is None else z * scale[:, None, None]


class SpatialFourierResidualBlock(nn.Module):
    r"""Two Spatial and Fourier Layers around a LeakyReLU, added to their input (SFRB).

    .. math:: SFRB(z) = z + \gamma \cdot SFL_2(\phi(SFL_1(z)))

    The learned :math:`\gamma` of each channel starts at 0.1, which keeps deep stacks stable without normalisation.

    Args:
        channels: C.
        fourier_mode: see :class:`SpatialFourierLayer`; or ``"none"``: for comparison, two 3×3 convolutions around a
            LeakyReLU in place of each layer, which have about as many parameters and see only near.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> SpatialFourierResidualBlock(8)(torch.rand(1, 8, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
    """

    def __init__(self, channels: int = 64, fourier_mode: str = "crelu"):
        super().__init__()
        if fourier_mode not in (*FOURIER_MODES, "none"):
            modes = (*FOURIER_MODES, "none")
            raise ValueError(
                f"SpatialFourierResidualBlock: 'fourier_mode' must be one of {modes}, got {fourier_mode!r}"
            )
        if fourier_mode == "none":
            self.first: nn.Module = _ConvolutionPair(channels)
            self.second: nn.Module = _ConvolutionPair(channels)
        else:
            self.first = SpatialFourierLayer(channels, fourier_mode)
            self.second = SpatialFourierLayer(channels, fourier_mode)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, z: Tensor, matrices: list[Tensor] | None = None) -> Tensor:
        """Features ``(B, C, H, W)`` in and out; ``matrices`` as for :class:`SpatialFourierLayer`."""
        features = leaky_relu(self.first(z, matrices), 0.1, inplace=True)
        return self.second(features, matrices, self.scale).add_(z)
