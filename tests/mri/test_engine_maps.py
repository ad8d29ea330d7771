"""What the handlers write so that invented and erased structure is seen: error maps, residuals, lesions."""

import csv
import json

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Engine

from medkit.mri import SaveMultiContrast, SaveReconstructions

AFFINE = np.array([[0.0, -2.0, 0.0, 10], [3.0, 0.0, 0.0, -7], [0.0, 0.0, 4.0, 5], [0, 0, 0, 1]])
SIZE = (90, 80)


def case(name="a", n_slices=3, has_reference=True):
    """A batch's sample with a lesion of label 4 in the last slice, and a result in which it is missing."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, *SIZE) if n_slices is None else (1, *SIZE, n_slices)
    flat = 2 + 0.1 * torch.rand(shape, generator=generator)
    lesions = torch.zeros(shape, dtype=torch.uint8)
    place = (slice(None), slice(40, 48), slice(30, 40), *(() if n_slices is None else (2,)))
    lesions[place] = 4
    reference = (flat + (lesions > 0)).to(torch.complex64)
    sample = {"case": name, "affine": torch.from_numpy(AFFINE.copy()), "zero_filled": 0.5 * reference,
              "lesions": lesions, **({"reference": reference} if has_reference else {})}  # fmt: skip
    return sample, {"pred": flat, "residual": {"pred": 0.25, "zero_filled": 0.0}}


def run(handler, *cases):
    engine = Engine(lambda _, batch: engine_outputs[id(batch[0])])
    engine_outputs = {id(sample): [output] for sample, output in cases}
    handler.attach(engine)
    engine.run([[sample] for sample, _ in cases])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all_that_shows_invented_and_erased_structure_is_there(tmp_path):
    sample, output = case()
    run(SaveReconstructions(tmp_path, "net", use_nifti=False, use_error_maps=True), (sample, output))
    assert names(tmp_path) == [
        "a.png", "a_lesion_1.png", "a_net_error.nii.gz", "lesions.csv", "metrics.csv", "metrics.json"]  # fmt: skip
    error = nibabel.load(tmp_path / "a_net_error.nii.gz")
    assert error.get_data_dtype() == np.float32
    np.testing.assert_allclose(error.affine, AFFINE)
    erased = sample["lesions"][0].numpy() > 0
    np.testing.assert_allclose(np.asarray(error.dataobj)[erased], -1, atol=1e-6)
    np.testing.assert_allclose(np.asarray(error.dataobj)[~erased], 0, atol=1e-6)
    metrics = json.loads((tmp_path / "metrics.json").read_text())["cases"][0]
    assert (metrics["net"]["residual"], metrics["zero_filled"]["residual"]) == (0.25, 0.0)
    rows = {row["method"]: row for row in csv.DictReader((tmp_path / "lesions.csv").read_text().splitlines())}
    assert list(rows) == ["reference", "zero_filled", "net"]
    assert {row["label"] for row in rows.values()} == {"4"}
    assert (rows["net"]["row_first"], rows["net"]["column_last"], rows["net"]["slice_first"]) == ("37", "42", "2")
    contrasts = {name: float(row["contrast"]) for name, row in rows.items()}
    peak = float(sample["reference"].abs().max())
    assert contrasts["reference"] == pytest.approx(1 / peak, abs=0.01)
    assert contrasts["zero_filled"] == pytest.approx(0.5 * contrasts["reference"])
    assert contrasts["net"] == pytest.approx(0, abs=0.01)


def test_error_maps_are_written_on_request_alone(tmp_path):
    run(SaveReconstructions(tmp_path, "net", use_png=False), case())
    assert names(tmp_path) == ["a_net.nii.gz", "lesions.csv", "metrics.csv", "metrics.json"]


def test_without_a_reference_there_are_residuals_and_pictures_of_lesions(tmp_path):
    run(SaveReconstructions(tmp_path, "net", use_nifti=False, use_error_maps=True), case(has_reference=False))
    assert names(tmp_path) == ["a.png", "a_lesion_1.png", "metrics.csv", "metrics.json"]
    assert json.loads((tmp_path / "metrics.json").read_text())["summary"]["net"] == {"residual": 0.25}


def test_a_second_run_starts_anew(tmp_path):
    handler = SaveReconstructions(tmp_path, "net", use_png=False, use_nifti=False)
    run(handler, case("a"), case("b"))
    first = (tmp_path / "lesions.csv").read_text()
    assert len(first.splitlines()) == 1 + 2 * 3
    run(handler, case("a"), case("b"))
    assert (tmp_path / "lesions.csv").read_text() == first


def test_pictures_of_the_four_largest_lesions(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("medkit.mri.engine.draw_reconstructions", lambda **picture: calls.append(picture))
    sample, output = case()
    for k in range(5):
        sample["lesions"][0, 60:65, 12 * k : 12 * k + 3 + k, k % 2] = 1
    run(SaveReconstructions(tmp_path, "net", use_nifti=False), (sample, output))
    assert [call["path"].name for call in calls] == ["a.png", *(f"a_lesion_{n}.png" for n in (1, 2, 3, 4))]
    whole, first, second = calls[:3]
    assert "box" not in whole
    assert whole["reference"].shape == SIZE
    assert first["title"].startswith("a, lesion 1, label 4: contrast +0.3")
    assert first["notes"]["net"].startswith("PSNR ")
    assert [tuple(image.shape) for image in first["images"].values()] == [(64, 64)] * 2
    rows, columns = first["box"]
    assert (rows.stop - rows.start, columns.stop - columns.start) == (8 + 6, 10 + 6)
    inner = first["reference"][rows, columns][3:-3, 3:-3]
    assert inner.shape == (8, 10)
    assert (inner > 2.9).all()
    assert (first["images"]["net"][rows, columns] < 2.2).all()
    assert second["title"].startswith("a, lesion 2, label 1")


def test_lesions_and_errors_are_cut_to_what_the_scanner_keeps(tmp_path):
    sample, output = case()
    sample["recon_size"] = torch.tensor((50, 80))
    run(SaveReconstructions(tmp_path, "net", crop_to_recon=True, use_error_maps=True), (sample, output))
    assert nibabel.load(tmp_path / "a_net_error.nii.gz").shape == (50, 80, 3)
    row = next(iter(csv.DictReader((tmp_path / "lesions.csv").read_text().splitlines())))
    assert (row["row_first"], row["row_last"]) == (str(37 - 20), str(50 - 20))


@pytest.mark.parametrize("n_slices", [None, 3])
def test_parts_of_several_contrasts_are_cut_like_the_target(tmp_path, monkeypatch, n_slices):
    calls = []
    monkeypatch.setattr("medkit.mri.engine.draw_multi_contrast", lambda **picture: calls.append(picture))
    sample, output = case(n_slices=n_slices)
    shape = sample["lesions"].shape[1:]
    generator = torch.Generator().manual_seed(1)
    sample |= {"guide": torch.rand(2, *shape, generator=generator), "recon_size": torch.tensor((50, 70))}
    sample["image"] = torch.cat([torch.zeros(3, *shape), sample["guide"]])
    output |= {name: torch.rand(3, *shape, generator=generator) for name in ("unique", "common")}
    run(SaveMultiContrast(tmp_path, "net", crop_to_recon=True, use_nifti=False), (sample, output))
    whole, lesion = calls
    last = () if n_slices is None else (2,)
    shown = sample["guide"][(slice(None), slice(20, 70), slice(5, 75), *last)]
    bright = sample["reference"].abs()[0]
    assert n_slices is None or int(bright.square().sum((0, 1)).argmax()) == 2
    assert torch.equal(whole["guide"], shown)
    assert whole["reference"].shape == whole["unique"].shape[1:] == whole["common"].shape[1:] == (50, 70)
    assert lesion["guide"].shape == (2, 50, 64)
    assert lesion["unique"].shape == lesion["common"].shape == (3, 50, 64)
    assert lesion["box"] is not None


def test_pictures_of_several_contrasts_outline_the_lesion(tmp_path):
    sample, output = case()
    shape = sample["lesions"].shape[1:]
    sample |= {"guide": torch.rand(1, *shape), "image": torch.rand(4, *shape)}
    output |= {"unique": torch.rand(2, *shape), "common": torch.rand(2, *shape)}
    run(SaveMultiContrast(tmp_path, "net", use_nifti=False, use_error_maps=True), (sample, output))
    assert "a_net_error.nii.gz" in names(tmp_path)
    picture = matplotlib.image.imread(tmp_path / "a_lesion_1.png")[..., :3]
    cyan = (picture[..., 0] < 0.3) & (picture[..., 1] > 0.7) & (picture[..., 2] > 0.7)
    assert cyan.any()
    plain = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    assert not ((plain[..., 0] < 0.3) & (plain[..., 1] > 0.7) & (plain[..., 2] > 0.7)).any()
