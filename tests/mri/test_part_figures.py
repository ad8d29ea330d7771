"""Pictures of multi-contrast restoration, and the handler that writes them beside images and metrics."""

import json

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import SliceInferer

from medkit.mri import PackedMultiContrast, SaveMultiContrast, UnpackMultiContrastd, draw_multi_contrast, psnr
from tests.mri.small_mc_cdic import network
from tests.mri.test_transforms_multi_contrast import chain, sample


@pytest.fixture
def shown(monkeypatch):
    """Return the captions and limits of all panels of the pictures that are written."""
    panels = []
    original = Figure.savefig

    def record(figure, *args, **options):
        panels.append([
            (axis.get_title(), axis.images[0].get_array().filled(), axis.images[0].get_clim())
            for axis in figure.axes if axis.images
        ])  # fmt: skip
        return original(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    return panels


def parts(n_guides=1, size=(6, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    names = {"zero_filled": 1, "mc_cdic": 1, "guide": n_guides, "unique": n_guides + 1, "common": n_guides + 1}
    return {name: torch.randn(n, *size, generator=generator) for name, n in names.items()}


@pytest.mark.parametrize("n_guides", [1, 2])
@pytest.mark.parametrize("has_reference", [True, False])
def test_every_contrast_has_a_row_with_its_parts(n_guides, has_reference, shown, tmp_path):
    p = parts(n_guides)
    images = {name: p[name][0] for name in ("zero_filled", "mc_cdic")}
    reference = images["mc_cdic"] + 0.1 if has_reference else None
    draw_multi_contrast(
        tmp_path / "a.png", images, p["guide"], p["unique"], p["common"], reference, {"mc_cdic": "PSNR 30"}, title="a"
    )
    (panels,) = shown
    captions = [caption for caption, _, _ in panels]
    target = ["zero_filled", "mc_cdic\nPSNR 30"]
    target = ["fully sampled", *target, "error × 5"] if has_reference else target
    end = ["unique part", "common part"]
    numbers = [""] if n_guides == 1 else [" 1", " 2"]
    expected = [*target, *end]
    for number in numbers:
        expected += [f"reference{number}", f"reference{number} from its codes", *end]
    assert captions == expected
    by_row = [panel for panel in panels if panel[0] in end]
    for k in range(n_guides + 1):
        for panel, name in zip(by_row[2 * k : 2 * k + 2], ("unique", "common"), strict=True):
            np.testing.assert_allclose(panel[1], p[name][k], rtol=1e-6)
            assert panel[2][0] == -panel[2][1]
    anew = [panel[1] for panel in panels if "from its codes" in panel[0]]
    np.testing.assert_allclose(anew[-1], p["guide"][-1] + p["unique"][-1] + p["common"][-1], rtol=1e-5, atol=1e-6)
    if has_reference:
        np.testing.assert_allclose(panels[3][1], np.full((6, 8), 0.1), atol=1e-6)
        assert panels[3][2][1] == pytest.approx(panels[0][2][1] / 5)
    assert matplotlib.image.imread(tmp_path / "a.png").ndim == 3


@pytest.mark.parametrize(
    "change",
    [
        {"images": {}},
        {"guide": torch.ones(0, 6, 8), "unique": torch.ones(1, 6, 8), "common": torch.ones(1, 6, 8)},
        {"guide": torch.ones(1, 6, 7)},
        {"unique": torch.ones(1, 6, 8)},
        {"common": torch.ones(2, 6, 8, dtype=torch.complex64)},
        {"reference": torch.ones(5, 8)},
    ],
)
def test_pictures_of_what_does_not_fit_are_refused(change, tmp_path):
    p = parts()
    arguments = {"images": {"a": p["mc_cdic"][0]}, "guide": p["guide"], "unique": p["unique"], "common": p["common"]}
    with pytest.raises(ValueError, match="draw_multi_contrast: images must be real"):
        draw_multi_contrast(tmp_path / "a.png", **{**arguments, **change})
    assert not list(tmp_path.iterdir())


def evaluate(folder, samples):
    torch.manual_seed(0)
    net = PackedMultiContrast(network(True, in_channels=2, ref_channels=1))
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(samples)),
        network=net,
        inferer=SliceInferer(roi_size=(-1, -1), spatial_dim=2, sw_batch_size=1),
        postprocessing=UnpackMultiContrastd(),
        val_handlers=[SaveMultiContrast(folder, method="mc_cdic")],
    ).run()
    return net


def packed(name, has_reference=True):
    one = {**chain()(sample(3)), "case": name, "affine": torch.diag(torch.tensor([2.0, 2, 5, 1]))}
    kept = (
        "case",
        "affine",
        "scale",
        "zero_filled",
        "guide",
        "image",
        *(["reference", "label"] if has_reference else []),
    )
    return {key: one[key] for key in kept}


def test_handler_writes_volumes_metrics_and_pictures(shown, tmp_path):
    samples = [packed("a"), packed("b", has_reference=False)]
    net = evaluate(tmp_path, samples)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png", "a_mc_cdic.nii.gz", "b.png", "b_mc_cdic.nii.gz", "metrics.csv", "metrics.json",
    ]  # fmt: skip
    with torch.no_grad():
        pred = net(samples[0]["image"].movedim(-1, 0)).movedim(0, -1)
    expected = torch.linalg.vector_norm(pred[:2], dim=0) * samples[0]["scale"]
    file = nibabel.load(tmp_path / "a_mc_cdic.nii.gz")
    np.testing.assert_allclose(np.asarray(file.dataobj), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(file.affine, np.diag([2.0, 2, 5, 1]))
    (case,) = json.loads((tmp_path / "metrics.json").read_text())["cases"]
    truth = samples[0]["reference"][0].abs().movedim(-1, 0)
    assert case["mc_cdic"]["psnr"] == pytest.approx(psnr(expected.movedim(-1, 0), truth), abs=1e-3)
    assert [len(panels) for panels in shown] == [10, 8]
    i_slice = 2  # the brightest of the phantom's slices
    drawn = {caption.split("\n")[0]: array for caption, array, _ in shown[0]}
    np.testing.assert_allclose(drawn["mc_cdic"], expected[..., i_slice], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(drawn["reference"], samples[0]["image"][3, ..., i_slice], rtol=1e-5)
