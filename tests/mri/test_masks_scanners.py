"""Masks of scanners that are not drawn at random: interleaved halves, partial Fourier, sheared lattices, spirals."""

import itertools

import numpy as np
import pytest
import torch

from medkit.mri import CaipiMask, MagicMask, PartialFourierMask, SpiralMask, actual_acceleration

KINDS = [MagicMask, PartialFourierMask, CaipiMask, SpiralMask]
RATES = {MagicMask: 4.0, PartialFourierMask: 1.5, CaipiMask: 4.0, SpiralMask: 5.0}


def mirrored(lines):
    """Mirror a pattern about frequency 0."""
    return lines.flip(-1).roll(1 if lines.shape[-1] % 2 == 0 else 0, -1)


@pytest.mark.parametrize("rate", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("width", [96, 97])
def test_magic_lines_and_their_mirror_images_interleave(rate, width):
    for seed in range(8):
        lines = MagicMask(0.0, rate).draw((1, width), np.random.RandomState(seed))[0]
        outer = (torch.arange(width) - width // 2).abs() > 0
        outer[0] = False  # of even widths its own mirror image
        both = lines & mirrored(lines) & outer
        assert not both.any()
        together = torch.nonzero((lines | mirrored(lines))[width // 2 :])[:, 0]
        distance = torch.diff(together)
        assert int(distance.max()) <= (rate + 1) // 2
        assert float(actual_acceleration(lines)) == pytest.approx(rate, rel=0.1)


def test_magic_keeps_a_full_centre_and_samples_all_at_rate_one():
    assert bool(MagicMask(0.1, 4).draw((1, 100))[0, 45:55].all())
    assert bool(MagicMask(0.0, 1).draw((1, 9)).all())


@pytest.mark.parametrize("width", [1, 2, 16, 31])
def test_partial_fourier_leaves_out_one_end_and_never_the_centre(width):
    sides = set()
    for seed in range(12):
        lines = PartialFourierMask(0.0, 1.6).draw((1, width), np.random.RandomState(seed))[0]
        assert bool(lines[width // 2])
        assert int(torch.diff(lines.int()).abs().sum()) <= 1, "one run"
        if width > 2:
            assert int(lines.sum()) == round(width / 1.6)
            sides.add(bool(lines[0]))
    assert width <= 2 or sides == {True, False}


@pytest.mark.parametrize(("row_step", "shift", "rate"), [(2, 1, 4), (1, 2, 5), (3, 0, 6), (1, 1, 1)])
def test_caipi_is_the_lattice_that_it_says(row_step, shift, rate):
    column_step = rate // row_step
    for seed in range(6):
        points = CaipiMask(0.0, rate, row_step=row_step, shift=shift).draw((30, 30), np.random.RandomState(seed))
        assert actual_acceleration(points) == pytest.approx(rate, rel=1e-6)
        rows = torch.nonzero(points.any(1))[:, 0]
        assert set(torch.diff(rows).tolist()) == {row_step}
        first = [int(torch.nonzero(points[row])[0]) % column_step for row in rows.tolist()]
        assert all((b - a - shift) % column_step == 0 for a, b in itertools.pairwise(first))
    assert bool(CaipiMask(0.04, 4).draw((50, 50))[20:30, 20:30].all())


@pytest.mark.parametrize("n_arms", [1, 4])
@pytest.mark.parametrize("rate", [3, 6, 10])
def test_spirals_come_near_the_rate_cross_the_centre_and_reach_the_edges(n_arms, rate):
    points = SpiralMask(0.0, rate, n_arms=n_arms).draw((96, 80), np.random.RandomState(1))
    assert actual_acceleration(points) == pytest.approx(rate, rel=0.05)
    assert bool(points[48, 40])
    row, column = ((torch.arange(n) - n // 2) / (n / 2) for n in (96, 80))
    radius = torch.hypot(row[:, None], column)
    assert float(radius[points].max()) == pytest.approx(1, abs=0.05)
    # No gap grows from the middle outwards: rings of one width have about the density of the whole.
    for low in (0.3, 0.5, 0.7):
        ring = (radius >= low) & (radius < low + 0.2)
        assert points[ring].float().mean() == pytest.approx(4 / torch.pi / rate, rel=0.6)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_replay_differ_and_fit_any_size(kind):
    mask = kind(0.0, RATES[kind])
    draws = [mask.draw((24, 30), np.random.RandomState(seed)) for seed in (0, 0, *range(1, 9))]
    assert torch.equal(draws[0], draws[1])
    assert any(not torch.equal(draws[0], other) for other in draws[2:])
    for size in [(1, 1), (1, 7), (7, 1), (5, 8), (32, 31)]:
        pattern = mask.draw(size)
        assert pattern.dtype == torch.bool
        assert actual_acceleration(mask.draw((32, 31))) > 1
    measured, image = mask(torch.ones(2, 24, 30, dtype=torch.complex64))
    assert torch.equal(measured != 0, mask.mask.expand_as(measured))
    assert image.shape == (24, 30)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PartialFourierMask(0.0, 2.0), "'accelerations' must be below 2"),
        (lambda: CaipiMask(row_step=0), "'row_step' must be at least 1"),
        (lambda: CaipiMask(shift=-1), "'shift' must be at least 0"),
        (lambda: CaipiMask(0.0, 2, row_step=3), "'accelerations' must be at least 'row_step' 3"),
        (lambda: SpiralMask(n_arms=0), "'n_arms' must be at least 1"),
        (lambda: MagicMask(0.5, 4), "alone exceeds acceleration"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
