"""GRAPPA as a transform: the image of the filled coils stands where a network's input had the zero-filled one."""

import pytest
import torch
from monai.transforms import Compose

from medkit.mri import (
    EquispacedMask,
    GaussianMask2D,
    Grappad,
    KtEquispacedMask,
    PackedReconstructor,
    UnpackReconstructiond,
    ZeroFilled,
    grappa,
    sense_adjoint,
)
from medkit.mri.transforms.layout import slices_first
from tests.mri.small_exams import chain
from tests.mri.small_scans import make_scan

REGULAR = EquispacedMask(0.3, 2, count_centre=False)


def exam(n_slices=None):
    """Fully sampled k-space of several coils, one slice or a volume of slices of different strength."""
    kspace = make_scan()[0][0]
    return {"kspace": kspace if n_slices is None else torch.stack([kspace * (1 + i) for i in range(n_slices)], -1)}


def packed(sample, mask=REGULAR, **options):
    before = Compose(chain(mask)).set_random_state(0)(sample)
    return before, Grappad(**options)(before)


@pytest.mark.parametrize("n_slices", [None, 3])
def test_the_packed_image_is_that_of_the_filled_coils_combined_by_the_maps(n_slices):
    before, after = packed(exam(n_slices), weight=0.02, kernel_size=[5, 3])
    measured, mask, maps = (slices_first(before[key]) for key in ("measured", "mask", "sens_maps"))
    expected = sense_adjoint(grappa(measured, mask[:1], None, (5, 3), 0.02), None, maps)
    unpack = UnpackReconstructiond("pred", "complex")
    network = PackedReconstructor(ZeroFilled())
    pred = network(slices_first(after["image"]))
    pred = pred[0] if n_slices is None else pred.movedim(0, -1)
    found = slices_first(unpack({"pred": pred, "scale": after["scale"]})["pred"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(after["image"][2:], before["image"][2:])
    assert set(after) == set(before)
    for key in before:
        if key != "image":
            assert after[key] is before[key], key
    truth = slices_first(before["reference"])
    assert (found - truth).norm() < 0.5 * (slices_first(before["zero_filled"]) - truth).norm()


def test_frames_with_masks_of_their_own_are_filled_each_by_its_own():
    before, after = packed(exam(4), KtEquispacedMask(0.3, 2, count_centre=False))
    assert before["mask"].shape[-1] == 4
    for i in range(4):
        alone = grappa(before["measured"][None, ..., i], before["mask"][None, ..., i])
        image = sense_adjoint(alone, None, before["sens_maps"][None, ..., i])[0] / before["scale"]
        torch.testing.assert_close(after["image"][:2, ..., i], torch.cat([image.real, image.imag]))


def test_a_mask_without_a_centre_of_the_size_of_the_kernel_ends_in_one_sentence():
    with pytest.raises(
        ValueError, match=r"grappa: the fully sampled centre must be .* kernel \(5, 5\), .* take a smaller"
    ):
        packed(exam(), EquispacedMask(0.1, 2, count_centre=False))
    with pytest.raises(ValueError, match="'kernel_size' must be two odd sizes"):
        packed(exam(), kernel_size=(4, 4))
    with pytest.raises(ValueError, match="Grappad: 'measured' must be complex"):
        Grappad()({**packed(exam())[0], "measured": torch.ones(3, 8, 8)})


def test_points_of_both_axes_are_filled_too():
    before, after = packed(exam(), GaussianMask2D(0.15, 2))
    truth, scale = before["reference"], before["scale"]
    found = torch.complex(*after["image"][:2]) * scale
    assert (found - truth[0]).norm() < (before["zero_filled"] - truth).norm()
