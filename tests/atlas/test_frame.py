"""Frames: images are read at the right point of space, whatever their grids, by one interpolation."""

import numpy as np
import pytest
import SimpleITK
import torch
from scipy.spatial.transform import Rotation

from medkit.atlas import Frame, common_frame, resampled
from medkit.atlas.frame import fast_size

OBLIQUE = np.array([[0.0, 0.9, 0.6, -20.0], [-1.2, 0.0, 0.0, 15.0], [0.0, -0.6, 1.8, -10.0], [0.0, 0.0, 0.0, 1.0]])
SOURCE = Frame((20, 24, 18), OBLIQUE)
TARGET = Frame((16, 18, 20), np.array([[-1.5, 0, 0, 22.0], [0, 1.4, 0, -14.0], [0, 0, 1.1, -8.0], [0, 0, 0, 1.0]]))


def linear_image(frame, slope=(0.3, -0.2, 0.5)):
    """An image whose value is a linear function of space: linear interpolation is exact."""
    indices = np.indices(frame.size).reshape(3, -1)
    points = frame.affine[:3, :3] @ indices + frame.affine[:3, 3:]
    return torch.from_numpy((np.array(slope) @ points).reshape(frame.size)).float()[None, None]


def inside(frame, source, matrix):
    whole = np.linalg.inv(source.affine) @ matrix @ frame.affine
    points = whole[:3, :3] @ np.indices(frame.size).reshape(3, -1) + whole[:3, 3:]
    return torch.from_numpy(((points >= 0) & (points <= np.array(source.size)[:, None] - 1)).all(0).reshape(frame.size))


def test_values_are_those_at_the_same_point_of_space():
    found = resampled(linear_image(SOURCE), SOURCE, TARGET)[0, 0]
    seen = inside(TARGET, SOURCE, np.eye(4))
    assert seen.sum() > 500
    torch.testing.assert_close(found[seen], linear_image(TARGET)[0, 0][seen], atol=1e-5, rtol=1e-5)


def test_the_displacement_comes_first_and_the_matrix_after_it():
    matrix = np.eye(4)
    matrix[:3, :3] = [[0.9, 0.1, 0], [-0.1, 1.1, 0.05], [0, 0, 1]]
    matrix[:3, 3] = (2, -1, 0.5)
    moved = torch.tensor([0.5, -0.25, 1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, *TARGET.size)
    shifted = TARGET.affine.copy()
    shifted[:3, 3] += TARGET.affine[:3, :3] @ moved[0, :, 0, 0, 0].double().numpy()
    expected = linear_image(Frame(TARGET.size, matrix @ shifted))[0, 0]
    found = resampled(linear_image(SOURCE), SOURCE, TARGET, matrix, moved)[0, 0]
    seen = inside(Frame(TARGET.size, shifted), SOURCE, matrix)
    assert seen.sum() > 500
    torch.testing.assert_close(found[seen], expected[seen], atol=1e-5, rtol=1e-5)


def test_simple_itk_reads_the_same_values():
    image = torch.rand(1, 1, *SOURCE.size, generator=torch.Generator().manual_seed(0))

    def itk(array, frame):
        made = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
        lps = np.diag([-1.0, -1.0, 1.0]) @ frame.affine[:3]
        made.SetSpacing(frame.grid.spacing)
        made.SetOrigin(lps[:, 3].tolist())
        made.SetDirection((lps[:, :3] / frame.grid.spacing).ravel().tolist())
        return made

    turned = np.eye(4)  # ITK takes orthogonal axes alone
    turned[:3, :3] = Rotation.from_euler("xyz", (10, -20, 100), degrees=True).as_matrix() * (1.0, 1.3, 1.9)
    turned[:3, 3] = TARGET.centre - turned[:3, :3] @ ((np.array(SOURCE.size) - 1) / 2)
    source = Frame(SOURCE.size, turned)
    theirs = SimpleITK.Resample(
        itk(image[0, 0].numpy(), source), itk(np.zeros(TARGET.size, np.float32), TARGET), SimpleITK.Transform(),
        SimpleITK.sitkLinear, 0.0,
    )  # fmt: skip
    ours = resampled(image, source, TARGET, padding="zeros")[0, 0].numpy()
    seen = inside(TARGET, source, np.eye(4)).numpy()
    assert seen.sum() > 500
    np.testing.assert_allclose(ours[seen], SimpleITK.GetArrayFromImage(theirs).transpose(2, 1, 0)[seen], atol=1e-6)


def test_the_same_grid_is_no_interpolation():
    image = torch.rand(1, 2, *SOURCE.size)
    assert torch.equal(resampled(image, SOURCE, Frame(SOURCE.size, OBLIQUE.copy())), image)
    wider = SOURCE.padded(((2, 3), (0, 1), (4, 0)))
    assert wider.size == (25, 25, 22)
    padded = resampled(image, SOURCE, wider, padding="zeros")
    torch.testing.assert_close(padded[:, :, 2:-3, :-1, 4:], image, atol=1e-6, rtol=0)
    assert float(padded[:, :, :1].abs().max()) < 1e-6


def test_labels_keep_their_values():
    labels = torch.randint(0, 9, (1, 1, *SOURCE.size)).float()
    found = resampled(labels, SOURCE, TARGET, mode="nearest")
    assert set(found.unique().tolist()) <= set(labels.unique().tolist())


def test_the_common_frame_holds_every_head():
    boxes = [((-70, -90, -60), (70, 80, 75)), ((-60, -95, -50), (66, 85, 80))]
    together = common_frame(boxes, 2.0, margin=8, centred=False)
    low, high = together.affine[:3, 3], together.affine[:3, 3] + 2.0 * (np.array(together.size) - 1)
    assert (low <= np.array((-70, -95, -60)) - 16).all()
    assert (high >= np.array((70, 85, 80)) + 16).all()
    assert all(n == fast_size(n) for n in together.size)
    far = [(np.array(low) + shift, np.array(high) + shift) for (low, high), shift in zip(boxes, (0, 500), strict=True)]
    assert common_frame(far, 2.0).size == common_frame(boxes, 2.0).size
    with pytest.raises(ValueError, match="align them first"):
        common_frame(far, 0.5, centred=False)
    with pytest.raises(ValueError, match="'spacing' must be positive"):
        common_frame(boxes, 0.0)
    with pytest.raises(ValueError, match="at least one subject"):
        common_frame([], 1.0)


@pytest.mark.parametrize(("n", "expected"), [(1, 2), (7, 8), (11, 12), (97, 100), (187, 192), (192, 192), (229, 240)])
def test_fast_sizes(n, expected):
    assert fast_size(n) == expected


def test_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="'size' must be 3 positive"):
        Frame((4, 4), np.eye(4))
    with pytest.raises(ValueError, match="'affine' must be a finite, invertible"):
        Frame((4, 4, 4), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="must lie on the grid"):
        resampled(torch.zeros(1, 1, 3, 3, 3), SOURCE, TARGET)
