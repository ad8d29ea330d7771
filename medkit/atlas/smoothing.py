"""The head that makes a velocity of what a network says: smoothed, at half resolution, the same both ways."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkit.ops import fft_real, ifft_real

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
REST = 1e-5


class SmoothedVelocity(nn.Module):
    r"""Wrap a network so that it predicts velocities that registration can use.

    .. math:: v = K \, \tfrac12 \left( f(\mathrm{subject}, \mathrm{template}) - f(\mathrm{template}, \mathrm{subject})
        \right), \qquad K = (1 - \alpha \Delta)^{-c}

    A bare network has energy at frequencies that the metric of the velocities punishes by many powers of ten, and
    descent removes it slowly. Here the network predicts what :math:`K` smooths, like a momentum. Half the difference
    of both directions keeps equal images where they are and inverts the map when the images are exchanged, exactly.
    The network runs on a grid coarser by ``factor``, where velocities live anyway: eight times cheaper in 3-D.

    Args:
        network: takes ``(B, 2 C, *T)``, the subject's channels first, as MONAI's moving and fixed, and returns
            ``(B, D, *T)``.
        spatial_dims: 2 or 3.
        image_channels: channels C of each image.
        alpha: :math:`\alpha` in squared voxels of the grid on which the network runs, at least 0: a network sees voxels
            and no mm. 0: not smoothed.
        power: :math:`c`, positive.
        factor: sizes of images must be multiples of it, and what is left of them such as the network takes.
        antisymmetric: combine both directions; ``False``: :math:`f(\mathrm{subject}, \mathrm{template})` alone.
        at_rest: begin with no motion, see :func:`start_at_rest`.
        fft_backend: see :func:`medkit.ops.fft_real`; ``"matmul"`` for ONNX.

    Raises:
        ValueError: if an argument is out of its range, or ``at_rest`` finds no convolution with D channels.

    Example:
        >>> from monai.networks.nets import VoxelMorphUNet
        >>> net = SmoothedVelocity(VoxelMorphUNet(2, 2, 8, (8, 8, 8, 8), (8,)), spatial_dims=2)
        >>> net(torch.rand(1, 2, 16, 24)).shape
        torch.Size([1, 2, 16, 24])
    """

    def __init__(
        self,
        network: nn.Module,
        spatial_dims: int = 3,
        image_channels: int = 1,
        alpha: float = 1.0,
        power: float = 2.0,
        factor: int = 2,
        antisymmetric: bool = True,
        at_rest: bool = True,
        fft_backend: str = "fft",
    ):
        super().__init__()
        if spatial_dims not in (2, 3) or image_channels < 1 or factor < 1:
            raise ValueError(
                "SmoothedVelocity: 'spatial_dims' must be 2 or 3, 'image_channels' and 'factor' at least 1, got "
                f"{spatial_dims}, {image_channels} and {factor}"
            )
        if not 0 <= alpha < math.inf or not 0 < power < math.inf:
            raise ValueError(
                f"SmoothedVelocity: 'alpha' must be at least 0 and 'power' positive, got {alpha} and {power}"
            )
        self.network = network
        self.spatial_dims, self.image_channels, self.factor = spatial_dims, image_channels, factor
        self.alpha, self.power = float(alpha), float(power)
        self.antisymmetric = antisymmetric
        self.fft_backend = fft_backend
        if at_rest:
            start_at_rest(network, spatial_dims)

    def forward(self, image: Tensor) -> Tensor:
        """Predict.

        Args:
            image: float32, ``(B, 2 C, *S)``, 0 to 1: subject, then template.

        Returns:
            Velocity ``(B, D, *S)``, float32, in voxels: the subject warped by its exponential resembles the template.
        """
        c = self.image_channels
        pair = image
        if self.factor > 1:
            pair = F.avg_pool3d(image, self.factor) if self.spatial_dims == 3 else F.avg_pool2d(image, self.factor)
        out = self.network(pair)
        if self.antisymmetric:
            # Not in one batch: then exchanged images give the same numbers to the last bit.
            out = 0.5 * (out - self.network(torch.cat([pair[:, c:], pair[:, :c]], dim=1)))
        velocity = self.smoothed(out.float())
        if self.factor > 1:
            mode = "trilinear" if self.spatial_dims == 3 else "bilinear"
            velocity = F.interpolate(velocity, scale_factor=float(self.factor), mode=mode, align_corners=False)
            velocity = velocity * float(self.factor)
        return velocity

    def smoothed(self, field: Tensor) -> Tensor:
        """Apply K to a field ``(B, D, *T)``, float32, on a periodic grid."""
        if self.alpha == 0.0:
            return field
        total = torch.ones([], dtype=torch.float32, device=field.device)
        for axis in range(self.spatial_dims):
            n = field.shape[2 + axis]
            # The size as a tensor, so that ONNX takes sizes known at run time.
            turns = torch.arange(n, device=field.device) / torch.full([], n, dtype=torch.float32, device=field.device)
            part = 2.0 * self.alpha * (1.0 - torch.cos(2.0 * math.pi * turns))
            total = total.unsqueeze(-1) + part
        gain = total ** (-self.power)
        re, im = fft_real(field, torch.zeros_like(field), self.spatial_dims, self.fft_backend)
        return ifft_real(re * gain, im * gain, self.spatial_dims, self.fft_backend)[0]


def start_at_rest(network: nn.Module, n_channels: int, std: float = REST) -> None:
    """Draw the weights of a network's output convolutions close to 0, biases 0: its first prediction is no motion.

    These are all convolutions with as many channels as the output: networks that sum several levels, or end in a
    residual unit, have more than one.

    Args:
        network: changed in place.
        n_channels: of its output.
        std: standard deviation of the new weights.

    Raises:
        ValueError: if it has no convolution with so many output channels.

    Example:
        >>> net = torch.nn.Conv2d(2, 2, 3)
        >>> start_at_rest(net, 2)
        >>> float(net(torch.ones(1, 2, 8, 8)).abs().max()) < 1e-3
        True
    """
    last = [m for m in network.modules() if isinstance(m, CONVOLUTIONS) and m.out_channels == n_channels]
    if not last:
        raise ValueError(
            f"start_at_rest: 'network' must end in a convolution with {n_channels} channels, and "
            f"{type(network).__name__} has none; start it as it is (at_rest=False)"
        )
    with torch.no_grad():
        for layer in last:
            layer.weight.normal_(0.0, std)
            if layer.bias is not None:
                layer.bias.zero_()
