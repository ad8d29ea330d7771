"""An image of a training, and the modules of a network that can be tapped on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from monai.engines.utils import default_prepare_batch
from monai.networks.nets import UNet
from torch import Tensor, nn

from medkit.distill.paths import unet_stages, unwrapped
from medkit.distill.taps import FeatureTaps, dry_run


def example_image(loader: Iterable[Any], prepare_batch: Callable[..., Any] | None = None) -> Tensor:
    """One image of a loader's first batch; torch's random state is as before.

    Args:
        loader: of batches as the trainer gets them.
        prepare_batch: of the trainer.

    Returns:
        ``(1, C, *S)``, on the CPU.

    Raises:
        ValueError: if the loader is empty or its batches have no image tensor.

    Example:
        >>> example_image(loader).shape
        torch.Size([1, 1, 64, 64])
    """
    with torch.random.fork_rng(devices=[]):
        batch = next(iter(loader), None)
    if batch is None:
        raise ValueError("example_image: the training's data loader is empty")
    image = (prepare_batch or default_prepare_batch)(batch, torch.device("cpu"), False)[0]
    if not isinstance(image, Tensor) or image.ndim < 3:
        raise ValueError(
            f"example_image: the batch must hold an image (B, C, *S), got {getattr(image, 'shape', type(image))}; "
            "give --kd_example_shape"
        )
    return image[:1]


def tappable_modules(network: nn.Module, example: Tensor) -> dict[str, tuple[int, ...]]:
    """List the modules that can be tapped: called, with a tensor ``(B, C, ...)`` as output.

    Args:
        network: any module.
        example: an input, ``(B, C, *S)``.

    Returns:
        Path and shape, in the order of the network; a stage of MONAI's UNet by its short name.

    Example:
        >>> tappable_modules(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3)), torch.zeros(1, 1, 8, 8))
        {'0': (1, 4, 6, 6)}
    """
    bare = unwrapped(network)
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def hook(path: str) -> Callable[..., None]:
        def see(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim >= 2:
                shapes[path] = tuple(output.shape)

        return see

    try:
        for path, module in bare.named_modules():
            if path:
                handles.append(module.register_forward_hook(hook(path)))
        dry_run(FeatureTaps(bare, []), example)
    finally:
        for handle in handles:
            handle.remove()
    short = {path: name for name, path in unet_stages(bare).items()} if isinstance(bare, UNet) else {}
    order = [path for path, _ in bare.named_modules() if path in shapes]
    return {short.get(path, path): shapes[path] for path in order}
