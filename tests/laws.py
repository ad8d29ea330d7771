"""The laws that operators must obey, written once and called by the tests of each of them."""

from collections.abc import Callable

import torch
from torch import Tensor


def random_like(example: Tensor, seed: int = 0) -> Tensor:
    """Standard normal noise of the shape and dtype of ``example``, replayed by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(example.shape, dtype=example.dtype, generator=generator)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product <a, b>, linear in ``b``, summed in double precision."""
    wide = torch.complex128 if a.is_complex() or b.is_complex() else torch.float64
    return torch.vdot(a.to(wide).flatten(), b.to(wide).flatten())


def assert_adjoint(
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
    domain: Tensor,
    codomain: Tensor,
    tolerance: float = 1e-5,
    real: bool = False,
) -> None:
    """<A x, y> = <x, A^H y> for random x and y, relative to their norms.

    ``domain`` and ``codomain`` are examples of shape and dtype; ``real=True`` compares real parts only, for operators
    that are linear over the real numbers alone.
    """
    for seed in range(3):
        x, y = random_like(domain, seed), random_like(codomain, seed + 100)
        image, back = forward(x), adjoint(y)
        assert image.shape == codomain.shape, f"forward gives {tuple(image.shape)}, not {tuple(codomain.shape)}"
        assert back.shape == domain.shape, f"adjoint gives {tuple(back.shape)}, not {tuple(domain.shape)}"
        left, right = inner(y, image), inner(back, x)
        difference = (left - right).real.abs() if real else (left - right).abs()
        scale = (inner(image, image).abs() * inner(y, y).abs()).sqrt().clamp(min=1e-30)
        assert difference / scale < tolerance, f"<Ax,y> = {left:.6g}, <x,A^H y> = {right:.6g}"


def assert_unitary(
    forward: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], domain: Tensor, tolerance: float = 1e-5
) -> None:
    """The inverse undoes the operator, and lengths are kept."""
    x = random_like(domain)
    y = forward(x)
    assert torch.linalg.vector_norm(inverse(y) - x) <= tolerance * torch.linalg.vector_norm(x)
    assert torch.isclose(torch.linalg.vector_norm(y), torch.linalg.vector_norm(x), rtol=tolerance)


def assert_linear(operator: Callable[[Tensor], Tensor], domain: Tensor, tolerance: float = 1e-5) -> None:
    """A (a x + b z) = a A x + b A z."""
    x, z = random_like(domain, 1), random_like(domain, 2)
    expected = 0.7 * operator(x) - 1.3 * operator(z)
    error = torch.linalg.vector_norm(operator(0.7 * x - 1.3 * z) - expected)
    assert error <= tolerance * torch.linalg.vector_norm(expected)


def assert_contraction(operator: Callable[[Tensor], Tensor], domain: Tensor, slack: float = 1e-5) -> None:
    """The operator never lengthens a vector; checked by power iteration, which finds the worst one."""
    x = random_like(domain)
    for _ in range(10):
        x = x / torch.linalg.vector_norm(x).clamp(min=1e-30)
        x = operator(x)
        assert torch.linalg.vector_norm(x) <= 1 + slack


def assert_deterministic(call: Callable[[], Tensor]) -> None:
    """Two calls give bit for bit the same."""
    assert torch.equal(call(), call())
