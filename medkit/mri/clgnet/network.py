"""The network: cascades of a spatial-and-Fourier regulariser, each followed by data consistency."""

import torch
from torch import Tensor, nn

from medkit.mri.channel_consistency import ChannelDataConsistency, symmetrised
from medkit.mri.clgnet.layers import NEGATIVE_SLOPE, SpatialFourierResidualBlock
from medkit.mri.clgnet.spectrum import fourier_matrices

PRESETS = {
    # name: channels, cascades, blocks in a cascade
    "paper": (64, 5, 4),
    "base": (32, 4, 2),
    "small": (8, 2, 1),
}
BLOCKS_PER_GROUP = 4


def _conv3x3(in_channels: int, channels: int, zero: bool = False) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, 3, padding=1)
    for name, parameter in conv.named_parameters():
        if zero or name == "bias":
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, a=NEGATIVE_SLOPE)
    return conv


class _Group(nn.Module):
    """Residual blocks, a 3×3 convolution, and a skip over all of them."""

    def __init__(self, channels: int, n_blocks: int, fourier_mode: str):
        super().__init__()
        self.blocks = nn.ModuleList(SpatialFourierResidualBlock(channels, fourier_mode) for _ in range(n_blocks))
        self.conv = _conv3x3(channels, channels)

    def forward(self, z: Tensor, matrices: list[Tensor] | None) -> Tensor:
        skip = z
        for block in self.blocks:
            z = block(z, matrices)
        return self.conv(z) + skip


class _Cascade(nn.Module):
    """Regulariser x + tail(body(head(x))) and the data consistency after it."""

    def __init__(self, in_channels: int, channels: int, n_blocks: int, fourier_mode: str, dc: str, cg_iterations: int):
        super().__init__()
        self.head = _conv3x3(in_channels, channels)
        sizes = [BLOCKS_PER_GROUP] * (n_blocks // BLOCKS_PER_GROUP)
        if n_blocks % BLOCKS_PER_GROUP:
            sizes.append(n_blocks % BLOCKS_PER_GROUP)
        self.groups = nn.ModuleList(_Group(channels, size, fourier_mode) for size in sizes)
        self.tail = _conv3x3(channels, in_channels, zero=True)
        self.consistency = ChannelDataConsistency(dc, n_iterations=cg_iterations, is_real=in_channels == 1)

    def forward(
        self,
        x: Tensor,
        zero_filled: Tensor,
        mask: Tensor,
        sens_maps: Tensor | None,
        backend: str,
        matrices: list[Tensor] | None,
    ) -> Tensor:
        head = self.head(x)
        z = head
        for group in self.groups:
            z = group(z, matrices)
        if len(self.groups) > 1:
            z = z + head
        x = x + self.tail(z)
        return self.consistency(x, zero_filled, mask, sens_maps, backend)


class CLGNet(nn.Module):
    r"""Contrastive Learning for Local and Global learning MRI reconstruction Network.

    From the zero-filled image :math:`x_0 = A^H y`, each cascade computes
    :math:`x \leftarrow DC(x + G_k(x))`, where :math:`G_k` is a network of Spatial and Fourier Residual Blocks and DC
    pulls back to the measurement. Since the last convolution of each :math:`G_k` starts at zero, the untrained network
    returns :math:`x_0` for a single coil.

    Source: Yi, Liu, Hu, Fang, Zhang, arXiv 2111.15200 (2021). No code was published and only the abstract could be
    read, so this is a re-implementation of its ideas: layers that learn in image and Fourier space at once, residual
    blocks made of them, and a contrastive loss (``ContrastiveReconstructionLoss``). Every detail is our decision.

    Differs: (cannot be compared; these are the decisions)
        - The layer: a 3×3 convolution beside real FFT, 1×1, LeakyReLU, 1×1, inverse FFT on all channels, fused by a
          1×1 convolution. No batch normalisation: statistics of spectra hang on the mean intensity.
        - The block: two layers around a LeakyReLU 0.1, times a learned factor of each channel, plus its input.
        - The body: 3×3 head, groups of up to four blocks, each with a 3×3 convolution and a skip, a skip over all
          groups if there are several, and a zero-initialised 3×3 tail.
        - Five cascades of four blocks with 64 channels and unshared weights, soft data consistency with a learned
          noise weight after each. Whether the paper has data consistency is unknown; ``dc="none"`` leaves it out.
        - Complex input as two channels; real images with ``in_channels=1``.
        - No padding to sizes that suit the FFT: aliasing wraps around the true borders of the image, and every size
          works (a prime size makes the FFT two to four times slower).
        - Initialisation: Kaiming normal; Fourier mixings orthogonal (modrelu: unitary) times :math:`\sqrt{1/2}`.

    Checked: by the laws in ``tests/mri/test_clgnet.py``; not against official code, of which there is none.

    Args:
        preset: ``"paper"`` (64 channels, 5 cascades of 4 blocks), ``"base"`` (32, 4 of 2; for CPUs) or ``"small"``
            (8, 2 of 1; for tests). The next three arguments overrule it.
        channels: C.
        n_cascades: number of cascades; 1 with ``n_blocks=16`` is the plain, unrolled-once form.
        n_blocks: residual blocks in each cascade.
        in_channels: 2 for complex images (Re, Im), 1 for real images. With 1, give the real part of the zero-filled
            image and any mask; that k-space is Hermitian is used: a sample at k counts at -k as well.
        fourier_mode: ``"crelu"`` or ``"modrelu"``, see :class:`SpatialFourierLayer`; ``"none"``: for comparison, two
            3×3 convolutions in place of each layer.
        dc: ``"soft"``, ``"hard"``, ``"grad"``, ``"cg"`` or ``"none"``.
        cg_iterations: conjugate-gradient steps in each cascade, with ``dc="cg"``.
        fft_backend: ``"fft"``, or ``"matmul"`` for exports; also an attribute, which may be set at any time. The
            parameters do not depend on it.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> CLGNet(preset="small")(torch.rand(1, 2, 32, 32), torch.ones(1, 1, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(
        self,
        preset: str = "paper",
        channels: int | None = None,
        n_cascades: int | None = None,
        n_blocks: int | None = None,
        in_channels: int = 2,
        fourier_mode: str = "crelu",
        dc: str = "soft",
        cg_iterations: int = 6,
        fft_backend: str = "fft",
    ):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"CLGNet: 'preset' must be one of {tuple(PRESETS)}, got {preset!r}")
        given = zip((channels, n_cascades, n_blocks), PRESETS[preset], strict=True)
        sizes = [default if value is None else value for value, default in given]
        for argument, value in zip(("channels", "n_cascades", "n_blocks"), sizes, strict=True):
            if value < 1:
                raise ValueError(f"CLGNet: '{argument}' must be at least 1, got {value}")
        if in_channels not in (1, 2):
            raise ValueError(f"CLGNet: 'in_channels' must be 2 (complex) or 1 (real images), got {in_channels}")
        if fft_backend not in ("fft", "matmul"):
            raise ValueError(f"CLGNet: 'fft_backend' must be 'fft' or 'matmul', got {fft_backend!r}")
        self.in_channels = in_channels
        self.fft_backend = fft_backend
        self.cascades = nn.ModuleList(
            _Cascade(in_channels, sizes[0], sizes[2], fourier_mode, dc, cg_iterations) for _ in range(sizes[1])
        )

    def forward(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Reconstruct.

        Args:
            zero_filled: float32, ``(B, 2, H, W)``: Re and Im of :math:`A^H y`, scaled so that bright tissue is near 1;
                ``(B, 1, H, W)`` with ``in_channels=1``.
            mask: 0/1, real, ``(B, 1, H, W)``, 1 where k-space was sampled, frequency 0 at index 0 (``ifftshift`` of a
                centred mask).
            sens_maps: float32, ``(B, 2 coil, H, W)``: Re and Im of each coil's sensitivity; ``None``: one uniform coil.

        Returns:
            float32, shape and unit of ``zero_filled``.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing()):
            self._check(zero_filled, mask, sens_maps)
        zero_filled, mask = zero_filled.float(), mask.float()
        if sens_maps is not None:
            sens_maps = sens_maps.float()
        if self.in_channels == 1:
            zero_filled, mask = symmetrised(zero_filled, mask, self.fft_backend)
        matrices: list[Tensor] | None = None
        if self.fft_backend == "matmul":
            matrices = fourier_matrices(mask.shape[-2], mask.shape[-1], mask)
        x = zero_filled
        for cascade in self.cascades:
            x = cascade(x, zero_filled, mask, sens_maps, self.fft_backend, matrices)
        return x

    @torch.jit.unused
    def _check(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None) -> None:
        if zero_filled.ndim != 4 or zero_filled.shape[1] != self.in_channels:
            raise ValueError(
                f"CLGNet: 'zero_filled' must be (B, {self.in_channels}, H, W), got {tuple(zero_filled.shape)}"
            )
        if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[2:] != zero_filled.shape[2:]:
            raise ValueError(
                f"CLGNet: 'mask' must be (B, 1, H, W) like 'zero_filled' {tuple(zero_filled.shape)}, "
                f"got {tuple(mask.shape)}"
            )
        if sens_maps is None:
            return
        if self.in_channels == 1:
            raise ValueError("CLGNet: 'sens_maps' must be None with in_channels=1: coils need complex images")
        if sens_maps.ndim != 4 or sens_maps.shape[1] % 2 or sens_maps.shape[2:] != zero_filled.shape[2:]:
            raise ValueError(
                f"CLGNet: 'sens_maps' must be (B, 2 coil, H, W) like 'zero_filled' {tuple(zero_filled.shape)}, "
                f"got {tuple(sens_maps.shape)}"
            )
