"""Any image-to-image network as a reconstruction: what MONAI's U-Net needs to stand beside an unrolled network."""

import torch
from torch import Tensor, nn

from medkit.mri.channel_consistency import ChannelDataConsistency


class ImageRefiner(nn.Module):
    r"""Add to the zero-filled image what an image network finds missing: :math:`\hat x = x_0 + f(x_0)`.

    The post-processing baseline of the field (residual U-Net on zero-filled images). It sees neither mask nor coils.

    Args:
        network: real ``(B, 2, H, W)`` to real ``(B, 2, H, W)``: Re and Im of an image.

    Example:
        >>> from medkit.mri import PackedReconstructor
        >>> net = PackedReconstructor(ImageRefiner(torch.nn.Conv2d(2, 2, 3, padding=1)))
        >>> net(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None = None) -> Tensor:
        """Refine.

        Args:
            zero_filled: float32, ``(B, 2, H, W)``, Re and Im of the zero-filled image, scaled to about 1.
            mask: not used.
            sens_maps: not used.

        Returns:
            float32, ``(B, 2, H, W)``, same unit.

        Raises:
            ValueError: if the network's output has not the shape of its input.
        """
        missing = self.network(zero_filled)
        if not torch.jit.is_tracing():
            if missing.shape != zero_filled.shape:
                raise ValueError(
                    f"ImageRefiner: 'network' must keep the shape {list(zero_filled.shape)}, got {list(missing.shape)}"
                )
        return zero_filled + missing


class GuidedImageRefiner(nn.Module):
    r"""Add to the zero-filled image what an image network finds missing in it, beside reference contrasts.

    The concatenation baseline of multi-contrast restoration, :math:`\hat x = x_0 + f([x_0, y])`, with the sampled
    k-space weighed in at the end by a learned noise, as :class:`MCCDic` does with ``data_term="soft"``. It goes into
    :class:`PackedMultiContrast` where an MC-CDic goes.

    Args:
        network: real ``(B, 2 + ref_channels, H, W)`` to real ``(B, 2, H, W)``: Re and Im of an image.
        ref_channels: number of reference contrasts, at least 1.
        fft_backend: ``"fft"``, or ``"matmul"`` for exports.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> from medkit.mri import PackedMultiContrast
        >>> net = PackedMultiContrast(GuidedImageRefiner(torch.nn.Conv2d(3, 2, 3, padding=1)))
        >>> net(torch.rand(1, 4, 32, 32)).shape
        torch.Size([1, 9, 32, 32])
    """

    def __init__(self, network: nn.Module, ref_channels: int = 1, fft_backend: str = "fft"):
        super().__init__()
        if ref_channels < 1:
            raise ValueError(f"GuidedImageRefiner: 'ref_channels' must be at least 1, got {ref_channels}")
        if fft_backend not in ("fft", "matmul"):
            raise ValueError(f"GuidedImageRefiner: 'fft_backend' must be 'fft' or 'matmul', got {fft_backend!r}")
        self.in_channels = 2
        self.ref_channels = ref_channels
        self.fft_backend = fft_backend
        self.network = network
        self.data_term = ChannelDataConsistency("soft")

    @torch.jit.export
    def decompose(
        self, target: Tensor, reference: Tensor, mask: Tensor, sens_maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Refine; arguments and results are those of :meth:`MCCDic.decompose`.

        Args:
            target: float32, ``(B, 2, H, W)``, Re and Im of the zero-filled image, scaled to about 1.
            reference: float32, ``(B, ref_channels, H, W)``.
            mask: 0/1, ``(B, 1, H, W)``, frequency 0 at index 0.
            sens_maps: float32, ``(B, 2 coil, H, W)``; ``None``: one uniform coil.

        Returns:
            Refined target; the references as they came; what was added as the target's unique part; zeros, for this
            network tells no parts apart.

        Raises:
            ValueError: if the network's output has not the shape of ``target``.
        """
        missing = self.network(torch.cat([target, reference], 1))
        if not torch.jit.is_tracing():
            if missing.shape != target.shape:
                raise ValueError(
                    f"GuidedImageRefiner: 'network' must give the shape {list(target.shape)}, got {list(missing.shape)}"
                )
        x = self.data_term(target + missing, target, mask, sens_maps, self.fft_backend)
        nothing = torch.zeros_like(reference)
        return x, reference, missing, torch.zeros_like(target), nothing, nothing
