"""Any image-to-image network as a reconstruction: what MONAI's U-Net needs to stand beside an unrolled network."""

import torch
from torch import Tensor, nn


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
