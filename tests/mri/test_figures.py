"""Pictures: turned as radiologists look at them, pixels of true size, one window of grey, written atomically."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from medkit.data.orientation import turned, turned_spacing
from medkit.mri import draw_reconstructions
from medkit.mri.figures import ERROR_GAIN, outline

DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
CODES = [
    "".join(code)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for code in itertools.product(*axes)
]  # fmt: skip


def make_affine(codes, spacing=(1.0, 1.0, 1.0), origin=(-12.0, 7.0, 30.0)):
    """Axis k of the array runs towards codes[k]."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([DIRECTIONS[code] for code in codes]).T * spacing
    affine[:3, 3] = origin
    return affine


def tilted(affine, degrees=12.0):
    """Rotate about an axis that is oblique to all others."""
    axis = np.array([2.0, -1.0, 3.0]) / np.sqrt(14)
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    out = affine.copy()
    out[:3] = (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross) @ affine[:3]
    return out


def world(affine, shape):
    """RAS mm of each pixel of a slice, (3, H, W)."""
    row, column = np.indices(shape)
    return np.einsum("ij,jhw->ihw", affine[:3, :2], np.stack([row, column])) + affine[:3, 3, None, None]


def draw_one(path, image, affine=None, **options):
    draw_reconstructions(path, {"a": torch.as_tensor(image)}, affine=affine, **options)
    return imread(path)[..., :3]


def white_box(picture):
    """Height and width of a white image; the letters above it do not fill half of a line."""
    white = picture.min(-1) > 0.9
    rows = white.mean(1) > 0.5
    return int(rows.sum()), int(white[rows].mean(0).round().sum())


@pytest.mark.parametrize("is_tilted", [False, True])
@pytest.mark.parametrize("codes", CODES)
def test_coordinates_fall_down_and_to_the_right_in_all_48_orientations(codes, is_tilted):
    # Superior, else anterior, is up; the patient's right, in sagittal slices anterior, is on the left.
    affine = make_affine(codes, spacing=(0.5, 2.0, 3.0))
    affine = tilted(affine) if is_tilted else affine
    picture = np.stack([turned(x, affine) for x in world(affine, (5, 7))])
    out_of_plane = next(i for i, pair in enumerate(("RL", "AP", "SI")) if codes[2] in pair)
    down, right = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[out_of_plane]
    assert (np.diff(picture[down], axis=0) < 0).all()
    assert (np.diff(picture[right], axis=1) < 0).all()
    steps = [np.linalg.norm(picture[:, 1, 0] - picture[:, 0, 0]), np.linalg.norm(picture[:, 0, 1] - picture[:, 0, 0])]
    np.testing.assert_allclose(turned_spacing(affine), steps)


@pytest.mark.parametrize(
    ("codes", "toward", "corner"),
    [
        ("RAS", "RA", (0, 0)),
        ("RAS", "LP", (-1, -1)),
        ("LPS", "RA", (0, 0)),
        ("LPS", "LA", (0, -1)),
        ("PLI", "RP", (-1, 0)),
        ("RSA", "RS", (0, 0)),
        ("LSP", "LI", (-1, -1)),
        ("ASR", "AS", (0, 0)),
        ("PIL", "PS", (0, -1)),
    ],
)
def test_a_marked_voxel_is_where_it_is_looked_for(codes, toward, corner):
    # The mark sits in the corner of the array that lies towards both directions.
    array = np.zeros((4, 6), np.float32)
    array[tuple(-1 if code in toward else 0 for code in codes[:2])] = 1
    picture = turned(array, make_affine(codes))
    assert picture[corner] == 1
    assert picture.sum() == 1


def test_axial_ras_and_lps_of_one_head_give_one_picture():
    head = np.arange(20.0).reshape(4, 5)
    np.testing.assert_array_equal(turned(head, make_affine("RAS")), turned(head[::-1, ::-1], make_affine("LPS")))
    np.testing.assert_array_equal(turned(head, make_affine("LPS")), head.T)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 0.5, 1.0)])
@pytest.mark.parametrize("first_slice", [0, 3])
def test_rows_stay_as_stored_where_only_the_spacing_is_known(spacing, first_slice):
    array = np.arange(12.0).reshape(3, 4)
    affine = make_affine("RAS", spacing, origin=(0, 0, first_slice * spacing[2]))
    np.testing.assert_array_equal(turned(array, affine), array)
    assert turned_spacing(affine) == spacing[:2]


def test_one_millimetre_ras_is_turned_like_two_millimetres():
    array = np.arange(12.0).reshape(3, 4)
    fine, coarse = (turned(array, make_affine("RAS", (mm,) * 3)) for mm in (1.0, 2.0))
    np.testing.assert_array_equal(fine, coarse)
    assert fine.shape == (4, 3)


@pytest.mark.parametrize("codes", [None, "LPS", "SRA", "ASR"])
def test_pixels_get_their_size(tmp_path, codes):
    # 8 x 12 pixels of 3 x 1 mm: 24 x 12 mm, before they are turned.
    affine = np.diag([3.0, 1.0, 1.0, 1.0]) if codes is None else make_affine(codes, (3.0, 1.0, 1.0))
    picture = draw_one(tmp_path / "a.png", np.ones((8, 12)), affine)
    height, width = white_box(picture)
    stands = codes is None or codes[0] == "S"
    assert height / width == pytest.approx(2.0 if stands else 0.5, rel=0.03)


def test_the_mark_is_in_the_file_too(tmp_path):
    image = np.zeros((10, 10), np.float32)
    image[7:, 7:] = 1  # right and anterior
    picture = draw_one(tmp_path / "a.png", image, make_affine("RAS"))
    top = picture.shape[0] - picture.shape[1]  # a square image fills the width beneath the titles
    mark = picture[top:, :, 0] > 0.9
    rows, columns = np.nonzero(mark)
    assert rows.max() < 0.35 * mark.shape[0]
    assert columns.max() < 0.35 * mark.shape[1]


def test_panels_share_the_window_of_the_reference_and_errors_are_five_times_brighter(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("matplotlib.axes.Axes.imshow", lambda _, array, **options: shown.append((array, options)))
    reference = torch.linspace(0, 2, 64).reshape(8, 8)
    images = {"zero-filled": reference * 3, "b": reference - 0.1}
    draw_reconstructions(tmp_path / "a.png", images, reference)
    assert ERROR_GAIN == 5
    expected = [reference, reference * 3, torch.full((8, 8), 0.1), reference - 0.1, reference * 2]
    found = sorted(shown, key=lambda item: item[1]["cmap"])  # grey before inferno, in the order of drawing
    for (array, options), wanted in zip(found, [expected[i] for i in (0, 1, 3, 4, 2)], strict=True):
        np.testing.assert_allclose(array, wanted, atol=1e-6)
        assert options["vmin"] == 0
        white = np.percentile(reference.numpy(), 99.5)
        assert options["vmax"] == pytest.approx(white if options["cmap"] == "gray" else white / 5)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_empty_and_diverged_images_are_drawn(tmp_path, value):
    image, reference = torch.full((8, 8), value), torch.rand(8, 8)
    draw_one(tmp_path / "alone.png", image)
    draw_reconstructions(tmp_path / "beside.png", {"a": image}, reference)
    draw_reconstructions(tmp_path / "empty.png", {"a": reference}, torch.zeros(8, 8))
    assert len(list(tmp_path.iterdir())) == 3


def test_one_pixel_and_half_precision_and_gradients(tmp_path):
    draw_one(tmp_path / "a.png", torch.ones(1, 1))
    draw_one(tmp_path / "b.png", torch.rand(8, 8, dtype=torch.bfloat16))
    draw_one(tmp_path / "c.png", torch.rand(8, 8, requires_grad=True))
    assert len(list(tmp_path.iterdir())) == 3


def test_names_are_text_and_not_formulas(tmp_path):
    draw_one(tmp_path / "a.png", torch.rand(8, 8), title=r"exam $\nosuchcommand$", notes={"a": r"$\frac$"})
    assert (tmp_path / "a.png").is_file()


def test_does_not_change_what_it_was_given(tmp_path):
    image, affine = torch.rand(6, 8), make_affine("RAS")
    before, affine_before = image.clone(), affine.copy()
    draw_one(tmp_path / "a.png", image, affine)
    assert torch.equal(image, before)
    np.testing.assert_array_equal(affine, affine_before)


def test_a_failure_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "pictures" / "a.png"
    draw_one(path, torch.rand(8, 8))
    old = path.read_bytes()

    def fail(_, file, **options):
        Path(file).write_bytes(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", fail)
    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="disk is full"):
            draw_one(path.with_name(name), torch.rand(8, 8))
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    assert path.read_bytes() == old


@pytest.mark.parametrize(
    ("images", "reference"),
    [
        ({}, None),
        ({}, torch.rand(8, 8)),
        ({"a": torch.rand(8, 8), "b": torch.rand(8, 9)}, None),
        ({"a": torch.rand(8, 8)}, torch.rand(8, 9)),
        ({"a": torch.rand(1, 8, 8)}, None),
        ({"a": torch.rand(8)}, None),
        ({"a": torch.rand(8, 8) + 0j}, None),
        ({"a": torch.rand(8, 8)}, torch.rand(8, 8) + 0j),
    ],
)
def test_wrong_images_are_refused(tmp_path, images, reference):
    with pytest.raises(ValueError, match="draw_reconstructions: 'images' and 'reference' must be at least one image"):
        draw_reconstructions(tmp_path / "a.png", images, reference)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PLI", "ASR"])
def test_box_is_outlined_where_its_pixels_are(codes, monkeypatch):
    from matplotlib.patches import Rectangle

    patches = []
    monkeypatch.setattr("matplotlib.axes.Axes.add_patch", lambda _, patch: patches.append(patch))
    affine = make_affine(codes)
    image = np.zeros((12, 9))
    image[3:6, 1:3] = 1
    outline(Figure().subplots(), (slice(3, 6), slice(1, 3)), image.shape, affine)
    (patch,) = patches
    assert isinstance(patch, Rectangle)
    rows, columns = np.nonzero(turned(image, affine))
    assert (patch.get_x(), patch.get_y()) == (columns.min() - 0.5, rows.min() - 0.5)
    assert (patch.get_width(), patch.get_height()) == (np.ptp(columns) + 1, np.ptp(rows) + 1)


def test_box_is_drawn_on_each_image_and_error(tmp_path):
    image = torch.rand(40, 40)
    options = {"images": {"a": image, "b": 0.5 * image}, "reference": image}
    draw_reconstructions(tmp_path / "a.png", **options)
    draw_reconstructions(tmp_path / "b.png", **options, box=(slice(10, 20), slice(5, 30)))
    before, after = (imread(tmp_path / f"{name}.png")[..., :3] for name in "ab")
    changed = np.abs(before - after).max(-1) > 0.1
    third = changed.shape[1] // 3
    middle = changed.shape[0] // 2
    assert changed[:middle, :third].any()
    for column in (changed[:, third : 2 * third], changed[:, 2 * third :]):
        assert column[:middle].any()
        assert column[middle:].any()
