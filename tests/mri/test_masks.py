"""Sampling masks: exact counts, full centres, replayed draws, MONAI's layouts, and clear refusals."""

import h5py
import numpy as np
import pytest
import torch
from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel
from monai.apps.reconstruction.transforms.array import KspaceMask
from scipy.io import savemat

from medkit.mri import (
    EquispacedMask,
    FileMask,
    GaussianMask,
    GaussianMask2D,
    PoissonDiscMask,
    RadialMask,
    RandomMask,
    actual_acceleration,
)

LINES = [RandomMask, EquispacedMask, GaussianMask]
POINTS = [GaussianMask2D, RadialMask, PoissonDiscMask]
EXACT_LINES = [RandomMask, GaussianMask]
EXACT_POINTS = [GaussianMask2D, PoissonDiscMask]
SIZES = [(1, 1), (1, 7), (7, 1), (5, 8), (32, 31)]


@pytest.mark.parametrize("kind", EXACT_LINES)
@pytest.mark.parametrize(
    ("fraction", "rate"), [(0.08, 4), (0.04, 8), (0.0, 3), (0.25, 4), (1 / 3, 3), (1, 1), (0.5, 1)]
)
def test_number_of_lines_is_exact_over_many_seeds(kind, fraction, rate):
    mask = kind(fraction, rate)
    for width in (320, 319, 12, 1):
        for seed in range(50):
            lines = mask.draw((4, width), np.random.RandomState(seed))
            assert lines.shape == (1, width)
            assert int(lines.sum()) == max(1, round(width / rate))


@pytest.mark.parametrize("kind", EXACT_POINTS)
@pytest.mark.parametrize(("fraction", "rate"), [(0.01, 8), (0.0, 4), (0.25, 4), (0, 1), (1, 1), (0.02, 1.5)])
def test_number_of_points_is_exact_over_many_seeds(kind, fraction, rate):
    mask = kind(fraction, rate)
    for size in [(33, 40), (1, 1), (1, 30), (64, 64)]:
        for seed in range(5):
            points = mask.draw(size, np.random.RandomState(seed))
            assert points.shape == size
            assert int(points.sum()) == max(1, round(size[0] * size[1] / rate))


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("width", [320, 319])
def test_centre_lines_are_all_there(kind, width):
    for fraction, rate in [(0.08, 4), (0.04, 8), (0.25, 4)]:
        lines = kind(fraction, rate).draw((2, width), np.random.RandomState(3))[0]
        n = min(round(width * fraction), round(width / rate))
        start = (width - n + 1) // 2
        assert bool(lines[start : start + n].all())
        assert start <= width // 2 < start + n


@pytest.mark.parametrize("kind", POINTS)
def test_centre_points_are_all_there(kind):
    points = kind(0.04, 8).draw((50, 40), np.random.RandomState(0))
    assert bool(points[20:30, 16:24].all())


def test_the_outer_lines_of_an_equispaced_mask_are_exactly_so():
    mask = EquispacedMask(0.08, 4)
    for seed in range(20):
        lines = mask.draw((1, 320), np.random.RandomState(seed))[0]
        lines[147:173] = False
        found = torch.nonzero(lines)[:, 0]
        distance = torch.diff(found)
        step = int(distance.min())
        assert bool((distance % step == 0).all())
        assert bool((distance[distance != step] > 20).all())  # only the centre is jumped over
        assert int(found[0]) < step
        assert 320 - int(found[-1]) <= step


@pytest.mark.parametrize(
    ("fraction", "rate"), [(0.08, 4), (0.04, 8), (0.0, 5), (0.1, 10), (0.25, 4), (0.01, 2), (1, 1)]
)
def test_equispaced_rate_is_near_the_one_asked_for_whatever_the_arguments(fraction, rate):
    mask = EquispacedMask(fraction, rate)
    rates = [actual_acceleration(mask.draw((1, 320), np.random.RandomState(seed))) for seed in range(40)]
    assert abs(np.mean(rates) / rate - 1) < 0.1


def test_equispaced_as_scanners_do_it_keeps_the_acceleration_as_distance():
    lines = EquispacedMask(0.0, 4, count_centre=False).draw((1, 320), np.random.RandomState(1))[0]
    assert bool((torch.diff(torch.nonzero(lines)[:, 0]) == 4).all())
    assert int(lines.sum()) == 80


def test_gaussian_prefers_the_centre_and_random_does_not():
    def share_of_inner_half(kind):
        drawn = torch.stack([kind(0, 8).draw((64, 64), np.random.RandomState(seed)).any(0) for seed in range(200)])
        return float(drawn[:, 16:48].sum() / drawn.sum())

    assert abs(share_of_inner_half(RandomMask) - 0.5) < 0.05
    assert share_of_inner_half(GaussianMask) > 0.7


def test_every_outer_line_is_as_likely_as_the_next():
    mask = RandomMask(0.1, 4)
    often = sum(mask.draw((1, 40), np.random.RandomState(seed))[0].double() for seed in range(2000)) / 2000
    outer = torch.cat([often[:18], often[22:]])
    assert float((outer - 6 / 36).abs().max()) < 5 * (6 / 36 * 30 / 36 / 2000) ** 0.5


def nearest_distance(points):
    from scipy.spatial import cKDTree

    where = np.argwhere(points.numpy())
    return where, cKDTree(where).query(where, k=2)[0][:, 1]


def test_poisson_discs_keep_their_distance_and_grow_outwards():
    mask = PoissonDiscMask(0.0, 8, slope=3)
    where, distance = nearest_distance(mask.draw((128, 128), np.random.RandomState(0)))
    radius = np.hypot(*(where - 64).T) / 64
    inner, outer = distance[radius < 0.3], distance[radius > 0.9]
    _, by_chance = nearest_distance(GaussianMask2D(0, 8, std=100).draw((128, 128), np.random.RandomState(0)))
    assert np.median(outer) > 2 * np.median(inner)
    assert outer.min() > 0.6 * np.median(outer)
    assert by_chance.min() == 1
    uniform = nearest_distance(PoissonDiscMask(0.0, 8, slope=0).draw((128, 128), np.random.RandomState(0)))[1]
    assert uniform.min() >= 2
    assert np.std(uniform) / np.mean(uniform) < 0.25 < np.std(by_chance) / np.mean(by_chance)


def test_poisson_corners_can_be_left_empty():
    points = PoissonDiscMask(0.01, 4, crop_corners=True).draw((60, 40), np.random.RandomState(0))
    row, column = np.ogrid[:60, :40]
    outside = torch.from_numpy(np.hypot((row - 30) / 30, (column - 20) / 20) > 1)
    assert not bool(points[outside].any())
    assert int(points.sum()) == 600
    with pytest.raises(ValueError, match="set crop_corners=False"):
        PoissonDiscMask(0.01, 1.1, crop_corners=True).draw((60, 40), np.random.RandomState(0))


@pytest.mark.parametrize("rate", [2, 4, 10])
def test_radial_spokes_cross_the_centre_and_come_near_the_rate(rate):
    mask = RadialMask(0, rate)
    for size in [(96, 96), (95, 64)]:
        points = mask.draw(size, np.random.RandomState(0))
        assert bool(points[size[0] // 2, size[1] // 2])
        assert abs(actual_acceleration(points) / rate - 1) < 0.08
    # Opposite points of a spoke: symmetric about the centre for odd sizes.
    points = mask.draw((95, 95), np.random.RandomState(1))
    assert float((points == points.flip(0, 1)).float().mean()) > 0.98


@pytest.mark.parametrize("kind", LINES + POINTS)
def test_seeds_replay_and_differ(kind):
    # No acceleration in the list may be exceeded by its centre.
    mask = kind((0.02, 0.01), (4, 8))
    first = [mask.set_random_state(5).draw((64, 64)) for _ in range(3)]
    assert torch.equal(first[0], first[1])
    mask.set_random_state(5)
    series = [mask.draw((64, 64)) for _ in range(6)]
    mask.set_random_state(5)
    assert all(torch.equal(a, mask.draw((64, 64))) for a in series)
    assert any(not torch.equal(series[0], other) for other in series[1:])
    other = kind((0.02, 0.01), (4, 8)).draw((64, 64), np.random.RandomState(5))
    assert torch.equal(other, first[0])


def test_one_of_several_accelerations_is_drawn():
    mask = RandomMask((0.08, 0.04), (4, 8))
    counts = {int(mask.draw((1, 320), np.random.RandomState(seed)).sum()) for seed in range(30)}
    assert counts == {80, 40}


@pytest.mark.parametrize("kind", LINES + POINTS)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_works_and_samples_something(kind, size):
    for fraction, rate in [(0.0, 1), (0.05, 6), (0.2, 5)]:
        mask = kind(fraction, rate).draw(size, np.random.RandomState(0))
        assert mask.dtype == torch.bool
        assert 1 <= actual_acceleration(mask)


@pytest.mark.parametrize("kind", LINES + POINTS)
def test_third_dimension_is_read_out(kind):
    mask = kind(0.02, 4, spatial_dims=3).set_random_state(0)
    drawn = mask.draw((6, 20, 24))
    assert drawn.shape == ((1, 1, 24) if kind in LINES else (1, 20, 24))
    kspace = torch.randn(2, 6, 20, 24, dtype=torch.complex64)
    masked, image = mask(kspace)
    assert mask.mask.shape == (1, *drawn.shape)
    assert image.shape == (6, 20, 24)
    assert torch.equal(masked, kspace * mask.mask)


@pytest.mark.parametrize("kind", LINES + POINTS)
def test_complex_and_trailing_layout_agree(kind):
    mask = kind(0.02, 4)
    assert isinstance(mask, KspaceMask)
    kspace = torch.randn(3, 4, 20, 24, dtype=torch.complex64)
    masked, image = mask.set_random_state(1)(kspace)
    drawn = mask.mask
    assert drawn.shape == ((1, 1, 1, 24) if kind in LINES else (1, 1, 20, 24))
    assert torch.equal(masked, kspace * drawn)
    assert image.shape == (3, 20, 24)
    pairs, pair_image = mask.set_random_state(1)(torch.view_as_real(kspace))
    assert mask.mask.dtype == torch.bool
    assert torch.equal(mask.mask, drawn[..., None])
    assert torch.equal(torch.view_as_complex(pairs), masked)
    torch.testing.assert_close(pair_image, image)
    array, _ = mask.set_random_state(1)(kspace.numpy())
    assert torch.equal(array, masked)


def test_image_is_monais():
    from monai.apps.reconstruction.mri_utils import root_sum_of_squares
    from monai.data.fft_utils import ifftn_centered

    mask = RandomMask(0.1, 2).set_random_state(0)
    masked, image = mask(torch.randn(2, 12, 9, 2))
    expected = root_sum_of_squares(ifftn_centered(masked, 2, True).square().sum(-1).sqrt(), 0)
    torch.testing.assert_close(image, torch.as_tensor(expected))
    real, image = RandomMask(0.1, 2, is_complex=False).set_random_state(0)(torch.randn(2, 12, 9))
    assert not real.is_complex()
    assert image.shape == (12, 9)


@pytest.mark.parametrize("kind", LINES)
def test_monais_variational_network_takes_the_result_as_it_is(kind):
    torch.manual_seed(0)
    features = (4, 4, 4, 4, 4, 4)
    network = VariationalNetworkModel(CoilSensitivityModel(2, features), ComplexUnet(2, features), num_cascades=1)
    mask = kind(0.2, 2).set_random_state(0)
    masked, _ = mask(torch.randn(3, 32, 32, 2))
    image = network(masked[None], mask.mask[None])
    assert image.shape == (1, 32, 32)
    image.sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in network.parameters())


def write_files(folder, pattern):
    from nibabel import Nifti1Image, save
    from PIL import Image

    paths = {name: folder / f"mask.{name}" for name in ("npy", "npz", "mat", "png", "nii.gz")}
    np.save(paths["npy"], pattern.astype(np.float32))
    np.savez(paths["npz"], mask=pattern)
    savemat(paths["mat"], {"mask": pattern.astype(np.uint8)})
    Image.fromarray(pattern.astype(np.uint8) * 255).save(paths["png"])
    save(Nifti1Image(pattern[..., None].astype(np.int16), np.eye(4)), paths["nii.gz"])
    with h5py.File(folder / "new.mat", "w") as file:
        file["mask"] = pattern.T.astype(np.uint8)
    return [*paths.values(), folder / "new.mat"]


def test_a_mask_is_read_from_every_kind_of_file(tmp_path):
    pattern = np.random.RandomState(0).rand(6, 9) < 0.4
    for path in write_files(tmp_path, pattern):
        assert torch.equal(FileMask(path).draw((6, 9)), torch.from_numpy(pattern))
        with pytest.raises(ValueError, match=r"size of k-space, \(H, W\) = \(9, 6\), .* got \(6, 9\) in .*; give"):
            FileMask(path).draw((9, 6))


def test_a_file_of_lines_and_an_uncentred_one(tmp_path):
    lines = np.array([0, 0, 1, 1, 1])
    np.save(tmp_path / "a.npy", lines)
    np.save(tmp_path / "b.npy", np.fft.ifftshift(lines)[None])
    expected = torch.tensor([[False, False, True, True, True]])
    assert torch.equal(FileMask(tmp_path / "a.npy").draw((3, 5)), expected)
    assert torch.equal(FileMask(tmp_path / "b.npy", is_centered=False).draw((3, 5)), expected)
    masked, _ = FileMask(str(tmp_path / "a.npy"))(torch.ones(2, 3, 5, dtype=torch.complex64))
    assert torch.equal(masked[0, 0].real, torch.tensor([0.0, 0, 1, 1, 1]))


def test_wrong_files_are_refused_in_one_sentence(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones(4), b=np.ones(4))
    np.save(tmp_path / "none.npy", np.zeros(4))
    np.save(tmp_path / "cube.npy", np.ones((3, 4, 5)))
    np.save(tmp_path / "words.npy", np.array(["1", "0"]))
    np.save(tmp_path / "nan.npy", np.array([1, np.nan]))
    np.save(tmp_path / "objects.npy", np.array([None, 1]), allow_pickle=True)
    (tmp_path / "mask.txt").write_text("1 0 1")
    for suffix in (".npy", ".npz", ".mat", ".png", ".nii", ".nii.gz"):
        (tmp_path / f"text{suffix}").write_text("no pattern at all")
        (tmp_path / f"empty{suffix}").touch()
        for name in ("text", "empty"):
            with pytest.raises(ValueError, match=rf"^FileMask: .* kind that its name says, .*{name}{suffix} cannot be"):
                FileMask(tmp_path / f"{name}{suffix}")
    assert FileMask(tmp_path / "two.npz", key="b").draw((1, 4)).all()
    for name, words in [
        ("two.npz", "'key' must name one of"),
        ("words.npy", "finite numbers or booleans, got values of <U1"),
        ("nan.npy", "finite numbers or booleans, got NaN"),
        ("objects.npy", "cannot be read"),
        ("none.npy", "at least one sampled point, got only zeros of shape"),
        ("cube.npy", "must hold a pattern"),
        ("mask.txt", "'path' must end in"),
        ("missing.npy", "'path' must be a file"),
    ]:
        with pytest.raises(ValueError, match=words):
            FileMask(tmp_path / name)


@pytest.mark.parametrize("kind", LINES + POINTS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"accelerations": 0.5}, "'accelerations' must be at least 1"),
        ({"accelerations": float("nan")}, "'accelerations' must be at least 1"),
        ({"center_fractions": -0.1}, "'center_fractions' must lie in 0 to 1"),
        ({"center_fractions": 1.1, "accelerations": 1}, "'center_fractions' must lie in 0 to 1"),
        ({"center_fractions": 0.3, "accelerations": 4}, "alone exceeds acceleration 4.0; give at most 0.25"),
        ({"center_fractions": (0.1, 0.1), "accelerations": 4}, "as many as each other"),
        ({"center_fractions": (), "accelerations": ()}, "as many as each other"),
        ({"spatial_dims": 1}, "'spatial_dims' must be 2 or 3"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(kind, arguments, words):
    with pytest.raises(ValueError, match=f"{kind.__name__}: .*{words}"):
        kind(**arguments)


def test_wrong_input_is_refused_in_one_sentence():
    mask = RandomMask(0.1, 4)
    for call, words in [
        (lambda: mask(torch.zeros(2, 8, 8)), "real with a last axis of size 2"),
        (lambda: mask(torch.zeros(8, 8, dtype=torch.complex64)), "must have a coil axis"),
        (lambda: mask.draw((8,)), "'shape' must be 2 positive sizes"),
        (lambda: mask.draw((0, 8)), "'shape' must be 2 positive sizes"),
        (lambda: actual_acceleration(torch.zeros(4, dtype=torch.bool)), "must sample something"),
        (lambda: GaussianMask(std=0), "'std' must be positive"),
        (lambda: GaussianMask2D(std=-1), "'std' must be positive"),
        (lambda: PoissonDiscMask(slope=-1), "'slope' must be at least 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
