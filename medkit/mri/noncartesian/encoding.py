"""The forward model of non-Cartesian MRI, non-uniform Fourier · coils, with its adjoint and normal operator."""

from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.mri.noncartesian.fourier import (
    check_samples,
    check_size,
    check_tensors,
    check_trajectory,
    nufft,
    nufft_adjoint,
)
from medkit.mri.noncartesian.toeplitz import convolution_kernel, convolved


def _check_maps(name: str, sens_maps: Tensor, n_batch: int, n_coils: int | None, size: Sequence[int]) -> None:
    wanted = (n_batch, sens_maps.shape[1] if n_coils is None and sens_maps.ndim > 1 else n_coils, *size)
    fits = sens_maps.ndim == len(wanted) and sens_maps.shape[0] in (1, n_batch)
    if not (sens_maps.is_complex() and fits and tuple(sens_maps.shape[1:]) == wanted[1:]):
        shown = ", ".join("coil" if n is None else str(n) for n in wanted)
        raise ValueError(
            f"{name}: 'sens_maps' must be complex ({shown}), or with 1 in place of {n_batch}, got "
            f"{sens_maps.dtype} {tuple(sens_maps.shape)}"
        )


def _check_image(name: str, image: Tensor, trajectory: Tensor, sens_maps: Tensor | None) -> None:
    check_tensors(name, image=image, sens_maps=sens_maps)
    if not image.is_complex() or image.ndim not in (4, 5) or image.shape[1] != 1:
        raise ValueError(
            f"{name}: 'image' must be complex (B, 1, H, W) or (B, 1, H, W, D), got {image.dtype} {tuple(image.shape)}"
        )
    check_trajectory(name, trajectory, image.shape[2:], image.shape[0])
    if sens_maps is not None:
        _check_maps(name, sens_maps, image.shape[0], None, image.shape[2:])


def _check_weights(name: str, weights: Tensor, trajectory: Tensor, n_batch: int | None) -> None:
    n_samples = trajectory.shape[-2]
    fits = weights.ndim in (1, 2) and weights.shape[-1] == n_samples
    if weights.ndim == 2 and n_batch is not None:
        fits = fits and weights.shape[0] in (1, n_batch)
    if not weights.is_floating_point() or not fits:
        raise ValueError(
            f"{name}: 'density_weights' must be real ({n_samples},) or (B, {n_samples}), got {weights.dtype} "
            f"{tuple(weights.shape)}"
        )
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError(f"{name}: 'density_weights' must be finite and at least 0")


def image_size(name: str, sens_maps: Tensor | None, size: Sequence[int] | None) -> tuple[int, ...]:
    """Return the size of the image, from the argument or from the maps, or raise ``ValueError``."""
    if size is None and sens_maps is None:
        raise ValueError(f"{name}: 'size' must be given where there are no 'sens_maps' to take it from")
    return check_size(name, size if size is not None else sens_maps.shape[2:])  # type: ignore[union-attr]


def noncartesian_forward(image: Tensor, trajectory: Tensor, sens_maps: Tensor | None = None) -> Tensor:
    r"""Measure an image: weight it by each coil, transform at the coordinates of the trajectory.

    .. math:: y_c = F_k \, S_c \, x

    Args:
        image: complex, ``(B, 1, H, W)`` or ``(B, 1, H, W, D)``, any unit.
        trajectory: real, ``(n_samples, 2)`` or, one for each image, ``(B, n_samples, 2)``; 3 coordinates for volumes;
            in index units of k-space, -n/2 to n/2, as for :func:`nufft`.
        sens_maps: complex coil sensitivities ``(B, coil, H, W)``, or ``(1, coil, H, W)`` for all; ``None``: one coil
            that sees everything alike.

    Returns:
        Samples, complex, ``(B, coil, n_samples)``.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        >>> noncartesian_forward(torch.ones(1, 1, 4, 4, dtype=torch.complex64), torch.zeros(1, 2))
        tensor([[[4.+0.j]]])
    """
    _check_image("noncartesian_forward", image, trajectory, sens_maps)
    return nufft(image if sens_maps is None else image * sens_maps, trajectory)


def noncartesian_adjoint(
    kspace: Tensor,
    trajectory: Tensor,
    sens_maps: Tensor | None = None,
    density_weights: Tensor | None = None,
    size: Sequence[int] | None = None,
) -> Tensor:
    r"""Adjoint of :func:`noncartesian_forward`; with density weights, the gridding reconstruction.

    .. math:: x_0 = \sum_c \bar S_c \, F_k^H W y_c

    Args:
        kspace: samples, complex, ``(B, coil, n_samples)``.
        trajectory: as for :func:`noncartesian_forward`.
        sens_maps: as for :func:`noncartesian_forward`; ``None`` is allowed for one coil only.
        density_weights: real, ``(n_samples,)`` or ``(B, n_samples)``, at least 0: the area of k-space that each sample
            stands for, in cells of the Cartesian grid; ``None``: 1.
        size: pixels of the image along each axis; may be left out where there are maps.

    Returns:
        Image, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        >>> noncartesian_adjoint(torch.ones(1, 1, 1, dtype=torch.complex64), torch.zeros(1, 2), size=(2, 2))[0, 0, 0]
        tensor([0.5000+0.j, 0.5000+0.j])
    """
    name = "noncartesian_adjoint"
    check_tensors(name, kspace=kspace, sens_maps=sens_maps, density_weights=density_weights)
    size = image_size(name, sens_maps, size)
    check_samples(name, kspace, trajectory, size)
    if sens_maps is not None:
        _check_maps(name, sens_maps, kspace.shape[0], kspace.shape[1], size)
    elif kspace.shape[1] != 1:
        raise ValueError(
            f"{name}: 'kspace' must have 1 coil on axis 1, got {tuple(kspace.shape)}; several coils need 'sens_maps'"
        )
    if density_weights is not None:
        _check_weights(name, density_weights, trajectory, kspace.shape[0])
        kspace = kspace * density_weights.to(kspace.device).reshape(-1, 1, kspace.shape[-1])
    coil_images = nufft_adjoint(kspace, trajectory, size)
    return coil_images if sens_maps is None else (coil_images * sens_maps.conj()).sum(1, keepdim=True)


def noncartesian_normal(
    image: Tensor, trajectory: Tensor, sens_maps: Tensor | None = None, density_weights: Tensor | None = None
) -> Tensor:
    r"""Measure and go back: :math:`A^H W A x`, near the identity for good weights of a fully sampled trajectory.

    Args:
        image: complex, ``(B, 1, H, W)`` or ``(B, 1, H, W, D)``.
        trajectory: as for :func:`noncartesian_forward`.
        sens_maps: as for :func:`noncartesian_forward`.
        density_weights: as for :func:`noncartesian_adjoint`.

    Returns:
        Image, complex, shape of ``image``. For many calls with one trajectory :class:`NonCartesianOperator` is faster.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        >>> noncartesian_normal(torch.ones(1, 1, 2, 2, dtype=torch.complex64), torch.zeros(1, 2))[0, 0, 0]
        tensor([1.+0.j, 1.+0.j])
    """
    kspace = noncartesian_forward(image, trajectory, sens_maps)
    return noncartesian_adjoint(kspace, trajectory, sens_maps, density_weights, tuple(image.shape[2:]))


class NonCartesianOperator:
    r"""The forward model with its trajectory, maps and weights held fixed, for iterative reconstruction.

    The adjoint is that of the inner product which counts each sample by its density weight, so that
    ``normal(x)`` is ``adjoint(forward(x))``. It is computed as a convolution with the point spread function of the
    trajectory, by FFTs of twice the size on the device of the image, equal within 1e-5 of its norm; the first call
    prepares that function, on the CPU.

    Args:
        trajectory: real, ``(n_samples, 2)`` or ``(B, n_samples, 2)``, or with 3 coordinates, in index units of k-space.
        sens_maps: complex ``(B, coil, H, W)`` or ``(1, coil, H, W)``; ``None``: one uniform coil.
        density_weights: real, ``(n_samples,)`` or ``(B, n_samples)``; ``None``: 1.
        size: pixels of the image along each axis; may be left out where there are maps.
        use_toeplitz: whether ``normal`` is that convolution; it needs 2 or, in volumes, up to 8 times the memory of the
            coil images and no time that depends on the number of samples.

    Raises:
        ValueError: if an argument is of the wrong kind or the shapes do not fit together.

    Example:
        >>> operator = NonCartesianOperator(torch.zeros(1, 2), size=(4, 4))
        >>> operator.forward(torch.ones(2, 1, 4, 4, dtype=torch.complex64)).shape
        torch.Size([2, 1, 1])
    """

    def __init__(
        self,
        trajectory: Tensor,
        sens_maps: Tensor | None = None,
        density_weights: Tensor | None = None,
        size: Sequence[int] | None = None,
        use_toeplitz: bool = True,
    ):
        name = "NonCartesianOperator"
        check_tensors(name, trajectory=trajectory, sens_maps=sens_maps, density_weights=density_weights)
        self.size = image_size(name, sens_maps, size)
        n_batch = trajectory.shape[0] if trajectory.ndim == 3 and trajectory.shape[0] > 1 else None
        check_trajectory(name, trajectory, self.size)
        if sens_maps is not None:
            _check_maps(name, sens_maps, n_batch or sens_maps.shape[0], None, self.size)
        if density_weights is not None:
            _check_weights(name, density_weights, trajectory, n_batch)
        self.trajectory = trajectory
        self.sens_maps = sens_maps
        self.density_weights = density_weights
        self.use_toeplitz = use_toeplitz
        self._kernel: Tensor | None = None

    def forward(self, image: Tensor) -> Tensor:
        """Image ``(B, 1, H, W)`` to samples ``(B, coil, n_samples)``: :func:`noncartesian_forward`."""
        return noncartesian_forward(image, self.trajectory, self.sens_maps)

    def adjoint(self, kspace: Tensor) -> Tensor:
        """Samples ``(B, coil, n_samples)`` to image ``(B, 1, H, W)``: :func:`noncartesian_adjoint`."""
        return noncartesian_adjoint(kspace, self.trajectory, self.sens_maps, self.density_weights, self.size)

    def normal(self, image: Tensor) -> Tensor:
        """Image to image ``(B, 1, H, W)``: :func:`noncartesian_normal`."""
        if not self.use_toeplitz:
            return noncartesian_normal(image, self.trajectory, self.sens_maps, self.density_weights)
        name = "NonCartesianOperator"
        _check_image(name, image, self.trajectory, self.sens_maps)
        if tuple(image.shape[2:]) != self.size:
            raise ValueError(f"{name}: 'image' must be (B, 1) and {self.size}, got {tuple(image.shape)}")
        kernel, precision = self._kernel, image.real.dtype
        if kernel is None or (kernel.device, kernel.dtype) != (image.device, precision):
            kernel = convolution_kernel(name, self.trajectory, self.size, self.density_weights)
            self._kernel = kernel = kernel.to(image.device, precision)
        if self.sens_maps is None:
            return convolved(image, kernel)
        coil_images = convolved(image * self.sens_maps, kernel)
        return (coil_images * self.sens_maps.conj()).sum(1, keepdim=True)
