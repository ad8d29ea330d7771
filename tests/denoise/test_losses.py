"""Training without clean images: Stein's estimate is the error, blind spots leave no way to copy."""

import pytest
import torch
from torch import nn

from medkit.denoise import MDRN, BlindSpotd, BlindSpotLoss, SteinLoss
from tests.denoise.small_denoisers import image, scaled_up


class Matrix(nn.Module):
    """A linear denoiser: an image of n pixels times a matrix."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(matrix)

    def forward(self, x):
        return (x.flatten(1) @ self.matrix.T).reshape(x.shape[0], 1, *x.shape[2:])


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def closed_form(matrix, noisy, sigma):
    """Stein's estimate of a matrix: the divergence is the sum of the diagonal, weighed with the variance."""
    n = len(matrix)
    pred = (noisy.flatten(1) @ matrix.T).reshape(noisy.shape)
    variance = (torch.as_tensor(sigma) ** 2).expand(noisy.shape[1:]).flatten()
    return (pred - noisy).square().mean() - variance.mean() + 2 / n * (variance * matrix.diagonal()).sum()


def test_diagonal_denoisers_give_the_closed_form_exactly():
    torch.manual_seed(0)
    matrix, y = torch.diag(image(16)), normal(3, 1, 4, 4)
    net = Matrix(matrix)
    assert torch.allclose(SteinLoss(net, sigma=0.7)(net(y), y), closed_form(matrix, y, 0.7), atol=1e-5)
    level = image(1, 4, 4) + 0.1
    target = torch.cat([y, level.expand(3, 1, 4, 4)], 1)
    assert torch.allclose(SteinLoss(net)(net(y), target), closed_form(matrix, y, level), atol=1e-5)


def test_the_divergence_of_any_matrix_is_met_on_average():
    torch.manual_seed(0)
    matrix, y = normal(16, 16) / 4, normal(1, 1, 4, 4, seed=1)
    net = Matrix(matrix)
    with torch.no_grad():
        draws = torch.stack([SteinLoss(net, sigma=0.7)(net(y), y) for _ in range(1500)])
        expected = closed_form(matrix, y, 0.7)
    assert abs(float(draws.mean() - expected)) < 4 * float(draws.std()) / 1500**0.5
    assert float(draws.std()) / 1500**0.5 < 0.02


@pytest.mark.parametrize("noise_map", [False, True])
def test_its_mean_over_noise_is_the_error_to_the_clean_image(noise_map):
    torch.manual_seed(0)
    sigma, x = 0.3, image(1, 1, 8, 8)
    net = scaled_up(MDRN(channels=4, noise_map=noise_map), gain=0.5).eval()
    level = torch.full((400, 1, 8, 8), sigma)
    y = x + sigma * normal(400, 1, 8, 8)
    target = torch.cat([y, level], 1)
    with torch.no_grad():
        pred = net(target if noise_map else y)
        estimate = SteinLoss(net, noise_map=noise_map)(pred, target)
        error = (pred - x).square().mean()
    assert float(estimate) == pytest.approx(float(error), abs=0.05 * sigma**2)
    assert abs(float((pred - y).square().mean() - error)) > 0.2 * sigma**2


def test_its_gradient_leads_to_the_best_shrinkage():
    # f(y) = a y on white images of variance s²: the best factor is s² / (s² + sigma²).
    torch.manual_seed(0)
    y = normal(2, 1, 48, 48) + 0.5 * normal(2, 1, 48, 48, seed=1)
    net = nn.Conv2d(1, 1, 1, bias=False)
    loss, optimizer = SteinLoss(net, sigma=0.5), torch.optim.SGD(net.parameters(), 0.3)
    for _ in range(30):
        optimizer.zero_grad()
        loss(net(y), y).backward()
        optimizer.step()
    assert float(net.weight.detach()) == pytest.approx(1 / 1.25, abs=0.04)
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


def test_blind_spots_are_a_share_of_the_pixels_with_a_value_of_a_neighbour():
    x = torch.arange(2 * 60 * 50.0).reshape(2, 60, 50)
    out = BlindSpotd(stride=5, radius=2).set_random_state(0)({"image": x})
    mask = out["label"][2] == 1
    assert torch.equal(out["label"][:2], x)
    assert int(mask.sum()) == 12 * 10
    assert torch.equal(out["image"][:, ~mask], x[:, ~mask])
    value = out["image"][:, mask]
    assert torch.equal(value[1] - value[0], torch.full((120,), 3000.0))  # all channels from the same place
    row, column = torch.where(mask)
    down, right = torch.div(value[0], 50, rounding_mode="floor") - row, value[0] % 50 - column
    assert int(torch.maximum(down.abs(), right.abs()).min()) == 1
    assert int(torch.maximum(down.abs(), right.abs()).max()) == 2
    assert torch.equal(x, torch.arange(6000.0).reshape(2, 60, 50))


@pytest.mark.parametrize("size", [(1, 2), (3, 1, 1), (7, 9, 5)])
def test_small_images_have_a_blind_spot(size):
    x = torch.arange(float(torch.Size(size).numel())).reshape(1, *size)
    for seed in range(10):
        out = BlindSpotd(stride=10).set_random_state(seed)({"image": x})
        assert int((out["image"] != x).sum()) == int(out["label"][1].sum()) >= 1


def test_a_seed_replays_blind_spots():
    x = image(1, 40, 40)
    a, b = (BlindSpotd().set_random_state(1)({"image": x}) for _ in range(2))
    assert torch.equal(a["image"], b["image"])


def test_copying_the_input_is_worse_than_the_mean():
    # A flat image with unit noise: a copy of another pixel is wrong by 2, the mean by 1, and the true copy would be 0.
    x = normal(1, 300, 300)
    out = BlindSpotd(stride=3).set_random_state(0)({"image": x})
    hidden, label = out["image"][None], out["label"][None]
    assert float(BlindSpotLoss()(hidden, label)) == pytest.approx(2, rel=0.04)
    assert float(BlindSpotLoss()(torch.zeros_like(hidden), label)) == pytest.approx(1, rel=0.04)
    assert float(BlindSpotLoss()(x[None], label)) == 0
    assert float(BlindSpotLoss(1)(torch.zeros_like(hidden), label)) == pytest.approx((2 / torch.pi) ** 0.5, rel=0.04)


def test_only_blind_spots_count():
    pred = torch.zeros(1, 2, 4, 4, requires_grad=True)
    target = torch.ones(1, 3, 4, 4)
    target[:, 2] = 0
    target[:, 2, 1, 2] = 1
    BlindSpotLoss()(pred, target).backward()
    assert torch.equal(pred.grad.abs().sum((0, 1)) > 0, target[0, 2] == 1)
    target[:, 2] = 0
    assert float(BlindSpotLoss()(pred.detach(), target)) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SteinLoss(nn.Identity(), sigma=0), "'sigma' must be positive, got 0"),
        (lambda: SteinLoss(nn.Identity(), sigma=1, noise_map=True), "'sigma' must be None with noise_map=True"),
        (lambda: SteinLoss(nn.Identity(), epsilon=0), "'epsilon' must be positive"),
        (
            lambda: SteinLoss(nn.Identity())(*[torch.ones(1, 1, 4)] * 2),
            r"must be \(1, 2, 4\) .* map of sigma at the end",
        ),
        (lambda: BlindSpotLoss(3), "'norm' must be 1 or 2, got 3"),
        (lambda: BlindSpotLoss()(*[torch.ones(1, 1, 4)] * 2), r"'target' must be \(1, 2, 4\), the noisy image and"),
        (lambda: BlindSpotd(stride=0), "'stride' must be at least 1"),
        (lambda: BlindSpotd(keys=("a", "b")), "'keys' must be one key"),
        (lambda: BlindSpotd()({"image": torch.ones(3, 1, 1)}), "at least two pixels"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
