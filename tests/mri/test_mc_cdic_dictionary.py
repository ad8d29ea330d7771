"""The multi-scale dictionary, its iterations and the super-resolution operator by their laws."""

from itertools import pairwise

import pytest
import torch
from torch.nn.functional import conv2d, conv_transpose2d

from medkit.mri import KspaceCropOperator, MultiScaleDictionary
from medkit.mri.mc_cdic.proximal import ProximalNetwork, ResidualChannelAttentionBlock
from tests.laws import assert_adjoint, assert_contraction, assert_linear
from tests.mri.small_clgnet import relative
from tests.mri.small_clgnet import scaled_up as with_large_weights
from tests.mri.small_mc_cdic import WIDTHS, flat, network, random_codes, tied, unflat, without_prior

SIZES = ((32, 32), (36, 36), (64, 48), (4, 8))


def dictionary(large=False, dtype=torch.float64, **options):
    torch.manual_seed(0)
    made = MultiScaleDictionary(**{"widths": WIDTHS, **options})
    return (with_large_weights(made, gain=3.0) if large else made).to(dtype).requires_grad_(False)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parts_have_the_published_numbers_of_weights():
    assert count(MultiScaleDictionary()) == 464_896
    assert count(MultiScaleDictionary(dropped_channels=32)) == 464_896
    assert count(MultiScaleDictionary(out_channels=2)) == 460_928
    assert count(ProximalNetwork()) == 1_439_086


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("options", [{}, {"widths": (8, 7, 4), "out_channels": 2, "dropped_channels": 3}])
def test_analysis_is_the_exact_adjoint(options, dtype, tolerance, size, large):
    d = dictionary(large, dtype, **options)
    codes = random_codes(size, d.widths, dtype=dtype)
    features = torch.zeros(1, d.out_channels, *size, dtype=dtype)
    assert_adjoint(
        lambda s: d(unflat(s, codes)), lambda f: flat(d.adjoint(f)), flat(codes), features, tolerance=tolerance
    )


@pytest.mark.parametrize("large", [False, True])
def test_dictionary_is_linear(large):
    d, codes = dictionary(large), random_codes((12, 8))
    assert_linear(lambda s: d(unflat(s, codes)), flat(codes), tolerance=1e-12)
    assert not d([torch.zeros_like(code) for code in codes]).any()


@pytest.mark.parametrize(("scale", "edge"), [(0, 18), (1, 8), (2, 3)])
def test_each_scale_reaches_as_far_as_its_convolutions(scale, edge):
    codes = [torch.zeros_like(code) for code in random_codes((32, 32))]
    codes[scale][..., codes[scale].shape[-2] // 2, codes[scale].shape[-1] // 2] = 1
    assert int((dictionary()(codes).abs().sum((0, 1)) > 0).sum()) == edge**2


def test_convolutions_read_the_code_first_and_then_what_comes_up():
    d, codes = dictionary(), random_codes((8, 8))
    d.at_full.data[:, WIDTHS[2] :] = 0
    alone = d(codes)
    assert alone.abs().max() > 0
    assert torch.equal(alone, d([code * (i == 2) for i, code in enumerate(codes)]))


def test_synthesis_is_the_chain_of_its_convolutions():
    net = dictionary()
    codes = [torch.randn(2, width, 4 << i, 3 << i, dtype=torch.float64) for i, width in enumerate(net.widths)]
    z = conv_transpose2d(conv2d(codes[0], net.at_quarter, padding=1), net.up_to_half, stride=2)
    z = conv2d(torch.cat([codes[1], z], 1), net.at_half, padding=1)
    z = conv_transpose2d(z, net.up_to_full, stride=2)
    z = conv2d(torch.cat([codes[2], z], 1), net.at_full, padding=1)
    torch.testing.assert_close(net(codes), conv2d(z, net.out))


@pytest.mark.parametrize("large", [False, True])
def test_largest_eigenvalue_is_that_of_the_matrix_and_leaves_the_random_state(large):
    d = dictionary(large)
    codes = random_codes((8, 8))
    columns = torch.eye(flat(codes).numel(), dtype=torch.float64)
    matrix = torch.stack([d(unflat(column, codes)).flatten() for column in columns], 1)
    state = torch.get_rng_state()
    estimate = d.largest_eigenvalue(8, 100)
    assert torch.equal(torch.get_rng_state(), state)
    assert estimate == pytest.approx(float(torch.linalg.matrix_norm(matrix.detach(), 2)) ** 2, rel=1e-2)
    assert estimate == d.largest_eigenvalue(8, 100)
    assert d.largest_eigenvalue(32, 20) > 0.8 * d.largest_eigenvalue(64, 60)


# What an iteration does


def problem(large, density=1.0, size=(16, 12)):
    net = network(large).double()
    for branch in (net.target, net.reference, net.common):
        branch.analysis = tied(branch.dictionary)
        branch.log_step.data[:] = -torch.tensor(branch.dictionary.largest_eigenvalue(32, 60)).log()
    net = without_prior(net)
    return net, random_codes(size, seed=1, density=density), random_codes(size, seed=2, density=density)


def fidelity(branch, u, c, features):
    return 0.5 * (features - branch.dictionary(u) - branch.common(c)).square().sum()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("side", ["target", "reference"])
def test_step_descends_the_gradient_of_the_fidelity(side, large):
    net, u, c = problem(large)
    branch = getattr(net, side)
    features = torch.randn(1, WIDTHS[-1], 16, 12, dtype=torch.float64)
    for code in u:
        code.requires_grad_(True)
    gradient = torch.autograd.grad(fidelity(branch, u, c, features), u)
    step = branch.log_step[1].exp()
    moved = branch.update(u, c, branch.analysis.adjoint(features), 1)
    expected = [torch.relu(code - step * g) for code, g in zip(u, gradient, strict=True)]
    assert relative(flat(moved), flat(expected)) < 1e-10
    assert relative(flat(moved), flat(u)) > 1e-2


@pytest.mark.parametrize("large", [False, True])
def test_steps_never_raise_the_objective(large):
    net, u, c = problem(large)
    features = torch.randn(1, WIDTHS[-1], 16, 12, dtype=torch.float64)
    u = [code.relu() for code in u]
    with torch.no_grad():
        analysed = net.target.analysis.adjoint(features)
        values = [float(fidelity(net.target, u, c, features))]
        for _ in range(50):
            u = net.target.update(u, c, analysed, 1)
            values.append(float(fidelity(net.target, u, c, features)))
        assert all(after <= before * (1 + 1e-12) for before, after in pairwise(values))
        assert values[-1] < 0.9 * values[0]

        residuals = torch.randn(2, 1, WIDTHS[-1], 16, 12, dtype=torch.float64)
        evidence = net.evidence(torch.cat(list(residuals), 1))
        c = [code.relu() for code in c]
        values = [float((evidence - net.common.dictionary(c)).square().sum())]
        for _ in range(50):
            c = net.update_common(c, residuals[0], residuals[1], 1)
            values.append(float((evidence - net.common.dictionary(c)).square().sum()))
        assert all(after <= before * (1 + 1e-12) for before, after in pairwise(values))
        assert values[-1] < 0.9 * values[0]


@pytest.mark.parametrize("large", [False, True])
def test_codes_that_explain_everything_stay(large):
    net, u, c = problem(large, density=0.05, size=(32, 32))
    v = random_codes((32, 32), seed=3, density=0.05)
    with torch.no_grad():
        # Evidence of what is left of the target once its unique part is taken: its common part.
        net.target.synthesis = tied(net.target.dictionary)
        net.common.dictionary = tied(net.target.common)
        net.evidence.weight.zero_()
        net.evidence.bias.zero_()
        net.evidence.weight[range(WIDTHS[-1]), range(WIDTHS[-1]), 1, 1] = 1
        x = net.target.dictionary(u) + net.target.common(c)
        y = net.reference.dictionary(v) + net.reference.common(c)
        new_u = net.target.update(u, c, net.target.analysis.adjoint(x), 1)
        new_v = net.reference.update(v, c, net.reference.analysis.adjoint(y), 1)
        new_c = net.update_common(c, x - net.target.synthesis(new_u), y - net.reference.synthesis(new_v), 1)
        for new, old in ((new_u, u), (new_v, v), (new_c, c)):
            assert float((flat(new) - flat(old)).abs().max()) < 1e-6
        moved = net.target.update(u, v, net.target.analysis.adjoint(x), 1)
        assert float((flat(moved) - flat(u)).abs().max()) > 1e-3


@pytest.mark.parametrize("large", [False, True])
def test_the_signal_is_found_again_from_zero(large):
    net, u, c = problem(large, density=0.05, size=(32, 32))
    d, b = net.target.dictionary, net.target.common
    step = 1 / (d.largest_eigenvalue(32, 60) + b.largest_eigenvalue(32, 60))
    left = {}
    with torch.no_grad():
        x = d(u) + b(c)
        u, c = ([torch.zeros_like(code) for code in codes] for codes in (u, c))
        for i in range(500):
            residual = d(u) + b(c) - x
            left[i] = float(residual.norm() / x.norm())
            u, c = (
                [torch.relu(code - step * g) for code, g in zip(codes, m.adjoint(residual), strict=True)]
                for codes, m in ((u, d), (c, b))
            )
    assert all(left[i + 1] <= left[i] * (1 + 1e-9) for i in range(499))
    assert left[100] < 0.1
    assert left[499] < 0.03


def test_attention_gates_whole_channels_between_0_and_1():
    block = with_large_weights(ResidualChannelAttentionBlock(4)).requires_grad_(False)
    z = torch.randn(2, 4, 8, 8)
    gate = block.attention(z) / z
    assert torch.allclose(gate, gate[..., :1, :1].expand_as(gate), atol=1e-5)
    assert 0 < float(gate.min()) < float(gate.max()) < 1
    assert torch.allclose(block(z) - z, block.attention(block.body(z)), atol=1e-6)


# Super-resolution


@pytest.mark.parametrize(("size", "factor"), [((12, 16), 2), ((12, 18), 3), ((10, 14), 2), ((16, 8), 4), ((5, 7), 1)])
def test_crop_of_kspace_and_its_adjoint(size, factor):
    operator = KspaceCropOperator(size, factor)
    large = torch.zeros(2, 1, *size, dtype=torch.complex128)
    small = torch.zeros(2, 1, *operator.small_size, dtype=torch.complex128)
    assert_adjoint(operator.forward, operator.adjoint, large, small, tolerance=1e-12)
    assert_contraction(operator.normal, large)
    ones = torch.ones_like(large)
    assert torch.allclose(operator.forward(ones), torch.ones_like(small), atol=1e-12)
    x = torch.randn(large.shape, dtype=large.dtype)
    masked = torch.fft.ifft2(torch.fft.fft2(x) * operator.mask())
    assert torch.allclose(operator.zero_filled(operator.forward(x)), masked, atol=1e-12)
    assert torch.allclose(operator.normal(x), masked / factor**2, atol=1e-12)
    assert torch.equal(torch.fft.ifftshift(operator.mask(centered=True), dim=(-2, -1)), operator.mask())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MultiScaleDictionary((8, 4)), "'widths' must be three"),
        (lambda: MultiScaleDictionary((8, 4, 0)), "'widths' must be three"),
        (lambda: MultiScaleDictionary((8, 6, 4), out_channels=0), "'out_channels' must be at least 1"),
        (lambda: MultiScaleDictionary((8, 6, 4), dropped_channels=6), "'dropped_channels' must leave"),
        (lambda: dictionary().adjoint(torch.ones(1, 4, 8, 6)), "H and W divisible by 4"),
        (lambda: dictionary().adjoint(torch.ones(1, 3, 8, 8)), r"must be \(B, 4, H, W\)"),
        (lambda: dictionary()(random_codes((8, 8))[:2]), "'codes' must have"),
        (lambda: dictionary()(random_codes((8, 8))[::-1]), "sizes that double"),
        (lambda: dictionary().largest_eigenvalue(6), "'size' must be a multiple of 4"),
        (lambda: ProximalNetwork((4, 4), (1,)), "'n_blocks' must be a number of blocks"),
        (lambda: KspaceCropOperator((9, 8), 2), "'factor' must be at least 1 and divide"),
        (lambda: KspaceCropOperator((8, 8), 2).forward(torch.ones(8, 8)), "'image' must be complex"),
        (lambda: KspaceCropOperator((8, 8), 2).adjoint(torch.ones(8, 8) + 0j), r"\(\.\.\., 4, 4\)"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
