"""CG-SENSE for samples off the grid, radial, spiral or any other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.mri.classical.problem import check_settings
from medkit.mri.conjugation import solve_hermitian
from medkit.mri.noncartesian.encoding import NonCartesianOperator
from medkit.mri.noncartesian.fourier import check_tensors


def noncartesian_cg_sense(
    kspace: Tensor,
    trajectory: Tensor,
    sens_maps: Tensor | None = None,
    density_weights: Tensor | None = None,
    weight: float = 0.01,
    n_iterations: int = 20,
    size: Sequence[int] | None = None,
) -> Tensor:
    r"""Solve for the image that fits the samples, with its energy held down, by conjugate gradients from 0.

    .. math:: \min_x \tfrac12 \|W^{1/2} (A x - y)\|^2 + \tfrac{\lambda}{2} \|x\|^2

    The density weights W precondition: with them the eigenvalues are near 1 where k-space is sampled, and few steps
    suffice. They also change what noise costs, since each sample counts by its area rather than alike.
    Differentiable with respect to samples and maps. Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241.

    Args:
        kspace: measured samples, complex, ``(B, coil, n_samples)``, any unit.
        trajectory: real, ``(n_samples, 2)`` or, one for each image, ``(B, n_samples, 2)``; 3 coordinates for volumes;
            in index units of k-space, -n/2 to n/2 along an axis of n pixels.
        sens_maps: complex, ``(B, coil, H, W)`` or ``(1, coil, H, W)``; ``None``: one uniform coil.
        density_weights: real, ``(n_samples,)`` or ``(B, n_samples)``, in cells of the Cartesian grid, as
            :func:`radial_weights` and :func:`pipe_menon_weights` give; ``None``: 1 for all.
        weight: :math:`\lambda`, at least 0; with density weights and maps of sum of squares 1 the data weigh about 1.
        n_iterations: number of steps, at least 1. Fewer regularise too.
        size: pixels of the image along each axis; may be left out where there are maps.

    Returns:
        Image, complex, ``(B, 1, H, W)``, unit of the Cartesian image with the same samples.

    Raises:
        ValueError: if the shapes do not fit together, a sample is not finite or a number is out of its range.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        A slice sampled on 48 golden-angle spokes, and back:

        >>> from medkit.data import head_phantom
        >>> from medkit.mri import radial_trajectory, radial_weights
        >>> trajectory = radial_trajectory(48, (32, 32), order="golden")
        >>> weights = radial_weights(48, (32, 32), order="golden")
        >>> kspace = head_phantom().kspace_at(trajectory, (32, 32))[None, None]
        >>> noncartesian_cg_sense(kspace, trajectory, density_weights=weights, size=(32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """
    name = "noncartesian_cg_sense"
    check_settings(name, weight, n_iterations)
    check_tensors(name, kspace=kspace)
    operator = NonCartesianOperator(trajectory, sens_maps, density_weights, size)
    if not bool(torch.isfinite(torch.view_as_real(kspace.detach())).all() if kspace.is_complex() else True):
        raise ValueError(f"{name}: 'kspace' must be finite, got infinite or undefined samples")
    if sens_maps is not None and not bool(torch.isfinite(torch.view_as_real(sens_maps.detach())).all()):
        raise ValueError(f"{name}: 'sens_maps' must be finite, got infinite or undefined values; set them to 0")
    gridded = operator.adjoint(kspace)

    def system(direction: Tensor) -> Tensor:
        return operator.normal(direction) + weight * direction

    return solve_hermitian(system, torch.zeros_like(gridded), gridded, n_iterations)
