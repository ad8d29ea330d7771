"""Tiles of a large image, each denoised with a halo around it that is cut off again: no blending, bounded memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import ensure_tuple_rep
from torch import Tensor


def _rounded_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class TileInferer(Inferer):
    """Run a network on tiles, and give what it gives on the whole image where the halo covers what it sees.

    Tiles begin at multiples of the network's ``tile_grid`` and are read with a halo, which ends at the border of the
    image: the network meets the border only where the image has one. The middle of each result is kept as it is, since
    a blend of tiles whose borders are wrong (MONAI's ``SlidingWindowInferer``) is right nowhere near a seam. Memory of
    the network is that of one tile with its halo, whatever the size of the image.

    The result is the whole image's, up to rounding, with a network that looks ``halo`` pixels far: :class:`DnCNN`, and
    :class:`MDRN` with ``attention_pool="local"``. Gates of ``"global"`` see the mean of the tile instead.

    Args:
        tile: side of the tiles in pixels, without halo, or one for each axis; rounded up to the grid.
        halo: pixels around each tile, or one number for each axis, rounded up to the grid; ``None``: the network's own
            attribute ``halo``.
        grid: tiles and halos are multiples of it; ``None``: the network's own attribute ``tile_grid``.
        device: where the network computes; ``None``: where the input is. The result is where the input is.
        spatial_dims: of the network; 2: a volume is taken slice by slice along its last axis; ``None``: of the input.

    Raises:
        ValueError: if a number is outside its range; on a call, if the network has no ``halo`` or ``tile_grid`` and the
            argument is ``None``, or if the network changes the size of a tile.

    Example:
        >>> blur = torch.nn.AvgPool2d(3, 1, padding=1)
        >>> TileInferer(tile=8, halo=1, grid=1)(torch.rand(1, 1, 20, 33), blur).shape
        torch.Size([1, 1, 20, 33])
    """

    def __init__(
        self,
        tile: int | Sequence[int] = 384,
        halo: int | Sequence[int] | None = None,
        grid: int | None = None,
        device: torch.device | str | None = None,
        spatial_dims: int | None = None,
    ) -> None:
        super().__init__()
        if spatial_dims not in (None, 2, 3):
            raise ValueError(f"TileInferer: 'spatial_dims' must be 2, 3 or None, got {spatial_dims}")
        self.spatial_dims = spatial_dims
        for name, value, least in (("tile", tile, 1), ("halo", halo, 0), ("grid", grid, 1)):
            if value is not None and min(ensure_tuple_rep(value, 1) if isinstance(value, int) else value) < least:
                raise ValueError(f"TileInferer: '{name}' must be at least {least}, got {value}")
        self.tile, self.halo, self.grid, self.device = tile, halo, grid, device

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Denoise.

        Args:
            inputs: what the network takes, ``(B, C, H, W[, S])``.
            network: maps ``(B, C, *tile)`` to ``(B, C', *tile)``.
            args: passed to the network.
            kwargs: passed to the network.

        Returns:
            ``(B, C', H, W[, S])``, on the input's device.
        """
        if self.spatial_dims == 2 and inputs.ndim == 5:
            slices = None
            for i in range(inputs.shape[-1]):
                one = self(inputs[..., i], network, *args, **kwargs)
                slices = one.new_empty((*one.shape, inputs.shape[-1])) if slices is None else slices
                slices[..., i] = one
            if slices is None:
                raise ValueError(f"TileInferer: 'inputs' must have at least one pixel, got {tuple(inputs.shape)}")
            return slices
        size = tuple(inputs.shape[2:])
        grid = self._of(network, "grid", "tile_grid")
        tile = [_rounded_up(n, grid) for n in self._rep(self.tile, len(size), "tile")]
        halo = [_rounded_up(n, grid) for n in self._rep(self._of(network, "halo", "halo"), len(size), "halo")]
        result: Tensor | None = None
        for start in itertools.product(*(range(0, n, step) for n, step in zip(size, tile, strict=True))):
            # Batch and channel in full, then one slice for each axis in space.
            kept: list[Any] = [...]
            read: list[Any] = [...]
            inner: list[Any] = [...]
            for first, n, step, margin in zip(start, size, tile, halo, strict=True):
                begin, last = max(first - margin, 0), min(first + step, n)
                kept.append(slice(first, last))
                read.append(slice(begin, min(first + step + margin, n)))
                inner.append(slice(first - begin, last - begin))
            block = inputs[tuple(read)]
            out = network(block.to(self.device or inputs.device), *args, **kwargs)
            if out.shape[2:] != block.shape[2:]:
                raise ValueError(
                    f"TileInferer: 'network' must keep the size of a tile {tuple(block.shape[2:])}, "
                    f"got {tuple(out.shape[2:])}"
                )
            if result is None:
                result = out.new_empty((*out.shape[:2], *size), device=inputs.device)
            result[tuple(kept)] = out[tuple(inner)].to(inputs.device)
        if result is None:
            raise ValueError(f"TileInferer: 'inputs' must have at least one pixel, got {tuple(inputs.shape)}")
        return result

    def _of(self, network: Any, argument: str, attribute: str) -> Any:
        value = getattr(self, argument)
        if value is None:
            value = getattr(network, attribute, None)
        if value is None:
            raise ValueError(
                f"TileInferer: '{argument}' must be given for a network without the attribute '{attribute}', "
                f"as {type(network).__name__} is"
            )
        return value

    @staticmethod
    def _rep(value: int | Sequence[int], n: int, name: str) -> tuple[int, ...]:
        if isinstance(value, Sequence) and len(value) != n:
            raise ValueError(f"TileInferer: '{name}' must be a number or one for each of {n} axes, got {tuple(value)}")
        return ensure_tuple_rep(value, n)
