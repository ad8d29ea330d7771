"""MONAI's own reconstruction networks behind the packed channels of this package, with their defects worked round."""

import copy
from typing import cast

import torch
from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
from monai.apps.reconstruction.networks.nets.utils import (
    reshape_batch_channel_to_channel_dim,
    reshape_channel_to_batch_dim,
)
from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel
from monai.networks.blocks.fft_utils_t import ifftn_centered_t
from torch import Tensor, nn

from medkit.mri.calibration import MIN_CALIBRATION, centre_start, sampled_centres, suffices
from medkit.mri.channels import unpack_reconstruction
from medkit.ops import centered_fft


def _where_it_varies(network: nn.Module, images: Tensor) -> Tensor:
    """Call ``network`` on those of the images (N, 1, H, W, 2) whose parts vary; of the others the result is 0.

    MONAI's ``ComplexUnet`` divides Re and Im by their standard deviations, so that an image of zeros becomes NaN.
    """
    varies = (images.amax((1, 2, 3)) > images.amin((1, 2, 3))).all(-1)
    out = torch.zeros_like(images)
    if bool(varies.any()):
        out[varies] = network(images[varies]).to(out.dtype)
    return out


class TrailingComplex(nn.Module):
    """A network that keeps Re and Im in the last axis, as MONAI's ``ComplexUnet`` does, on channels: for ImageRefiner.

    Images in which Re or Im is constant, such as slices of zeros, give 0; MONAI's network would give NaN.

    Args:
        network: real ``(B, 1, H, W, 2)`` to real, same shape.

    Example:
        >>> from medkit.mri import ImageRefiner, PackedReconstructor
        >>> from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
        >>> unet = ComplexUnet(features=(4, 4, 8, 16, 32, 4))
        >>> PackedReconstructor(ImageRefiner(TrailingComplex(unet)))(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Call the network.

        Args:
            image: real, ``(B, 2, H, W)``, Re and Im.

        Returns:
            Real, ``(B, 2, H, W)``.
        """
        return _where_it_varies(self.network, image.movedim(1, -1)[:, None])[:, 0].movedim(-1, 1)


class CentreSensitivities(nn.Module):
    r"""MONAI's ``CoilSensitivityModel`` with :math:`\sum_c |S_c|^2 = 1`, for any mask and batch.

    Source: MONAI 1.6.1, ``monai.apps.reconstruction``, after Sriram et al. 2020, arXiv:2004.06688.

    Differs: MONAI's normalises real and imaginary parts each by itself, so that the sum is 2 and the phases are wrong;
    it finds the centre of a single mask of columns alone, and none where all are sampled. Here the centre of each mask
    is found as for :func:`medkit.mri.estimate_sens_maps`, and the norm is that of complex numbers. The convolutional
    network and the names of its weights are MONAI's.

    Checked: beside MONAI's in ``tests/mri/test_monai_networks.py``.

    Args:
        model: the model whose network is taken.
    """

    def __init__(self, model: CoilSensitivityModel):
        super().__init__()
        self.conv_net = model.conv_net

    def forward(self, masked_kspace: Tensor, mask: Tensor) -> Tensor:
        """Estimate the maps.

        Args:
            masked_kspace: real, ``(B, coil, H, W, 2)``, centred.
            mask: bool, ``(B, 1, H, W, 1)``.

        Returns:
            Real, ``(B, coil, H, W, 2)``; 0 where no coil has signal.

        Raises:
            ValueError: if a mask samples fewer than 4 lines of the centre fully.
        """
        full = masked_kspace.shape[2:4]
        centre = torch.zeros_like(masked_kspace)
        sizes = sampled_centres(torch.view_as_complex(masked_kspace.detach().contiguous()), mask[..., 0])
        for i, size in enumerate(sizes):
            if not suffices(size, full):
                raise ValueError(
                    f"PackedVarNet: the mask must sample a centre of at least {MIN_CALIBRATION} lines fully, sample "
                    f"{i} has {min(size)}; raise the mask's center_fractions"
                )
            top, left = (centre_start(n, m) for n, m in zip(full, size, strict=True))
            block = (i, slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
            centre[block] = masked_kspace[block]
        images, n_samples = reshape_channel_to_batch_dim(ifftn_centered_t(centre, spatial_dims=2))
        maps = reshape_batch_channel_to_channel_dim(_where_it_varies(self.conv_net, images), n_samples)
        energy = maps.square().sum((1, -1), keepdim=True)
        return maps / energy.clamp(min=torch.finfo(maps.dtype).tiny).sqrt()


class PackedVarNet(nn.Module):
    """MONAI's end-to-end variational network behind one real tensor in, one real tensor out.

    It estimates coil sensitivities itself and needs each coil's data: pack with
    ``PackReconstructiond(coil_images=True)``. Its result is a root sum of squares, without phase: compare it with
    ``CoilCombined(target="rss")``.

    Source: MONAI 1.6.1, ``VariationalNetworkModel``, after Sriram et al. 2020, arXiv:2004.06688.

    Differs: sensitivities as in ``CentreSensitivities`` of this file; the mask is made bool, as MONAI's cascades need
    it; samples pass one at a time, without coils that are all zero (others of a batch may have more), which would make
    the result or the gradient NaN; an empty sample gives 0. The names of weights are MONAI's behind ``network.``.

    Checked: against MONAI's own call where that is right, in ``tests/mri/test_monai_networks.py``.

    Args:
        network: MONAI's network; a copy is kept. Its ``coil_sensitivity_model`` must be MONAI's too.

    Raises:
        ValueError: if ``network`` is of another kind, or of 3 axes, for which MONAI builds cascades of 2.

    Example:
        >>> from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
        >>> unet = ComplexUnet(features=(4, 4, 8, 16, 32, 4))
        >>> maps = CoilSensitivityModel(features=(4, 4, 8, 16, 32, 4))
        >>> PackedVarNet(VariationalNetworkModel(maps, unet, num_cascades=2))(torch.rand(1, 7, 32, 32)).shape
        torch.Size([1, 2, 32, 32])
    """

    def __init__(self, network: VariationalNetworkModel):
        super().__init__()
        parts = [network, getattr(network, "coil_sensitivity_model", None)]
        kinds = [VariationalNetworkModel, CoilSensitivityModel]
        if not all(isinstance(part, kind) for part, kind in zip(parts, kinds, strict=True)):
            raise ValueError(
                "PackedVarNet: 'network' must be MONAI's VariationalNetworkModel with its CoilSensitivityModel, got "
                f"{type(parts[0]).__name__} with {type(parts[1]).__name__}"
            )
        if network.spatial_dims != 2 or network.coil_sensitivity_model.spatial_dims != 2:
            raise ValueError(
                "PackedVarNet: 'network' must have spatial_dims=2 throughout, got "
                f"{network.spatial_dims} and {network.coil_sensitivity_model.spatial_dims} of its sensitivities; "
                "MONAI's cascades are of 2 axes whatever is asked for, so reconstruct volumes slice by slice"
            )
        self.network = copy.deepcopy(network)
        self.network.coil_sensitivity_model = CentreSensitivities(
            cast(CoilSensitivityModel, self.network.coil_sensitivity_model)
        )

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct.

        Args:
            image: real, ``(B, 3 + 2 coil, H, W)``, packed with ``coil_images=True``.

        Returns:
            ``pred``: float32, ``(B, 2, H, W)``: the root sum of squares in the unit of the coil images, then 0.

        Raises:
            ValueError: if there are no coil images, or a mask has no centre.
        """
        _, mask, coil_images = unpack_reconstruction(image)
        if coil_images is None:
            raise ValueError(
                f"PackedVarNet: 'image' must hold an image of each coil, got {image.shape[1]} channels; pack with "
                "PackReconstructiond(coil_images=True) (in a bundle: --coil_images True)"
            )
        kspace = centered_fft(coil_images) * mask
        magnitudes = []
        for sample, own_mask in zip(kspace, mask, strict=True):
            used = sample.abs().amax((1, 2)) > 0
            if bool(used.any()):
                measured = torch.view_as_real(sample[used][None].contiguous())
                magnitudes.append(self.network(measured, own_mask[None, ..., None]))
            else:
                magnitudes.append(torch.zeros_like(image[:1, 0]))
        magnitude = torch.cat(magnitudes)[:, None].to(torch.float32)
        return torch.cat([magnitude, torch.zeros_like(magnitude)], 1)
