"""How transforms see a sample: plain tensors, slices as a batch, checked at the door."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor


def slices_first(x: Tensor) -> Tensor:
    """View ``(C, H, W[, S])`` as a batch of slices ``(S, C, H, W)``, one slice without ``S``."""
    return x[None] if x.ndim == 3 else x.movedim(-1, 0)


def slices_last(x: Tensor, is_volume: bool) -> Tensor:
    """Undo :func:`slices_first`; volumes become contiguous in their new order."""
    return x.movedim(0, -1).contiguous() if is_volume else x[0]


def plain(x: Any) -> Tensor:
    """Return an array, or MONAI's tensor with metadata, as a plain tensor."""
    return convert_to_tensor(x, track_meta=False)


def checked_complex(name: str, key: Hashable, x: Any) -> Tensor:
    """Return complex data ``(coil, H, W[, S])`` as a plain tensor, or say what is wrong with it.

    Args:
        name: the transform.
        key: the key of ``x``.
        x: complex tensor or array.

    Returns:
        The data as a plain tensor.

    Raises:
        ValueError: if ``x`` is not complex, has another number of axes, or holds NaN or infinity.
    """
    data = plain(x)
    if not data.is_complex() or data.ndim not in (3, 4):
        raise ValueError(
            f"{name}: '{key}' must be complex (coil, H, W) or (coil, H, W, S), got {data.dtype} {tuple(data.shape)}"
        )
    check_finite(name, key, data)
    return data


def check_finite(name: str, key: Hashable, x: Tensor) -> None:
    """Raise ``ValueError`` if ``x``, real or complex, holds NaN or infinity."""
    if not bool(torch.isfinite(torch.view_as_real(x) if x.is_complex() else x).all()):
        raise ValueError(f"{name}: '{key}' must be finite, it holds NaN or infinity; repair or leave out this exam")
