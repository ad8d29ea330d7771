"""Affine registration finds known maps from any position, repeats bit for bit, and its failures are named."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from medkit.atlas import misaligned, register_affine
from medkit.ops import identity_points
from tests.atlas.phantom import intensity
from tests.laws import random_like

SIZE = (36, 40, 34)


def turned(axis: tuple[float, ...], degrees: float) -> np.ndarray:
    a, unit = np.radians(degrees), np.array(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), unit)
    return np.eye(3) + np.sin(a) * cross + (1 - np.cos(a)) * cross @ cross


def grid(size, spacing, linear=None) -> np.ndarray:
    """Affine of a grid about the origin."""
    n_axes = len(size)
    affine = np.eye(n_axes + 1)
    affine[:-1, :-1] = (np.eye(n_axes) if linear is None else linear) @ np.diag(spacing)
    affine[:-1, -1] = -affine[:-1, :-1] @ ((np.array(size) - 1) / 2)
    return affine


def phantom(size, affine: np.ndarray, matrix: np.ndarray) -> torch.Tensor:
    """The lopsided phantom, 130 mm wide, seen on a grid; ``matrix`` takes the phantom's mm to the grid's."""
    n_axes = len(size)
    to_phantom = torch.from_numpy(np.linalg.inv(matrix) @ affine).float()
    points = torch.einsum("ij,bj...->bi...", to_phantom[:-1, :-1], identity_points(size))
    points = points + to_phantom[:-1, -1].reshape(1, -1, *[1] * n_axes)
    shape = torch.tensor([85.0, 100.0, 75.0][:n_axes]).reshape(1, -1, *[1] * n_axes)  # half axes, mm, over 0.72
    values = intensity(points / shape + 0.5, (2,) * n_axes)
    blobs = [(1.0, 30.0, 20.0, 10.0), (-0.5, -25.0, 30.0, -15.0), (0.5, 10.0, -40.0, 20.0)]
    for height, *place in blobs:
        shift = points - torch.tensor(place[:n_axes]).reshape(1, -1, *[1] * n_axes)
        values = values + 0.6 * height * (-shift.square().sum(1, keepdim=True) / (2 * 12.0**2)).exp()
    return values[0, 0].clamp(min=0)


def mapping(linear: np.ndarray, shift: tuple[float, ...]) -> np.ndarray:
    matrix = np.eye(len(shift) + 1)
    matrix[:-1, :-1], matrix[:-1, -1] = linear, shift
    return matrix


FIXED_GRID = grid(SIZE, (4.0, 4.0, 4.2))
FIXED = phantom(SIZE, FIXED_GRID, np.eye(4))


def error_mm(found: np.ndarray, true: np.ndarray) -> float:
    """Largest distance over the surface of a ball of 60 mm."""
    n_axes = len(true) - 1
    ends = np.concatenate([60 * np.eye(n_axes), -60 * np.eye(n_axes)])
    ends = np.concatenate([ends, np.ones((len(ends), 1))], axis=1)
    return float(np.linalg.norm((found - true) @ ends.T, axis=0).max())


TRUE = {
    "shifted by 60 mm": ("rigid", mapping(np.eye(3), (60.0, -20.0, 10.0))),
    "turned by 40 degrees, origin elsewhere": ("rigid", mapping(turned((1, 1, 1), 40), (300.0, -150.0, 80.0))),
    "upside down": ("rigid", mapping(turned((1, 2, 3), 170), (10.0, 0.0, 0.0))),
    "larger": ("similarity", mapping(1.15 * turned((0, 1, 1), 10), (10.0, -20.0, 10.0))),
    "stretched": ("affine", mapping(turned((1, 0, 1), -15) @ np.diag([1.1, 0.95, 1.05]), (20.0, 0.0, -30.0))),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_known_map_is_found(name: str) -> None:
    """Within 1 mm on the object's surface, which is a quarter of a voxel and within 1 degree; 2 mm with scales."""
    kind, true = TRUE[name]
    size, axes = (38, 36, 44), turned((0, 0, 1), 8)[:, [1, 0, 2]] * (1, -1, 1)  # oblique, permuted and flipped
    own = grid(size, (4.4, 4.6, 3.8), axes)
    own = mapping(np.eye(3), tuple(true[:-1, -1])) @ own
    moving = phantom(size, own, true)
    noisy = moving + 0.02 * random_like(moving)
    found = register_affine(FIXED, FIXED_GRID, noisy.numpy(), own, kind=kind)
    assert error_mm(found.matrix, true) < (1 if kind == "rigid" else 2)
    assert found.overlap > 0.9
    assert found.n_starts > 100
    assert misaligned([found.score], [found.matrix], [found.overlap]) == []


@pytest.mark.parametrize("metric", ["mi", "lncc"])
def test_from_a_start_repeats_are_equal_bit_for_bit(metric: str) -> None:
    true = mapping(turned((0, 0, 1), 12), (5.0, 5.0, 0.0))
    moving = phantom(SIZE, FIXED_GRID, true)
    runs = [
        register_affine(FIXED, FIXED_GRID, moving, FIXED_GRID, kind="rigid", metric=metric, start=np.eye(4))
        for _ in range(2)
    ]
    assert np.array_equal(runs[0].matrix, runs[1].matrix)
    assert runs[0].score == runs[1].score
    assert error_mm(runs[0].matrix, true) < 1
    linear = runs[0].matrix[:3, :3]
    np.testing.assert_allclose(linear.T @ linear, np.eye(3), atol=1e-9)


def test_the_search_repeats_bit_for_bit() -> None:
    moving = phantom(SIZE, FIXED_GRID, mapping(turned((1, 0, 0), 25), (5.0, 5.0, 0.0)))
    runs = [register_affine(FIXED, FIXED_GRID, moving, FIXED_GRID, kind="rigid", n_starts=1) for _ in range(2)]
    assert np.array_equal(runs[0].matrix, runs[1].matrix)


def test_another_contrast_is_no_obstacle() -> None:
    true = mapping(turned((0, 1, 0), 20), (0.0, 15.0, -10.0))
    moving = phantom(SIZE, FIXED_GRID, true)
    inverted = torch.where(moving > 0.02, 1.2 - moving, 0.0)
    found = register_affine(FIXED, FIXED_GRID, inverted, FIXED_GRID, kind="rigid")
    assert error_mm(found.matrix, true) < 1


def test_what_has_no_weight_does_not_pull() -> None:
    true = mapping(np.eye(3), (6.0, -4.0, 3.0))
    moving, weight = phantom(SIZE, FIXED_GRID, true), torch.ones(SIZE)
    weight[20:30, 14:26, 10:20] = 0
    broken = torch.where(weight == 0, 1.5, FIXED)
    options = {"kind": "rigid", "start": np.eye(4), "metric": "lncc"}
    weighted = register_affine(broken, FIXED_GRID, moving, FIXED_GRID, fixed_weight=weight, **options)
    plain = register_affine(broken, FIXED_GRID, moving, FIXED_GRID, **options)
    assert error_mm(weighted.matrix, true) < 0.6
    assert weighted.score > plain.score
    other = register_affine(moving, FIXED_GRID, broken, FIXED_GRID, moving_weight=weight, **options)
    assert error_mm(other.matrix, np.linalg.inv(true)) < 0.6


def test_images_too() -> None:
    size, spacing = (48, 44), (3.5, 3.6)
    turn = turned((0, 0, 1), 35)[:2, :2]
    true, own = mapping(turn, (40.0, -25.0)), grid(size, spacing)
    own = mapping(np.eye(2), (40.0, -25.0)) @ own
    fixed, moving = phantom(size, grid(size, spacing), np.eye(3)), phantom(size, own, true)
    for kind in ("rigid", "similarity", "affine"):
        found = register_affine(fixed, grid(size, spacing), moving, own, kind=kind)
        assert error_mm(found.matrix, true) < 1.5


def test_noise_and_nothing_are_named_and_so_is_what_was_fooled() -> None:
    good = [(0.7 + 0.02 * k, np.eye(4), 0.93) for k in range(10)]  # what another noise would give
    found = []
    noise = random_like(FIXED).abs()
    fooled = mapping(np.diag([1.0, -1.0, -1.0]), (0.0, 0.0, 0.0))
    for volume, start in ((FIXED, np.eye(4)), (noise, None), (torch.zeros(SIZE), None), (FIXED, fooled)):
        r = register_affine(FIXED, FIXED_GRID, volume, FIXED_GRID, kind="rigid", start=start, n_starts=1)
        found.append((r.score, r.matrix, r.overlap))
    columns = list(zip(*found, *good, strict=True))
    named = dict(misaligned(columns[0], columns[1], columns[2]))
    assert sorted(named) == [1, 2, 3]
    assert all(reason and "\n" not in reason for reason in named.values())


def test_each_kind_of_failure_has_its_sentence() -> None:
    rng = np.random.default_rng(0)
    scores = list(0.5 + 0.03 * rng.standard_normal(10))
    matrices = [mapping(np.diag(1 + 0.05 * rng.standard_normal(3)), (1.0, 2.0, 3.0)) for _ in range(10)]
    overlaps = [0.93] * 10
    assert misaligned(scores, matrices, overlaps) == []
    assert misaligned([], np.zeros((0, 4, 4))) == []
    bad = {
        "not finite": (np.nan, np.eye(4), 0.9),
        "reflects": (0.5, np.diag([-1.0, 1, 1, 1]), 0.9),
        "stretches": (0.5, np.diag([2.0, 1, 1, 1]), 0.9),
        "overlap": (0.5, np.eye(4), 0.5),
        "nothing in common": (0.01, np.eye(4), 0.9),
        "worse than the others": (0.2, np.eye(4), 0.9),
    }
    for k, (words, (score, matrix, overlap)) in enumerate(bad.items()):
        at = k % len(scores)
        named = misaligned(
            [*scores[:at], score, *scores[at:]],
            [*matrices[:at], matrix, *matrices[at:]],
            [*overlaps[:at], overlap, *overlaps[at:]],
        )
        assert [i for i, _ in named] == [at]
        assert words in named[0][1]


@pytest.mark.slow
@pytest.mark.real
def test_brains_of_real_people_come_together_and_none_is_named(real_data) -> None:
    files = sorted((real_data / "atlas_brains" / "muschellij2__malf.templates").glob("*_SS.nii.gz"))[:4]
    if len(files) < 4:
        pytest.skip("no brains of MICCAI 2012")
    volumes = [(np.asarray(nib.load(f).dataobj, dtype=np.float32), nib.load(f).affine) for f in files]
    turn = mapping(turned((1, 1, 0), 40), (60.0, 0.0, 0.0))
    found = [register_affine(*volumes[0], v, turn @ a if k == 0 else a) for k, (v, a) in enumerate(volumes[1:])]
    again = register_affine(*volumes[0], *volumes[1])
    middle = np.array([-80.0, -190.0, -170.0, 1.0])  # about that of the first brain, in the space of its header
    assert np.linalg.norm((np.linalg.inv(turn) @ found[0].matrix - again.matrix) @ middle) < 2
    assert misaligned([r.score for r in found], [r.matrix for r in found], [r.overlap for r in found]) == []
    upside_down = found[1].matrix @ mapping(np.diag([1.0, -1.0, -1.0]), tuple(np.diag([0, 2, 2]) @ middle[:3]))
    fooled = register_affine(*volumes[0], *volumes[2], start=upside_down)
    all_of = [*found, again, fooled]
    named = misaligned([r.score for r in all_of], [r.matrix for r in all_of], [r.overlap for r in all_of])
    assert [i for i, _ in named] == [4]


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="'kind' must be one of"):
        register_affine(FIXED, FIXED_GRID, FIXED, FIXED_GRID, kind="linear")
    with pytest.raises(ValueError, match="'fixed' must show something"):
        register_affine(torch.ones(SIZE), FIXED_GRID, FIXED, FIXED_GRID)
    with pytest.raises(ValueError, match="'moving' must be finite"):
        register_affine(FIXED, FIXED_GRID, FIXED * torch.nan, FIXED_GRID)
    with pytest.raises(ValueError, match="'moving_affine' must be an invertible"):
        register_affine(FIXED, FIXED_GRID, FIXED, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="'fixed_weight' must be"):
        register_affine(FIXED, FIXED_GRID, FIXED, FIXED_GRID, fixed_weight=torch.zeros(SIZE))
    with pytest.raises(ValueError, match="as many axes"):
        register_affine(FIXED, FIXED_GRID, FIXED[0], FIXED_GRID[1:, 1:])
    with pytest.raises(ValueError, match="with one of 'scores' for each"):
        misaligned([0.1], [np.eye(4)] * 2)
    with pytest.raises(ValueError, match="'overlaps' must be one for each"):
        misaligned([0.1], [np.eye(4)], [0.9, 0.9])
    with pytest.raises(ValueError, match="'metric' must be one of"):
        misaligned([0.1], [np.eye(4)], metric="ssd")
