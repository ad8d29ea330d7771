"""Affine maps without their mean: nothing is left, rotations stay, maps agree with what was there before."""

import pytest
import torch

from medkit.atlas import polar, without_mean
from tests.laws import random_like

CENTRE = torch.tensor([80.0, 96.0, 70.0], dtype=torch.float64)


def random_maps(n: int, size: float = 0.1, n_axes: int = 3) -> torch.Tensor:
    maps = torch.eye(n_axes + 1, dtype=torch.float64).repeat(n, 1, 1)
    maps[:, :n_axes, :n_axes] += size * random_like(torch.empty(n, n_axes, n_axes, dtype=torch.float64), 0)
    maps[:, :n_axes, n_axes] = 5 * random_like(torch.empty(n, n_axes, dtype=torch.float64), 1) + 2
    return maps


def turned(angle: float) -> torch.Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:2, :2] = torch.matrix_exp(torch.tensor([[0.0, -angle], [angle, 0.0]], dtype=torch.float64))
    return matrix


def log_stretch(linear: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(polar(linear)[1])
    return vectors @ torch.diag_embed(values.log()) @ vectors.mT


def test_a_map_is_its_stretch_and_then_its_rotation() -> None:
    linear = random_maps(5)[:, :3, :3]
    rotation, stretch = polar(linear)
    torch.testing.assert_close(rotation @ stretch, linear)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(5, 3, 3))
    assert (torch.linalg.det(rotation) > 0).all()
    torch.testing.assert_close(stretch, stretch.mT)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_no_mean_is_left(n_axes: int) -> None:
    centre = CENTRE[:n_axes]
    maps = random_maps(6, n_axes=n_axes)
    left, mean = without_mean(maps, centre)
    about = torch.eye(n_axes + 1, dtype=torch.float64)
    about[:n_axes, n_axes] = centre
    own = torch.linalg.inv(about) @ left @ about
    assert own[:, :n_axes, n_axes].mean(0).abs().max() < 1e-8
    assert log_stretch(own[:, :n_axes, :n_axes]).mean(0).abs().max() < 1e-8
    # The same points of the subjects are reached from the old template's by way of the new one's.
    torch.testing.assert_close(left @ mean, maps)


def test_half_and_double_cancel() -> None:
    maps = torch.stack([torch.diag(torch.tensor([s, s, s, 1.0], dtype=torch.float64)) for s in (0.5, 2.0)])
    left, mean = without_mean(maps, torch.zeros(3))
    torch.testing.assert_close(mean, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(left, maps)


def test_rotations_are_left_alone() -> None:
    maps = torch.stack([turned(0.2), turned(0.4)])
    left, mean = without_mean(maps, torch.zeros(3))
    torch.testing.assert_close(left, maps)
    torch.testing.assert_close(mean, torch.eye(4, dtype=torch.float64))


def test_order_and_repetition_do_not_matter() -> None:
    maps = random_maps(4)
    once = without_mean(maps, CENTRE)
    again = without_mean(maps[[2, 0, 3, 1]].repeat(2, 1, 1), CENTRE)
    torch.testing.assert_close(again[0][:4], once[0][[2, 0, 3, 1]], rtol=0, atol=1e-8)
    torch.testing.assert_close(again[1], once[1], rtol=0, atol=1e-8)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"must be \(N, 4, 4\) for 3 axes"):
        without_mean(torch.eye(3)[None], CENTRE)
    with pytest.raises(ValueError, match="must be finite"):
        without_mean(torch.full((1, 4, 4), torch.nan), CENTRE)
    with pytest.raises(ValueError, match="positive determinants, number 0"):
        without_mean(torch.diag(torch.tensor([-1.0, 1, 1, 1]))[None], CENTRE)
    with pytest.raises(ValueError, match=r"must be \(N, D, D\)"):
        polar(torch.eye(3))
