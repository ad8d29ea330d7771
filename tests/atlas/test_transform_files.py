"""Transformations in files: SimpleITK applies them as we do, on oblique, anisotropic and flipped grids; round trips."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medkit.atlas import read_affine, read_displacement, write_affine, write_composite, write_displacement
from medkit.ops import displaced, sample
from tests.laws import random_like

sitk = pytest.importorskip("SimpleITK")

SIZE = (14, 16, 12)


def oblique(spacing: tuple[float, float, float] = (1.0, 1.5, 2.0), flip: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
    turn = np.eye(3)
    for a, b, angle in ((0, 1, 0.3), (1, 2, -0.2), (0, 2, 0.15)):
        step = np.eye(3)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array(spacing) * flip)
    affine[:3, 3] = (-8.0, 3.0, 5.0)
    return affine


GRIDS = {
    "oblique": oblique(),
    "flipped": oblique(flip=(-1, 1, 1)),
    "permuted": oblique()[:, [2, 0, 1, 3]],
}


def smooth(channels: int) -> torch.Tensor:
    coarse = random_like(torch.empty(1, channels, 4, 4, 4), 1)
    return torch.nn.functional.interpolate(coarse, SIZE, mode="trilinear", align_corners=True)


def moving_map() -> np.ndarray:
    """From the output space to that of the image which is read."""
    matrix = np.eye(4)
    matrix[:3, :3] += 0.05 * np.array([[1.0, -2, 0.5], [0.3, -1, 1], [0.2, 0.4, 1.5]])
    matrix[:3, 3] = (0.7, -0.4, 1.1)
    return matrix


def by_us(image: torch.Tensor, u: torch.Tensor, affine: np.ndarray, matrix: np.ndarray) -> torch.Tensor:
    """One interpolation at inv(A) M A (x + u(x)); the image lies on the output's grid."""
    total = torch.from_numpy(np.linalg.inv(affine) @ matrix @ affine)
    points = displaced(u.double())
    moved = torch.einsum("ij,bjxyz->bixyz", total[:3, :3], points) + total[:3, 3].reshape(1, 3, 1, 1, 1)
    return sample(image.double(), moved, padding="border")


def by_itk(folder: Path, image: torch.Tensor, affine: np.ndarray, transform) -> tuple[np.ndarray, np.ndarray]:
    """What SimpleITK makes of the image, and where it had all it needs."""
    file = folder / "image.nii"
    nib.save(nib.Nifti1Image(image[0, 0].numpy().astype(np.float32), affine), file)
    read = sitk.ReadImage(str(file), sitk.sitkFloat64)
    out = sitk.Resample(read, read, transform, sitk.sitkLinear, -1e6, sitk.sitkFloat64)
    array = sitk.GetArrayFromImage(out).transpose(2, 1, 0)
    return array, array > -1e5


def field_transform(path: Path):
    return sitk.DisplacementFieldTransform(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkVectorFloat64))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("convention", ["itk", "nifti"])
def test_simple_itk_warps_as_we_do(tmp_path: Path, grid: str, convention: str) -> None:
    affine, u, image = GRIDS[grid], smooth(3), smooth(1).sigmoid()
    write_displacement(tmp_path / "a_1Warp.nii.gz", u, affine, convention)
    theirs, inside = by_itk(tmp_path, image, affine, field_transform(tmp_path / "a_1Warp.nii.gz"))
    ours = by_us(image, u, affine, np.eye(4))[0, 0].numpy()
    assert inside.mean() > 0.5
    assert np.abs(theirs - ours)[inside].max() < 1e-6


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", [".mat", ".tfm", ".h5"])
def test_simple_itk_applies_warp_then_affine(tmp_path: Path, grid: str, kind: str) -> None:
    affine, u, image, matrix = GRIDS[grid], smooth(3), smooth(1).sigmoid(), moving_map()
    if kind == ".h5":
        write_composite(tmp_path / "a.h5", u, affine, matrix)
        transform = sitk.ReadTransform(str(tmp_path / "a.h5"))
    else:
        write_displacement(tmp_path / "a_1Warp.nii.gz", u, affine)
        write_affine(tmp_path / f"a{kind}", matrix)
        transform = sitk.CompositeTransform(3)
        transform.AddTransform(sitk.ReadTransform(str(tmp_path / f"a{kind}")))
        transform.AddTransform(field_transform(tmp_path / "a_1Warp.nii.gz"))
    theirs, inside = by_itk(tmp_path, image, affine, transform)
    ours = by_us(image, u, affine, matrix)[0, 0].numpy()
    assert inside.mean() > 0.4
    assert np.abs(theirs - ours)[inside].max() < 1e-6
    # The other order is another map: the test would see it.
    assert np.abs(by_us(image, torch.zeros_like(u), affine, matrix)[0, 0].numpy() - ours)[inside].max() > 1e-2


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("convention", ["itk", "nifti"])
def test_fields_come_back_as_they_went(tmp_path: Path, grid: str, convention: str) -> None:
    u = smooth(3)
    write_displacement(tmp_path / "a.nii", u[0], GRIDS[grid], convention)
    back, affine = read_displacement(tmp_path / "a.nii")
    torch.testing.assert_close(back, u, rtol=0, atol=1e-5)
    np.testing.assert_allclose(affine, GRIDS[grid], atol=1e-5)
    image = nib.load(tmp_path / "a.nii")
    assert image.shape == (*SIZE, 1, 3)
    assert image.header["intent_code"] == (1007 if convention == "itk" else 1006)


def test_a_field_that_itk_wrote_is_read_rightly(tmp_path: Path) -> None:
    affine, u = GRIDS["oblique"], smooth(3)
    write_displacement(tmp_path / "a.nii.gz", u, affine)
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / "b.nii.gz"))
    back, there = read_displacement(tmp_path / "b.nii.gz")
    torch.testing.assert_close(back, u, rtol=0, atol=1e-5)
    np.testing.assert_allclose(there, affine, atol=1e-5)


@pytest.mark.parametrize("suffix", [".mat", ".tfm", ".txt"])
def test_affine_maps_come_back_also_with_another_centre(tmp_path: Path, suffix: str) -> None:
    write_affine(tmp_path / f"a{suffix}", moving_map())
    np.testing.assert_allclose(read_affine(tmp_path / f"a{suffix}"), moving_map(), atol=1e-12)
    transform = sitk.AffineTransform(3)
    transform.SetCenter((1.0, 2.0, 3.0))
    transform.Scale(2.0)
    sitk.WriteTransform(transform, str(tmp_path / f"b{suffix}"))
    expected = np.diag([2.0, 2, 2, 1])
    expected[:3, 3] = (1.0, 2.0, -3.0)  # centre (1, 2, 3) in LPS is (-1, -2, 3) in RAS, and stays
    np.testing.assert_allclose(read_affine(tmp_path / f"b{suffix}"), expected, atol=1e-12)


def test_one_displaced_axis_is_that_axis_in_mm(tmp_path: Path) -> None:
    u = torch.zeros(3, *SIZE)
    u[1] = 2.0
    write_displacement(tmp_path / "a.nii", u, np.diag([1.0, 1.5, 2.0, 1.0]))
    values = nib.load(tmp_path / "a.nii").get_fdata()[5, 5, 5, 0]
    np.testing.assert_allclose(values, (0, -3.0, 0))


def test_wrong_input_is_refused_in_a_sentence_and_leaves_no_file(tmp_path: Path) -> None:
    u = torch.zeros(3, 4, 4, 4)
    with pytest.raises(ValueError, match="one finite 3-D field"):
        write_displacement(tmp_path / "a.nii", torch.zeros(2, 4, 4), np.eye(4))
    with pytest.raises(ValueError, match="one finite 3-D field"):
        write_displacement(tmp_path / "a.nii", u + torch.nan, np.eye(4))
    with pytest.raises(ValueError, match="invertible"):
        write_displacement(tmp_path / "a.nii", u, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="'convention' must be"):
        write_displacement(tmp_path / "a.nii", u, np.eye(4), "ants")
    with pytest.raises(ValueError, match=r"must end in \.nii"):
        write_displacement(tmp_path / "a.mha", u, np.eye(4))
    with pytest.raises(ValueError, match="invertible"):
        write_affine(tmp_path / "a.mat", np.zeros((4, 4)))
    with pytest.raises(FileNotFoundError, match="there is none"):
        read_displacement(tmp_path / "a.nii")
    assert list(tmp_path.iterdir()) == []
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), tmp_path / "four.nii")
    with pytest.raises(ValueError, match=r"must hold a vector field \(X, Y, Z, 1, 3\)"):
        read_displacement(tmp_path / "four.nii")
    (tmp_path / "bad.nii").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as NIfTI"):
        read_displacement(tmp_path / "bad.nii")
    (tmp_path / "bad.tfm").write_text("nothing")
    with pytest.raises(ValueError, match="cannot be read as a transformation"):
        read_affine(tmp_path / "bad.tfm")
    write_composite(tmp_path / "c.h5", u, np.eye(4), np.eye(4))
    (tmp_path / "c.h5").rename(tmp_path / "c.tfm.h5")
    with pytest.raises(ValueError, match="must end in"):
        read_affine(tmp_path / "c.tfm.h5")
