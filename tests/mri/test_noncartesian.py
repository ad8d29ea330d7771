"""Transforms off the grid: the explicit sum, the Cartesian grid, the laws of an adjoint, and one normal operator."""

import sys

import pytest
import torch

from medkit.mri import (
    NonCartesianOperator,
    noncartesian_adjoint,
    noncartesian_cg_sense,
    noncartesian_forward,
    noncartesian_normal,
    nufft,
    nufft_adjoint,
    pipe_menon_weights,
    radial_trajectory,
    sense_forward,
)
from medkit.ops import centered_fft, centered_ifft
from tests.laws import assert_adjoint, assert_linear
from tests.mri.small_exams import random_kspace
from tests.mri.small_scans import make_scan
from tests.mri.small_trajectories import fourier_matrix, grid, nrmse, scattered

SIZES = [(12, 10), (9, 16), (7, 11), (8, 6, 5), (1, 8)]
POINT = torch.zeros(1, 2)


@pytest.mark.parametrize("size", SIZES)
def test_any_point_gets_the_explicit_sum(size):
    image, trajectory = random_kspace(2, 3, *size), scattered(size)
    matrix = fourier_matrix(trajectory, size)
    expected = image.to(torch.complex128).flatten(2) @ matrix.T
    assert nrmse(nufft(image, trajectory), expected) < 1e-6
    exact = nufft(image.to(torch.complex128), trajectory.double(), tolerance=1e-12)
    assert nrmse(exact, expected) < 1e-11
    samples = random_kspace(2, 3, 40)
    expected = (samples.to(torch.complex128) @ matrix.conj()).reshape(image.shape)
    assert nrmse(nufft_adjoint(samples, trajectory, size), expected) < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_grid_gets_the_cartesian_transform(size):
    image = random_kspace(2, 3, *size)
    dims = len(size)
    kspace = centered_fft(image, dims)
    torch.testing.assert_close(nufft(image, grid(size)), kspace.flatten(2), atol=1e-5, rtol=1e-5)
    back = nufft_adjoint(kspace.flatten(2), grid(size), size)
    torch.testing.assert_close(back, centered_ifft(kspace, dims), atol=1e-5, rtol=1e-5)


def test_grid_gets_the_cartesian_operator_of_a_large_slice():
    size = (256, 180)
    maps, image = make_scan(size, 2)[1:]
    samples = noncartesian_forward(image, grid(size), maps)
    torch.testing.assert_close(samples, sense_forward(image, None, maps).flatten(2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_batch", [None, 2])
@pytest.mark.parametrize("size", [(12, 9), (6, 5, 4)])
def test_adjoint_and_linear(size, n_batch):
    trajectory = scattered(size, n_batch=n_batch)
    maps = random_kspace(2, 3, *size, seed=4)
    image, samples = random_kspace(2, 1, *size), random_kspace(2, 3, 40)
    assert_adjoint(
        lambda x: noncartesian_forward(x, trajectory, maps),
        lambda y: noncartesian_adjoint(y, trajectory, maps),
        image,
        samples,
    )
    assert_linear(lambda x: noncartesian_forward(x, trajectory, maps), image)
    operator = NonCartesianOperator(trajectory, maps, torch.rand(40))
    assert_adjoint(operator.normal, operator.normal, image, image)


def test_each_image_of_a_batch_keeps_its_own_trajectory_maps_and_weights():
    size = (10, 8)
    trajectory, weights = scattered(size, n_batch=3), torch.rand(3, 40)
    maps, image = random_kspace(3, 4, *size), random_kspace(3, 1, *size, seed=1)
    operator = NonCartesianOperator(trajectory, maps, weights)
    samples = operator.forward(image)
    for i in range(3):
        alone = NonCartesianOperator(trajectory[i], maps[i : i + 1], weights[i])
        assert nrmse(samples[i : i + 1], alone.forward(image[i : i + 1])) < 1e-6
        assert nrmse(operator.adjoint(samples)[i : i + 1], alone.adjoint(samples[i : i + 1])) < 1e-6
        assert nrmse(operator.normal(image)[i : i + 1], alone.normal(image[i : i + 1])) < 1e-6


def test_one_trajectory_and_one_set_of_maps_serve_a_batch():
    size = (10, 8)
    image, maps, trajectory = random_kspace(3, 1, *size), random_kspace(1, 4, *size), scattered(size)
    many = [x.expand(3, *x.shape[1:]) for x in (maps, trajectory[None])]
    expected = NonCartesianOperator(many[1], many[0])
    operator = NonCartesianOperator(trajectory, maps)
    samples = expected.forward(image)
    assert nrmse(operator.forward(image), samples) < 1e-6
    assert nrmse(operator.adjoint(samples), expected.adjoint(samples)) < 1e-6
    assert nrmse(operator.normal(image), expected.normal(image)) < 1e-6


@pytest.mark.parametrize("n_batch", [None, 2])
@pytest.mark.parametrize("size", [(16, 12), (13, 7), (1, 8), (7, 6, 4)])
def test_convolution_is_there_and_back(size, n_batch):
    image, maps = random_kspace(2, 1, *size), random_kspace(2, 3, *size, seed=1)
    trajectory = scattered(size, n_batch=n_batch)
    weights = torch.rand(40) if n_batch is None else torch.rand(n_batch, 40)
    for given in [(maps, weights), (maps, None), (None, weights)]:
        expected = noncartesian_normal(image, trajectory, *given)
        fast = NonCartesianOperator(trajectory, *given, size=size)
        slow = NonCartesianOperator(trajectory, *given, size=size, use_toeplitz=False)
        assert nrmse(fast.normal(image), expected) < 1e-5
        assert nrmse(fast.adjoint(fast.forward(image)), expected) < 1e-6
        assert torch.equal(slow.normal(image), expected)
    double = image.to(torch.complex128)
    wide = NonCartesianOperator(trajectory, size=size)
    wide.normal(image)
    assert nrmse(wide.normal(double), noncartesian_normal(double, trajectory)) < 1e-5


@pytest.mark.parametrize("n_batch", [None, 2])
def test_gradients_are_adjoints_twice(n_batch):
    size = (4, 3)
    trajectory = scattered(size, 5, n_batch).double()
    image = random_kspace(2, 2, *size).to(torch.complex128).requires_grad_()
    samples = random_kspace(2, 2, 5).to(torch.complex128).requires_grad_()
    calls = [
        (lambda x: nufft(x, trajectory, 1e-12), image),
        (lambda y: nufft_adjoint(y, trajectory, size, 1e-12), samples),
    ]
    for call, x in calls:
        assert torch.autograd.gradcheck(call, (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda z, call=call: call(z).abs().square(), (x,), fast_mode=True)


def test_gradient_reaches_maps_and_image():
    size = (6, 5)
    image, maps = random_kspace(1, 1, *size).requires_grad_(), random_kspace(1, 2, *size).requires_grad_()
    trajectory = scattered(size)
    for use_toeplitz in (True, False):
        operator = NonCartesianOperator(trajectory, maps, use_toeplitz=use_toeplitz)
        (0.5 * operator.forward(image).abs().square().sum()).backward()
        torch.testing.assert_close(image.grad, operator.normal(image).detach(), atol=1e-4, rtol=1e-4)
        assert bool(torch.isfinite(torch.view_as_real(maps.grad)).all())
        image.grad = maps.grad = None


def test_conjugate_and_strided_views_are_read_as_they_are():
    size = (8, 6)
    image, trajectory = random_kspace(1, 1, 6, 8).mT.conj(), scattered(size)
    plain = image.resolve_conj().contiguous()
    assert torch.equal(nufft(image, trajectory), nufft(plain, trajectory.mT.contiguous().mT))


@pytest.mark.gpu
def test_result_lies_on_the_device_of_the_image():
    size = (12, 10)
    image, trajectory, maps = random_kspace(1, 1, *size), scattered(size), random_kspace(1, 3, *size)
    here = NonCartesianOperator(trajectory, maps, torch.ones(40))
    there = NonCartesianOperator(trajectory.cuda(), maps.cuda(), torch.ones(40).cuda())
    samples = there.forward(image.cuda())
    assert samples.is_cuda
    for name, x in [("forward", image), ("adjoint", samples.cpu()), ("normal", image)]:
        assert nrmse(getattr(there, name)(x.cuda()).cpu(), getattr(here, name)(x)) < 1e-5


def test_missing_package_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(ImportError, match=r"^nufft: finufft is not installed; run: pip install 'medkit\[nufft\]'$"):
        nufft(random_kspace(1, 1, 4, 4), POINT)


IMAGE, SAMPLES, MAPS = random_kspace(2, 1, 8, 6), random_kspace(2, 3, 1), random_kspace(2, 3, 8, 6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nufft(IMAGE.real, POINT), "nufft: 'image' must be complex"),
        (lambda: nufft(IMAGE[0, 0], POINT), r"must be complex \(B, C, H, W\)"),
        (lambda: nufft(IMAGE, POINT, tolerance=0), "'tolerance' must be at least 1e-14"),
        (lambda: nufft(IMAGE, torch.zeros(5, 3)), r"'trajectory' must be real \(n_samples, 2\)"),
        (lambda: nufft(IMAGE, torch.zeros(5, 2, dtype=torch.int64)), "must be real"),
        (lambda: nufft(IMAGE, torch.zeros(0, 2)), "at least one sample"),
        (lambda: nufft(IMAGE, torch.zeros(3, 5, 2)), "must be for 1 or 2 images"),
        (lambda: nufft(IMAGE, torch.zeros(5, 2, requires_grad=True)), "not differentiated"),
        (lambda: nufft(IMAGE, torch.tensor([[0.0, float("nan")]])), "must be finite"),
        (lambda: nufft(IMAGE, torch.tensor([[float("inf"), 0.0]])), "must be finite"),
        (lambda: nufft(IMAGE, torch.tensor([[4.0, 3.1]])), r"within -3 to 3 on axis 1, .* got 3.1"),
        (lambda: nufft(IMAGE, torch.tensor([[-4.1, 0.0]])), r"within -4 to 4 on axis 0"),
        (lambda: nufft_adjoint(SAMPLES, torch.zeros(4, 2), (8, 6)), "one value for each of the 4 coordinates"),
        (lambda: nufft_adjoint(SAMPLES[0], POINT, (8, 6)), r"must be complex \(B, coil, n_samples\)"),
        (lambda: nufft_adjoint(SAMPLES, POINT, (8,)), "'size' must be 2 or 3 positive"),
        (lambda: noncartesian_forward(MAPS, POINT), r"'image' must be complex \(B, 1, H, W\)"),
        (lambda: noncartesian_forward(IMAGE, POINT, MAPS[..., :5]), r"must be complex \(2, 3, 8, 6\)"),
        (lambda: noncartesian_forward(IMAGE, POINT, MAPS.real), "'sens_maps' must be complex"),
        (lambda: noncartesian_forward(IMAGE[:1], POINT, MAPS), r"\(1, 3, 8, 6\)"),
        (lambda: noncartesian_adjoint(SAMPLES[:, :2], POINT, MAPS), r"must be complex \(2, 2, 8, 6\)"),
        (lambda: noncartesian_adjoint(SAMPLES, POINT, size=(8, 6)), "several coils need 'sens_maps'"),
        (lambda: noncartesian_adjoint(SAMPLES, POINT), "'size' must be given"),
        (lambda: noncartesian_adjoint(SAMPLES, POINT, MAPS, torch.ones(2)), r"'density_weights' must be real \(1,\)"),
        (lambda: noncartesian_adjoint(SAMPLES, POINT, MAPS, -torch.ones(1)), "finite and at least 0"),
        (lambda: noncartesian_adjoint(SAMPLES, POINT, MAPS, torch.ones(3, 1)), r"or \(B, 1\)"),
        (lambda: NonCartesianOperator(POINT, size=(8, 5)).normal(IMAGE), "NonCartesianOperator: 'image' must be"),
        (lambda: NonCartesianOperator(torch.full((1, 2), 9.0), MAPS), "NonCartesianOperator: 'trajectory' must lie"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nufft(IMAGE, POINT.numpy()), "nufft: 'trajectory' must be a tensor, got numpy.ndarray; give"),
        (lambda: nufft(IMAGE.numpy(), POINT), r"torch.as_tensor\(image\)"),
        (lambda: nufft_adjoint(SAMPLES.numpy(), POINT, (8, 6)), "'kspace' must be a tensor"),
        (lambda: noncartesian_forward(IMAGE, POINT, MAPS.numpy()), "'sens_maps' must be a tensor"),
        (lambda: noncartesian_adjoint(SAMPLES, POINT, MAPS, torch.ones(1).numpy()), "'density_weights' must be a tens"),
        (lambda: NonCartesianOperator([[0.0, 0.0]], MAPS), "'trajectory' must be a tensor, got builtins.list"),
        (lambda: noncartesian_cg_sense(SAMPLES.numpy(), POINT, MAPS), "'kspace' must be a tensor"),
        (lambda: pipe_menon_weights(POINT.numpy(), (8, 6)), "pipe_menon_weights: 'trajectory' must be a tensor"),
    ],
)
def test_what_is_no_tensor_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(("edge", "unit"), [(torch.pi, "radians per pixel"), (0.5, "cycles per pixel")])
@pytest.mark.parametrize("order", ["uniform", "golden"])
def test_a_trajectory_in_other_units_is_refused(edge, unit, order):
    size = (24, 20)
    trajectory = radial_trajectory(21, size, order=order)
    other = trajectory * (2 * edge / torch.tensor(size))
    image = random_kspace(1, 1, *size)
    with pytest.raises(ValueError, match=f"must be in index units of k-space, to 12 .* as in {unit}; multiply each"):
        nufft(image, other)
    nufft(image, trajectory)
    nufft(image, other[:10])  # a few points may lie there
    nufft(image, other * 0.9)  # so may a centre that ends elsewhere
