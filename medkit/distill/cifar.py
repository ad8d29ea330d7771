"""The residual networks of the CIFAR literature: three stages, as the tables of distillation use them."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.resnet import ResNetBlock
from torch import Tensor, nn


class CIFARResNet(nn.Module):
    """ResNet of three stages for small pictures; MONAI's always has four.

    Depth ``6 n + 2`` means ``n`` blocks in each stage: ResNet-56, -20, -110, -32 with channels 16, 16, 32, 64, and
    the wide ``32x4`` and ``8x4`` with 32, 64, 128, 256. A 3x3 stem without pooling; stages 2 and 3 halve the picture.
    Stages are tapped as ``stage1``, ``stage2`` and ``stage3``.

    Source: He et al., CVPR 2016, arXiv 1512.03385, section 4.2; the wide ones as in Tian et al., ICLR 2020.

    Differs:
        - Shortcuts that change the number of channels are 1x1 convolutions with normalisation, as in the code that the
          distillation tables were made with, not padded with zeros.

    Checked: by the numbers of parameters that the literature gives, see ``tests/distill/test_cifar.py``.

    Args:
        depth: ``6 n + 2``.
        channels: of the stem and of the three stages.
        in_channels: of the pictures.
        n_classes: of the logits.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if ``depth`` is not ``6 n + 2``, or ``channels`` are not four.

    Example:
        >>> CIFARResNet(8, (32, 64, 128, 256))(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 100])
    """

    def __init__(
        self,
        depth: int = 20,
        channels: Sequence[int] = (16, 16, 32, 64),
        in_channels: int = 3,
        n_classes: int = 100,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6 or len(channels) != 4:
            raise ValueError(
                f"CIFARResNet: 'depth' must be 6 n + 2 and 'channels' four, got {depth} and {tuple(channels)}"
            )
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        normalisation = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[spatial_dims]
        n_blocks = (depth - 2) // 6
        self.stem = nn.Sequential(
            convolution(in_channels, channels[0], 3, padding=1, bias=False), normalisation(channels[0]), nn.ReLU()
        )

        def stage(before: int, after: int, stride: int) -> nn.Sequential:
            shortcut = None
            if stride > 1 or before != after:
                shortcut = nn.Sequential(convolution(before, after, 1, stride, bias=False), normalisation(after))
            first = ResNetBlock(before, after, spatial_dims, stride, shortcut)
            return nn.Sequential(first, *(ResNetBlock(after, after, spatial_dims) for _ in range(n_blocks - 1)))

        self.stage1 = stage(channels[0], channels[1], 1)
        self.stage2 = stage(channels[1], channels[2], 2)
        self.stage3 = stage(channels[2], channels[3], 2)
        self.head = nn.Linear(channels[3], n_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify.

        Args:
            image: float32, ``(B, in_channels, *S)``.

        Returns:
            Logits, ``(B, n_classes)``.
        """
        deepest = self.stage3(self.stage2(self.stage1(self.stem(image))))
        return self.head(deepest.flatten(2).mean(dim=2))
