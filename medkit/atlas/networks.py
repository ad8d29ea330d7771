"""MONAI's registration and segmentation networks as priors, with their weights from files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medkit.atlas.prior_spec import Kind, PriorSpec
from medkit.atlas.priors import register_prior

AnyPath = str | os.PathLike[str]

WRAPPINGS = ("state_dict", "model", "network")


def load_weights(network: nn.Module, path: AnyPath) -> None:
    """Load a state dict, of tensors alone, into a network.

    Args:
        network: changed in place.
        path: file of ``torch.save``: a state dict, or a dictionary that has one as ``state_dict``, ``model`` or
            ``network``. Names may begin with ``module.``, as parallel training leaves them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds anything but tensors and plain values, or does not fit the network.

    Example:
        >>> load_weights(net, "bundles/hybrid_atlas/models/model.pt")
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"load_weights: 'path' must be a file of weights, but there is none at {file}")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"load_weights: {file} must be a state dict of torch.save, of tensors alone: {reason}"
        ) from error
    for name in WRAPPINGS:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"load_weights: {file} must hold a state dict, got {type(state).__name__}")
    try:
        network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"load_weights: {file} does not fit {type(network).__name__} ({reason}); give the options of its training"
        ) from error


class NetworkPrior:
    """Any network that takes two images and returns a field.

    Its input is ``(B, 2 C, *S)``, the subjects' channels before the template's, which are MONAI's moving and fixed:
    what a network of MONAI predicts then warps the subject to the template, as medkit has it. Networks of segmentation
    serve too, with ``in_channels`` 2 C and ``out_channels`` D.

    Args:
        network: returns ``(B, D, *S)`` in voxels; set to evaluation and moved to ``device``.
        kind: what it returns, see :class:`PriorSpec`: ``"svf"`` of a network trained through an exponential, ``"ddf"``
            of one that was trained to displace, ``"momentum"``.
        spatial_dims: 2 or 3.
        image_channels: channels C of each image.
        divisor: sizes must be multiples of it; 32 suits MONAI's networks with five levels, as ``SwinUNETR``.
        native_shape: the one size that the network takes, as of ``UNETR``; ``None``: any.
        native_spacing: mm between voxels that the network was trained at; ``None``: any.
        trained_shape: size of the images that it was trained on, see :class:`PriorSpec`; ``None``: images are shown
            whole.
        max_batch: subjects at once at most.
        antisymmetric: see :class:`PriorSpec`; not for ``"ddf"``, and not twice around a
            :class:`SmoothedVelocity` that does it.
        weights: file to load, see :func:`load_weights`; ``None``: the network as it is.
        device: where the network runs; images come and go on theirs.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they do not fit, or an argument is out of its range.

    Example:
        >>> from monai.networks.nets import UNet
        >>> prior = NetworkPrior(UNet(2, 2, 2, (4, 8, 8), (2, 2)), spatial_dims=2, divisor=4)
        >>> prior.predict(torch.rand(1, 1, 16, 16), torch.rand(3, 1, 16, 16)).shape
        torch.Size([3, 2, 16, 16])
    """

    def __init__(
        self,
        network: nn.Module,
        kind: Kind = "svf",
        spatial_dims: int = 3,
        image_channels: int = 1,
        divisor: int | Sequence[int] = 32,
        native_shape: Sequence[int] | None = None,
        native_spacing: float | None = None,
        trained_shape: Sequence[int] | None = None,
        max_batch: int = 1,
        antisymmetric: bool = True,
        weights: AnyPath | None = None,
        device: str | torch.device = "cpu",
    ):
        if kind == "affine":
            raise ValueError("NetworkPrior: 'kind' must be svf, ddf or momentum; for affine see AffineNetworkPrior")
        self.spec = PriorSpec(
            kind,
            spatial_dims,
            image_channels,
            divisor if isinstance(divisor, int) else tuple(divisor),
            None if native_shape is None else tuple(native_shape),
            native_spacing,
            None if trained_shape is None else tuple(trained_shape),
            max_batch,
            antisymmetric and kind != "ddf" and not getattr(network, "antisymmetric", False),
        )
        if weights is not None:
            load_weights(network, weights)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()

    @torch.no_grad()
    def predict(
        self, template: Tensor, subjects: Tensor, *, spacing: Tensor | None = None, attributes: Tensor | None = None
    ) -> Tensor:
        """Run the network, see :meth:`RegistrationPrior.predict`.

        Raises:
            ValueError: if the images have another number of channels, or the network does not return one tensor.
        """
        pair = _pairs("NetworkPrior.predict", self.spec, template, subjects)
        self.network.eval()
        out = self.network(pair.to(self.device))
        if not isinstance(out, Tensor):
            raise ValueError(
                f"NetworkPrior.predict: 'network' must return one tensor, {type(self.network).__name__} returned a "
                f"{type(out).__name__}"
            )
        return out.float().to(subjects.device)


class AffineNetworkPrior:
    """MONAI's ``GlobalNet``, or a network like it, as an affine prior.

    Its matrix maps voxel indices of the fixed image, counted from the first voxel, to those of the moving one
    (``theta``, which it keeps with ``save_theta``); priors count from the centre.

    Args:
        network: with ``image_size`` and ``output_block``, as ``GlobalNet``; set to evaluation and to ``save_theta``.
        image_channels: channels of each image.
        weights: file to load, see :func:`load_weights`; ``None``: the network as it is.
        device: where the network runs.

    Raises:
        FileNotFoundError: if there are no such weights.
        ValueError: if they do not fit, or the network keeps no matrix.

    Example:
        >>> from monai.networks.nets import GlobalNet
        >>> prior = AffineNetworkPrior(GlobalNet([16, 16], 2, 2, 4, 2))
        >>> prior.predict(torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16))
        tensor([[[1., 0., 0.],
                 [0., 1., 0.]]])
    """

    def __init__(
        self,
        network: nn.Module,
        image_channels: int = 1,
        weights: AnyPath | None = None,
        device: str | torch.device = "cpu",
    ):
        size: Any = getattr(network, "image_size", None)
        block: Any = getattr(network, "output_block", None)
        if size is None or not hasattr(block, "save_theta"):
            raise ValueError(
                "AffineNetworkPrior: 'network' must have 'image_size' and an 'output_block' that can save its matrix, "
                f"as monai.networks.nets.GlobalNet, got {type(network).__name__}"
            )
        self.spec = PriorSpec(
            "affine", len(size), image_channels, divisor=1, native_shape=tuple(size), antisymmetric=False
        )
        if weights is not None:
            load_weights(network, weights)
        self.device = torch.device(device)
        self.network = network.to(self.device).eval()
        self.block = block
        self.block.save_theta = True

    @torch.no_grad()
    def predict(
        self, template: Tensor, subjects: Tensor, *, spacing: Tensor | None = None, attributes: Tensor | None = None
    ) -> Tensor:
        """Return the matrices ``(B, D, D + 1)``, in voxels from the centre, see :meth:`RegistrationPrior.predict`.

        Raises:
            ValueError: if the images have another number of channels.
        """
        pair = _pairs("AffineNetworkPrior.predict", self.spec, template, subjects)
        self.network.eval()
        self.network(pair.to(self.device))
        n = self.spec.spatial_dims
        theta = self.block.theta.reshape(-1, n, n + 1).float()
        centre = torch.tensor([(size - 1) / 2 for size in pair.shape[2:]], device=theta.device)
        linear = theta[:, :, :n]
        shift = theta[:, :, n] + linear @ centre - centre
        return torch.cat([linear, shift[:, :, None]], dim=2).to(subjects.device)


def _pairs(name: str, spec: PriorSpec, template: Tensor, subjects: Tensor) -> Tensor:
    """Subjects and template as one input of a network of MONAI."""
    if template.shape[1] != spec.in_channels or subjects.shape[1] != spec.in_channels:
        raise ValueError(
            f"{name}: 'template' and 'subjects' must have {spec.in_channels} channels, got {tuple(template.shape)} and "
            f"{tuple(subjects.shape)}"
        )
    return torch.cat([subjects, template.expand_as(subjects)], dim=1).float()


register_prior("network", NetworkPrior)
register_prior("affine_network", AffineNetworkPrior)
