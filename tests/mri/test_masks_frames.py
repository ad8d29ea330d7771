"""Masks of dynamic scans: exact counts in each frame, frames that complete each other, and the layout of clips."""

import itertools
import pickle

import numpy as np
import pytest
import torch

from medkit.mri import (
    CoilCombined,
    KtEquispacedMask,
    KtGaussianMask,
    KtMask,
    KtRadialMask,
    PackReconstructiond,
    RadialMask,
    RandomMask,
    ScaleByPercentiled,
    SensitivityMapsd,
    Undersampled,
    actual_acceleration,
)
from tests.mri.small_exams import random_kspace

KINDS = [KtEquispacedMask, KtGaussianMask, KtRadialMask]
LINES = [KtEquispacedMask, KtGaussianMask]


def seeded(seed=0):
    return np.random.RandomState(seed)


@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize(("rate", "width"), [(4, 96), (4, 97), (5, 31), (8, 20), (2, 7)])
def test_frames_of_one_distance_in_a_row_are_fully_sampled_and_fewer_are_not(rate, width, shift):
    for seed in range(rate):
        frames = KtEquispacedMask(0.0, rate, shift=shift).draw((3 * rate, 4, width), seeded(seed))
        assert frames.shape == (3 * rate, 1, width)
        for first in range(2 * rate):
            together = frames[first : first + rate].sum(0)
            assert bool((together == 1).all()), "each line once"
        for frame in frames:
            assert int(frame.sum()) in (width // rate, -(-width // rate))
            assert bool((torch.diff(torch.nonzero(frame[0])[:, 0]) == rate).all())


def test_interleaved_lines_move_by_the_shift_and_begin_at_random():
    frames = KtEquispacedMask(0.0, 5, shift=2).draw((6, 1, 40), seeded())[:, 0]
    first = [int(torch.nonzero(frame)[0]) for frame in frames]
    assert [(b - a) % 5 for a, b in itertools.pairwise(first)] == [2] * 5
    begins = {int(torch.nonzero(KtEquispacedMask().draw((1, 1, 40), seeded(s))[0, 0])[0]) for s in range(40)}
    assert begins == {0, 1, 2, 3}


@pytest.mark.parametrize(("fraction", "rate"), [(0.08, 4), (0.04, 8), (0.25, 4), (0.1, 2.5)])
def test_interleaved_lines_with_a_centre_come_near_the_rate_in_each_frame(fraction, rate):
    frames = KtEquispacedMask(fraction, rate).draw((40, 1, 320), seeded())
    n = round(320 * fraction)
    start = (320 - n + 1) // 2
    assert bool(frames[..., start : start + n].all())
    assert actual_acceleration(frames) == pytest.approx(rate, rel=0.1)
    assert all(actual_acceleration(frame) == pytest.approx(rate, rel=0.15) for frame in frames)
    on_top = KtEquispacedMask(fraction, rate, count_centre=False).draw((40, 1, 320), seeded())
    assert bool(on_top[: round(rate)].any(0).all())


@pytest.mark.parametrize(("fraction", "rate"), [(0.08, 4), (0.04, 8), (0.0, 3), (0.25, 4), (1, 1)])
def test_gaussian_frames_have_exact_counts_their_centre_and_lines_of_their_own(fraction, rate):
    for width in (128, 127, 1):
        frames = KtGaussianMask(fraction, rate).draw((12, 4, width), seeded())
        assert frames.shape == (12, 1, width)
        assert frames.sum((1, 2)).tolist() == [max(1, round(width / rate))] * 12
        n = min(round(width * fraction), round(width / rate))
        start = (width - n + 1) // 2
        assert bool(frames[..., start : start + n].all())
    if fraction * rate < 1:
        frames = KtGaussianMask(fraction, rate).draw((12, 1, 128), seeded())[:, 0]
        assert len({tuple(frame.tolist()) for frame in frames}) == 12
        assert frames.any(0).float().mean() > 2 / rate, "together they sample much more than each alone"


def test_gaussian_frames_prefer_the_centre():
    frames = KtGaussianMask(0.0, 8).draw((200, 1, 64), seeded())
    assert float(frames[..., 16:48].sum() / frames.sum()) > 0.7


@pytest.mark.parametrize("size", [(96, 96), (95, 64)])
def test_spokes_turn_by_the_golden_part_and_keep_the_rate(size):
    frames = KtRadialMask(0.0, 8).draw((9, *size), seeded(3))
    assert frames.shape == (9, *size)
    assert bool(frames[:, size[0] // 2, size[1] // 2].all())
    # The first frame is the pattern of one frame alone, from the same draws.
    assert torch.equal(frames[0], RadialMask(0.0, 8).draw(size, seeded(3)))
    assert actual_acceleration(frames) == pytest.approx(8, rel=0.05)
    assert all(abs(int(frame.sum()) - frames[0].numel() / 8) < max(size) for frame in frames)
    # Each frame brings new points: none repeats another, and together they fill the plane as evenly as spokes can.
    outside = torch.hypot(*torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")) > 0.5
    shares = [float((a & b & outside).sum() / (a & outside).sum()) for i, a in enumerate(frames) for b in frames[:i]]
    assert max(shares) < 0.75
    assert float(frames.any(0).float().mean()) > 0.6


def test_spokes_of_any_number_of_frames_leave_no_large_gap():
    mask, n_frames = KtRadialMask(0.0, 12), 8
    frames = mask.draw((n_frames, 128, 128), seeded(1))
    # On a circle half way to the edge, angles of all sampled points; the spokes are lines, so half a turn is all.
    row, column = torch.meshgrid(torch.arange(128) - 64, torch.arange(128) - 64, indexing="ij")
    ring = (torch.hypot(row.float(), column.float()) - 56).abs() < 1
    angles = torch.sort(torch.rad2deg(torch.atan2(row, column)[frames.any(0) & ring]) % 180).values
    one = torch.sort(torch.rad2deg(torch.atan2(row, column)[frames[0] & ring]) % 180).values
    assert float(torch.diff(angles).max()) < 0.4 * float(torch.diff(one).max())


@pytest.mark.parametrize("kind", KINDS)
def test_draws_replay_differ_and_fit_any_size(kind):
    mask = kind((0.0, 0.0), (4, 6))
    assert isinstance(mask, KtMask)
    draws = [mask.draw((3, 24, 30), seeded(seed)) for seed in (0, 0, *range(1, 9))]
    assert torch.equal(draws[0], draws[1])
    assert any(not torch.equal(draws[0], other) for other in draws[2:])
    assert torch.equal(mask.set_random_state(5).draw((3, 24, 30)), kind((0, 0), (4, 6)).draw((3, 24, 30), seeded(5)))
    assert torch.equal(pickle.loads(pickle.dumps(mask)).draw((3, 24, 30), seeded()), draws[0])
    for size in [(1, 1, 1), (2, 1, 7), (3, 7, 1), (1, 5, 8)]:
        frames = mask.draw(size, seeded())
        assert frames.dtype == torch.bool
        assert frames.shape == (size[0], 1 if kind in LINES else size[1], size[2])
        assert bool(frames.flatten(1).any(1).all()), "no frame is empty"
    full = kind(0.0, 1).draw((2, 6, 8))
    assert bool(full.all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_call_takes_clips_and_one_mask_serves_all_coils(kind, spatial_dims):
    space = (16, 20) if spatial_dims == 2 else (3, 16, 20)
    mask = kind(0.0, 4, spatial_dims=spatial_dims)
    kspace = random_kspace(2, 5, 3, *space)
    measured, image = mask.set_random_state(0)(kspace)
    drawn = mask.set_random_state(0).draw((5, *space))
    rows = 1 if kind in LINES else 16
    assert drawn.shape == (5, *(1,) * (spatial_dims - 2), rows, 20)
    assert mask.mask.shape == (1, 5, 1, *drawn.shape[1:])
    assert torch.equal(mask.mask[0, :, 0], drawn)
    assert torch.equal(measured, kspace * mask.mask)
    assert image.shape == (2, 5, *space)
    pairs, _ = mask.set_random_state(0)(torch.view_as_real(kspace))
    assert torch.equal(torch.view_as_complex(pairs), measured)
    assert mask.mask.shape == (1, 5, 1, *drawn.shape[1:], 1)


@pytest.mark.parametrize("mask", [KtEquispacedMask(0.2, 3), KtGaussianMask(0.2, 3), KtRadialMask(0.15, 3)])
def test_a_dynamic_exam_goes_through_the_chain_frame_by_frame(mask):
    kspace = random_kspace(3, 24, 32, 5)
    sample = Undersampled("kspace", mask, seed_key="case")({"kspace": kspace, "case": "a"})
    rows = 24 if isinstance(mask, KtRadialMask) else 1
    assert sample["mask"].shape == (1, rows, 32, 5)
    assert torch.equal(sample["measured"], kspace * sample["mask"])
    assert float(sample["acceleration"]) == pytest.approx(actual_acceleration(sample["mask"]))
    chain = [SensitivityMapsd(), CoilCombined(), ScaleByPercentiled(), PackReconstructiond()]

    def run(part):
        for transform in chain:
            part = transform(part)
        return part

    whole = run(sample)
    one = run({**{key: sample[key][..., 2] for key in ("kspace", "measured", "mask")}, "case": "a"})
    scaled = whole["image"][:2, ..., 2] * whole["scale"]
    torch.testing.assert_close(scaled, one["image"][:2] * one["scale"], atol=1e-4, rtol=1e-3)
    assert torch.equal(whole["image"][2, ..., 2], one["image"][2])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: KtEquispacedMask(shift=0), "KtEquispacedMask: 'shift' must be at least 1"),
        (lambda: KtEquispacedMask(0.0, 4, shift=2).draw((4, 1, 40)), "no common divisor, .* got 2 and 4; take shift=1"),
        (lambda: KtGaussianMask(std=0), "KtGaussianMask: 'std' must be positive"),
        (lambda: KtRadialMask(0.5, 4), "KtRadialMask: 'center_fractions' 0.5 alone exceeds acceleration"),
        (lambda: KtRadialMask().draw((8, 8)), "'shape' must be 3 positive sizes, the number of frames first"),
        (lambda: KtGaussianMask().draw((0, 8, 8)), "'shape' must be 3 positive sizes"),
        (lambda: KtGaussianMask()(torch.ones(2, 8, 8) + 0j), "must have axes of frames and coils before its 2"),
        (
            lambda: Undersampled("kspace", KtGaussianMask())({"kspace": random_kspace(2, 8, 8)}),
            r"KtGaussianMask is for dynamic k-space \(coil, H, W, T\), got 'kspace' \(2, 8, 8\); give all frames",
        ),
        (
            lambda: Undersampled("kspace")({"kspace": random_kspace(2, 8, 8, 3), "mask": torch.ones(1, 1, 8, 2)}),
            "give a mask of the size of k-space",
        ),
        (lambda: RandomMask(0.1, 4).draw((3, 8, 8)), "'shape' must be 2 positive sizes, got"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
