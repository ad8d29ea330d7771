"""Flips, turns and phases: the same in k-space and in the image, replayed by a seed, and about the centre."""

import pytest
import torch
from monai.transforms import RandFlipd

from medkit.mri import RandCenteredFlipd, RandCenteredRotate90d, RandPhased, sense_forward
from medkit.ops import centered_fft, centered_ifft
from tests.mri.small_exams import random_kspace

FLIPS = [RandCenteredFlipd(("a", "b"), 1.0, axis) for axis in (0, 1)]
TURNS = [RandCenteredRotate90d(("a", "b"), 1.0, (n,)) for n in (1, 2, 3)]


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (6, 7), (1, 4)])
@pytest.mark.parametrize("transform", [*FLIPS, *TURNS, RandPhased(("a", "b"), 1.0)])
def test_kspace_and_image_turn_together(transform, size):
    image = random_kspace(2, *size)
    out = transform({"a": image, "b": centered_fft(image)})
    torch.testing.assert_close(centered_fft(out["a"]), out["b"], atol=1e-5, rtol=1e-4)


def test_flips_of_monai_do_not():
    image = random_kspace(2, 8, 6)
    out = RandFlipd(("a", "b"), 1.0, spatial_axis=0)({"a": image, "b": centered_fft(image)})
    assert float((centered_fft(out["a"]) - out["b"]).abs().max()) > 0.5


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_turning_four_times_and_flipping_twice_is_nothing(size):
    x = random_kspace(3, *size)
    once = TURNS[0]({"a": x, "b": x})
    twice = TURNS[0](once)
    assert torch.equal(twice["a"], TURNS[1]({"a": x, "b": x})["a"])
    assert torch.equal(TURNS[1](twice)["a"], x)
    assert torch.equal(TURNS[2](once)["a"], x)
    for flip in FLIPS:
        assert torch.equal(flip(flip({"a": x, "b": x}))["a"], x)
    both = FLIPS[1](FLIPS[0]({"a": x, "b": x}))
    assert torch.equal(both["a"], twice["a"])


def test_a_quarter_is_a_turn_about_the_centre():
    x = torch.zeros(1, 6, 6)
    x[0, 3, 5] = 1  # two to the right
    assert TURNS[0]({"a": x, "b": x})["a"][0, 1, 3] == 1  # two up


def test_mask_maps_and_kspace_of_a_volume_turn_into_a_consistent_exam():
    image, maps = random_kspace(1, 8, 6, 2), random_kspace(3, 8, 6, 2, seed=1)
    mask = torch.tensor([True, False, True, True, False, True]).reshape(1, 1, 6, 1)
    slices = [x.movedim(-1, 0) for x in (image, mask.expand(1, 1, 6, 2), maps)]
    kspace = sense_forward(*slices).movedim(0, -1)
    exam = {"image": image, "mask": mask, "sens_maps": maps, "kspace": kspace}
    for transform in (RandCenteredFlipd(tuple(exam), 1.0, 1), RandCenteredRotate90d(tuple(exam), 1.0, (1,))):
        out = transform(exam)
        slices = [out[key].expand(*out[key].shape[:3], 2).movedim(-1, 0) for key in ("image", "mask", "sens_maps")]
        torch.testing.assert_close(sense_forward(*slices).movedim(0, -1), out["kspace"], atol=1e-5, rtol=1e-4)
    assert out["mask"].shape == (1, 6, 1, 1)


@pytest.mark.parametrize("kind", [RandCenteredFlipd, RandCenteredRotate90d, RandPhased])
def test_a_seed_replays_the_draws_and_the_input_is_left_as_it_was(kind):
    x = random_kspace(1, 4, 4)
    kept = x.clone()
    draws = []
    for _ in range(2):
        transform = kind("a", 0.5).set_random_state(3)
        draws.append(torch.stack([transform({"a": x})["a"] for _ in range(8)]))
    assert torch.equal(draws[0], draws[1])
    unchanged = [torch.equal(y, kept) for y in draws[0]]
    assert 0 < sum(unchanged) < 8
    assert torch.equal(x, kept)
    assert torch.equal(kind("a", 0.0)({"a": x})["a"], x)


def test_magnitude_is_kept_by_phases_and_real_data_by_flips():
    x = random_kspace(2, 4, 4)
    torch.testing.assert_close(RandPhased("a", 1.0)({"a": x})["a"].abs(), x.abs())
    assert FLIPS[0]({"a": x.real, "b": x})["a"].dtype == torch.float32
    assert torch.equal(centered_ifft(RandPhased("a", 1.0, 0.0)({"a": x})["a"]), centered_ifft(x))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RandCenteredFlipd("a", spatial_axis=2), "'spatial_axis' must be 0 or 1"),
        (lambda: RandCenteredRotate90d("a", quarters=(4,)), "'quarters' must be numbers of 1 to 3"),
        (lambda: RandCenteredRotate90d("a", quarters=()), "'quarters' must be numbers of 1 to 3"),
        (lambda: RandPhased("a", max_angle=-1), "'max_angle' must be at least 0"),
        (lambda: RandCenteredFlipd("a")({"a": torch.ones(4, 4)}), r"'a' must be \(C, H, W\)"),
        (lambda: RandPhased("a", 1.0)({"a": torch.ones(1, 4, 4)}), "'a' must be complex"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
