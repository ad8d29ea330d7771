"""Lesions of a map, and what became of them: kept, erased, invented."""

import csv
import logging
import math

import numpy as np
import pytest
import torch

from medkit.mri import find_regions, nmse, psnr, region_metrics, ssim
from medkit.mri.regions import BOUNDS, write_regions
from medkit.mri.views import view_of_region

ROWS, COLUMNS = slice(10, 16), slice(20, 25)


def square(label=2, size=(40, 48), n_slices=None):
    """A map with one lesion of 6 x 5 pixels, in the slices 1 and 2 of a volume."""
    lesions = torch.zeros(*size, *(() if n_slices is None else (n_slices,)), dtype=torch.uint8)
    if n_slices is None:
        lesions[ROWS, COLUMNS] = label
    else:
        lesions[ROWS, COLUMNS, 1:3] = label
    return lesions


def one(rows, method):
    return next(row for row in rows if row["method"] == method)


def test_lesions_are_connected_voxels_of_one_label_the_largest_first():
    lesions = torch.zeros(30, 30, 6, dtype=torch.uint8)
    lesions[2:4, 2:4, 1:3] = 4
    lesions[4:6, 4:6, 3:5] = 4  # touches at a corner
    lesions[6:12, 4:6, 3] = 1  # touches, but is another label
    lesions[20:22, 20:22, 0] = 4  # too small: 4 voxels
    lesions[20:25, 25, 5] = 3
    regions = find_regions(lesions)
    assert [(r.number, r.label, r.n_voxels) for r in regions] == [(1, 4, 16), (2, 1, 12), (3, 3, 5)]
    for region in regions:
        assert int(region.inside.sum()) == region.n_voxels
        assert (lesions.numpy()[region.box][region.inside] == region.label).all()
    assert [region.i_slice for region in regions] == [1, 3, 5]
    assert find_regions(torch.zeros(8, 8, dtype=torch.uint8)) == []


def test_boxes_have_a_margin_of_three_voxels_within_slices_as_far_as_the_image_goes():
    (region,) = find_regions(square(n_slices=4))
    assert region.bounds == dict(zip(BOUNDS, (7, 18, 17, 27, 1, 2), strict=True))
    corner = torch.zeros(12, 12, dtype=torch.uint8)
    corner[0:2, 8:12] = 1
    (region,) = find_regions(corner)
    assert region.bounds == dict(zip(BOUNDS, (0, 4, 5, 11, 0, 0), strict=True))


def test_the_ring_lies_within_three_voxels_in_the_slices_of_the_lesion_and_in_no_other_lesion():
    lesions = square(n_slices=4)
    lesions[18:24, 20:25, 1] = 5
    region = next(r for r in find_regions(lesions) if r.label == 2)
    ring = np.zeros(lesions.shape, dtype=bool)
    ring[region.box] = region.ring
    where = np.argwhere(ring)
    nearest = np.maximum(0, np.maximum([10, 20] - where[:, :2], where[:, :2] - [15, 24]))
    assert np.linalg.norm(nearest, axis=1).max() == 3
    assert not ring[lesions.numpy() > 0].any()
    assert set(where[:, 2]) == {1, 2}
    assert not ring[18, 20:25, 1].any()
    assert ring[18, 20:25, 2].all()


@pytest.mark.parametrize("n_slices", [None, 4])
def test_contrast_tells_what_is_kept_erased_invented_and_inverted(n_slices):
    lesions = square(n_slices=n_slices)
    flat = torch.full(lesions.shape, 2.0)
    seen = torch.where(lesions > 0, 3.0, 2.0)
    seen[0, 0] = 5.0  # the largest value of the volume
    rows = region_metrics(find_regions(lesions), {"kept": seen, "erased": flat, "inverted": 4 - seen}, seen, "a")
    assert {row["method"]: row["contrast"] for row in rows} == pytest.approx(
        {"reference": 0.2, "kept": 0.2, "erased": 0.0, "inverted": -0.2}
    )
    flat[0, 0] = 5.0
    rows = region_metrics(find_regions(lesions), {"copied": seen}, flat)
    assert one(rows, "reference")["contrast"] == pytest.approx(0)
    assert one(rows, "copied")["contrast"] == pytest.approx(0.2)


def test_metrics_are_those_of_the_box_with_the_range_of_the_volume():
    lesions = square(n_slices=4)
    generator = torch.Generator().manual_seed(0)
    truth, image = (torch.rand(lesions.shape, generator=generator) for _ in range(2))
    truth[39, 47, 3] = 7.0
    rows = region_metrics(find_regions(lesions), {"net": image}, truth, "a")
    assert [row["method"] for row in rows] == ["reference", "net"]
    part, wanted = (np.moveaxis(x[7:19, 17:28, 1:3].numpy(), -1, 0) for x in (image, truth))
    row = one(rows, "net")
    assert row["psnr"] == pytest.approx(psnr(part, wanted, 7.0))
    assert row["ssim"] == pytest.approx(ssim(part, wanted, 7.0))
    assert row["nmse"] == pytest.approx(nmse(part, wanted))
    assert (row["case"], row["lesion"], row["label"], row["voxels"]) == ("a", 1, 2, 60)
    assert "psnr" not in one(rows, "reference")


def test_what_cannot_be_computed_is_no_number():
    lesions = torch.zeros(6, 30, dtype=torch.uint8)
    lesions[0:3, 0:3] = 1
    image = torch.ones(6, 30)
    row = region_metrics(find_regions(lesions), {"net": image}, image)[1]
    assert math.isnan(row["ssim"]), "the box is smaller than the window"
    assert row["nmse"] == row["contrast"] == 0
    assert math.isinf(row["psnr"])
    full = torch.ones(9, 9, dtype=torch.uint8)
    assert math.isnan(region_metrics(find_regions(full), {}, torch.ones(9, 9))[0]["contrast"]), "no ring"
    empty = region_metrics(find_regions(square()), {"net": torch.ones(40, 48)}, torch.zeros(40, 48))
    assert all(math.isnan(row["contrast"]) for row in empty)


def test_table_has_a_line_for_each_lesion_and_method_and_the_log_their_means(tmp_path, caplog):
    image = torch.where(square() > 0, 1.0, 0.5)
    rows = region_metrics(find_regions(square()), {"net": image}, image, "a")
    rows += region_metrics(find_regions(square()), {"net": 1.5 - image}, image, "b")
    with caplog.at_level(logging.INFO):
        write_regions(tmp_path / "out", rows)
    lines = list(csv.DictReader((tmp_path / "out" / "lesions.csv").read_text().splitlines()))
    assert [(line["case"], line["method"]) for line in lines] == [
        ("a", "reference"), ("a", "net"), ("b", "reference"), ("b", "net")]  # fmt: skip
    assert [float(line["contrast"]) for line in lines] == [0.5, 0.5, 0.5, -0.5]
    assert [line["psnr"] for line in lines[:3]] == ["", "", ""], "infinite, or not there"
    assert {line["label"] for line in lines} == {"2"}
    assert "lesions of label 2 (2), net:" in caplog.text
    assert "size of contrast 0.5000" in caplog.text


def test_window_around_a_lesion_stays_in_the_image():
    lesions = torch.zeros(100, 50, 4, dtype=torch.uint8)
    lesions[90:98, 10:20, 1:3] = 1
    lesions[94, 14, 1] = 0
    (region,) = find_regions(lesions)
    view = view_of_region(region, (100, 50))
    assert view.i_slice == 2
    assert view.window == (slice(36, 100), slice(0, 50))
    window = view.of(lesions)
    assert window.shape == (64, 50)
    assert view.box is not None
    assert int(window[view.box].sum()) == int(window.sum()) == 80
    lesions[5:95, 10:20, 2] = 1
    (region,) = find_regions(lesions)
    assert view_of_region(region, (100, 50)).window == (slice(2, 100), slice(0, 50)), "a large lesion is seen whole"


@pytest.mark.parametrize("lesions", [torch.zeros(8, 8), torch.zeros(8, dtype=torch.uint8)])
def test_other_maps_are_refused(lesions):
    with pytest.raises(ValueError, match="find_regions: 'lesions' must be whole numbers"):
        find_regions(lesions)


def test_images_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"region_metrics: 'images' must be \(40, 48\)"):
        region_metrics(find_regions(square()), {"net": torch.ones(40, 47)}, torch.ones(40, 48))
