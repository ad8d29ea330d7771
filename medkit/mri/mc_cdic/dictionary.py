"""A linear convolutional dictionary of three scales: codes to features, and its exact adjoint."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d


class MultiScaleDictionary(nn.Module):
    r"""Synthesis :math:`D s` of features from sparse codes at a quarter, a half and the full resolution.

    From coarse to fine: a 3×3 convolution of the coarsest codes, a transposed 2×2 convolution of stride 2, a 3×3
    convolution of the next codes beside what came up, and so on; a 1×1 convolution ends it. No bias and no
    nonlinearity, so that D is linear, and :meth:`adjoint` is :math:`D^T` with the same weights.

    Source: MC-CDic (Lei, Fang, Zhang, Xu, IJCAI 2023, doi:10.24963/ijcai.2023/112, arXiv 2309.01171), whose
    dictionaries follow MUSC (Liu et al., IEEE TCI 2022).

    Differs:
        - Sizes that 4 does not divide are refused; there the transposed convolution would pad, and the adjoint would
          be none.

    Checked: by the laws in ``tests/mri/test_mc_cdic_dictionary.py``; 464 896 weights with the default widths.

    Args:
        widths: channels of the codes, coarse to fine: at (H/4, W/4), (H/2, W/2) and (H, W).
        out_channels: channels of the features; ``None``: the last of ``widths``.
        dropped_channels: how many channels fewer an up-sampling gives than it takes (32 in the paper). ``None``: so
            many that it gives the channels of the codes it meets, which with the default widths is 32 as well.
        gain: weights start uniform in :math:`\pm gain \sqrt{3 / n_{in}}`.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> dictionary = MultiScaleDictionary((8, 6, 4))
        >>> codes = dictionary.adjoint(torch.ones(1, 4, 16, 16))
        >>> [tuple(code.shape) for code in codes], dictionary(codes).shape
        ([(1, 8, 4, 4), (1, 6, 8, 8), (1, 4, 16, 16)], torch.Size([1, 4, 16, 16]))
    """

    def __init__(
        self,
        widths: Sequence[int] = (128, 96, 64),
        out_channels: int | None = None,
        dropped_channels: int | None = None,
        gain: float = 1.0,
    ):
        super().__init__()
        if len(widths) != 3 or min(widths) < 1:
            raise ValueError(
                f"MultiScaleDictionary: 'widths' must be three positive numbers of channels, got {tuple(widths)}"
            )
        coarse, middle, fine = widths
        features = fine if out_channels is None else out_channels
        if features < 1:
            raise ValueError(f"MultiScaleDictionary: 'out_channels' must be at least 1, got {out_channels}")
        up = (middle, fine) if dropped_channels is None else (coarse - dropped_channels, middle - dropped_channels)
        if min(up) < 1:
            raise ValueError(
                f"MultiScaleDictionary: 'dropped_channels' must leave at least 1 of {tuple(widths[:2])} channels, "
                f"got {dropped_channels}"
            )
        self.widths = [int(width) for width in widths]
        self.out_channels = features
        self.at_quarter = nn.Parameter(_uniform(gain, coarse, coarse, 3))
        self.up_to_half = nn.Parameter(_uniform(gain, coarse, up[0], 2))
        self.at_half = nn.Parameter(_uniform(gain, middle, middle + up[0], 3))
        self.up_to_full = nn.Parameter(_uniform(gain, middle, up[1], 2))
        self.at_full = nn.Parameter(_uniform(gain, fine, fine + up[1], 3))
        self.out = nn.Parameter(_uniform(gain, features, fine, 1))

    def forward(self, codes: list[Tensor]) -> Tensor:
        r"""Synthesise features, :math:`D s`.

        Args:
            codes: real, ``(B, widths[0], H/4, W/4)``, ``(B, widths[1], H/2, W/2)``, ``(B, widths[2], H, W)``.

        Returns:
            ``(B, out_channels, H, W)``.

        Raises:
            ValueError: if the shapes are not these.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling()):
            self._check_codes(codes)
        z = conv2d(codes[0], self.at_quarter, padding=1)
        z = conv_transpose2d(z, self.up_to_half, stride=2)
        z = conv2d(torch.cat([codes[1], z], 1), self.at_half, padding=1)
        z = conv_transpose2d(z, self.up_to_full, stride=2)
        return conv2d(torch.cat([codes[2], z], 1), self.finest(), padding=1)

    @torch.jit.export
    def adjoint(self, features: Tensor) -> list[Tensor]:
        r"""Analyse features, :math:`D^T f`: the exact adjoint of the synthesis.

        Args:
            features: real, ``(B, out_channels, H, W)``, H and W divisible by 4.

        Returns:
            Codes, coarse to fine, as :meth:`forward` takes them.

        Raises:
            ValueError: if H or W is not divisible by 4, or the channels do not fit.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling()):
            self._check_features(features)
        z = conv_transpose2d(features, self.finest(), padding=1)
        fine = z[:, : self.widths[2]]
        z = conv2d(z[:, self.widths[2] :], self.up_to_full, stride=2)
        z = conv_transpose2d(z, self.at_half, padding=1)
        middle = z[:, : self.widths[1]]
        z = conv2d(z[:, self.widths[1] :], self.up_to_half, stride=2)
        return [conv_transpose2d(z, self.at_quarter, padding=1), middle, fine]

    def finest(self) -> Tensor:
        """Kernel of the 3×3 and the 1×1 convolution at full resolution in one, which spares a pass over the image."""
        kernel = torch.einsum("of,fcij->ocij", self.out[:, :, 0, 0], self.at_full)
        return kernel.contiguous(memory_format=torch.channels_last)

    @torch.jit.unused
    @torch.no_grad()
    def largest_eigenvalue(self, size: int = 32, n_iterations: int = 20, seed: int = 0) -> float:
        r"""Estimate the largest eigenvalue L of :math:`D^T D` from below by power iteration; replayed by ``seed``.

        A gradient step on :math:`\tfrac12 |D s - f|^2` descends for steps below 2 / L.

        Args:
            size: edge of the square features in pixels, divisible by 4.
            n_iterations: number of iterations, at least 1.
            seed: of the random codes to start from.

        Returns:
            The estimate.

        Raises:
            ValueError: if an argument is outside its range.
        """
        if size < 4 or size % 4 or n_iterations < 1:
            raise ValueError(
                "MultiScaleDictionary.largest_eigenvalue: 'size' must be a multiple of 4 and 'n_iterations' at least "
                f"1, got {size} and {n_iterations}"
            )
        generator = torch.Generator().manual_seed(seed)
        codes = [
            torch.rand(1, width, size >> (2 - i), size >> (2 - i), generator=generator).to(self.out)
            for i, width in enumerate(self.widths)
        ]
        value = 1.0
        for _ in range(n_iterations):
            length = math.sqrt(sum(float(code.square().sum()) for code in codes))
            codes = self.adjoint(self.forward([code / max(length, 1e-30) for code in codes]))
            value = math.sqrt(sum(float(code.square().sum()) for code in codes))
        return value

    @torch.jit.unused
    def _check_codes(self, codes: list[Tensor]) -> None:
        shapes = [tuple(code.shape) for code in codes]
        fits = len(codes) == 3 and all(code.ndim == 4 for code in codes)
        if fits:
            batch, _, height, width = codes[0].shape
            expected = [(batch, c, height << i, width << i) for i, c in enumerate(self.widths)]
            fits = shapes == expected
        if not fits:
            raise ValueError(
                f"MultiScaleDictionary: 'codes' must have {self.widths} channels and sizes that double from each to "
                f"the next (pad images to multiples of 4), got {shapes}"
            )

    @torch.jit.unused
    def _check_features(self, features: Tensor) -> None:
        shape = tuple(features.shape)
        if len(shape) != 4 or shape[1] != self.out_channels or shape[2] % 4 or shape[3] % 4:
            raise ValueError(
                f"MultiScaleDictionary.adjoint: 'features' must be (B, {self.out_channels}, H, W) with H and W "
                f"divisible by 4, got {shape}; pad them"
            )


def _uniform(gain: float, first: int, second: int, kernel: int) -> Tensor:
    """Weights (first, second, kernel, kernel), uniform; the fan-in is counted as torch does: over all axes but 0."""
    bound = gain * math.sqrt(3.0 / (second * kernel * kernel))
    return torch.empty(first, second, kernel, kernel).uniform_(-bound, bound)
