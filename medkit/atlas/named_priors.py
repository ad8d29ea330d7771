"""Priors by name: MONAI's registration networks with options that fit the weights which medkit ships."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medkit.atlas.networks import AffineNetworkPrior, AnyPath, NetworkPrior, load_weights
from medkit.atlas.prior_spec import Kind
from medkit.atlas.priors import register_prior
from medkit.atlas.smoothing import SmoothedVelocity

# Small ones: of each network the class, and its options unless others are given.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "voxelmorph_unet": (
        "VoxelMorphUNet",
        {"unet_out_channels": 16, "channels": (8, 16, 16, 16, 16, 16), "final_conv_channels": (16,)},
    ),
    "localnet": ("LocalNet", {"num_channel_initial": 8, "extract_levels": (0, 1, 2, 3)}),
    "regunet": ("RegUNet", {"num_channel_initial": 8, "depth": 3}),
}


def registration_network(
    name: str, spatial_dims: int = 3, image_channels: int = 1, **options: Any
) -> tuple[nn.Module, int]:
    """Make one of MONAI's registration networks, small unless told otherwise.

    Args:
        name: ``"voxelmorph_unet"``, ``"localnet"`` or ``"regunet"``.
        spatial_dims: 2 or 3.
        image_channels: channels of each image.
        options: of MONAI's class.

    Returns:
        The network, and by what the sizes of its images must be divisible.

    Example:
        >>> registration_network("regunet", spatial_dims=2, depth=2)[1]
        4
    """
    from monai.networks import nets

    kind, defaults = NETWORKS[name]
    given = {"spatial_dims": spatial_dims, "in_channels": 2 * image_channels, **defaults, **options}
    if name != "voxelmorph_unet":
        given["out_channels"] = spatial_dims
    try:
        network = getattr(nets, kind)(**given)
    except TypeError as error:
        raise ValueError(f"registration_network: {kind} takes no such options: {error}") from error
    if name == "voxelmorph_unet":
        return network, 2 ** (len(given["channels"]) // 2)
    return network, 2 ** (max(given["extract_levels"]) if name == "localnet" else given["depth"])


def registration_network_prior(
    name: str,
    weights: AnyPath | None = None,
    kind: Kind = "svf",
    spatial_dims: int = 3,
    image_channels: int = 1,
    smoothed: bool = True,
    factor: int = 2,
    native_spacing: float | None = None,
    trained_shape: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    **options: Any,
) -> NetworkPrior:
    """Make a prior of one of MONAI's registration networks; without options, of the one that medkit's weights fit.

    Args:
        name: see :func:`registration_network`; each is registered under its name.
        weights: file to load, see :func:`load_weights`; ``None``: random weights, which predict no motion.
        kind: ``"svf"`` for weights trained through an exponential, ``"ddf"`` for others.
        spatial_dims: 2 or 3.
        image_channels: channels of each image.
        smoothed: whether the weights belong to a :class:`SmoothedVelocity` around the network, for ``"svf"``.
        factor: of it.
        native_spacing: mm between voxels that the weights were trained at, 4 those of medkit; ``None``: images of any
            spacing are shown as they are.
        trained_shape: size of the images that the weights were trained on, (48, 64, 48) those of medkit; see
            :class:`PriorSpec`.
        device: where the network runs.
        options: of MONAI's class.

    Returns:
        The prior.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they do not fit, or an argument is out of its range.

    Example:
        >>> registration_network_prior("voxelmorph_unet", spatial_dims=2).spec.divisor
        16
    """
    network, divisor = registration_network(name, spatial_dims, image_channels, **options)
    if smoothed and kind == "svf":
        network, divisor = SmoothedVelocity(network, spatial_dims, image_channels, factor=factor), divisor * factor
    return NetworkPrior(
        network, kind, spatial_dims, image_channels, divisor,
        native_spacing=native_spacing, trained_shape=trained_shape, weights=weights, device=device,
    )  # fmt: skip


class _Displacement(nn.Module):
    """The displacement that a whole VoxelMorph makes of a pair."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        moving, fixed = image.chunk(2, dim=1)
        return self.network(moving, fixed)[1]


def voxelmorph_prior(
    weights: AnyPath | None = None,
    integration_steps: int = 7,
    trained_half_res: bool = False,
    spatial_dims: int = 3,
    backbone: nn.Module | None = None,
    divisor: int = 16,
    device: str | torch.device = "cpu",
) -> NetworkPrior:
    """Make a prior of weights of MONAI's ``VoxelMorph``.

    Of it only ``backbone`` is taken, whose output is the velocity. Its own integration is left: with ``half_res`` it
    changes the unit of the field by the inverse of the right factors (2 on the way to the coarse grid, 0.5 back), and
    it takes zeros beyond the border, so that a constant velocity of 4 voxels moves the face by 1. Weights that were
    trained with ``half_res`` have learned around that and know a displacement only: such a network runs whole.

    Args:
        weights: state dict of the whole ``VoxelMorph``, see :func:`load_weights`; ``None``: random weights.
        integration_steps: it was trained with; 0: its output is a displacement.
        trained_half_res: whether it was trained with ``half_res``; 3-D only, as there.
        spatial_dims: 2 or 3.
        backbone: ``None``: MONAI's default, for images of one channel.
        divisor: sizes must be multiples of it.
        device: where the network runs.

    Returns:
        The prior: of kind ``"svf"``, or ``"ddf"`` with ``trained_half_res`` or without integration.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they do not fit, or ``trained_half_res`` comes with 2-D.

    Example:
        >>> voxelmorph_prior(trained_half_res=True).spec.kind
        'ddf'
    """
    from monai.networks.nets import VoxelMorph

    if trained_half_res and spatial_dims != 3:
        raise ValueError("voxelmorph_prior: 'trained_half_res' must come with 3-D, MONAI has no other, got 2-D")
    with warnings.catch_warnings():
        # It says that MONAI was not compiled, which changes no number.
        warnings.filterwarnings("ignore", message=".*native grid_sample", category=UserWarning)
        whole = VoxelMorph(backbone, integration_steps, trained_half_res, spatial_dims)
    if weights is not None:
        load_weights(whole, weights)
    if trained_half_res:
        return NetworkPrior(_Displacement(whole), "ddf", spatial_dims, divisor=divisor, device=device)
    kind: Kind = "svf" if integration_steps > 0 else "ddf"
    return NetworkPrior(whole.backbone, kind, spatial_dims, divisor=divisor, device=device)


def globalnet_prior(
    image_size: Sequence[int], weights: AnyPath | None = None, image_channels: int = 1, **options: Any
) -> AffineNetworkPrior:
    """Make a prior of MONAI's ``GlobalNet``.

    Args:
        image_size: the one size that it takes, multiples of two to its depth.
        weights: file to load, see :func:`load_weights`; ``None``: the identity.
        image_channels: channels of each image.
        options: of the class, ``num_channel_initial`` 8 and ``depth`` 3 unless given.

    Returns:
        The prior.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they do not fit, or ``image_size`` is no such multiple.

    Example:
        >>> globalnet_prior((32, 32, 32)).spec.kind
        'affine'
    """
    from monai.networks.nets import GlobalNet

    given = {"num_channel_initial": 8, "depth": 3, **options}
    network = GlobalNet(list(image_size), len(image_size), 2 * image_channels, **given)
    return AffineNetworkPrior(network, image_channels, weights)


register_prior("voxelmorph", voxelmorph_prior)
register_prior("globalnet", globalnet_prior)
for _name in NETWORKS:
    register_prior(_name, partial(registration_network_prior, _name))
