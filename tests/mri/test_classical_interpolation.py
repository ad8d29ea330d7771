"""GRAPPA: exact where k-space obeys a known kernel, and near the truth on raw data of two scanners."""

import pytest
import torch

from medkit.mri import EquispacedMask, RandomMask, grappa, root_sum_of_squares
from medkit.ops import centered_ifft
from tests.laws import assert_deterministic
from tests.mri.small_exams import random_kspace
from tests.mri.small_scans import make_scan, read_eight_coils, read_sixteen_coils


def shifted_coils(size=(24, 32), n_batch=1, shifts=((0, 0), (0, 1))):
    """K-space of mixtures of coils that are shifts of one another: what one lacks its neighbour has."""
    first = random_kspace(n_batch, *size)
    coils = torch.stack([first.roll(shift, (-2, -1)) for shift in shifts], 1)
    return torch.einsum("dc,bchw->bdhw", random_kspace(4, len(shifts), seed=1), coils)


def every_second(size=(24, 32), n_center=8):
    mask = torch.zeros(1, 1, 1, size[1], dtype=torch.bool)
    mask[..., ::2] = True
    mask[..., (size[1] - n_center + 1) // 2 : (size[1] + n_center + 1) // 2] = True
    return mask


def test_kspace_that_obeys_a_known_kernel_is_filled_exactly():
    kspace = shifted_coils(n_batch=2)
    filled = grappa(kspace * every_second(), every_second(), weight=1e-10)
    # The last line alone has its other neighbour across the edge.
    torch.testing.assert_close(filled[..., :-1], kspace[..., :-1], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("n_center", "n_coils", "warns"), [(12, 4, False), (9, 4, True), (6, 8, True)])
def test_a_centre_from_which_the_image_gets_worse_is_said_once(n_center, n_coils, warns, caplog):
    kspace = make_scan((96, 96), n_coils)[0]
    mask = torch.zeros(1, 1, 1, 96, dtype=torch.bool)
    mask[..., ::4] = True
    mask[..., (97 - n_center) // 2 : (97 + n_center) // 2] = True
    for sample in (kspace, kspace.flip(1)):  # slice after slice
        filled = grappa(sample * mask, mask)
    images = [root_sum_of_squares(centered_ifft(k, 2), 1) for k in (sample, sample * mask, filled)]
    errors = [float((image - images[0]).norm()) for image in images[1:]]
    assert (errors[1] > errors[0]) == warns
    said = [text for text in caplog.messages if text.startswith("GRAPPA fits")]
    assert len(said) == warns
    assert not warns or f"fully sampled centre of 96 x {n_center} has" in said[0]


def test_other_axes_and_points_are_filled_exactly_too():
    kspace, mask = shifted_coils().mT.contiguous(), every_second().mT
    filled = grappa(kspace * mask, mask, weight=1e-10)
    torch.testing.assert_close(filled[..., :-1, :], kspace[..., :-1, :], atol=1e-3, rtol=1e-3)
    kspace = shifted_coils(shifts=((0, 0), (0, 1), (1, 0), (1, 1)))
    row, column = torch.arange(24)[:, None], torch.arange(32)
    mask = ((row % 2 == 0) & (column % 2 == 0)) | (((row - 12).abs() < 7) & ((column - 16).abs() < 7))
    filled = grappa(kspace * mask, mask[None, None], weight=1e-10)
    torch.testing.assert_close(filled[..., 1:-1, 1:-1], kspace[..., 1:-1, 1:-1], atol=2e-2, rtol=1e-2)


def test_what_was_measured_is_unchanged_and_what_has_no_neighbour_stays_zero():
    kspace = shifted_coils()
    mask = torch.zeros(1, 1, 1, 32, dtype=torch.bool)
    mask[..., 12:20] = True
    filled = grappa(kspace, mask)
    assert torch.equal(filled[..., 12:20], kspace[..., 12:20])
    assert not filled[..., :10].any()
    assert filled[..., 10:12].abs().min() > 0
    full = torch.ones(1, 1, 24, 32, dtype=torch.bool)
    assert torch.equal(grappa(kspace, full), kspace)


def test_each_sample_of_a_batch_is_as_it_is_alone():
    both = shifted_coils(n_batch=2)
    masks = torch.cat([every_second(n_center=8), every_second(n_center=12)])
    together = grappa(both * masks, masks)
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], grappa(both[i : i + 1], masks[i : i + 1]))
    same = grappa(both, masks[:1])
    torch.testing.assert_close(same, grappa(both, masks[:1].expand(2, -1, -1, -1)), atol=1e-5, rtol=1e-4)
    assert_deterministic(lambda: grappa(both, masks))


def test_the_unit_does_not_matter_and_only_measured_samples_are_read():
    kspace, mask = (
        make_scan()[0],
        EquispacedMask(0.3, 2, count_centre=False).set_random_state(0).draw((48, 40))[None, None],
    )
    expected = grappa(kspace * mask, mask)
    assert torch.equal(grappa(torch.where(mask, kspace, 7), mask), expected)
    torch.testing.assert_close(grappa(1e-5 * kspace, mask) * 1e5, expected, atol=1e-4, rtol=1e-3)


def test_an_empty_slice_stays_empty():
    assert not grappa(torch.zeros(1, 3, 24, 32, dtype=torch.complex64), every_second()).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": (4, 5)}, "'kernel_size' must be two odd sizes"),
        ({"kernel_size": (9, 7)}, "product of at most 62"),
        ({"weight": -1.0}, "'weight' must be at least 0"),
        ({"kernel_size": (5, 11)}, r"at least as large as the kernel \(5, 11\), sample 0 has \(24, "),
        ({"mask": torch.ones(1, 1, 1, 7)}, "'mask' must broadcast"),
        ({"kspace": torch.ones(1, 2, 24, 32)}, "'kspace' must be complex"),
        ({"kspace": torch.full((1, 2, 24, 32), torch.inf, dtype=torch.complex64)}, "'kspace' must be finite"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(arguments, words):
    given = {"kspace": shifted_coils(), "mask": every_second(), **arguments}
    with pytest.raises(ValueError, match=words):
        grappa(**given)


@pytest.mark.real
@pytest.mark.parametrize(("read", "most"), [(read_eight_coils, 0.1), (read_sixteen_coils, 0.06)])
def test_raw_data_is_filled_near_the_truth(read, most, real_data):
    kspace = read(real_data)
    size = tuple(kspace.shape[-2:])
    truth = root_sum_of_squares(centered_ifft(kspace))

    def error(x):
        return float((root_sum_of_squares(centered_ifft(x)) - truth).norm() / truth.norm())

    regular = EquispacedMask(24 / size[1], 2, count_centre=False).set_random_state(0).draw(size)[None, None]
    assert error(grappa(kspace * regular, regular)) < min(most, 0.5 * error(kspace * regular))
    random = RandomMask(24 / size[1], 2).set_random_state(0).draw(size)[None, None]
    assert error(grappa(kspace * random, random)) < error(kspace * random)


def test_an_empty_centre_needs_a_ridge():
    kspace = torch.zeros(1, 2, 24, 32, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"grappa: 'weight' must be above 0 for this k-space"):
        grappa(kspace, every_second(), weight=0.0)
