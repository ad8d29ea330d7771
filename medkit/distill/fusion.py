"""Fusion of feature levels from deep to fine, each gated by an attention over the place."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm
from torch import Tensor, nn
from torch.nn.functional import interpolate


class FusionBlock(nn.Module):
    """One level: its own feature and the deeper fused one, each by a gate at every place.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the level's feature.
        mid_channels: of the fused feature that goes on.
        out_channels: of the result; ``None``: no result is wanted of this level, only the fused feature.
        use_gate: whether a deeper level comes in; the deepest has none.
        use_norm: batch norm after the convolutions, as ReviewKD; else ReLU, as UniKD.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        mid_channels: int,
        out_channels: int | None,
        use_gate: bool = True,
        use_norm: bool = True,
    ) -> None:
        super().__init__()
        conv = Conv["conv", spatial_dims]

        def then(channels: int) -> nn.Module:
            return Norm["batch", spatial_dims](channels) if use_norm else nn.ReLU()

        reduce = conv(in_channels, mid_channels, 1, bias=False)
        nn.init.kaiming_uniform_(reduce.weight, a=1)
        self.reduce = nn.Sequential(reduce, then(mid_channels))
        self.gate = conv(2 * mid_channels, 2, 1) if use_gate else None
        self.expand: nn.Module | None = None
        if out_channels is not None:
            expand = conv(mid_channels, out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_uniform_(expand.weight, a=1)
            self.expand = nn.Sequential(expand, then(out_channels))

    def forward(self, feature: Tensor, deeper: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """Fuse.

        Args:
            feature: of this level, ``(B, in_channels, *S)``.
            deeper: fused feature of the next deeper level, ``(B, mid_channels, *any)``.

        Returns:
            The result ``(B, out_channels, *S)`` or ``None``, and the fused feature ``(B, mid_channels, *S)``.
        """
        fused = self.reduce(feature)
        if self.gate is not None and deeper is not None:
            deeper = interpolate(deeper, feature.shape[2:], mode="nearest")
            gates = torch.sigmoid(self.gate(torch.cat([fused, deeper], 1)))
            fused = fused * gates[:, :1] + deeper * gates[:, 1:]
        return (None if self.expand is None else self.expand(fused)), fused


class LevelFusion(nn.Module):
    """Levels fused from the deepest to the finest; sizes are taken from the tensors.

    Args:
        spatial_dims: 2 or 3. A vector ``(B, C)`` among the levels counts as a map of one place.
        in_channels: of each level, finest first.
        out_channels: of each result, finest first; ``None`` where none is wanted.
        mid_channels: of the fused feature; ``None``: those of the deepest level, at most 512.
        use_norm: as of :class:`FusionBlock`.

    Raises:
        ValueError: if the lists do not fit.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: Sequence[int],
        out_channels: Sequence[int | None],
        mid_channels: int | None = None,
        use_norm: bool = True,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or not in_channels or len(in_channels) != len(out_channels):
            raise ValueError(
                "LevelFusion: wanted 2 or 3 axes and one entry of 'in_channels' and 'out_channels' for each level, "
                f"got {spatial_dims}, {list(in_channels)} and {list(out_channels)}"
            )
        mid = min(512, in_channels[-1]) if mid_channels is None else mid_channels
        self.spatial_dims = spatial_dims
        last = len(in_channels) - 1
        self.blocks = nn.ModuleList(
            FusionBlock(spatial_dims, own, mid, out, i < last, use_norm)
            for i, (own, out) in enumerate(zip(in_channels, out_channels, strict=True))
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Fuse.

        Args:
            levels: ``(B, C_i, *S_i)``, finest first.

        Returns:
            The wanted results, ``(B, out_i, *S_i)``, finest first.

        Raises:
            ValueError: if there are more or fewer levels than blocks.
        """
        if len(levels) != len(self.blocks):
            raise ValueError(f"LevelFusion: wanted {len(self.blocks)} levels, got {len(levels)}")
        results: list[Tensor] = []
        fused: Tensor | None = None
        for level, block in zip(reversed(levels), reversed(list(self.blocks)), strict=True):
            if level.ndim == 2:
                level = level.view(*level.shape, *[1] * self.spatial_dims)
            result, fused = block(level, fused)
            if result is not None:
                results.insert(0, result)
        return results


class AdaptiveFeatureFusion(nn.Module):
    """All levels in one map: UniKD's adaptive fusion, of which the finest result counts.

    Source: Huang et al., ECCV 2024, doi:10.1007/978-3-031-73414-4_4.

    Differs: convolutions of results that nobody reads are left out.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of each level, finest first.
        mid_channels: of the fused feature; ``None``: those of the deepest level, at most 512.
        out_channels: of the result; ``None``: those of the finest level.

    Raises:
        ValueError: if the lists do not fit.

    Example:
        >>> fusion = AdaptiveFeatureFusion(2, [4, 8])
        >>> fusion([torch.rand(1, 4, 9, 9), torch.rand(1, 8, 5, 5)]).shape
        torch.Size([1, 4, 9, 9])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: Sequence[int],
        mid_channels: int | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        finest = out_channels or in_channels[0]
        rest: list[int | None] = [None] * (len(in_channels) - 1)
        self.levels = LevelFusion(spatial_dims, in_channels, [finest, *rest], mid_channels, use_norm=False)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Fuse.

        Args:
            levels: ``(B, C_i, *S_i)``, finest first.

        Returns:
            ``(B, out_channels, *S_0)``, at least 0.
        """
        return self.levels(levels)[0]
