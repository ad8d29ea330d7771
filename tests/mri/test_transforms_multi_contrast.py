"""Transforms of paired contrasts: packed as the table of keys says, unpacked into an image and its parts, replayed."""

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from medkit.mri import (
    CoilCombined,
    MCCDic,
    OnlyWithd,
    PackedMultiContrast,
    PackMultiContrastd,
    RandomMask,
    ScaleByPercentiled,
    SensitivityMapsd,
    SimulateKspaced,
    Undersampled,
    UnpackMultiContrastd,
    channels_to_complex,
)
from tests.mri.small_exams import magnitude, random_kspace


def chain(n_coils=1, **noise):
    return Compose(
        [
            SimulateKspaced(n_coils=(n_coils,), noise=(0, 0)),
            Undersampled("kspace", RandomMask(0.2, 2)),
            SensitivityMapsd("auto"),
            CoilCombined(),
            ScaleByPercentiled(),
            PackMultiContrastd(),
        ]
    ).set_random_state(0)


def sample(n_slices=None, n_guides=1):
    image = magnitude(n_slices=n_slices)
    guide = torch.cat([(k + 2.0) * image.square() for k in range(n_guides)])
    return {"magnitude": image, "guide": guide, "case": "a"}


@pytest.mark.parametrize("n_slices", [None, 3])
@pytest.mark.parametrize("n_guides", [1, 2])
@pytest.mark.parametrize("n_coils", [1, 4])
def test_image_and_label_are_as_the_table_says(n_slices, n_guides, n_coils):
    packed = chain(n_coils)(sample(n_slices, n_guides))
    image, label, scale = packed["image"], packed["label"], packed["scale"]
    n_maps = 0 if n_coils == 1 else 2 * n_coils
    size = (48, 40) if n_slices is None else (48, 40, n_slices)
    assert image.shape == (3 + n_guides + n_maps, *size)
    assert label.shape == (2 + n_guides, *size)
    torch.testing.assert_close(channels_to_complex(image[:2], 0) * scale, packed["zero_filled"])
    torch.testing.assert_close(channels_to_complex(label[:2], 0) * scale, packed["reference"])
    assert torch.equal(image[3 : 3 + n_guides], label[2:])
    for channel, given in zip(label[2:], packed["guide"], strict=True):
        np.testing.assert_allclose(channel, given / np.percentile(given, 99.5), rtol=1e-5)
    if n_maps:
        torch.testing.assert_close(channels_to_complex(image[-n_maps:], 0), packed["sens_maps"])


def test_an_exam_without_a_reference_has_no_label():
    one = chain()(sample())
    del one["reference"], one["label"]
    assert "label" not in PackMultiContrastd()(one)


def test_an_empty_reference_stays_empty():
    one = sample()
    one["guide"] = torch.zeros_like(one["guide"])
    assert not chain()(one)["label"][2:].any()


def test_a_hidden_reference_is_zero_and_all_else_is_as_before():
    ready = chain()(sample(n_guides=2))
    shown, hidden = (PackMultiContrastd(use_guide=use_guide)(ready) for use_guide in (True, False))
    for key, first in (("image", 3), ("label", 2)):
        assert shown[key][first : first + 2].abs().sum() > 0
        shown[key][first : first + 2] = 0
        assert torch.equal(shown[key], hidden[key])


@pytest.mark.parametrize("n_slices", [None, 3])
def test_unpacked_parts_add_up_to_the_image(n_slices):
    torch.manual_seed(0)
    network = PackedMultiContrast(
        MCCDic(widths=(8, 6, 4), n_blocks=(1, 1, 1), n_stages=1, in_channels=2, ref_channels=2)
    )
    packed = chain()(sample(n_slices, 2))
    images = packed["image"][None] if n_slices is None else packed["image"].movedim(-1, 0)
    with torch.no_grad():
        pred = network(images)
    pred = pred[0] if n_slices is None else pred.movedim(0, -1)
    done = UnpackMultiContrastd()({"pred": pred, "scale": packed["scale"]})
    restored = channels_to_complex(pred[:2], 0)
    torch.testing.assert_close(done["pred"], restored.abs() * packed["scale"])
    # Without a data term the image is its input and two parts; in phase with the result, the three are its magnitude.
    start = (channels_to_complex(packed["image"][:2], 0) * restored.conj()).real / restored.abs()
    torch.testing.assert_close(start + done["unique"][:1] + done["common"][:1], restored.abs(), atol=1e-5, rtol=1e-4)
    anew = packed["image"][3:5] + done["unique"][1:] + done["common"][1:]
    torch.testing.assert_close(anew, pred[2:4], atol=1e-5, rtol=1e-4)


def test_where_the_result_is_zero_it_has_no_parts():
    done = UnpackMultiContrastd()({"pred": torch.zeros(9, 4, 4), "scale": torch.tensor(2.0)})
    assert all(not bool(done[key].any()) for key in ("pred", "unique", "common"))


def augmented(seed_key=None):
    return OnlyWithd(
        "magnitude",
        [RandFlipd(("magnitude", "guide"), prob=0.5, spatial_axis=0), RandGaussianNoised("guide", prob=1.0, std=0.1)],
        seed_key=seed_key,
    )


def test_pairs_are_deformed_together_and_kspace_pairs_not_at_all():
    transform, one = augmented().set_random_state(0), {"magnitude": torch.rand(1, 8, 8)}
    flips = []
    for _ in range(12):
        done = transform({**one, "guide": one["magnitude"].clone()})
        flips.append(bool((done["magnitude"] != one["magnitude"]).any()))
        noise = torch.as_tensor(done["guide"]) - torch.as_tensor(done["magnitude"])
        assert 1e-5 < float(noise.std()) < 0.3, "the noise is the reference's own, the flip is of both"
    assert 2 < sum(flips) < 10
    kspace = {"kspace": random_kspace(1, 8, 8), "guide": torch.rand(1, 8, 8)}
    done = transform(kspace)
    assert done["guide"] is kspace["guide"]
    assert done is not kspace


def test_seeds_and_names_replay():
    one = {"magnitude": torch.rand(1, 8, 8), "guide": torch.rand(1, 8, 8)}
    first, again = (torch.as_tensor(augmented().set_random_state(3)(one)["guide"]) for _ in range(2))
    assert torch.equal(first, again)
    named = augmented("case")
    draws = [torch.as_tensor(named({**one, "case": case})["guide"]) for case in ("a", "b", "a")]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], torch.as_tensor(augmented("case").set_random_state(9)({**one, "case": "a"})["guide"]))


def broken(**changes):
    return {**chain()(sample()), **changes}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PackMultiContrastd(101), "'percentile' must be 0 to 100"),
        (lambda: PackMultiContrastd()(broken(guide=torch.full((1, 48, 40), torch.nan))), "'guide' must be finite"),
        (lambda: PackMultiContrastd()(broken(guide=torch.ones(1, 48, 39))), "'guide' must be real"),
        (lambda: PackMultiContrastd()(broken(guide=random_kspace(1, 48, 40))), "'guide' must be real"),
        (lambda: UnpackMultiContrastd(("a", "b")), "must be one key"),
        (lambda: UnpackMultiContrastd()({"pred": torch.ones(8, 4, 4), "scale": torch.tensor(1.0)}), "6 \\+ 3 n"),
        (lambda: UnpackMultiContrastd()({"pred": torch.ones(6, 4, 4), "scale": torch.tensor(1.0)}), "6 \\+ 3 n"),
        (lambda: augmented("case")({"magnitude": torch.ones(1, 4, 4), "guide": torch.ones(1, 4, 4)}), "'seed_key'"),
        (lambda: SensitivityMapsd("auto", n_coils_out=2)(
            {"measured": random_kspace(3, 16, 16), "mask": torch.ones(1, 1, 16), "path": "a.h5"}), "3 coils of a.h5"),
    ],
)  # fmt: skip
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_maps_are_made_for_one_coil_where_others_have_several():
    one = {"measured": random_kspace(1, 16, 16), "mask": torch.ones(1, 1, 16, dtype=torch.bool)}
    assert "sens_maps" not in SensitivityMapsd("auto")(one)
    assert SensitivityMapsd("auto", n_coils_out=3)(one)["sens_maps"].shape == (3, 16, 16)
