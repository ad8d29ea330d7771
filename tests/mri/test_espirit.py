"""ESPIRiT: maps of known coils, sets of folded images, and the same maps as sigpy's on raw data of two scanners."""

import pytest
import torch

from medkit.mri import RandomMask, SensitivityMapsd, espirit_maps, sense_combine
from medkit.mri.calibration import patch_gram
from medkit.ops import centered_fft, centered_ifft
from tests.mri.small_scans import make_scan, read_eight_coils, read_sixteen_coils


def noisy(kspace, level=1e-3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return kspace + level * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)


def overlap(first, second):
    """Magnitude of the inner product of two sets of maps (B, coil, H, W), pixel by pixel (B, H, W)."""
    return (first.conj() * second).sum(1).abs()


@pytest.mark.parametrize("size", [(48, 40), (37, 45)])
@pytest.mark.parametrize("n_iterations", [100, None])
def test_maps_equal_the_true_ones_up_to_a_phase(size, n_iterations):
    kspace, maps, image = make_scan(size)
    found, values = espirit_maps(noisy(kspace), n_iterations=n_iterations)
    inside = image[:, 0].abs() > 0.5
    assert float(overlap(found[:, 0], maps)[inside].min()) > 0.999
    assert float(values[:, 0][inside].min()) > 0.99
    assert float(values.max()) <= 1 + 1e-5


def test_maps_have_length_one_where_there_is_signal_and_are_zero_in_air():
    kspace, _, image = make_scan()
    found, values = espirit_maps(noisy(kspace), crop=0.9)
    energy = found[:, 0].abs().square().sum(1)
    assert torch.equal(energy > 0.5, values[:, 0] > 0.9)
    torch.testing.assert_close(energy[energy > 0], torch.ones_like(energy[energy > 0]), atol=1e-5, rtol=0)
    assert float(energy[image[:, 0].abs() < 1e-3].mean()) < 0.1


def test_the_phase_of_the_object_stays_in_the_image():
    kspace, _, image = make_scan()
    coils = centered_ifft(kspace)
    other = centered_fft(coils * torch.polar(torch.tensor(1.0), 2 * torch.linspace(-1, 1, 40)))
    first, second = (espirit_maps(noisy(k), n_calibration=32)[0][:, 0] for k in (kspace, other))
    product = (first.conj() * second).sum(1)[image[:, 0].abs() > 0.5]
    # One phase for all pixels, that of the virtual coil, is left free.
    assert float((product * product.mean().sgn().conj()).real.min()) > 0.99


def test_the_matrices_of_the_pixels_are_those_of_the_images_of_the_kernels():
    kspace, _, _ = make_scan((12, 10), 3)
    block = noisy(kspace, 0.1).to(torch.complex128)[0]
    values, vectors = torch.linalg.eigh(patch_gram(block, (3, 3)))
    kernels = vectors[:, values > 0.3**2 * values[-1]].mT.reshape(-1, 3, 3, 3)
    padded = torch.zeros(kernels.shape[0], 3, 12, 10, dtype=torch.complex128)
    padded[..., 5:8, 4:7] = kernels
    images = centered_ifft(padded) * (120**0.5 / 3)
    matrices = torch.einsum("kchw,kdhw->hwcd", images, images.conj())
    expected, vectors = torch.linalg.eigh(matrices)
    kspace = block[None]
    maps, found = espirit_maps(kspace, None, 12, kernel_size=3, threshold=0.3, crop=0, n_iterations=None, n_maps=3)
    torch.testing.assert_close(found[0].movedim(0, -1), expected.flip(-1))
    torch.testing.assert_close(
        overlap(maps[0], vectors.flip(-1).permute(3, 2, 0, 1)), torch.ones(3, 12, 10, dtype=torch.float64)
    )


def test_the_power_method_finds_what_the_exact_one_finds():
    kspace, _, image = make_scan()
    exact, found = (espirit_maps(noisy(kspace), n_iterations=n) for n in (None, 200))
    inside = image[:, 0].abs() > 0.5
    torch.testing.assert_close(found[1][:, 0][inside], exact[1][:, 0][inside], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[0][0, 0].mT[inside[0].mT.expand(4, -1, -1)],
                               exact[0][0, 0].mT[inside[0].mT.expand(4, -1, -1)], atol=1e-3, rtol=0)  # fmt: skip


def test_a_folded_image_needs_two_sets_of_maps():
    _, maps, image = make_scan((64, 48), 6)
    # Without texture the sum of two weighted coils would be as smooth as one coil.
    texture = 0.2 + torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    folded = noisy(centered_fft(image * texture * maps)[..., ::2])  # half the field of view along the last axis
    found, values = espirit_maps(folded, n_calibration=64, n_maps=2, crop=0.9)
    inside = image[0, 0].abs() > 0.8
    both = inside[:, 12:36] & torch.cat([inside[:, 36:], inside[:, :12]], 1)
    assert int(both.sum()) > 50
    assert float(values[0, :, both].min()) > 0.95
    coils = centered_ifft(folded)

    def left(n_sets):
        explained = sum(found[:, i] * sense_combine(coils, found[:, i]) for i in range(n_sets))
        return float(torch.linalg.vector_norm((coils - explained)[..., both]))

    assert left(2) < 0.1 * left(1)


def test_each_sample_of_a_batch_is_as_it_is_alone():
    kspace, _, _ = make_scan()
    masks = torch.zeros(2, 1, 1, 40, dtype=torch.bool)
    masks[0, ..., 14:26] = True
    masks[1, ..., 10:30] = True
    both = torch.cat([noisy(kspace, seed=1), 2 * noisy(kspace, seed=2)]) * masks
    together = espirit_maps(both, masks)[0]
    for i in range(2):
        torch.testing.assert_close(together[i : i + 1], espirit_maps(both[i : i + 1], masks[i : i + 1])[0])


def test_only_the_fully_sampled_centre_is_read_and_the_unit_does_not_matter():
    kspace, _, _ = make_scan()
    mask = RandomMask(0.4, 2).set_random_state(0).draw((48, 40))[None, None]
    expected = espirit_maps(noisy(kspace) * mask, mask)[0]
    other = torch.where(mask, noisy(kspace), 10 * torch.ones_like(kspace))
    torch.testing.assert_close(espirit_maps(other, mask)[0], expected)
    assert float((espirit_maps(1e5 * noisy(kspace) * mask, mask)[0] - expected).abs().mean()) < 1e-3


def test_rows_in_small_pieces_give_the_same(monkeypatch):
    kspace, _, _ = make_scan()
    expected = espirit_maps(noisy(kspace))
    monkeypatch.setattr("medkit.mri.espirit._CHUNK", {"cpu": 1, "cuda": 1})
    for found, wanted in zip(espirit_maps(noisy(kspace)), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_an_empty_slice_gets_zeros():
    for n_maps in (1, 2):
        maps, values = espirit_maps(torch.zeros(1, 3, 16, 16, dtype=torch.complex64), n_maps=n_maps)
        assert not maps.any()
        assert not values.any()


def test_the_transform_offers_it_for_slices_and_volumes():
    kspace, _, _ = make_scan()
    mask = torch.zeros(1, 1, 40, dtype=torch.bool)
    mask[..., 10:30] = True
    measured = noisy(kspace)[0] * mask
    slice_maps = SensitivityMapsd("espirit")({"measured": measured, "mask": mask})["sens_maps"]
    torch.testing.assert_close(slice_maps, espirit_maps(measured[None], mask[None])[0][0, 0])
    volume = {"measured": torch.stack([measured, 3 * measured], -1), "mask": mask[..., None]}
    assert SensitivityMapsd("espirit", n_coils_out=6)(volume)["sens_maps"].shape == (6, 48, 40, 2)
    one = SensitivityMapsd("espirit")({"measured": measured[:1], "mask": mask})["sens_maps"]
    assert torch.equal(one, torch.ones_like(one))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 1}, "'kernel_size' must be at least 2"),
        ({"threshold": 0.0}, "'threshold' must lie between 0 and 1"),
        ({"crop": 1.0}, "'crop' must be at least 0 and below 1"),
        ({"n_iterations": 0}, "'n_iterations' must be at least 1"),
        ({"n_maps": 3}, "'n_maps' must be 1 to the number of coils 2"),
        ({"n_calibration": None}, "one of 'mask' and 'n_calibration'"),
        ({"n_calibration": 5}, r"at least as large as the kernel \(6, 6\), sample 0 has \(5, 5\)"),
        ({"mask": torch.ones(1, 1, 1, 7)}, "'mask' must broadcast"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        espirit_maps(torch.ones(1, 2, 8, 8, dtype=torch.complex64), **arguments)


@pytest.mark.parametrize(
    ("kspace", "words"),
    [
        (torch.ones(2, 8, 8, dtype=torch.complex64), "'kspace' must be complex"),
        (torch.full((1, 2, 8, 8), torch.nan, dtype=torch.complex64), "'kspace' must be finite"),
    ],
)
def test_wrong_kspace_is_refused(kspace, words):
    with pytest.raises(ValueError, match=words):
        espirit_maps(kspace)


@pytest.mark.real
@pytest.mark.parametrize("read", [read_eight_coils, read_sixteen_coils])
def test_raw_data_gets_the_maps_of_sigpy(read, real_data):
    app = pytest.importorskip("sigpy.mri.app", reason="needs the extra 'peers'")
    # The middle of k-space, an image of lower resolution, keeps the peer's time short.
    kspace = read(real_data)[..., 51:-51, 42:-42] if read is read_eight_coils else read(real_data)[..., 16:-16, 16:-16]
    kspace = kspace.contiguous()
    options = {"kernel_width": 6, "calib_width": 24, "thresh": 0.02, "crop": 0.95, "max_iter": 100}
    theirs = torch.from_numpy(app.EspiritCalib(kspace[0].numpy(), show_pbar=False, **options).run())[None]
    ours = espirit_maps(kspace)[0][:, 0]
    masks = [m.abs().sum(1) > 0 for m in (ours, theirs)]
    both = masks[0] & masks[1]
    assert 2 * both.sum() / (masks[0].sum() + masks[1].sum()) >= 0.98
    assert float(overlap(ours, theirs)[both].min()) >= 0.999
    coils = centered_ifft(kspace)

    def left(maps):
        return float(torch.linalg.vector_norm(coils - maps * sense_combine(coils, maps)))

    assert left(ours) <= left(theirs) * (1 + 1e-4)


def test_maps_that_leave_out_much_of_the_signal_are_warned_of(real_data, caplog):
    kspace = read_eight_coils(real_data)
    for n_lines, is_warned in ((8, True), (24, False)):
        caplog.clear()
        mask = torch.zeros(1, 1, kspace.shape[-1])
        mask[..., (kspace.shape[-1] - n_lines + 1) // 2 :][..., :n_lines] = 1
        SensitivityMapsd("espirit")({"case": "a", "measured": kspace[0] * mask, "mask": mask})
        assert ("maps of a are 0 where" in caplog.text) is is_warned


def test_an_exam_without_a_centre_is_named():
    kspace, mask = make_scan()[0][0], torch.zeros(1, 1, 40)
    with pytest.raises(ValueError, match=r"no maps of scan_7: estimate_sens_maps: 'mask' must"):
        SensitivityMapsd()({"case": "scan_7", "measured": kspace, "mask": mask})
