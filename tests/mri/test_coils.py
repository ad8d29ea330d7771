"""Coils: combining, and sensitivities from the centre of k-space, on closed forms and on raw data of two scanners."""

import pytest
import torch

from medkit.mri import RandomMask, estimate_sens_maps, root_sum_of_squares, sense_combine, with_object_phase
from medkit.mri.calibration import centre_start, sampled_centre
from medkit.ops import centered_fft, centered_ifft
from tests.mri.small_scans import make_scan, read_eight_coils, read_sixteen_coils


def test_root_sum_of_squares_combines_magnitudes():
    x = torch.tensor([[3 + 0j, 0], [4j, 2]], dtype=torch.complex64)[None]
    assert torch.equal(root_sum_of_squares(x), torch.tensor([[5.0, 2.0]]))
    assert root_sum_of_squares(x, keepdim=True).shape == (1, 1, 2)


def test_combining_inverts_the_coils():
    _, maps, image = make_scan()
    torch.testing.assert_close(sense_combine(image * maps, maps), image, atol=1e-5, rtol=1e-4)


def test_maps_are_normalised_where_there_is_signal_and_never_above_one():
    kspace, _, image = make_scan()
    energy = estimate_sens_maps(kspace, n_calibration=16).abs().square().sum(1, keepdim=True)
    assert float(energy.max()) <= 1 + 1e-5
    inside = image.abs() > 0.2
    torch.testing.assert_close(energy[inside], torch.ones_like(energy[inside]), atol=1e-4, rtol=0)


def test_maps_equal_the_true_ones_up_to_a_common_phase():
    kspace, maps, image = make_scan()
    estimated = estimate_sens_maps(kspace, n_calibration=16)
    overlap = (estimated.conj() * maps).sum(1, keepdim=True).abs()
    assert float(overlap[image.abs() > 0.5].min()) > 0.999


def test_the_phase_of_the_object_stays_in_the_image():
    kspace, maps, image = make_scan()
    estimated = estimate_sens_maps(kspace, n_calibration=16)
    # Maps hold no phase of the object: another object phase gives the same maps.
    other = centered_fft(image * maps * torch.polar(torch.tensor(1.0), 2 * torch.linspace(-1, 1, 40)))
    again = estimate_sens_maps(other, n_calibration=16)
    overlap = (estimated.conj() * again).sum(1, keepdim=True)[image.abs() > 0.5]
    assert float(overlap.real.min()) > 0.97


def test_a_global_phase_of_the_scan_moves_into_no_map_and_leaves_the_magnitude():
    kspace, _, _ = make_scan()
    turned = kspace * torch.polar(torch.tensor(1.0), torch.tensor(2.1))
    first, second = (estimate_sens_maps(k, n_calibration=16).abs() for k in (kspace, turned))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("n_coils", [1, 4])
def test_with_the_phase_of_the_object_in_the_maps_the_image_is_real(n_coils):
    _, maps, image = make_scan()
    phase = torch.polar(torch.tensor(1.0), 2 * torch.linspace(-1, 1, 40))
    coils = (image.abs() * phase * maps)[:, :n_coils] if n_coils > 1 else image.abs() * phase
    kspace = centered_fft(coils)
    plain = estimate_sens_maps(kspace, n_calibration=16)
    phased = with_object_phase(plain, kspace, n_calibration=16)
    torch.testing.assert_close(phased.abs(), plain.abs())
    inside = image.abs() > 0.5
    combined = sense_combine(coils, phased)[inside]
    assert float(combined.real.min()) > 0
    assert float(combined.imag.abs().max()) < 0.1 * float(combined.abs().max())
    assert float(sense_combine(coils, plain)[inside].imag.abs().max()) > 0.3 * float(combined.abs().max())


def test_scale_does_not_matter():
    kspace, _, _ = make_scan()
    expected = estimate_sens_maps(kspace, n_calibration=16)
    for scale in (1e-6, 1e6):
        torch.testing.assert_close(estimate_sens_maps(kspace * scale, n_calibration=16), expected, atol=1e-4, rtol=1e-3)


def test_one_coil_gets_ones_and_empty_slices_get_finite_maps():
    assert torch.equal(
        estimate_sens_maps(torch.zeros(2, 1, 8, 8, dtype=torch.complex64), n_calibration=4).real, torch.ones(2, 1, 8, 8)
    )
    maps = estimate_sens_maps(torch.zeros(1, 3, 8, 8, dtype=torch.complex64), n_calibration=4)
    assert not maps.any()


def test_each_sample_uses_the_centre_of_its_own_mask():
    kspace, _, _ = make_scan()
    masks = torch.zeros(2, 1, 1, 40, dtype=torch.bool)
    masks[0, ..., 15:25] = True
    masks[1, ..., 10:30] = True
    both = torch.cat([kspace, kspace * masks[1]])
    together = estimate_sens_maps(both, masks)
    for i in range(2):
        alone = estimate_sens_maps(both[i : i + 1], masks[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)
    assert float((together[0] - together[1]).abs().max()) > 1e-3


def test_only_the_fully_sampled_centre_is_read():
    kspace, _, _ = make_scan()
    mask = RandomMask(0.3, 2).set_random_state(0).draw((48, 40))[None, None]
    noise = torch.randn_like(kspace) * 10
    torch.testing.assert_close(
        estimate_sens_maps(torch.where(mask, kspace, noise), mask), estimate_sens_maps(kspace * mask, mask)
    )


@pytest.mark.parametrize("n", [8, 9, 1])
def test_centre_of_lines_is_found_whatever_its_size(n):
    for size in range(n + 1):
        mask = torch.zeros(3, n, dtype=torch.bool)
        mask[:, centre_start(n, size) : centre_start(n, size) + size] = True
        expected = (3, size)
        assert sampled_centre(mask) == expected or size == 0
        # A further line outside the block, with a gap, changes nothing.
        if 0 < size < n - 2:
            mask[:, 0 if centre_start(n, size) > 1 else n - 1] = True
            assert sampled_centre(mask) == expected


@pytest.mark.parametrize(("rows", "columns"), [(8, 6), (5, 4), (12, 10)])
def test_centre_block_of_points_is_found(rows, columns):
    mask = torch.zeros(24, 20, dtype=torch.bool)
    mask[
        centre_start(24, rows) : centre_start(24, rows) + rows,
        centre_start(20, columns) : centre_start(20, columns) + columns,
    ] = True
    found = sampled_centre(mask)
    top, left = centre_start(24, found[0]), centre_start(20, found[1])
    assert bool(mask[top : top + found[0], left : left + found[1]].all())
    assert found[1] >= min(columns, round(rows * 20 / 24)) - 1


def test_lines_along_the_other_axis_work_too():
    kspace, maps, image = make_scan()
    mask = torch.zeros(1, 1, 48, 1, dtype=torch.bool)
    mask[:, :, 16:32] = True
    overlap = (estimate_sens_maps(kspace * mask, mask).conj() * maps).sum(1, keepdim=True).abs()
    assert float(overlap[image.abs() > 0.5].min()) > 0.999


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda y, m: estimate_sens_maps(y), "one of 'mask' and 'n_calibration'"),
        (lambda y, m: estimate_sens_maps(y, n_calibration=3), "'n_calibration' must be at least 4"),
        (lambda y, m: estimate_sens_maps(y.real, n_calibration=4), "'kspace' must be complex"),
        (lambda y, m: estimate_sens_maps(y, m[..., :7]), "'mask' must broadcast"),
        (lambda y, m: estimate_sens_maps(y * torch.nan, m), "'kspace' must be finite"),
        (lambda y, m: estimate_sens_maps(y, torch.zeros_like(m)), "centre of at least 4 lines"),
        (lambda y, m: estimate_sens_maps(y, m & (torch.arange(8) != 5)), "sample 0 has 2"),
        (lambda y, m: sense_combine(y, y[:, :1]), "must be complex and of one shape"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.ones(1, 2, 8, 8, dtype=torch.complex64), torch.ones(1, 1, 1, 8, dtype=torch.bool))


# Projection residuals of sigpy's ESPIRiT on the same data and lines: 0.107 (mostly noise) and 0.031.
@pytest.mark.real
@pytest.mark.parametrize(
    ("read", "distance", "residual"), [(read_eight_coils, 0.008, 0.11), (read_sixteen_coils, 0.004, 0.05)]
)
def test_combined_raw_data_is_close_to_root_sum_of_squares(read, distance, residual, real_data):
    kspace = read(real_data)
    maps = estimate_sens_maps(kspace, n_calibration=24)
    coil_images = centered_ifft(kspace)
    combined = sense_combine(coil_images, maps)
    expected = root_sum_of_squares(coil_images, keepdim=True)
    inside = expected > 0.1 * expected.quantile(0.99)
    difference = torch.linalg.vector_norm((combined.abs() - expected)[inside])
    assert difference < distance * torch.linalg.vector_norm(expected[inside])
    left = torch.linalg.vector_norm(coil_images - maps * combined)
    assert left < residual * torch.linalg.vector_norm(coil_images)
