"""SSDU: two disjoint parts that are the whole, a centre that stays, and draws that a seed or a name replays."""

import numpy as np
import pytest
import torch

from medkit.mri import RandomMask, SplitMeasuredd
from tests.mri.small_exams import random_kspace


def exam(size=(24, 20), n_slices=None, kind="lines"):
    mask = RandomMask(0.2, 2).set_random_state(0).draw(size)[None]
    if kind == "points":
        mask = torch.from_numpy(np.random.RandomState(0).rand(1, *size) < 0.5)
    kspace = random_kspace(2, *size) if n_slices is None else random_kspace(2, *size, n_slices)
    mask = mask if n_slices is None else mask[..., None]
    return {"measured": kspace * mask, "mask": mask, "kspace": kspace, "case": "a"}


@pytest.mark.parametrize("kind", ["lines", "points"])
@pytest.mark.parametrize("n_slices", [None, 3])
@pytest.mark.parametrize("density", ["gaussian", "uniform"])
def test_parts_are_disjoint_and_together_the_whole(kind, n_slices, density):
    whole = exam(n_slices=n_slices, kind=kind)
    out = SplitMeasuredd(0.4, density=density).set_random_state(1)(whole)
    assert out["mask"].shape == out["held_mask"].shape == (1, 24, 20, *(() if n_slices is None else (1,)))
    assert not (out["mask"] & out["held_mask"]).any()
    assert torch.equal(out["mask"] | out["held_mask"], whole["mask"].expand_as(out["mask"]))
    assert torch.equal(out["measured"] + out["held_measured"], whole["measured"])
    assert not (out["measured"] * out["held_mask"]).any()
    assert torch.equal(out["kspace"], whole["kspace"])
    n_sampled = int(whole["mask"].expand_as(out["mask"]).sum())
    assert int(out["held_mask"].sum()) == round(0.4 * n_sampled)


def test_the_centre_is_never_held_back():
    whole = exam()
    split = SplitMeasuredd(0.6, n_center=4).set_random_state(0)
    held = torch.stack([split(whole)["held_mask"] for _ in range(20)]).any(0)
    assert not held[0, 10:14, 8:12].any()
    assert held[0, 9].any()
    none = torch.stack([SplitMeasuredd(0.6, n_center=0).set_random_state(i)(whole)["held_mask"] for i in range(20)])
    assert none[:, 0, 10:14, 8:12].any()


def test_gaussian_density_prefers_the_middle_and_uniform_does_not():
    whole = exam((64, 64), kind="points")
    radius = torch.hypot(*torch.meshgrid(torch.arange(64.0) - 32, torch.arange(64.0) - 32, indexing="ij"))

    def mean_radius(density):
        held = SplitMeasuredd(0.2, density=density, std=0.15).set_random_state(0)(whole)["held_mask"][0]
        return float(radius[held].mean())

    everywhere = float(radius[whole["mask"][0]].mean())
    assert mean_radius("uniform") == pytest.approx(everywhere, abs=1.5)
    assert mean_radius("gaussian") < 0.7 * everywhere


def test_a_seed_and_a_name_replay_the_split():
    whole = exam()
    first, again = (SplitMeasuredd().set_random_state(5)(whole)["held_mask"] for _ in range(2))
    assert torch.equal(first, again)
    by_name = SplitMeasuredd(seed_key="case")
    assert torch.equal(by_name(whole)["held_mask"], by_name(whole)["held_mask"])
    assert not torch.equal(by_name(whole)["held_mask"], by_name({**whole, "case": "b"})["held_mask"])
    assert not torch.equal(by_name(whole)["held_mask"], SplitMeasuredd(seed_key="case", seed=1)(whole)["held_mask"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SplitMeasuredd(0), "'fraction' must lie between 0 and 1"),
        (lambda: SplitMeasuredd(1.0), "'fraction' must lie between 0 and 1"),
        (lambda: SplitMeasuredd(n_center=-1), "'n_center' must be at least 0"),
        (lambda: SplitMeasuredd(density="poisson"), "'density' must be"),
        (lambda: SplitMeasuredd(std=0), "'std' must be positive"),
        (lambda: SplitMeasuredd(n_center=100)(exam()), "0 lie outside the centre of 100"),
        (lambda: SplitMeasuredd(0.0001)(exam()), "0 of 240 samples are to be held back"),
        (lambda: SplitMeasuredd()({**exam(), "mask": torch.ones(1, 1, 7)}), "'mask' must be"),
        (lambda: SplitMeasuredd()({**exam(), "measured": torch.ones(1, 24, 20)}), "'measured' must be complex"),
        (lambda: SplitMeasuredd(seed_key="name")(exam()), "'seed_key' must be a key"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
