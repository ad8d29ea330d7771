"""Linear sampling of images at given points, its adjoint, and warping by displacement fields.

Fields are in voxels of the grid they live on, channel k is the component along array axis k, and corners are aligned:
the convention of MONAI's ``Warp``. Everything is computed in float32, or float64 for such input, whatever autocast
says, in 2-D and 3-D.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medkit.ops.trilinear import read_by_gathers, reads_by_gathers

MODES = {"linear": 0, "nearest": 1}
PADDINGS = {"zeros": 0, "border": 1}
GRID_SAMPLE_MODES = {"linear": "bilinear", "nearest": "nearest"}


def identity_points(size: Sequence[int], like: Tensor | None = None) -> Tensor:
    """Return the voxel coordinates of a grid.

    Args:
        size: number of voxels along each axis, two or three of them.
        like: its dtype and device are taken; ``None``: float32 on the CPU.

    Returns:
        ``(1, D, *size)``, in voxels: channel k counts along axis k.

    Raises:
        ValueError: if there are not two or three positive sizes.

    Example:
        >>> identity_points((2, 3))[0, 1, 0]
        tensor([0., 1., 2.])
    """
    if len(size) not in (2, 3) or min(size) < 1:
        raise ValueError(f"identity_points: 'size' must be 2 or 3 positive numbers of voxels, got {tuple(size)}")
    dtype, device = (torch.float32, None) if like is None else (_working_dtype(like), like.device)
    axes = [torch.arange(int(n), dtype=dtype, device=device) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def check_field(name: str, argument: str, field: Tensor) -> None:
    """Check that a tensor is a real field ``(B, D, *S)`` with as many channels as axes, two or three.

    Raises:
        ValueError: if it is not.
    """
    if field.ndim not in (4, 5) or field.shape[1] != field.ndim - 2 or not field.is_floating_point():
        raise ValueError(
            f"{name}: '{argument}' must be real (B, 2, H, W) or (B, 3, X, Y, Z), one channel for each axis, got "
            f"{field.dtype} {tuple(field.shape)}"
        )


def _check(name: str, image: Tensor, points: Tensor, argument: str, mode: str, padding: str) -> None:
    check_field(name, argument, points)
    if image.ndim != points.ndim or not image.is_floating_point() or min(image.shape[2:]) < 1:
        raise ValueError(
            f"{name}: 'image' must be real (B, C, then {points.ndim - 2} axes) like '{argument}' "
            f"{tuple(points.shape)}, got {image.dtype} {tuple(image.shape)}"
        )
    if image.shape[0] != points.shape[0] and 1 not in (image.shape[0], points.shape[0]):
        raise ValueError(
            f"{name}: 'image' and '{argument}' must have one batch size, or one of them 1, got {image.shape[0]} and "
            f"{points.shape[0]}"
        )
    for value, allowed, option in ((mode, MODES, "mode"), (padding, PADDINGS, "padding")):
        if value not in allowed:
            raise ValueError(f"{name}: '{option}' must be one of {', '.join(allowed)}, got {value!r}")


def units_per_voxel(size: Sequence[int], like: Tensor) -> Tensor:
    """How far a voxel is in the coordinates of ``grid_sample``, ``(1, D, 1, ...)``, last axis first.

    An axis of one voxel is read alike everywhere: any unit does, here 1.
    """
    units = [2.0 / (n - 1) if n > 1 else 1.0 for n in reversed(size)]
    return torch.tensor(units, dtype=like.dtype, device=like.device).reshape(1, -1, *[1] * len(size))


def read_at(image: Tensor, unit: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
    """Read an image ``(B, C, *S)`` at points ``(B, D, *T)`` in the coordinates of ``grid_sample``, last axis first."""
    n = _n_pieces(image, unit)
    if n > 1:  # pieces of the points as a batch; every view here is free where there is one channel
        pieces = unit.unflatten(2, (n, -1)).movedim(2, 1).flatten(0, 1)
        return read_at(image.expand(n, *image.shape[1:]), pieces, mode, padding).movedim(0, 1).flatten(1, 2)[None]
    # The kernels take any strides: a view, where a copy would cost as much as the arithmetic.
    return F.grid_sample(image, unit.movedim(1, -1), mode=mode, padding_mode=padding, align_corners=True)


def _n_pieces(image: Tensor, unit: Tensor) -> int:
    """Into how many pieces to cut the points: torch's 3-D kernels on CPU give each thread whole items of a batch."""
    if image.device.type != "cpu" or image.ndim != 5 or len(image) != 1 or len(unit) != 1:
        return 1
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or (torch.is_grad_enabled() and image.requires_grad):
        return 1  # the image's derivative would need as much memory as there are pieces
    most = min(torch.get_num_threads(), unit.shape[2])
    return max((n for n in range(1, most + 1) if unit.shape[2] % n == 0), default=1)


def _unit_points(points: Tensor, size: Sequence[int]) -> Tensor:
    """Bring points ``(B, D, *S)`` in voxels to the coordinates of ``grid_sample``: last axis first, -1 to 1."""
    return torch.addcmul(points.new_full((), -1.0), points.flip(1), units_per_voxel(size, points))


def unit_identity(size: Sequence[int], like: Tensor) -> Tensor:
    """Return the points of a grid in the coordinates of ``grid_sample``, ``(1, D, *size)``, last axis first."""
    axes = [torch.arange(n, dtype=like.dtype, device=like.device) * (2.0 / max(n - 1, 1)) - 1.0 for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1])[None]


def sample(image: Tensor, points: Tensor, mode: str = "linear", padding: str = "border") -> Tensor:
    """Read an image at given points.

    Args:
        image: real, ``(B, C, *S)``, two or three axes, any unit.
        points: real, ``(B, D, *T)``, where to read, in voxels of ``image``. Either batch size may be 1.
        mode: ``"linear"``, or ``"nearest"`` for labels (no gradient with respect to the points).
        padding: outside: ``"border"``, the value at the nearest point of the grid, or ``"zeros"``.

    Returns:
        ``(B, C, *T)``, float32, or float64 if an input is.

    Raises:
        ValueError: if the shapes do not fit, or an option is unknown.

    Example:
        >>> sample(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.full((1, 2, 1, 1), 0.5))
        tensor([[[[1.5000]]]])
    """
    _check("sample", image, points, "points", mode, padding)
    dtype = torch.promote_types(_working_dtype(image), _working_dtype(points))
    with torch.autocast(image.device.type, enabled=False):
        if reads_by_gathers(image, points, mode, padding):
            return read_by_gathers(image.to(dtype), points.to(dtype))
        batch = max(image.shape[0], points.shape[0])
        x = image.to(dtype).expand(batch, *image.shape[1:])
        unit = _unit_points(points.to(dtype), image.shape[2:]).expand(batch, *points.shape[1:])
        return read_at(x, unit, GRID_SAMPLE_MODES[mode], padding)


class _Splat(torch.autograd.Function):
    """Adjoint of linear sampling, differentiable by its values and its points."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, unit: Tensor, like: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(values, unit)
        ctx.padding = padding
        return _grid_sample_backward(values, like, unit, padding, (True, False))[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, unit = ctx.saved_tensors
        padding = next(name for name, number in PADDINGS.items() if number == ctx.padding)
        by_values = by_unit = None
        if ctx.needs_input_grad[0]:
            by_values = F.grid_sample(grad, unit, mode="bilinear", padding_mode=padding, align_corners=True)
        if ctx.needs_input_grad[1]:
            # <grad, splat(values)> = <sample(grad), values>: its gradient by the points is that of sampling.
            by_unit = _grid_sample_backward(values, grad, unit, ctx.padding, (False, True))[1]
        return by_values, by_unit, None, None


def _grid_sample_backward(
    grad: Tensor, image: Tensor, unit: Tensor, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    kernel = (torch.ops.aten.grid_sampler_2d_backward, torch.ops.aten.grid_sampler_3d_backward)[image.ndim - 4]
    return kernel(grad.contiguous(), image.contiguous(), unit, MODES["linear"], padding, True, wanted)


def splat(values: Tensor, points: Tensor, size: Sequence[int], padding: str = "border") -> Tensor:
    r"""Adjoint of :func:`sample`: add each value to the grid points around its place, with their linear weights.

    .. math:: \langle \mathrm{sample}(I, p), w \rangle = \langle I, \mathrm{splat}(w, p) \rangle

    Args:
        values: real, ``(B, C, *T)``, any unit.
        points: real, ``(B, D, *T)``, where they belong, in voxels of the result. Either batch size may be 1.
        size: voxels of the result along each axis.
        padding: what becomes of values outside, as for :func:`sample`: added at the border, or dropped (``"zeros"``).

    Returns:
        ``(B, C, *size)``, float32, or float64 if an input is. The order of summation is fixed on a CPU; on CUDA it is
        not, and repeats differ by rounding.

    Raises:
        ValueError: if the shapes do not fit, or ``padding`` is unknown.

    Example:
        >>> splat(torch.ones(1, 1, 1, 1), torch.full((1, 2, 1, 1), 0.5), (2, 2)).flatten()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    _check("splat", values, points, "points", "linear", padding)
    size = tuple(int(n) for n in size)
    if len(size) != points.shape[1] or min(size) < 1:
        raise ValueError(f"splat: 'size' must be {points.shape[1]} positive numbers of voxels, got {size}")
    if values.shape[2:] != points.shape[2:]:
        raise ValueError(
            f"splat: 'values' and 'points' must be as many, got {tuple(values.shape)} and {tuple(points.shape)}"
        )
    dtype = torch.promote_types(_working_dtype(values), _working_dtype(points))
    with torch.autocast(values.device.type, enabled=False):
        batch = max(values.shape[0], points.shape[0])
        unit = _unit_points(points.to(dtype), size).movedim(1, -1).expand(batch, *points.shape[2:], points.shape[1])
        # The values of this tensor are never read: its shape tells the kernel the size of the result.
        like = torch.zeros(1, dtype=dtype, device=values.device).expand(batch, values.shape[1], *size)
        return _Splat.apply(values.to(dtype).expand(batch, *values.shape[1:]), unit, like, PADDINGS[padding])


def warp(image: Tensor, displacement: Tensor, mode: str = "linear", padding: str = "border") -> Tensor:
    r"""Pull an image through a displacement: :math:`(I \circ \phi)(x) = I(x + u(x))`.

    Args:
        image: real, ``(B, C, *S)``, any unit.
        displacement: real, ``(B, D, *T)``, in voxels. Either batch size may be 1; ``T`` is usually ``S``.
        mode: ``"linear"`` or ``"nearest"``.
        padding: ``"border"`` or ``"zeros"``.

    Returns:
        ``(B, C, *T)``, float32, or float64 if an input is.

    Raises:
        ValueError: if the shapes do not fit, or an option is unknown.

    Example:
        >>> warp(torch.arange(4.0).reshape(1, 1, 1, 4), torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4))
        tensor([[[[1., 2., 3., 3.]]]])
    """
    _check("warp", image, displacement, "displacement", mode, padding)
    return sample(image, displaced(displacement), mode, padding)


def warp_adjoint(values: Tensor, displacement: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Adjoint of :func:`warp` with ``mode="linear"`` and ``padding="border"``: push values to where they were read.

    Args:
        values: real, ``(B, C, *T)``, any unit.
        displacement: real, ``(B, D, *T)``, in voxels.
        size: voxels of the result; ``None``: those of ``values``.

    Returns:
        ``(B, C, *size)``; see :func:`splat`.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> warp_adjoint(torch.ones(1, 1, 3, 3), torch.zeros(1, 2, 3, 3)).sum()
        tensor(9.)
    """
    check_field("warp_adjoint", "displacement", displacement)
    return splat(values, displaced(displacement), tuple(values.shape[2:]) if size is None else size)


def displaced(displacement: Tensor) -> Tensor:
    """Return the points ``x + u(x)`` of a displacement, ``(B, D, *S)``, in voxels.

    Raises:
        ValueError: if it is no field.

    Example:
        >>> displaced(torch.zeros(1, 2, 1, 2))[0, 1]
        tensor([[0., 1.]])
    """
    check_field("displaced", "displacement", displacement)
    return identity_points(displacement.shape[2:], displacement) + displacement


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    r"""Displacement of one transformation after another, :math:`\phi_{outer} \circ \phi_{inner}`.

    .. math:: u(x) = u_{inner}(x) + u_{outer}(x + u_{inner}(x))

    Warping by it is warping by ``outer`` first, then by ``inner``: ``warp(warp(I, outer), inner)``.

    Args:
        outer: real, ``(B, D, *S)``, in voxels.
        inner: real, ``(B, D, *S)``, in voxels of the same grid, the points read first.

    Returns:
        ``(B, D, *S)``, in voxels.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> compose(torch.full((1, 2, 4, 4), 1.0), torch.full((1, 2, 4, 4), 0.5))[0, 0, 0, 0]
        tensor(1.5000)
    """
    check_field("compose", "outer", outer)
    check_field("compose", "inner", inner)
    if outer.shape[1:] != inner.shape[1:]:
        raise ValueError(
            f"compose: 'outer' and 'inner' must lie on one grid, got {tuple(outer.shape)} and {tuple(inner.shape)}"
        )
    return inner + warp(outer, inner)
