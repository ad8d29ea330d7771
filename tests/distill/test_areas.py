"""Distinctive areas by their laws: boxes against loops, unions that count once, one detector for both networks."""

import pytest
import torch

from medkit.distill import AreaMaps, DistinctiveArea, FitNet, box_masks, peak_boxes

SIZES = [(7, 9), (5, 4, 6)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_maps(size: tuple[int, ...], seed: int = 0) -> AreaMaps:
    d = len(size)
    sides, offset = 4 * normal(3, d, *size, seed=seed + 1).abs(), 6 * normal(3, d, *size, seed=seed + 2).relu()
    return AreaMaps(normal(3, 1, *size, seed=seed), sides, offset)


def detector(dims: int, **options) -> DistinctiveArea:
    torch.manual_seed(0)
    return DistinctiveArea(dims, 4, **options)


def looped(maps: AreaMaps, n_areas: int) -> torch.Tensor:
    """Boxes and masks voxel by voxel, in plain Python."""
    batch, size = len(maps.heat), maps.heat.shape[2:]
    masks = torch.zeros(batch, n_areas, *size, dtype=torch.bool)
    everywhere = [tuple(v) for v in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist()]
    for b in range(batch):
        heat = maps.heat[b, 0]
        peaks = []
        for voxel in everywhere:
            around = heat[tuple(slice(max(v - 1, 0), v + 2) for v in voxel)]
            if heat[voxel] == around.max():
                peaks.append((float(heat[voxel]), voxel))
        peaks.sort(key=lambda peak: -peak[0])
        for i in range(n_areas):
            voxel = peaks[i if i < len(peaks) else 0][1]
            box = []
            for axis, n in enumerate(size):
                centre = voxel[axis] + 0.5 + float(maps.offset[(b, axis, *voxel)])
                half = float(maps.size[(b, axis, *voxel)]) / 2
                low = min(max(round(centre - half), 0), n - 1)
                box.append(slice(low, max(min(round(centre + half), n), low + 1)))
            masks[(b, i, *box)] = True
    return masks


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n_areas", [1, 3, 8, 200])
def test_masks_equal_a_loop(size, n_areas):
    maps = random_maps(size)
    boxes = peak_boxes(maps, n_areas)
    assert torch.equal(box_masks(boxes, size), looped(maps, n_areas))


@pytest.mark.parametrize("size", [*SIZES, (1, 2)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_boxes_are_inside_whole_and_of_constant_shape_under_ties(size, scale):
    maps = AreaMaps(torch.zeros(3, 1, *size), *(scale * x for x in random_maps(size)[1:]))
    boxes = peak_boxes(maps, 8)
    assert boxes.shape == (3, 8, len(size), 2)
    assert boxes.dtype == torch.int64
    low, high = boxes.unbind(-1)
    assert bool((low >= 0).all())
    assert bool((low < high).all())
    assert bool((high <= torch.tensor(size)).all())


def test_only_peaks_propose_areas():
    heat = torch.zeros(1, 1, 9, 9)
    heat -= (torch.arange(9) - 4).square() + (torch.arange(9) - 2)[:, None].square()
    boxes = peak_boxes(AreaMaps(heat, torch.full((1, 2, 9, 9), 3.0), torch.zeros(1, 2, 9, 9)), 5)
    assert boxes.tolist() == [5 * [[[1, 4], [3, 6]]]]


@pytest.mark.parametrize("dims", [2, 3])
def test_equal_inputs_have_no_consistency_loss_and_swapping_swaps(dims):
    areas = detector(dims, supervision="none")
    x, y = normal(2, 4, *[6] * dims), normal(2, 4, *[6] * dims, seed=1)
    assert float(areas(x, x.clone()).consistency.detach()) == 0
    assert float(areas(x, y).consistency.detach()) > 0
    assert float(areas(x, y).consistency.detach()) == pytest.approx(float(areas(y, x).consistency.detach()), rel=1e-6)
    assert torch.equal(areas(x, y).boxes, peak_boxes(areas.maps(x), 8))
    assert torch.equal(areas(y, x).boxes, peak_boxes(areas.maps(y), 8))


def test_consistency_is_the_mean_square_over_all_maps():
    areas = detector(2)
    x, y = normal(2, 4, 6, 5), normal(2, 4, 6, 5, seed=1)
    with torch.no_grad():
        own, other = areas.maps(x), areas.maps(y)
        wanted = (own.heat.sigmoid() - other.heat.sigmoid()).square().sum()
        wanted += (own.size - other.size).square().sum() + (own.offset - other.offset).square().sum()
        assert float(areas(x, y).consistency) == pytest.approx(float(wanted) / (2 * 5 * 30), rel=1e-5)


def test_a_union_counts_each_voxel_once_and_what_is_outside_never():
    term, x, y = FitNet("none"), torch.zeros(1, 3, 6, 6), torch.zeros(1, 3, 6, 6)
    boxes = torch.tensor([[[[0, 3], [0, 3]], [[0, 3], [0, 3]], [[2, 4], [2, 4]]]])
    union = box_masks(boxes, (6, 6)).any(1, keepdim=True).float()
    assert float(union.sum()) == 12
    y[:, :, :3, :3] = 1
    once = float(term(x, y, mask=union))
    assert once == pytest.approx(9 / 12)
    assert float(term(x, y, mask=box_masks(boxes[:, 1:], (6, 6)).any(1, keepdim=True))) == pytest.approx(once)
    y[:, :, 5] = 100
    assert float(term(x, y, mask=union)) == pytest.approx(once)


def test_the_areas_of_a_volume_of_depth_1_are_those_of_the_image():
    flat, deep = detector(2), detector(3)
    with torch.no_grad():
        for name in ("heat", "size", "offset"):
            for i in (0, 2):
                kernel, bias = getattr(flat, name)[i].weight, getattr(flat, name)[i].bias
                other = getattr(deep, name)[i]
                other.weight.zero_()
                other.bias.zero_()
                # The third axis' own channel stays empty.
                other.weight[: len(kernel), ..., other.weight.shape[-1] // 2] = kernel
                other.bias[: len(kernel)] = bias
        x, y = normal(2, 4, 8, 7), normal(2, 4, 8, 7, seed=1)
        image, volume = flat(x, y), deep(x[..., None], y[..., None])
    assert torch.equal(volume.mask[..., 0], image.mask)
    assert torch.equal(volume.boxes[:, :, :2], image.boxes)
    assert float(volume.saliency) == pytest.approx(float(image.saliency), rel=1e-5)


def test_gradients_reach_student_and_detector_and_not_the_teacher():
    areas = detector(2)
    x, y = normal(2, 4, 8, 8).requires_grad_(), normal(2, 4, 8, 8, seed=1).requires_grad_()
    proposal = areas(x, y)
    assert not proposal.mask.requires_grad
    (proposal.consistency + proposal.saliency).backward()
    assert y.grad is None
    assert float(x.grad.abs().max()) > 0
    assert all(float(p.grad.abs().max()) > 0 for p in areas.parameters())


def test_saliency_keeps_the_detector_from_a_constant():
    """Trained on one bright place, the highest peak comes to lie there; unsupervised, the heat loses its contrast."""
    x = 0.05 * normal(2, 4, 8, 8)
    x[:, :, 2, 5] += 3
    contrast = {}
    for supervision in ("teacher_saliency", "none"):
        areas = detector(2, n_areas=1, supervision=supervision)
        optimizer = torch.optim.Adam(areas.parameters(), 0.02)
        for step in range(60):
            optimizer.zero_grad()
            proposal = areas(x + 0.1 * normal(*x.shape, seed=step), x)
            (proposal.consistency + proposal.saliency).backward()
            optimizer.step()
        with torch.no_grad():
            heat = areas.maps(x).heat.sigmoid()
        contrast[supervision] = float(heat.amax() - heat.amin())
        if supervision == "teacher_saliency":
            assert heat.flatten(1).argmax(1).tolist() == [2 * 8 + 5] * 2
            assert bool(areas(x, x).mask[:, 0, 2, 5].all())
        else:
            assert float(proposal.saliency) == 0
    assert contrast["teacher_saliency"] > 0.25
    assert contrast["teacher_saliency"] > 10 * contrast["none"]


def test_flat_and_huge_maps_stay_finite():
    areas = detector(2)
    for x in (torch.zeros(2, 4, 6, 6), 1e4 * normal(2, 4, 6, 6)):
        proposal = areas(x, x.flip(0))
        assert all(bool(torch.isfinite(v).all()) for v in proposal)
        assert proposal.mask.amax() == 1


def test_first_boxes_have_the_size_that_was_asked_for():
    for side in (0.5, 6.0, 40.0):
        size = detector(2, first_size=side).maps(torch.zeros(1, 4, 8, 8)).size
        assert float(size.detach().mean()) == pytest.approx(side, abs=0.6)


def test_errors():
    with pytest.raises(ValueError, match="'spatial_dims' must be 2 or 3, got 1"):
        DistinctiveArea(1, 4)
    with pytest.raises(ValueError, match="'first_size' above 0, got 4, 0 and 4"):
        DistinctiveArea(2, 4, n_areas=0)
    with pytest.raises(ValueError, match="'supervision' must be one of"):
        DistinctiveArea(2, 4, supervision="labels")
    with pytest.raises(ValueError, match=r"maps must be \(B, 4, \*S\) with 2 spatial axes"):
        detector(2).maps(torch.rand(1, 5, 6, 6))
    with pytest.raises(ValueError, match="must have one shape"):
        detector(2)(torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 5))
