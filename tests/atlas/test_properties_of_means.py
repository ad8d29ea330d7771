"""What taking the mean out of velocities must keep: energies, a mean of none, sharpness, and no memory of the start."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch

from medkit.atlas import AtlasFolder, AtlasSettings, HybridAtlas, SobolevMetric, TemplateSums, list_subjects
from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.building.level import Level
from medkit.atlas.building.velocities import Velocities, load, store
from medkit.atlas.pyramid import Grid
from medkit.ops import exponential, warp
from tests.atlas.phantom import cohort, correlation, velocities
from tests.atlas.test_building import SIZE, save


def test_the_mean_costs_what_centring_saves():
    """Catches an energy that is no quadratic form, and a mean that is none."""
    metric = SobolevMetric(SIZE, (1.0, 1.5, 2.0))
    v = velocities(SIZE, 5, 2.0, 3.0, seed=0).double() + velocities(SIZE, 2, 3.0, 3.0, seed=1)[:1].double()
    mean = v.mean(0, keepdim=True)
    whole, centred = (float(metric.inner(x, x).sum()) for x in (v, v - mean))
    of_mean = float(metric.inner(mean, mean))
    assert of_mean > 0.05 * centred
    assert whole == pytest.approx(centred + 5 * of_mean, rel=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_mean_is_that_of_all_and_none_is_left(tmp_path, symmetric):
    """Catches a mean over other subjects, a sum in 16 bits, and a mean that is not subtracted where it is read."""
    settings = AtlasSettings(symmetric=symmetric)
    grid = Grid(SIZE, (3.0, 3.0, 3.0))
    size = settings.model.metric(grid).size
    names = [f"s{i}" for i in range(7)]
    # 16-bit numbers, as they are stored, far from a mean of 0; mirrored pairs, for which both means are one.
    v = (velocities(size, 7, 1.5, 2.0, seed=0) + 0.4).half()
    if symmetric:
        v[:, 0] = v[:, 0] - 0.4
    for name, each in zip(names, v, strict=True):
        store(tmp_path / "v" / f"{name}.npy", each)
    level = Level(Jobs(tmp_path / "work"), "level-1", settings, grid, tmp_path, names, torch.device("cpu"))
    path, record = level.mean("mean", Velocities(tmp_path / "v"))
    mean = load(path).double()
    expected = v.double().mean(0, keepdim=True)
    if symmetric:
        other = expected.flip(2)
        other[:, 0] = -other[:, 0]
        expected = 0.5 * (expected + other)
    torch.testing.assert_close(mean, expected, atol=1e-6, rtol=0)
    assert record["bias_mm"] == pytest.approx(float((6 * expected).square().sum(1).sqrt().mean()), rel=1e-4)
    if not symmetric:
        assert float((v.double() - mean).mean(0).abs().max()) < 1e-6
        left = sum(Velocities(tmp_path / "v", 3, path, 1.0).of(name, size).double() for name in names) / 7
        # What is read has 16 bits: no mean but that of their rounding.
        assert float(left.abs().max()) <= 2.0**-11 * float(v.abs().max())


def test_a_template_made_anew_is_nearer_to_the_truth_than_one_that_is_moved():
    """Catches a template that is centred by warping it: one interpolation more blurs it."""
    size = (32, 30, 28)
    truth, subjects, v = cohort(size, 4, amplitude=1.5, width=5.0, noise=0.0)
    shift = velocities(size, 2, 1.5, 6.0, seed=9)[:1]
    # Velocities that all hold one shift: the template of their maps is the truth, shifted.
    moved = torch.cat([exponential(each[None] + shift) for each in v])
    found = {}
    for name, there in (("shifted", moved), ("anew", exponential(v))):
        sums = TemplateSums.zeros(subjects)
        sums.add_pulled(subjects, there)
        found[name] = sums.template()
    warped = warp(found["shifted"], exponential(-shift))
    inner = (..., slice(3, -3), slice(3, -3), slice(3, -3))

    def detail(image: torch.Tensor) -> torch.Tensor:
        blurred = torch.nn.functional.avg_pool3d(image, 3, 1, 1)
        return (image - blurred)[inner]

    def errors(image: torch.Tensor) -> tuple[float, float]:
        return float((image - truth)[inner].norm()), float((detail(image) - detail(truth)).norm())

    for anew, by_warping in zip(errors(found["anew"]), errors(warped), strict=True):
        assert anew < 0.9 * by_warping
    assert float(detail(found["anew"]).norm()) > 1.01 * float(detail(warped).norm())


# From any start to one template

LONG = {"factors": (1,), "n_rounds": (5,), "n_steps": (8,), "n_template_steps": (1,), "alignment": "none",
        "margin": 2, "tolerance": 0.0, "smallest_motion": 0.0}  # fmt: skip


@pytest.fixture(scope="module")
def brains(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("brains"), cohort(SIZE, 3, amplitude=1.0, width=3.0)[1])


def built(folder: Path, brains: Path, initial: str) -> AtlasFolder:
    return HybridAtlas(folder, AtlasSettings(**LONG), initial=initial, report=False).build(list_subjects(brains))


def least_alike(folder: Path, brains: Path, starts: tuple[str, ...]) -> float:
    found = [built(folder / name, brains, name).template() for name in starts]
    return min(correlation(a, b) for a, b in combinations(found, 2))


def uncentred(
    self: Level, phase: str, velocities: Velocities, previous: Path, energy: float, n_template_steps: int
) -> tuple[Path, Velocities, Record]:
    template, after = self.follow(phase, velocities, previous, n_template_steps)
    return template, velocities, {"energy": after, "share": 0.0, "bias_mm": 0.0}


def test_the_template_does_not_remember_where_it_began(brains, tmp_path):
    assert least_alike(tmp_path, brains, ("s0", "s1", "s2")) > 0.999


def test_without_centring_it_would_remember(brains, tmp_path, monkeypatch):
    """Without this one the other might pass for starts that nothing can tell apart."""
    monkeypatch.setattr(Level, "centre", uncentred)
    assert least_alike(tmp_path, brains, ("s0", "s2")) < 0.998
