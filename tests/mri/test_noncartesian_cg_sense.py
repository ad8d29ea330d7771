"""Reconstruction from spokes and spirals: a phantom with exact k-space, known coils, and raw data of a scanner."""

import pytest
import torch

from medkit.data import head_phantom
from medkit.mri import (
    NonCartesianOperator,
    cg_sense,
    estimate_sens_maps,
    noncartesian_adjoint,
    noncartesian_cg_sense,
    noncartesian_forward,
    nufft,
    nufft_adjoint,
    radial_trajectory,
    radial_weights,
    sense_adjoint,
)
from medkit.ops import centered_fft
from tests.mri.small_exams import random_kspace
from tests.mri.small_scans import make_scan, read_eight_coils
from tests.mri.small_trajectories import grid, nrmse, sampled, scattered, taper, tapered


@pytest.mark.parametrize("kind", ["uniform", "golden", "spiral"])
def test_phantom_comes_back_from_exact_samples(kind):
    size, phantom = (64, 56), head_phantom()
    trajectory, weights = sampled(kind, size)
    kspace = phantom.kspace_at(trajectory, size)[None, None]
    reference = tapered(phantom.kspace(size)[None, None])
    gridded = noncartesian_adjoint(kspace * taper(trajectory, size), trajectory, None, weights, size)
    solved = noncartesian_cg_sense(kspace, trajectory, None, weights, 0.001, 10, size)
    assert nrmse(gridded, reference) < 0.01
    assert nrmse(tapered(centered_fft(solved)), reference) < 0.004


def test_volume_comes_back_from_exact_samples():
    size, phantom = (16, 16, 14), head_phantom(3)
    trajectory, weights = (f(700, size) for f in (radial_trajectory, radial_weights))
    kspace = phantom.kspace_at(trajectory, size)[None, None]
    reference = tapered(phantom.kspace(size)[None, None])
    gridded = noncartesian_adjoint(kspace * taper(trajectory, size), trajectory, None, weights, size)
    solved = noncartesian_cg_sense(kspace, trajectory, None, weights, 0.001, 10, size)
    assert nrmse(gridded, reference) < 0.04
    assert nrmse(tapered(centered_fft(solved, 3)), reference) < 0.01


def test_grid_gets_the_image_of_the_cartesian_method():
    kspace, maps, _ = make_scan((24, 20), 4)
    size = (24, 20)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[::2], mask[10:14] = True, True
    expected = cg_sense(sense_adjoint(kspace, mask[None, None], maps), mask[None, None], maps, 0.02, 8)
    measured = kspace.flatten(2)[..., mask.flatten()]
    image = noncartesian_cg_sense(measured, grid(size)[mask.flatten()], maps, None, 0.02, 8)
    assert nrmse(image, expected) < 1e-5


def test_many_steps_solve_the_weighted_equations():
    size = (8, 6)
    maps, trajectory, weights = random_kspace(2, 3, *size) / 2, scattered(size, 60), torch.rand(60)
    kspace = random_kspace(2, 3, 60)
    image = noncartesian_cg_sense(kspace, trajectory, maps, weights, 0.1, 60)
    operator = NonCartesianOperator(trajectory, maps, weights)
    residual = operator.normal(image) + 0.1 * image - operator.adjoint(kspace)
    assert residual.norm() < 1e-4 * operator.adjoint(kspace).norm()


def test_each_image_of_a_batch_is_solved_alone():
    size = (12, 10)
    trajectory, weights = scattered(size, 50, n_batch=2), torch.rand(2, 50)
    maps, kspace = random_kspace(2, 3, *size), random_kspace(2, 3, 50)
    kspace[1] *= 100
    together = noncartesian_cg_sense(kspace, trajectory, maps, weights, 0.01, 6)
    for i in range(2):
        alone = noncartesian_cg_sense(kspace[i : i + 1], trajectory[i], maps[i : i + 1], weights[i], 0.01, 6)
        assert nrmse(together[i : i + 1], alone) < 1e-4


def test_weights_spare_steps_and_maps_spare_spokes():
    size = (48, 40)
    _, maps, image = make_scan(size, 6)
    trajectory, weights = (f(16, size, order="golden") for f in (radial_trajectory, radial_weights))
    kspace = noncartesian_forward(image, trajectory, maps)
    gridded = nrmse(noncartesian_adjoint(kspace, trajectory, maps, weights), image)
    with_weights = nrmse(noncartesian_cg_sense(kspace, trajectory, maps, weights, 1e-3, 6), image)
    without = nrmse(noncartesian_cg_sense(kspace, trajectory, maps, None, 1e-3, 6), image)
    assert with_weights < 0.5 * gridded
    assert with_weights < without


def test_gradient_reaches_samples_and_maps():
    size = (6, 5)
    kspace, maps = random_kspace(1, 2, 40).requires_grad_(), random_kspace(1, 2, *size).requires_grad_()
    noncartesian_cg_sense(kspace, scattered(size), maps, None, 0.1, 3).abs().sum().backward()
    assert all(0 < float(x.grad.abs().sum()) < float("inf") for x in (kspace, maps))


@pytest.mark.real
def test_few_spokes_of_raw_data_come_back_better_than_by_gridding(real_data):
    # The middle of k-space, an image of lower resolution, keeps the time short.
    kspace = read_eight_coils(real_data)[..., 51:-51, 26:-26]
    kspace = kspace / kspace.abs().max()
    maps = estimate_sens_maps(kspace, n_calibration=24)
    reference = sense_adjoint(kspace, None, maps)
    size = tuple(kspace.shape[-2:])
    trajectory, weights = (f(32, size, order="golden") for f in (radial_trajectory, radial_weights))
    measured = noncartesian_forward(reference, trajectory, maps)
    gridded = nrmse(noncartesian_adjoint(measured, trajectory, maps, weights), reference)
    solved = nrmse(noncartesian_cg_sense(measured, trajectory, maps, weights, 0.001, 15), reference)
    assert solved < 0.6 * gridded, f"CG-SENSE {solved:.4f}, gridding {gridded:.4f}"
    # The spokes are dense near the centre, and give maps of their own.
    centre = torch.zeros(1, 1, *size, dtype=torch.bool)
    centre[..., size[0] // 2 - 7 : size[0] // 2 + 7, size[1] // 2 - 7 : size[1] // 2 + 7] = True
    own_maps = estimate_sens_maps(centered_fft(nufft_adjoint(measured * weights, trajectory, size)), centre)
    alone = noncartesian_cg_sense(measured, trajectory, own_maps, weights, 0.001, 15)
    error = nrmse(alone.abs(), reference.abs())
    assert error < 0.75 * gridded, f"CG-SENSE with maps of the spokes {error:.4f}, gridding {gridded:.4f}"


def test_peer_gets_the_same_samples():
    sigpy = pytest.importorskip("sigpy", reason="needs the extra 'peers'")
    size = (20, 15)
    image, trajectory = random_kspace(1, 3, *size), scattered(size, 100)
    theirs = torch.from_numpy(sigpy.nufft(image[0].numpy(), trajectory.numpy(), oversamp=2, width=6))
    assert nrmse(nufft(image, trajectory)[0], theirs) < 1e-3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y, k, s: noncartesian_cg_sense(y, k, s, weight=-1), "'weight' must be at least 0"),
        (lambda y, k, s: noncartesian_cg_sense(y, k, s, n_iterations=0), "'n_iterations' must be at least 1"),
        (lambda y, k, s: noncartesian_cg_sense(y * float("nan"), k, s), "'kspace' must be finite"),
        (lambda y, k, s: noncartesian_cg_sense(y, k, s * float("nan")), "'sens_maps' must be finite"),
        (lambda y, k, s: noncartesian_cg_sense(y.real, k, s), "'kspace' must be complex"),
        (lambda y, k, s: noncartesian_cg_sense(y[..., 1:], k, s), "one value for each of the 40"),
        (lambda y, k, s: noncartesian_cg_sense(y[:, 1:], k, s), "'sens_maps' must be complex"),
        (lambda y, k, s: noncartesian_cg_sense(y, k), "'size' must be given"),
        (lambda y, k, s: noncartesian_cg_sense(y, k[:, [0, 0, 0]], s), "for an image with 2 spatial axes"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(random_kspace(1, 2, 40), scattered((8, 6)), random_kspace(1, 2, 8, 6))
