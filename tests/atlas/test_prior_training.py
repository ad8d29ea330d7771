"""Training of priors: the head, the loss as energy of a pair, the pairs, and what the handlers leave."""

from __future__ import annotations

import json
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import VoxelMorphUNet
from torch import nn

from medkit.atlas import (
    AntiAliasd,
    ClipGradients,
    PairEnergy,
    PreviewPairs,
    RandPaird,
    RegistrationModel,
    RelativeEnergy,
    SavePairs,
    SmoothedVelocity,
    SobolevMetric,
    SymmetricPairEnergy,
    regulariser,
    start_at_rest,
    subject_list,
    subject_pairs,
)
from medkit.atlas.pyramid import Grid
from medkit.atlas.training.engine import mean_dice
from medkit.atlas.training.figures import draw_pair
from medkit.data import BrainCohort
from medkit.export import to_onnx, to_torchscript
from medkit.ops import exponential, folding, resize_field, warp
from tests.atlas.phantom import cohort, velocities
from tests.laws import random_like

SIZES = {2: (24, 32), 3: (16, 16, 24)}


class Says(nn.Module):
    """Returns its weight, whatever it is shown; remembers what that was."""

    def __init__(self, *value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x)
        return self.value.reshape(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:]) + 0 * x[:, :1]


def network(spatial_dims: int = 2, **options) -> SmoothedVelocity:
    torch.manual_seed(0)
    inner = VoxelMorphUNet(spatial_dims, 2, 8, (4, 8, 8, 8), (8,))
    return SmoothedVelocity(inner, spatial_dims, at_rest=options.pop("at_rest", False), **options)


@pytest.mark.parametrize("backend", ["fft", "matmul"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_head_smooths_as_the_metric_does_in_voxels(spatial_dims: int, backend: str) -> None:
    size = (7, 10, 12)[:spatial_dims]
    field = random_like(torch.empty(2, spatial_dims, *size))
    net = network(spatial_dims, alpha=1.5, power=2.0, fft_backend=backend)
    expected = SobolevMetric(size, 1.0, alpha=1.5, gamma=1.0, power=2.0).velocity(field)
    torch.testing.assert_close(net.smoothed(field), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(network(spatial_dims, alpha=0.0).smoothed(field), field)


def test_the_head_runs_the_network_on_a_coarser_grid_and_brings_the_unit_back() -> None:
    inner = Says(1.0, -2.0)
    net = SmoothedVelocity(inner, 2, antisymmetric=False, at_rest=False)
    out = net(torch.rand(1, 2, 16, 24))
    assert inner.seen[0].shape == (1, 2, 8, 12)
    torch.testing.assert_close(out[0, :, 3, 5], torch.tensor([2.0, -4.0]))
    assert SmoothedVelocity(inner, 2, antisymmetric=False, at_rest=False, factor=1)(torch.rand(1, 2, 8, 8)).max() < 1.01


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exchanged_images_have_the_opposite_velocity_to_the_last_bit(spatial_dims: int) -> None:
    net, size = network(spatial_dims).eval(), SIZES[spatial_dims]
    pair = torch.rand(2, 2, *size)
    with torch.no_grad():
        there = net(pair)
        assert there.abs().max() > 1e-4
        assert torch.equal(net(pair.flip(1)), -there)
        assert not net(pair[:, :1].expand(-1, 2, *size)).any()


def test_a_network_begins_at_rest() -> None:
    image = torch.rand(1, 2, 16, 16)
    assert network(at_rest=True)(image).abs().max() < 1e-3 < network()(image).abs().max()
    with pytest.raises(ValueError, match="must end in a convolution with 2 channels"):
        start_at_rest(nn.Conv2d(1, 4, 3), 2)
    for wrong in ({"spatial_dims": 4}, {"factor": 0}, {"alpha": -1.0}, {"power": 0.0}):
        with pytest.raises(ValueError, match="SmoothedVelocity: '"):
            SmoothedVelocity(nn.Conv2d(2, 2, 3), **{"spatial_dims": 2, **wrong})


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter calls what torch deprecated
def test_exports_agree_at_every_size(tmp_path) -> None:
    net = network(3)
    examples = [torch.rand(1, 2, 16, 24, 8), torch.rand(1, 2, 24, 16, 16)]
    for report in (to_torchscript(net, tmp_path / "a.ts", examples), to_onnx(net, tmp_path / "a.onnx", examples)):
        assert len(report.errors) == 2


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_loss_is_the_energy_of_the_pair_both_ways(spatial_dims: int) -> None:
    size, spacing = SIZES[spatial_dims], (2.0, 1.5, 3.0)[:spatial_dims]
    images, v = torch.rand(2, 2, *size), velocities(size, 2, 1.0, 4.0, 0)
    model = RegistrationModel(sigma=0.05)
    by_hand = []
    for pair, velocity in zip(images.split(1), v.split(1), strict=True):
        subject, template = pair[:, :1], pair[:, 1:]
        grid = Grid(size, spacing)
        there, back = PairEnergy(model, grid, template, subject), PairEnergy(model, grid, subject, template)
        w = resize_field(velocity, there.metric.size, corners=False)
        cost = 0.5 * (there.energy(w) + back.energy(-w))
        assert cost == pytest.approx(
            float(0.5 * (there.data(w) + back.data(-w)) + regulariser(there.metric, w)), rel=1e-5
        )
        by_hand.append(cost / (grid.voxel_volume * images[0, 0].numel()))
    loss = SymmetricPairEnergy(model, spacing)
    assert float(loss(v, images)) == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert float(loss(-v, images.flip(1))) == pytest.approx(np.mean(by_hand), rel=1e-5)


def test_the_loss_is_least_near_the_truth_and_pulls_there() -> None:
    size = (48, 48)
    template, subjects, v = cohort(size, 2, amplitude=2.0, width=6.0)
    pair = torch.cat([subjects[:1], template], 1)
    loss = SymmetricPairEnergy()
    energies = [float(loss(s * v[:1], pair)) for s in (-1.0, 0.0, 0.25, 0.5)]
    assert energies == sorted(energies, reverse=True)
    rest = torch.zeros(1, 2, *size, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(rest, pair), rest)
    assert float((slope * v[:1]).sum()) < 0
    relative = RelativeEnergy()
    relative(torch.cat([0.5 * v[:1], 0 * v[:1], -v[:1]]), pair.expand(3, -1, -1, -1))
    good, still, bad = relative.get_buffer()[:, 0].tolist()
    assert good < 0.5 < still == 1.0 < bad
    assert float(relative.aggregate()) == pytest.approx((good + still + bad) / 3)


def test_losses_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="must be 'svf'"):
        SymmetricPairEnergy(RegistrationModel(path="lddmm"))
    for pred, label in ((2, (1, 3, 8, 8)), (2, (1, 2, 8, 9)), (3, (1, 2, 8, 8)), (2, (2, 2, 8, 8))):
        with pytest.raises(ValueError, match="'pred' must be"):
            SymmetricPairEnergy()(torch.zeros(1, pred, 8, 8), torch.zeros(label))
    with pytest.raises(ValueError, match="there must be a pair"):
        RelativeEnergy().aggregate()


def people(n: int = 4, with_labels: bool = True) -> list[dict]:
    """Subjects whose images hold their number."""
    out = [{"case": f"s{i}", "image": MetaTensor(torch.full((1, 12, 16), float(i)))} for i in range(n)]
    return [{**p, "labels": MetaTensor(torch.full((1, 12, 16), i))} for i, p in enumerate(out)] if with_labels else out


def test_pairs_are_of_two_subjects_in_both_orders_and_a_seed_replays_them() -> None:
    make = RandPaird(people(), blurred=0.0).set_random_state(0)
    drawn = [(i, make({"i_moving": i})) for i in (0, 1, 2, 3) * 20]
    orders = {(float(p["moving"].mean()), float(p["fixed"].mean())) for _, p in drawn}
    assert orders == {(float(i), float(j)) for i in range(4) for j in range(4) if i != j}
    assert all(p["case"] == f"s{int(p['moving'].mean())}_to_s{int(p['fixed'].mean())}" for _, p in drawn)
    assert float(drawn[0][1]["seg_moving"].mean()) == float(drawn[0][1]["moving"].mean())
    again = RandPaird(people(), blurred=0.0).set_random_state(0)
    assert [again({"i_moving": i})["case"] for i, _ in drawn[:9]] == [p["case"] for _, p in drawn[:9]]
    fixed = RandPaird(people(with_labels=False))({"i_moving": 3, "i_fixed": 1})
    assert fixed["case"] == "s3_to_s1"
    assert "seg_fixed" not in fixed


def test_blurred_templates_are_means_of_subjects_or_of_moved_copies_of_one() -> None:
    make = RandPaird(people(16), blurred=1.0, registered=0.0).set_random_state(0)
    means = [make({"i_moving": 0}) for _ in range(40)]
    counts = {int(p["case"].rpartition("_")[2]) for p in means}
    assert min(counts) == 2
    assert max(counts) == 16
    whole = [p for p in means if p["case"].endswith("_16")]
    assert all(float(p["fixed"].mean()) == pytest.approx(7.5) for p in whole)
    assert all("seg_fixed" not in p for p in means)
    template, subjects, _ = cohort((48, 48), 2, noise=0.0)
    two = [{"case": "a", "image": template[0]}, {"case": "b", "image": subjects[0]}]
    later = RandPaird(two, blurred=1.0, registered=1.0, residual=1.0).set_random_state(1)({"i_moving": 0})
    assert later["case"].endswith("_of_b")
    other = (later["fixed"] - subjects[0]).square().mean()
    assert 0 < other < 0.2 * (template - subjects).square().mean(), "it is the other subject, a little blurred"


def test_residual_displacements_have_mean_0_and_do_not_fold() -> None:
    make = RandPaird(people(), residual=0.75).set_random_state(0)
    for _ in range(5):
        fields = make._residuals(6, (48, 40))
        assert fields.mean(0).abs().max() < 1e-6
        assert fields.square().sum(1).mean().sqrt() <= 0.75
        assert folding(fields).n_folded == 0


def test_wrong_pairs_are_refused() -> None:
    for wrong in ({"blurred": 1.5}, {"registered": -1}, {"n_members": (1, 4)}, {"residual": -1.0}):
        with pytest.raises(ValueError, match="must be in 0 to 1, 'residual' at least 0"):
            RandPaird(people(), **wrong)
    with pytest.raises(ValueError, match="must be at least two"):
        RandPaird(people(1))
    odd = [*people(1), {"case": "odd", "image": torch.zeros(1, 8, 8)}]
    with pytest.raises(ValueError, match=r"must lie on one grid.*of s0 and .*of odd"):
        RandPaird(odd)({"i_moving": 0, "i_fixed": 1})
    assert len(subject_pairs("abcd", each_pair=True)) == 6
    assert [p["i_moving"] for p in subject_pairs("abcd")] == [0, 1, 2, 3]
    assert len({tuple(p.values()) for p in subject_pairs("abcd", each_pair=True, n_pairs=4)}) == 4
    with pytest.raises(ValueError, match="must be at least two and 'n_pairs' one"):
        subject_pairs("a")


def test_images_are_smoothed_before_a_coarser_grid_alone() -> None:
    affine = torch.diag(torch.tensor([1.0, 4.0, 1.0, 1.0], dtype=torch.float64))
    stripes = (torch.arange(16.0) % 2).reshape(1, 16, 1, 1).expand(1, 16, 16, 4)
    smooth = AntiAliasd("image", 4.0)
    along = smooth({"image": MetaTensor(stripes, affine=affine)})["image"]
    assert along[0, 4:12].std() < 0.01, "fine stripes would alias"
    across = MetaTensor(stripes.transpose(1, 2).contiguous(), affine=affine)
    fine = AntiAliasd("image", (1.0, 4.0, 1.0))
    assert torch.equal(fine({"image": across})["image"].as_tensor(), across.as_tensor())
    ones = smooth({"image": MetaTensor(torch.ones(1, 8, 8, 8), affine=affine)})["image"]
    torch.testing.assert_close(ones.as_tensor(), torch.ones(1, 8, 8, 8))
    assert torch.equal(ones.affine, affine)
    with pytest.raises(ValueError, match="must be positive"):
        AntiAliasd("image", 0.0)


def test_subjects_of_a_folder_are_split_by_its_folders_or_by_a_hash(tmp_path) -> None:
    volume = nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype=np.float32), np.eye(4))
    for i in range(30):
        nibabel.save(volume, tmp_path / f"p{i}.nii.gz")
    nibabel.save(volume, tmp_path / "p0_labels.nii.gz")
    (tmp_path / ".p31.nii").write_bytes(b"")
    splits = {split: [e["case"] for e in subject_list(tmp_path, split)] for split in ("train", "validation", "test")}
    assert (
        sorted(case for cases in splits.values() for case in cases)
        == sorted(e["case"] for e in subject_list(tmp_path))
        == sorted(f"p{i}" for i in range(30))
    )
    assert len(splits["train"]) > 18
    entries = {e["case"]: e for e in subject_list(tmp_path)}
    assert entries["p0"]["labels"].endswith("p0_labels.nii.gz")
    assert "labels" not in entries["p1"]
    for split in ("train", "val"):
        for name in "ab":
            (tmp_path / "named" / split).mkdir(parents=True, exist_ok=True)
            nibabel.save(volume, tmp_path / "named" / split / f"{name}.nii")
    assert [e["case"] for e in subject_list(tmp_path / "named", "validation")] == ["val_a", "val_b"]
    with pytest.raises(ValueError, match="at least two subjects"):
        subject_list(tmp_path / "named", "test")
    with pytest.raises(ValueError, match="must hold NIfTI images"):
        subject_list((tmp_path / "empty").mkdir() or tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        subject_list(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'split' must be one of"):
        subject_list(tmp_path, "val")
    with pytest.raises(ValueError, match="give 'dataset_dir', or a 'cohort'"):
        subject_list(None, cohort=BrainCohort(2, contrasts=("t2",)))


def test_gradients_are_clipped_after_the_scaler_took_its_factor_off() -> None:
    net = nn.Linear(4, 1, bias=False)
    net.weight.grad = torch.full((1, 4), 1024.0 * 10)
    scaler = SimpleNamespace(unscale_=lambda optimizer: net.weight.grad.div_(1024.0))
    ClipGradients(net, 1.0)._clip(SimpleNamespace(scaler_=scaler, optimizer=None))
    assert float(net.weight.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    net.weight.grad = torch.full((1, 4), 0.01)
    ClipGradients(net, 1.0)._clip(SimpleNamespace())
    assert float(net.weight.grad[0, 0]) == pytest.approx(0.01)
    with pytest.raises(ValueError, match="must be positive"):
        ClipGradients(net, 0.0)


def test_pairs_leave_metrics_and_pictures(tmp_path) -> None:
    size = (24, 32, 16)
    template, subjects, v = cohort(size, 2, amplitude=1.5, width=5.0)
    labels = (template > 0.3).float()
    moved = warp(labels, exponential(v[:1], inverse=True), mode="nearest")
    image = torch.cat([subjects[:1], template], 1)[0]
    sample = {"case": "a_to_b", "image": image, "seg_moving": moved[0], "seg_fixed": labels[0]}
    state = SimpleNamespace(batch=[sample], output=[{"pred": v[0]}], iteration=1, epoch=3)
    engine, energy = SimpleNamespace(state=state), SymmetricPairEnergy()
    save = SavePairs(tmp_path / "eval", energy)
    save._start()
    save._add(engine)
    save._write()
    summary = json.loads((tmp_path / "eval" / "metrics.json").read_text())["summary"]
    assert summary["no_motion"]["relative_energy"] == 1
    assert summary["no_motion"]["ssd_ratio"] == pytest.approx(1)
    assert summary["prior"]["relative_energy"] < 0.9
    assert summary["prior"]["ssd_ratio"] < 0.3
    assert summary["no_motion"]["dice"] < summary["prior"]["dice"]
    assert summary["prior"]["dice"] > 0.9
    assert (tmp_path / "eval" / "a_to_b.png").stat().st_size > 5000
    PreviewPairs(tmp_path / "run", energy)._draw(engine)
    assert (tmp_path / "run" / "previews" / "epoch_0003.png").is_file()
    assert (tmp_path / "run" / "preview.png").is_file()


def test_overlap_counts_the_labels_of_the_reference_but_0() -> None:
    assert mean_dice(torch.tensor([0, 1, 1, 5]), torch.tensor([0, 1, 1, 2])) == 0.5
    assert np.isnan(mean_dice(torch.zeros(3), torch.zeros(3)))
    with pytest.raises(ValueError, match="images of one size"):
        draw_pair("x.png", torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 3))
