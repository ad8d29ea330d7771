"""Masks of published multi-contrast studies: their counts, what a real inverse transform left, and low resolution."""

import numpy as np
import pytest
import torch

from medkit.mri import BernoulliMask, CentreMask, KspaceCropOperator, Undersampled
from medkit.ops import centered_fft, centered_ifft

FRACTIONS = {4: 0.08, 8: 0.04}
# width, nominal rate, columns drawn, columns that count, their rate
TABLE = [(240, 4, 66, 59, 4.07), (240, 8, 32, 27, 8.89), (256, 4, 69, 61, 4.20), (256, 8, 33, 27, 9.48)]


def image(height=24, width=20, seed=0):
    return torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("width", "rate", "drawn", "effective", "effective_rate"), TABLE)
def test_effective_rates_of_the_published_masks(width, rate, drawn, effective, effective_rate):
    options = {"center_fractions": FRACTIONS[rate], "accelerations": rate, "seed": 42}
    mask = BernoulliMask(**options).draw((width, width))
    used = BernoulliMask(**options, legacy_hermitian=True).draw((width, width))
    assert int(mask.sum()) == drawn
    assert int(used.sum()) == effective
    assert width / int(used.sum()) == pytest.approx(effective_rate, abs=0.005)


@pytest.mark.parametrize("size", [(24, 20), (9, 16), (7, 1)])
def test_mirrored_mask_measures_what_the_published_loader_did(size):
    x = image(*size)
    drawn = BernoulliMask(0.2, 2, seed=3).draw(size)
    used = BernoulliMask(0.2, 2, seed=3, legacy_hermitian=True).draw(size)
    # The published loader, written out: both shifts the same way, then the real inverse transform.
    kspace = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))
    published = torch.fft.irfft2(torch.fft.ifftshift(kspace * drawn, dim=(-2, -1)), s=size, norm="ortho")
    ours = centered_ifft(centered_fft(x.to(torch.complex128)) * used)
    torch.testing.assert_close(ours.real, published, atol=1e-6, rtol=0)
    assert float(ours.imag.abs().max()) < 1e-6
    if size[1] > 1:
        with_drawn = centered_ifft(centered_fft(x.to(torch.complex128)) * drawn).real
        assert float((with_drawn - published).abs().max()) > 1e-3, "the trap is a trap"


def test_fixed_and_free_seeds():
    fixed, free = BernoulliMask(0.1, 4, seed=42), BernoulliMask(0.1, 4)
    draws = [mask.draw((4, 200), np.random.RandomState(i)) for mask in (fixed, free) for i in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[2], draws[3])
    counts = [int(free.draw((1, 200), np.random.RandomState(i)).sum()) for i in range(300)]
    assert np.mean(counts) == pytest.approx(50, rel=0.02)
    assert BernoulliMask(1.0, 1.0).draw((2, 5)).all()


@pytest.mark.parametrize(("size", "factor"), [((16, 24), 2), ((16, 24), 4), ((15, 9), 3), ((4, 4), 1)])
def test_low_resolution_is_that_of_the_operator(size, factor):
    operator = KspaceCropOperator(size, factor)
    mask = CentreMask(factor).draw(size)
    assert torch.equal(mask, operator.mask(centered=True)[0, 0].bool())
    x = image(*size)[None].to(torch.complex128)
    zero_filled = centered_ifft(centered_fft(x) * mask)
    torch.testing.assert_close(zero_filled, operator.zero_filled(operator.forward(x)), atol=1e-12, rtol=0)
    small = operator.forward(x)
    for low in (zero_filled, small):
        assert complex(low.mean()) == pytest.approx(complex(x.mean()), abs=1e-6)


def test_symmetric_centre_keeps_real_images_real():
    x = image(16, 24)[None].to(torch.complex128)
    imaginary = {
        symmetric: float(centered_ifft(centered_fft(x) * CentreMask(2, symmetric=symmetric).draw((16, 24))).imag.std())
        for symmetric in (False, True)
    }
    assert imaginary[False] > 1e-4
    assert imaginary[True] < 1e-12


def test_factors_are_drawn_and_sizes_are_rounded():
    mask = CentreMask((2, 4))
    counts = {int(mask.draw((16, 16), np.random.RandomState(i)).sum()) for i in range(20)}
    assert counts == {64, 16}
    assert CentreMask(4).draw((1, 3)).sum() == 1
    assert CentreMask(2).draw((15, 15)).sum() == round(15 / 2) ** 2


@pytest.mark.parametrize("factors", [0.5, (), (2, 0)])
def test_factors_below_one_are_refused(factors):
    with pytest.raises(ValueError, match="CentreMask: 'factors' must be at least 1"):
        CentreMask(factors)


def two_contrasts(case="IXI002"):
    x = torch.complex(image(8, 64, 1), image(8, 64, 2)).to(torch.complex64)
    return {"case": case, "kspace": x, "t1_kspace": 2 * x}


@pytest.mark.parametrize("seed_key", [None, "case"])
def test_both_contrasts_of_a_subject_get_the_masks_that_are_meant(seed_key):
    sample, pattern = two_contrasts(), BernoulliMask(0.1, 4)
    shared = Undersampled(("kspace", "t1_kspace"), pattern, seed_key=seed_key)(sample)
    assert "t1_mask" not in shared
    for key in ("kspace", "t1_kspace"):
        measured = shared[key.replace("kspace", "measured")]
        assert torch.equal(measured, sample[key] * shared["mask"])
    own = Undersampled(("kspace", "t1_kspace"), pattern, share_mask=False, seed_key=seed_key)(sample)
    assert not torch.equal(own["mask"], own["t1_mask"])
    assert torch.equal(own["measured"], sample["kspace"] * own["mask"])
    assert torch.equal(own["t1_measured"], sample["t1_kspace"] * own["t1_mask"])


def test_a_subject_has_one_mask_in_all_its_slices():
    transform = Undersampled("kspace", BernoulliMask(0.1, 4), seed_key="case")
    masks = [transform({**two_contrasts(case), "i_slice": i})["mask"] for case in ("a", "b") for i in (0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])
