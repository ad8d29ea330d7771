"""The contrastive loss by its laws: zero at the reference, decreasing towards it, bounded, finite, resumable."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from medkit.mri import ContrastiveReconstructionLoss, FeatureExtractor, GradientFeatures
from medkit.mri.losses import _structural_similarity

FORMS = ("ratio", "bounded")


class _Magnitude(FeatureExtractor):
    """The image itself: the simplest linear features."""

    def __init__(self):
        super().__init__([1.0])

    def forward(self, image):
        return [image]


def images(batch: int = 2, size: int = 32, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth positive reference and a noisy zero-filled image, as Re and Im with the same phase everywhere."""
    generator = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(batch, 1, size, size, generator=generator) * 0.5 + 0.5
    noisy = (magnitude + 0.2 * torch.randn(magnitude.shape, generator=generator)).clamp(min=0.05)
    direction = torch.tensor([0.6, 0.8])[:, None, None]
    return magnitude * direction, noisy * direction


def contrast(loss: ContrastiveReconstructionLoss, pred, reference, zero_filled) -> float:
    loss(pred, torch.cat([reference, zero_filled], 1))
    return float(loss.parts["contrast"])


@pytest.mark.parametrize("form", FORMS)
def test_regulariser_is_zero_at_the_reference_alone(form):
    x, x0 = images()
    loss = ContrastiveReconstructionLoss(form=form)
    assert float(loss(x, torch.cat([x, x0], 1))) == 0
    assert contrast(loss, x + 0.1 * torch.randn_like(x), x, x0) > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("features", [_Magnitude(), GradientFeatures(2)], ids=["magnitude", "gradient"])
def test_regulariser_falls_on_the_way_to_the_reference(form, features):
    x, x0 = images()
    loss = ContrastiveReconstructionLoss(form=form, features=features)
    values = [contrast(loss, x0 + t * (x - x0), x, x0) for t in torch.linspace(0, 1, 11)]
    assert all(b < a for a, b in pairwise(values))
    # On that line a = (1 - t) d and n = t d, so the values are known.
    middle = 1.0 if form == "ratio" else 0.5
    assert values[5] == pytest.approx(middle, rel=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_finite_with_finite_gradient_at_the_zero_filled_image(form):
    x, x0 = images()
    pred = x0.clone().requires_grad_()
    loss = ContrastiveReconstructionLoss(form=form)
    loss(pred, torch.cat([x, x0], 1)).backward()
    assert torch.isfinite(pred.grad).all()
    value = float(loss.parts["contrast"])
    assert value < (2 if form == "bounded" else 2000)


@pytest.mark.parametrize("form", FORMS)
def test_finite_for_empty_images(form):
    pred = torch.zeros(1, 2, 32, 32, requires_grad=True)
    loss = ContrastiveReconstructionLoss(form=form, ssim_weight=0.2)(pred, torch.zeros(1, 4, 32, 32))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("seed", range(3))
def test_bounded_form_lies_between_0_and_1(seed):
    x, x0 = images(seed=seed)
    features = GradientFeatures(3)
    features.level_weights = (5.0, 2.0, 1.0)
    loss = ContrastiveReconstructionLoss(form="bounded", features=features)
    for pred in (x, x0, torch.zeros_like(x), 3 * x0 - 2 * x, torch.randn_like(x) * 100):
        assert 0 <= contrast(loss, pred, x, x0) <= 1


def test_value_is_the_formula():
    x, x0 = images(batch=3)
    pred = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    loss = ContrastiveReconstructionLoss(beta=0.3, features=_Magnitude())
    value = loss(pred, torch.cat([x, x0], 1))
    total = 0.0
    for p, r, z in zip(pred, x, x0, strict=True):
        p, r, z = (i.square().sum(0).sqrt() / r.square().sum(0).sqrt().max() for i in (p, r, z))
        total += (p - r).abs().mean() / ((p - z).abs().mean() + 1e-3 * r.abs().mean()) / 3
    assert torch.allclose(value, (pred - x).abs().mean() + 0.3 * total, rtol=1e-4)


def test_only_the_reconstruction_gets_a_gradient():
    x, x0 = images()
    pred = (x + 0.1).requires_grad_()
    target = torch.cat([x, x0], 1).requires_grad_()
    ContrastiveReconstructionLoss(ssim_weight=0.2)(pred, target).backward()
    assert target.grad is None
    assert pred.grad.abs().sum() > 0


def test_order_of_the_batch_and_scale_of_the_image_do_not_matter():
    x, x0 = images(batch=3)
    pred, order = x + 0.1 * torch.randn_like(x), [2, 0, 1]
    loss = ContrastiveReconstructionLoss()
    assert contrast(loss, pred[order], x[order], x0[order]) == pytest.approx(contrast(loss, pred, x, x0), rel=1e-5)
    assert contrast(loss, 5 * pred, 5 * x, 5 * x0) == pytest.approx(contrast(loss, pred, x, x0), rel=1e-4)


def test_warm_up_counts_training_steps_and_resumes():
    x, x0 = images()
    target = torch.cat([x, x0], 1)
    loss = ContrastiveReconstructionLoss(beta=0.5, warmup_steps=4)
    used = []
    for _ in range(6):
        loss(x0.clone().requires_grad_(), target)
        used.append(float(loss.parts["beta"]))
        loss(x0, target)  # validation: no gradient, no step
    assert used == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5])
    fresh = ContrastiveReconstructionLoss(beta=0.5, warmup_steps=4)
    loss.set_step(3)
    assert list(loss.state_dict()) == ["n_steps"]
    fresh.load_state_dict(loss.state_dict())
    assert float(fresh.current_beta) == pytest.approx(0.375)
    assert float(ContrastiveReconstructionLoss(beta=0.5).current_beta) == 0.5


def test_parts_tell_the_distances_of_each_level():
    x, x0 = images()
    loss = ContrastiveReconstructionLoss(features=GradientFeatures(3), ssim_weight=0.2)
    loss((x0 * 0.7 + x * 0.3).requires_grad_(), torch.cat([x, x0], 1))
    assert set(loss.parts) == {"l1", "contrast", "ssim_loss", "beta", "d_ap", "d_an"}
    assert loss.parts["d_ap"].shape == loss.parts["d_an"].shape == (3,)
    assert torch.allclose(loss.parts["d_ap"] / loss.parts["d_an"], torch.tensor(7 / 3), rtol=0.01)
    assert not any(value.requires_grad for value in loss.parts.values())


def test_no_weight_of_the_features_is_trained_or_saved_with_the_loss():
    loss = ContrastiveReconstructionLoss()
    assert list(loss.parameters()) == []
    assert list(nn.ModuleDict({"loss": loss}).state_dict()) == ["loss.n_steps"]


def test_ssim_equals_scikit_image():
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 1, 30, 25, generator=generator)
    ours = _structural_similarity(x, y)
    for i in range(2):
        theirs = structural_similarity(x[i, 0].double().numpy(), y[i, 0].double().numpy(), win_size=7, data_range=1.0)
        assert float(ours[i]) == pytest.approx(theirs, abs=1e-5)


def test_crop_and_autocast():
    x, x0 = images(size=40)
    target = torch.cat([x, x0], 1)
    pred = x.clone()
    pred[..., :4] += 1  # outside the crop
    assert float(ContrastiveReconstructionLoss(crop_size=(32, 32))(pred, target)) == 0
    with torch.autocast("cpu", torch.bfloat16):
        value = ContrastiveReconstructionLoss()(pred.bfloat16(), target)
    assert value.dtype == torch.float32


def test_beta_0_leaves_plain_l1():
    x, x0 = images(size=8)  # smaller than the features allow: they are not asked
    loss = ContrastiveReconstructionLoss(beta=0)
    assert torch.equal(loss(x0, torch.cat([x, x0], 1)), (x0 - x).abs().mean())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ContrastiveReconstructionLoss(beta=-1), "must be at least 0, got -1"),
        (lambda: ContrastiveReconstructionLoss(form="log"), "'form' must be one of"),
        (lambda: ContrastiveReconstructionLoss(warmup_steps=-1), "'warmup_steps' must be at least 0"),
        (lambda: ContrastiveReconstructionLoss().set_step(-1), "'n_steps' must be at least 0"),
        (lambda: ContrastiveReconstructionLoss()(torch.ones(1, 2, 32, 32), torch.ones(1, 2, 32, 32)), "'target'"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
