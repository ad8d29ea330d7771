"""Non-uniform Fourier transforms: a centred, orthonormal image to samples anywhere in its band of k-space, and back.

FINUFFT does the work (Barnett, Magland and af Klinteberg 2019, doi:10.1137/18M120885X), in double precision, which
takes as long as its single one at the same tolerance and leaves no rounding of coordinates.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-7  # relative error of a transform, what complex64 can hold
# Where a trajectory to the edge of k-space ends in other units than index units, and how these become index units.
_OTHER_UNITS = {"radians per pixel": (math.pi, "n / (2 pi)"), "cycles per pixel": (0.5, "n")}


def _finufft(name: str) -> Any:
    try:
        import finufft
    except ImportError as error:
        raise ImportError(f"{name}: finufft is not installed; run: pip install 'medkit[nufft]'") from error
    return finufft


def check_size(name: str, size: Sequence[int]) -> tuple[int, ...]:
    """Return the size of an image as a tuple, or raise ``ValueError`` in the name of a function."""
    if len(size) not in (2, 3) or min(size) < 1:
        raise ValueError(f"{name}: 'size' must be 2 or 3 positive numbers, got {tuple(size)}")
    return tuple(int(n) for n in size)


def check_tensors(name: str, **arguments: Any) -> None:
    """Raise ``ValueError`` in the name of a function for the first argument that is no tensor; ``None`` passes."""
    for argument, value in arguments.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(
                f"{name}: '{argument}' must be a tensor, got {type(value).__module__}.{type(value).__name__}; give "
                f"torch.as_tensor({argument})"
            )


def check_trajectory(name: str, trajectory: Tensor, size: Sequence[int], n_batch: int | None = None) -> None:
    """Raise ``ValueError`` if coordinates are not finite numbers within the band of an image of this size.

    So are whole trajectories that end where those in radians or in cycles per pixel do, far within the band.

    Args:
        name: the function that was given them.
        trajectory: ``(n_samples, len(size))`` or ``(B, n_samples, len(size))``, index units.
        size: pixels along each axis.
        n_batch: samples of the batch, which a trajectory for each of them must number; ``None``: any.
    """
    check_tensors(name, trajectory=trajectory)
    dims = len(size)
    if not trajectory.is_floating_point() or trajectory.ndim not in (2, 3) or trajectory.shape[-1] != dims:
        raise ValueError(
            f"{name}: 'trajectory' must be real (n_samples, {dims}) or (B, n_samples, {dims}) for an image with "
            f"{dims} spatial axes, got {trajectory.dtype} {tuple(trajectory.shape)}"
        )
    if trajectory.shape[-2] < 1:
        raise ValueError(f"{name}: 'trajectory' must hold at least one sample, got {tuple(trajectory.shape)}")
    if trajectory.ndim == 3 and n_batch is not None and trajectory.shape[0] not in (1, n_batch):
        raise ValueError(f"{name}: 'trajectory' must be for 1 or {n_batch} images, got {tuple(trajectory.shape)}")
    if trajectory.requires_grad:
        raise ValueError(f"{name}: 'trajectory' is not differentiated; give trajectory.detach()")
    farthest = trajectory.abs().flatten(0, -2).amax(0).tolist()
    if not all(math.isfinite(k) for k in farthest):
        raise ValueError(f"{name}: 'trajectory' must be finite, got infinite or undefined coordinates")
    for axis, (k, n) in enumerate(zip(farthest, size, strict=True)):
        if k > n / 2 * (1 + 1e-6):
            raise ValueError(
                f"{name}: 'trajectory' must lie within -{n / 2:g} to {n / 2:g} on axis {axis}, in index units of "
                f"k-space, got {k:g}; coordinates in radians are to be multiplied by n / (2 pi)"
            )
    if trajectory.shape[-2] < max(size):  # a few points may lie anywhere
        return
    for unit, (edge, factor) in _OTHER_UNITS.items():
        if 0.97 * edge <= max(farthest) <= edge * (1 + 1e-6) and min(size) > 4 * edge:
            raise ValueError(
                f"{name}: 'trajectory' must be in index units of k-space, to {max(size) / 2:g} where it is sampled to "
                f"the edge, got at most {max(farthest):g} as in {unit}; multiply each axis by {factor}"
            )


def to_angles(trajectory: Tensor, size: Sequence[int]) -> Tensor:
    """Index units to radians per pixel, float64, ``(1 or B, n_samples, dims)``, on the CPU."""
    scale = torch.tensor([2 * math.pi / n for n in size], dtype=torch.float64)
    angles = trajectory.detach().to("cpu", torch.float64) * scale
    return angles if angles.ndim == 3 else angles[None]


def transform(
    name: str, x: Tensor, angles: Tensor, size: Sequence[int], adjoint: bool, tolerance: float = TOLERANCE
) -> Tensor:
    """Apply the transform or its adjoint, each of which is the derivative of the other.

    Args:
        name: the function that asks, for the message if the package is missing.
        x: image ``(B, C, *size)``, or samples ``(B, C, n_samples)`` if ``adjoint``; complex.
        angles: what :func:`to_angles` returns.
        size: pixels along each axis.
        adjoint: whether to go from samples to an image.
        tolerance: relative error.

    Returns:
        Samples or image, in the dtype and on the device of ``x``.
    """
    return _Transform.apply(x, angles, tuple(size), adjoint, tolerance, _finufft(name))


class _Transform(torch.autograd.Function):
    """The transform with its adjoint as derivative, and the transform again as the derivative of that."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, angles: Tensor, size: tuple[int, ...], adjoint: bool, tolerance: float, finufft: Any
    ) -> Tensor:
        ctx.given = (angles, size, adjoint, tolerance, finufft)
        n_batch, n_channels = x.shape[:2]
        inside = tuple(x.shape[2:])
        outside = size if adjoint else (angles.shape[1],)
        # A trajectory shared by the batch makes one group of transforms, others make one group each.
        n_groups = angles.shape[0]
        groups = x.detach().to("cpu", torch.complex128).resolve_conj().reshape(n_groups, -1, *inside)
        results = groups.new_empty(n_groups, groups.shape[1], *outside)
        plan = finufft.Plan(
            1 if adjoint else 2,
            size,
            n_trans=groups.shape[1],
            eps=tolerance,
            isign=1 if adjoint else -1,
            dtype="complex128",
            nthreads=torch.get_num_threads(),
        )
        for group, result, points in zip(groups, results, angles, strict=True):
            plan.setpts(*(column.contiguous().numpy() for column in points.unbind(-1)))
            plan.execute(group.contiguous().numpy(), out=result.numpy())
        results *= 1 / math.sqrt(math.prod(size))
        return results.reshape(n_batch, n_channels, *outside).to(x.device, x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        angles, size, adjoint, tolerance, finufft = ctx.given
        return _Transform.apply(gradient, angles, size, not adjoint, tolerance, finufft), None, None, None, None, None


def _check_tolerance(name: str, tolerance: float) -> None:
    if not 1e-14 <= tolerance < 1:
        raise ValueError(f"{name}: 'tolerance' must be at least 1e-14 and below 1, got {tolerance}")


def nufft(image: Tensor, trajectory: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    r"""Fourier transform of images at any coordinates of k-space.

    .. math:: y_j = \frac{1}{\sqrt N} \sum_r x_r \exp\Big(-2 \pi i \sum_d \frac{k_{jd} \, r_d}{n_d}\Big)

    where :math:`r_d` runs from ``-(n_d // 2)`` on. At the points of the Cartesian grid this is
    :func:`medkit.ops.centered_fft`. Differentiable twice and more with respect to the image, not to the trajectory.
    The sums are made on the CPU in double precision: CUDA tensors are moved there and the result is moved back.

    Args:
        image: complex, ``(B, C, H, W)`` or ``(B, C, H, W, D)``, any unit.
        trajectory: real, ``(n_samples, 2)``, or with 3 coordinates for volumes, for the whole batch, or
            ``(B, n_samples, 2)``, one for each image; last axis in the order of the image's axes; in index units of
            centred k-space, that is in cycles per field of view: -n/2 to n/2 along an axis of n pixels.
        tolerance: relative error of the result, 1e-14 to 1; smaller is slower.

    Returns:
        Samples, ``(B, C, n_samples)``, dtype and device of ``image``.

    Raises:
        ValueError: if the shapes do not fit together, or a coordinate is not finite, out of the band, or in other
            units as far as that shows.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        >>> spoke = torch.stack([torch.linspace(-4, 4, 17), torch.zeros(17)], -1)
        >>> nufft(torch.ones(1, 1, 8, 8, dtype=torch.complex64), spoke).shape
        torch.Size([1, 1, 17])
    """
    check_tensors("nufft", image=image)
    if not image.is_complex() or image.ndim not in (4, 5):
        raise ValueError(
            f"nufft: 'image' must be complex (B, C, H, W) or (B, C, H, W, D), got {image.dtype} {tuple(image.shape)}"
        )
    _check_tolerance("nufft", tolerance)
    size = check_size("nufft", image.shape[2:])
    check_trajectory("nufft", trajectory, size, image.shape[0])
    return transform("nufft", image, to_angles(trajectory, size), size, False, tolerance)


def nufft_adjoint(kspace: Tensor, trajectory: Tensor, size: Sequence[int], tolerance: float = TOLERANCE) -> Tensor:
    r"""Adjoint of :func:`nufft`: the sum of the waves that the samples stand for.

    .. math:: x_r = \frac{1}{\sqrt N} \sum_j y_j \exp\Big(2 \pi i \sum_d \frac{k_{jd} \, r_d}{n_d}\Big)

    It is no inverse unless each sample was multiplied by the area that it stands for: see :func:`radial_weights` and
    :func:`pipe_menon_weights`.

    Args:
        kspace: samples, complex, ``(B, C, n_samples)``.
        trajectory: as for :func:`nufft`.
        size: pixels of the image along each axis, ``(H, W)`` or ``(H, W, D)``.
        tolerance: as for :func:`nufft`.

    Returns:
        Image, ``(B, C, *size)``, dtype and device of ``kspace``.

    Raises:
        ValueError: if the shapes do not fit together, or a coordinate is not finite, out of the band, or in other
            units as far as that shows.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        >>> nufft_adjoint(torch.ones(1, 1, 1, dtype=torch.complex64), torch.zeros(1, 2), (2, 2))[0, 0, 0]
        tensor([0.5000+0.j, 0.5000+0.j])
    """
    size = check_size("nufft_adjoint", size)
    _check_tolerance("nufft_adjoint", tolerance)
    check_samples("nufft_adjoint", kspace, trajectory, size)
    return transform("nufft_adjoint", kspace, to_angles(trajectory, size), size, True, tolerance)


def check_samples(name: str, kspace: Tensor, trajectory: Tensor, size: Sequence[int]) -> None:
    """Raise ``ValueError`` if samples are not complex (B, C, n_samples) of a trajectory in the band of an image."""
    check_tensors(name, kspace=kspace)
    if not kspace.is_complex() or kspace.ndim != 3:
        raise ValueError(
            f"{name}: 'kspace' must be complex (B, coil, n_samples), got {kspace.dtype} {tuple(kspace.shape)}"
        )
    check_trajectory(name, trajectory, size, kspace.shape[0])
    if kspace.shape[-1] != trajectory.shape[-2]:
        raise ValueError(
            f"{name}: 'kspace' must have one value for each of the {trajectory.shape[-2]} coordinates of 'trajectory', "
            f"got {tuple(kspace.shape)}"
        )
