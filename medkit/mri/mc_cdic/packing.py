"""The one tensor that multi-contrast restoration takes and the one that it gives: packed here."""

import torch
from torch import Tensor, nn

from medkit.mri.channels import check_target, pack_reconstruction
from medkit.mri.mc_cdic.network import MCCDic
from medkit.mri.refinement import GuidedImageRefiner

N_FIXED = 3  # channels before the references: Re, Im, mask


def pack_multi_contrast(
    zero_filled: Tensor, mask: Tensor, guide: Tensor, sens_maps: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """Put all that multi-contrast restoration needs into one real tensor.

    As :func:`medkit.mri.pack_reconstruction`, with the reference contrasts behind the mask.

    Args:
        zero_filled: complex, ``(B, 1, H, W[, S])``, or without ``B`` for ``channel_dim=0``; divided by its scale.
        mask: bool or 0/1, broadcastable to ``zero_filled``, centred.
        guide: real, ``(B, n, H, W[, S])``, the reference contrasts, each divided by its own scale.
        sens_maps: complex, ``(B, coil, H, W[, S])``; ``None``: one uniform coil.
        channel_dim: 1 for a batch, 0 for a sample.

    Returns:
        float32, ``(B, 3 + n + 2 coil, H, W[, S])``: Re, Im of the image, the mask with frequency 0 at index 0, the
        references, then Re, Im of each coil's sensitivity.

    Raises:
        ValueError: if an argument is not of this form.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> pack_multi_contrast(x0, torch.ones(1, 1, 1, 4, dtype=torch.bool), torch.ones(1, 1, 4, 4)).shape
        torch.Size([1, 4, 4, 4])
    """
    packed = pack_reconstruction(zero_filled, mask, sens_maps, channel_dim)
    expected = list(packed.shape)
    if guide.ndim == packed.ndim:
        expected[channel_dim] = guide.shape[channel_dim]
    if guide.is_complex() or list(guide.shape) != expected or expected[channel_dim] < 1:
        raise ValueError(
            f"pack_multi_contrast: 'guide' must be real, at least one channel of the size of 'zero_filled' "
            f"{tuple(zero_filled.shape)}, got {guide.dtype} {tuple(guide.shape)}"
        )
    fixed = packed.narrow(channel_dim, 0, N_FIXED)
    maps = packed.narrow(channel_dim, N_FIXED, packed.shape[channel_dim] - N_FIXED)
    return torch.cat([fixed, guide.to(packed.dtype), maps], channel_dim)


class PackedMultiContrast(nn.Module):
    """MC-CDic behind one real tensor in, one real tensor out: the form that bundles and exports need.

    Args:
        network: a :class:`MCCDic`, or a :class:`medkit.mri.GuidedImageRefiner` to compare with it. An MC-CDic with
            ``in_channels=1`` gets and returns the real part alone; the imaginary channels of the result are then 0.
        target: ``"sense"``, or ``"rss"``: the restored target is multiplied by the root sum of squares of the
            sensitivities, see :class:`medkit.mri.PackedReconstructor`.

    Raises:
        ValueError: if ``target`` is unknown.

    Example:
        >>> from medkit.mri import MCCDic
        >>> network = MCCDic(preset="small", in_channels=2, ref_channels=1)
        >>> PackedMultiContrast(network)(torch.rand(1, 4, 32, 32)).shape
        torch.Size([1, 9, 32, 32])
    """

    def __init__(self, network: MCCDic | GuidedImageRefiner, target: str = "sense"):
        super().__init__()
        check_target("PackedMultiContrast", target)
        self.is_rss = target == "rss"
        self.network = network
        self.in_channels = int(network.in_channels)
        self.ref_channels = int(network.ref_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Restore.

        Args:
            image: real, ``(B, 3 + n + 2 coil, H, W)`` for n references, see :func:`pack_multi_contrast`.

        Returns:
            ``pred``: float32, ``(B, 6 + 3 n, H, W)``: Re, Im of the restored target; the re-synthesised references;
            Re, Im of the target's unique part, then of its common part; unique parts of the references, then their
            common parts. In the units of the inputs.

        Raises:
            ValueError: if the number of channels is not 3 + n, 5 + n, 7 + n, ...
        """
        n_channels = image.shape[1]
        first_map = 3 + self.ref_channels
        if not torch.jit.is_tracing():
            if n_channels < first_map or (n_channels - first_map) % 2 != 0:
                raise ValueError(
                    f"PackedMultiContrast: 'image' must have {first_map} + 2 coil channels, got {n_channels}"
                )
        sens_maps: Tensor | None = None
        if n_channels > first_map:
            sens_maps = image[:, first_map:]
        target, mask, guide = image[:, : self.in_channels], image[:, 2:3], image[:, 3:first_map]
        x, y, x_unique, x_common, y_unique, y_common = self.network.decompose(target, guide, mask, sens_maps)
        if self.in_channels == 1:
            zero = torch.zeros_like(x)
            x, x_unique, x_common = (
                torch.cat([x, zero], 1),
                torch.cat([x_unique, zero], 1),
                torch.cat([x_common, zero], 1),
            )
        if self.is_rss and sens_maps is not None:
            x = x * torch.linalg.vector_norm(sens_maps, dim=1, keepdim=True)
        return torch.cat([x, y, x_unique, x_common, y_unique, y_common], 1).to(torch.float32)
