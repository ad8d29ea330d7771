"""Where a tap goes: modules of a network by their path, with readable names for the stages of MONAI's UNet."""

from __future__ import annotations

from difflib import get_close_matches

from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet
from torch import nn


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside DataParallel, DistributedDataParallel and compiled wrappers.

    Args:
        network: any module.

    Returns:
        The module whose paths the user knows; ``network`` itself where nothing wraps it.
    """
    while True:
        inner: object = None
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = network.module
        elif hasattr(network, "_orig_mod"):
            inner = network._orig_mod
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def unet_stages(network: nn.Module) -> dict[str, str]:
    """Name the stages of MONAI's UNet, whose paths are nested.

    Args:
        network: a :class:`monai.networks.nets.UNet`, which may be wrapped for parallel training.

    Returns:
        ``encoder1`` (finest), ``encoder2``, …, ``bottom``, …, ``decoder2``, ``decoder1`` (the output), each with the
        path of its module.

    Raises:
        ValueError: if ``network`` is no UNet of MONAI.

    Example:
        >>> unet_stages(UNet(2, 1, 1, channels=(4, 8, 16), strides=(2, 2)))["encoder2"]
        'model.1.submodule.0'
    """
    network = unwrapped(network)
    if not isinstance(network, UNet):
        raise ValueError(f"unet_stages: 'network' must be MONAI's UNet, got {type(network).__name__}")
    encoders, decoders = {}, {}
    block, path, level = network.model, "model", 1
    while isinstance(block, nn.Sequential) and len(block) == 3 and isinstance(block[1], SkipConnection):
        encoders[f"encoder{level}"] = f"{path}.0"
        decoders[f"decoder{level}"] = f"{path}.2"
        block, path, level = block[1].submodule, f"{path}.1.submodule", level + 1
    return encoders | {"bottom": path} | dict(reversed(decoders.items()))


def find_module(network: nn.Module, path: str) -> nn.Module:
    """Return the module at a path.

    Args:
        network: any module; wrappers for parallel training are looked through.
        path: as in ``named_modules()``, such as ``"features.denseblock3"``, or a stage of :func:`unet_stages`.

    Returns:
        The module.

    Raises:
        ValueError: if there is no such module, with the nearest names; or if it is a list of modules, which is never
            called.
    """
    network = unwrapped(network)
    modules = dict(network.named_modules())
    stages = unet_stages(network) if isinstance(network, UNet) else {}
    found = modules.get(stages.get(path, path)) if path else None
    if found is None:
        known = [name for name in [*modules, *stages] if name]
        near = get_close_matches(path, known, n=3, cutoff=0.4) or known[:3]
        raise ValueError(f"find_module: {type(network).__name__} has no module {path!r}; the nearest are {near}")
    if isinstance(found, (nn.ModuleList, nn.ModuleDict)):
        members = [f"{path}.{name}" for name, _ in found.named_children()]
        raise ValueError(
            f"find_module: {path!r} is a {type(found).__name__}, which is never called; "
            f"tap one of its members {members}"
        )
    return found
