"""Measures and report of an atlas: numbers that follow from formulas, pictures the right way round, one file."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from medkit.atlas import AtlasFolder, finish_atlas, write_report
from medkit.atlas.outputs.measures import append_measures, bias, likeness, sharpness
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import checkerboard, draw_energies, draw_preview, draw_subject
from medkit.atlas.outputs.planes import LETTERS, PLANES, Planes
from medkit.atlas.outputs.report import found_warnings
from medkit.atlas.result import RECORD
from tests.atlas.small_atlas import small_atlas

SIZE = (24, 28, 26)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "atlas <1>"
    small_atlas(folder, SIZE, contrasts=("t1", "t2"), lacking=((0, "t1"), (2, "t2")))
    record = json.loads((folder / RECORD).read_text())
    record["excluded"] = {"bad": "its file holds <script>"}
    (folder / RECORD).write_text(json.dumps(record))
    return finish_atlas(folder)


def picture(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


# Measures


def test_likeness_of_what_is_known():
    image = torch.rand(1, 1, 6, 7, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    same = likeness(image, 0.5 * image + 0.3)
    assert same.correlation == pytest.approx(1)
    shifted = likeness(image, image + 0.1)
    assert shifted.psnr == pytest.approx(20, abs=1e-4)
    # Background of both, and what has no weight, does not count.
    wide = torch.nn.functional.pad(image, (2, 2, 2, 2))
    assert likeness(wide, torch.nn.functional.pad(image + 0.1, (2, 2, 2, 2))).psnr == pytest.approx(20, abs=1e-4)
    broken, weight = (image + 0.1).clone(), torch.ones_like(image)
    broken[..., 0], weight[..., 0] = 1.0, 0.0
    assert likeness(image, broken, weight).psnr == pytest.approx(20, abs=1e-4)
    assert np.isnan(likeness(image, image, torch.zeros_like(image)).psnr)


def test_sharpness_is_the_slope_in_mm():
    ramp = 0.1 + 0.02 * torch.arange(10.0).reshape(1, 1, 10, 1, 1).expand(1, 1, 10, 5, 6)
    assert sharpness(ramp, (2.0, 1.0, 1.0)) == pytest.approx(0.01, rel=1e-5)


def test_bias_is_the_length_of_the_mean_velocity(tmp_path):
    atlas = small_atlas(tmp_path / "atlas", SIZE, n=2, amplitude=0.0)
    assert bias(atlas) == 0
    field = np.zeros((3, *atlas.metric.size), np.float16)
    field[1] = 0.5  # half a voxel of 4 mm, for one of two subjects
    np.save(atlas.folder / "velocities" / "s0.npy", field)
    assert bias(atlas) == pytest.approx(0.5 * 0.5 * 4)


def test_measures_are_written(atlas):
    found = json.loads((atlas.folder / "metrics.json").read_text())
    assert [case["case"] for case in found["cases"]] == ["s0", "s1", "s2"]
    assert set(found["summary"]) == {"affine", "atlas"}
    better, plain = found["summary"]["atlas"], found["summary"]["affine"]
    for name in ("ncc_to_subject", "psnr_to_subject", "ncc_to_template", "psnr_to_template"):
        assert better[name] > plain[name]
    for case in found["cases"]:
        own = case["atlas"]
        assert 0.2 < own["jacobian_min"] < 1 < own["jacobian_max"] < 4
        assert own["folded_percent"] == 0
        assert own["energy"] == atlas.member(case["case"]).energy
        assert 0.8 < own["dice"] < 1
        moved = atlas.displacement(atlas.member(case["case"])) * 2  # mm
        assert own["mean_displacement_mm"] == pytest.approx(float(moved.square().sum(1).sqrt().mean()), rel=0.3)
    with (atlas.folder / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 4
    assert json.loads((atlas.folder / "energy.json").read_text()) == atlas.trace
    summary = json.loads((atlas.folder / "summary.json").read_text())
    assert summary["n_subjects"] == 3
    assert summary["bias_mm"] < 0.01


def test_one_more_case_takes_the_place_of_an_older_one(tmp_path):
    small = small_atlas(tmp_path / "atlas", SIZE, n=2)
    append_measures(small, {"case": "a", "added": {"dice": 0.5}})
    append_measures(small, {"case": "b", "added": {"dice": 0.9}})
    append_measures(small, {"case": "a", "added": {"dice": 0.7}})
    found = json.loads((small.folder / "metrics.json").read_text())
    assert found["summary"]["added"]["dice"] == pytest.approx(0.8)
    assert [case["case"] for case in found["cases"]] == ["b", "a"]


# Pictures


@pytest.mark.parametrize(("size", "n"), [((6, 60, 60), 4), ((28, 32, 28), 2), ((60, 60, 6), 3)])
def test_letters_lie_within_their_pictures(size, n):
    image = torch.ones(size)
    planes = Planes.through_middle(image, np.diag([3.0, 3.0, 3.0, 1.0]), 0.5)
    figure = draw_preview([Layer("t1", image)], [Layer(f"s{i}", image) for i in range(n)], planes)
    figure.canvas.draw()
    axes = figure.axes[0]
    letters = [text.get_window_extent() for text in axes.texts if len(text.get_text()) == 1]
    assert len(axes.images) == 3 + n
    assert len(letters) == 4 * len(axes.images)
    for k, panel in enumerate(axes.images):
        edges = panel.get_window_extent()
        found = letters[4 * k : 4 * k + 4]
        # The dark rim around a letter is two points wide, half of it outside; too narrow pictures let letters overlap.
        rim = 1.0 / 72 * figure.dpi
        across = found[:2] if edges.width > 40 else []
        along = found[2:] if edges.height > 40 else []
        assert all(edges.x0 + rim < box.x0 and box.x1 < edges.x1 - rim for box in across)
        assert all(edges.y0 + rim < box.y0 and box.y1 < edges.y1 - rim for box in along)


@pytest.mark.parametrize("codes", [np.eye(3), np.diag([-1, -1, 1]), np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])])
def test_every_side_of_a_slice_has_its_letter(codes):
    """A bright half of the space towards each direction lies where the letter says, whatever the file's axes are."""
    affine = np.eye(4)
    affine[:3, :3] = codes * np.array([1.0, 2.0, 3.0])
    size = (10, 12, 14)
    points = np.einsum("ij,jxyz->ixyz", affine[:3, :3], np.indices(size))
    middle = (points.min(axis=(1, 2, 3)) + points.max(axis=(1, 2, 3))) / 2
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    for plane, letters in LETTERS.items():
        for letter, place in zip(letters, ("left", "right", "top", "bottom"), strict=True):
            axis, sign = axes[letter]
            bright = torch.from_numpy((sign * (points[axis] - middle[axis]) > 0).astype(np.float32))
            planes = Planes.through_middle(torch.ones(size), affine, 0.5)
            found = planes.cut(bright, plane)
            rows, columns = (n // 2 for n in found.shape)
            halves = {"left": found[:, :columns], "right": found[:, -columns:],
                      "top": found[:rows], "bottom": found[-rows:]}  # fmt: skip
            assert halves[place].mean() > 0.8, (plane, letter)
        across, right, up = PLANES[plane]
        order = [int(np.abs(affine[axis, :3]).argmax()) for axis in (up, right)]
        assert found.shape == tuple(size[k] for k in order)
        assert planes.shape(plane) == pytest.approx(tuple(size[k] * np.linalg.norm(affine[:, k]) for k in order))
        assert across not in (right, up)


def test_grid_lines_run_where_the_displacement_takes_them():
    affine = np.diag([-2.0, 2.0, 4.0, 1.0])  # the first axis runs left
    planes = Planes.through_middle(torch.ones(8, 10, 6), affine, 0.5)
    still = planes.grid_lines(torch.zeros(3, 8, 10, 6), "axial", every=2)
    assert len(still) == 4 + 5
    moved = planes.grid_lines(torch.tensor([1.0, 3.0, 0.0]).reshape(3, 1, 1, 1).expand(3, 8, 10, 6), "axial", every=2)
    for before, after in zip(still, moved, strict=True):
        # One voxel to the left of the patient is right in the picture, three to the front are up.
        np.testing.assert_allclose(after - before, np.broadcast_to([1.0, -3.0], before.shape), atol=1e-9)


def test_checkerboards_show_both():
    board = checkerboard(torch.zeros(14, 14, 14), torch.ones(14, 14, 14), n_squares=7)
    assert board.mean() == pytest.approx(0.5, abs=0.01)
    assert board[0, 0, 0] == board[1, 1, 1] == 0
    assert board[2, 0, 0] == board[0, 2, 0] == 1


def test_a_volume_that_does_not_change_is_not_coloured():
    image = torch.rand(12, 12, 12, generator=torch.Generator().manual_seed(0))
    planes = Planes.through_middle(image, np.eye(4), 0.5)
    shown = picture(png(draw_subject(image, image, torch.zeros(3, 12, 12, 12), torch.zeros(12, 12, 12), planes)))
    assert shown.shape[1] > 4 * shown.shape[0]


def test_energies_need_numbers():
    assert draw_energies([]) is None
    assert draw_energies([{"energy": float("nan")}, {"level": 1}]) is None
    assert draw_energies([{"energy": 5.0, "level": 4}, {"energy": 0.1, "level": 1}]) is not None


# The report


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "data")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_file_with_all_in_it(atlas):
    text = (atlas.folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[^\"]+", "", text))
    # Two contrasts, the energy, and for each subject a row and its checkerboards.
    assert len(page.sources) == 2 + 1 + 2 * 3
    for source in page.sources:
        shown = picture(base64.b64decode(source.split(",")[1]))
        assert shown.std() > 10
    assert "bad was left out: its file holds &lt;script&gt;" in text
    assert "atlas &lt;1&gt;" in text
    for name in ("s0", "s1", "s2", "bias mm", "folded percent"):
        assert name in text
    assert picture((atlas.folder / "preview.png").read_bytes()).std() > 10


def test_warnings_name_what_is_wrong(atlas):
    def case(name, ncc, folded=0.0):
        return {"case": name, "atlas": {"ncc_to_subject": ncc, "folded_percent": folded}}

    cases = [case(f"s{i}", 0.95 + 0.001 * i) for i in range(6)] + [case("turned", 0.3), case("torn", 0.95, 0.1)]
    found = "\n".join(found_warnings(atlas, cases, {"bias_mm": 0.5}))
    assert "turned is unlike the others" in found
    assert "The warp of torn folds in 0.1 %" in found
    assert "leans to one side by 0.5 mm" in found
    assert "s3" not in found
    fresh = AtlasFolder(atlas.folder)
    fresh.excluded = {}
    assert found_warnings(fresh, cases[:6], {"bias_mm": 0.01}) == []


def test_a_report_needs_measures(tmp_path):
    with pytest.raises(FileNotFoundError, match="write the measures first"):
        write_report(small_atlas(tmp_path / "atlas", SIZE, n=2))
    with pytest.raises(FileNotFoundError, match=r"must hold a finished atlas, there is no atlas.json$"):
        finish_atlas(tmp_path / "nothing")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "started.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="its building was interrupted, give the same command again"):
        finish_atlas(tmp_path / "begun")
    with pytest.raises(FileNotFoundError, match=r"there is no template .*atlas.nii.gz; finish_atlas writes what is"):
        AtlasFolder(tmp_path / "atlas").template()
