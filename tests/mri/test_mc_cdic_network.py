"""MC-CDic as a network, by its laws: size, identity, swap, shift, padding, round trips, exports, learning."""

import copy

import pytest
import torch
from torch import nn

from medkit.export import to_onnx
from medkit.mri import MCCDic, MultiContrastLoss
from medkit.mri.mc_cdic.network import pad_to_multiple
from medkit.mri.mc_cdic.proximal import ResidualChannelAttentionBlock
from tests.laws import assert_deterministic
from tests.mri.small_clgnet import relative
from tests.mri.small_mc_cdic import images, network

BOTH = pytest.mark.parametrize("large", [False, True])


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_has_the_published_number_of_weights():
    net = MCCDic()
    branches = (net.target, net.reference, net.common)
    steps, thresholds = (sum(getattr(b, name).numel() for b in branches) for name in ("log_step", "threshold"))
    assert (steps, thresholds) == (15, 864)
    assert count(net) == 9_538_363
    assert count(net) - steps - thresholds == 9_537_484
    assert all(0.2 < float(b.log_step[0].detach().exp()) < 0.3 for b in branches)
    assert count(MCCDic(stage_threshold=True)) == 9_541_819


def test_the_base_preset_is_small_enough_to_ship():
    assert count(MCCDic("base")) == 890_321


def test_dictionaries_start_equal_and_are_not_shared():
    net = network()
    for branch in (net.target, net.reference):
        assert torch.equal(branch.dictionary.at_half, branch.analysis.at_half)
        assert torch.equal(branch.dictionary.at_half, branch.synthesis.at_half)
        assert not torch.equal(branch.dictionary.at_half, branch.common.at_half)
    assert torch.equal(net.common.dictionary.at_half, net.common.analysis.at_half)
    assert not torch.equal(net.target.dictionary.at_half, net.reference.dictionary.at_half)
    assert len({parameter.data_ptr() for parameter in net.parameters()}) == len(list(net.parameters()))


@BOTH
def test_without_heads_the_images_pass_bit_for_bit(large):
    net, (x, y) = network(large), images((15, 10))
    assert relative(net(x, y)[0], x) > 0.01
    for head in (net.target.head, net.reference.head):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    nn.init.zeros_(net.common_synthesis.out)
    out = net(x, y)
    assert torch.equal(out[0], x)
    assert torch.equal(out[1], y)


def sensitivity(net, x, y):
    y = y.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x, y)[0].square().sum(), y)
    return float(gradient.abs().max())


@BOTH
def test_the_reference_is_used_through_the_common_codes_alone(large):
    net, (x, y) = network(large), images()
    assert sensitivity(net, x, y) > 0
    with torch.no_grad():
        for branch in (net.target, net.reference):
            branch.common.out.zero_()
        net.evidence.weight[:, net.evidence.weight.shape[0] :] = 0
    assert sensitivity(net, x, y) > 0  # by the first common codes, which see both images
    with torch.no_grad():
        net.common.embed.weight[:, 1:] = 0
    assert sensitivity(net, x, y) == 0


@BOTH
def test_swapping_the_roles_of_the_images_swaps_the_results(large):
    net, (x, y) = network(large), images()
    swapped = copy.deepcopy(net)
    swapped.target, swapped.reference = swapped.reference, swapped.target
    with torch.no_grad():
        swapped.evidence.weight.copy_(net.evidence.weight.roll(net.evidence.weight.shape[0], 1))
        swapped.common.embed.weight.copy_(net.common.embed.weight.flip(1))
        swapped.common_synthesis.out.copy_(net.common_synthesis.out.flip(0))
    x_hat, y_hat = net(x, y)
    y_swapped, x_swapped = swapped(y, x)
    assert relative(x_swapped, x_hat) < 1e-5
    assert relative(y_swapped, y_hat) < 1e-5
    assert relative(net(y, x)[1], x_hat) > 1e-3


@BOTH
def test_without_attention_the_interior_moves_with_the_image(large):
    # One stage reaches 1 + 10 (first codes), 33 (unique), 33 (common), 11 (images) pixels: less than 92.
    net, reach = network(large, n_stages=1), 92
    x, y = images((8, 2 * reach + 20), batch=1)
    x[..., :4] += 5  # what leaves the image changes the means that attention looks at
    with torch.no_grad():
        with_attention = (net(x[..., 4:], y[..., 4:])[0] - net(x, y)[0][..., 4:])[..., reach:-reach]
        for block in net.modules():
            if isinstance(block, ResidualChannelAttentionBlock):
                block.attention = nn.Identity()
        here, there = net(x, y)[0][..., 4:], net(x[..., 4:], y[..., 4:])[0]
    assert here[..., reach:-reach].numel() > 0
    assert relative(there[..., reach:-reach], here[..., reach:-reach]) < 1e-4
    assert relative(there[..., :8], here[..., :8]) > 1e-3
    if large:
        assert float(with_attention.abs().max()) > 1e-4


@BOTH
def test_a_checkpoint_holds_everything(large, tmp_path):
    net, (x, y) = network(large, data_term="soft", stage_threshold=True), images()
    mask = (torch.rand(2, 1, 16, 12) < 0.5).float()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    fresh = network(seed=7, data_term="soft", stage_threshold=True)
    assert relative(fresh(x, y, mask)[0], net(x, y, mask)[0]) > 1e-3
    fresh.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(fresh(x, y, mask)[0], net(x, y, mask)[0])
    assert "common.log_step" in net.state_dict()


@BOTH
@pytest.mark.parametrize("size", [(13, 15), (16, 10), (7, 12), (4, 5)])
def test_any_size_is_padded_and_cropped(size, large):
    net, (x, y) = network(large), images(size)
    out = net(x, y)
    whole = net(pad_to_multiple(x), pad_to_multiple(y))
    for ours, theirs, image in zip(out, whole, (x, y), strict=True):
        assert ours.shape == image.shape
        assert theirs.shape[2] % 4 == theirs.shape[3] % 4 == 0
        assert relative(ours, theirs[..., : size[0], : size[1]]) < 1e-6
    assert torch.equal(pad_to_multiple(x)[..., : size[0], : size[1]], x)
    height, width = (n + -n % 4 for n in size)
    rows, columns = (torch.arange(n) for n in (height, width))
    mirror = [torch.where(i < n, i, 2 * n - 2 - i) for i, n in ((rows, size[0]), (columns, size[1]))]
    assert torch.equal(pad_to_multiple(x), x[..., mirror[0], :][..., mirror[1]])


@pytest.mark.parametrize("options", [{}, {"stage_threshold": True, "in_channels": 2, "ref_channels": 4}])
def test_script_export_and_trace_agree(options, tmp_path):
    net = network(True, n_stages=1, **options).eval()
    scripted = torch.jit.script(net)
    scripted.save(str(tmp_path / "net.ts"))
    scripted = torch.jit.load(str(tmp_path / "net.ts"))
    for size in ((16, 12), (13, 10)):
        x = images(size, channels=net.in_channels)[0]
        y = images(size, channels=net.ref_channels, seed=1)[0]
        expected = net(x, y)
        exported = torch.export.export(net, (x, y)).module() if size == (16, 12) else net
        for other in (scripted(x, y), exported(x, y)):
            assert max(relative(a, b) for a, b in zip(other, expected, strict=True)) < 1e-5


class _Packed(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        return self.net(image[:, :1], image[:, 1:])[0]


def test_onnx_agrees(tmp_path):
    generator = torch.Generator().manual_seed(0)
    sizes = [torch.rand(2, 2, 16, 12, generator=generator), torch.rand(1, 2, 9, 15, generator=generator)]
    report = to_onnx(_Packed(network(True, n_stages=1)), tmp_path / "net.onnx", sizes)
    assert max(report.errors.values()) < 1e-4


@BOTH
def test_bfloat16_autocast_stays_near(large):
    net, (x, y) = network(large).eval(), images((32, 32), batch=1)
    mixed_term = network(large, data_term="hard").eval()
    mask = (torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    with torch.no_grad():
        exact = net(x, y)[0]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(x, y)[0]
            kept = mixed_term(x, y, mask)[0]
    assert mixed.dtype == kept.dtype == torch.float32
    assert 0 < relative(mixed, exact) < (0.03 if large else 0.01)


@pytest.mark.parametrize("options", [{}, {"stage_threshold": True}, {"in_channels": 2, "ref_channels": 4}])
def test_every_parameter_learns(options):
    net = network(True, learns=True, **options)
    x = images(channels=net.in_channels)[0]
    y = images(channels=net.ref_channels, seed=1)[0]
    sum(out.square().sum() for out in net(x, y)).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
        if name.endswith("log_step"):
            assert parameter.grad.all(), name


@BOTH
def test_samples_do_not_mix(large):
    net, (x, y) = network(large).eval(), images(batch=3)
    alone = torch.cat([net(x[i : i + 1], y[i : i + 1])[0] for i in range(3)])
    assert relative(net(x, y)[0], alone) < 1e-4
    assert_deterministic(lambda: net(x, y)[0])


def test_stage_thresholds_at_zero_change_nothing():
    one, each = network(True), network(True, stage_threshold=True)
    state = one.state_dict()
    for name, value in each.state_dict().items():
        if name.endswith("threshold"):
            padded = torch.zeros_like(value)
            padded[0] = state[name][0]
            state[name] = padded
    each.load_state_dict(state)
    x, y = images()
    assert relative(each(x, y)[0], one(x, y)[0]) < 1e-6
    with torch.no_grad():
        each.target.threshold[1] += 1
    assert relative(each(x, y)[0], one(x, y)[0]) > 1e-4


def test_learns_one_pair_by_heart():
    x, y = images((16, 16), batch=1)
    degraded = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    net, loss = network(learns=True), MultiContrastLoss()
    before = float(loss(net(degraded, y), (x, y)).detach())
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(net(degraded, y), (x, y))
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.7 * before


def test_loss_is_its_formula():
    a, b = torch.full((2, 1, 4, 4), 3.0), torch.zeros(2, 1, 4, 4)
    c, d = torch.full((2, 2, 4, 4), -5.0), torch.zeros(2, 2, 4, 4)
    assert float(MultiContrastLoss()((a, c), (b, d))) == pytest.approx(3.5)
    assert float(MultiContrastLoss(2.0)((a, c), (b, d))) == pytest.approx(13)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MCCDic("huge"), "'preset' must be one of"),
        (lambda: MCCDic("small", n_stages=0), "'n_stages' must be at least 1, got 0"),
        (lambda: MCCDic("small", in_channels=3), "'in_channels' must be 1"),
        (lambda: MCCDic("small", ref_channels=0), "'ref_channels' must be at least 1"),
        (lambda: MCCDic("small", widths=(4, 4)), "'widths' must be three"),
        (lambda: MCCDic("small", data_term="best"), "'data_term' must be one of"),
        (lambda: MCCDic("small", stage_data_term=True), "'stage_data_term' must be False"),
        (lambda: MCCDic("small", fft_backend="fftw"), "'fft_backend' must be"),
        (lambda: network()(torch.ones(1, 2, 8, 8), torch.ones(1, 1, 8, 8)), r"'target' must be \(B, 1"),
        (lambda: network()(torch.ones(1, 1, 3, 8), torch.ones(1, 1, 3, 8)), "H and W at least 4"),
        (lambda: network()(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 9)), r"'reference' must be \(B, 1"),
        (lambda: network(data_term="hard")(*images()), "'mask' must be given"),
        (lambda: network(data_term="hard")(*images(), torch.ones(1, 1, 16, 12)), r"'mask' must be \(B, 1, H, W\)"),
        (
            lambda: network(data_term="hard")(*images(), *[torch.ones(2, n, 16, 12) for n in (1, 2)]),
            "'sens_maps' must be None",
        ),
        (
            lambda: network(data_term="hard", in_channels=2)(
                *images(channels=2), *[torch.ones(2, n, 16, 12) for n in (1, 3)]
            ),
            r"'sens_maps' must be \(B, 2 coil",
        ),
        (lambda: MultiContrastLoss(-1), "'reference_weight' must be at least 0"),
        (lambda: MultiContrastLoss()([torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(2)]), "the reference"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
