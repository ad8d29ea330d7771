"""Multi-contrast images as one tensor: the order of the channels, the parts of the result, exports, errors."""

import pytest
import torch

from medkit.export import to_onnx, to_torchscript
from medkit.mri import (
    MultiContrastLoss,
    PackedMultiContrast,
    complex_to_channels,
    pack_multi_contrast,
    unpack_reconstruction,
)
from tests.mri.small_mc_cdic import network


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (6, 5, 3)])
@pytest.mark.parametrize("n_coils", [0, 2])
@pytest.mark.parametrize("dim", [0, 1])
def test_references_lie_behind_the_mask(size, n_coils, dim):
    lead = (2,) * dim
    x, maps = noise(*lead, 1, *size), noise(*lead, n_coils, *size) if n_coils else None
    guide = noise(*lead, 2, *size).real
    mask = torch.rand(*lead, 1, 1, size[1], *([1] * (len(size) - 2))) > 0.5
    packed = pack_multi_contrast(x, mask, guide, maps, channel_dim=dim)
    assert packed.dtype == torch.float32
    assert packed.shape == (*lead, 5 + 2 * n_coils, *size)
    assert torch.equal(packed.narrow(dim, 3, 2), guide)
    rest = torch.cat([packed.narrow(dim, 0, 3), packed.narrow(dim, 5, 2 * n_coils)], dim)
    x2, mask2, maps2 = unpack_reconstruction(rest, channel_dim=dim)
    assert torch.equal(x2, x)
    assert torch.equal(mask2, mask.expand_as(x))
    assert (maps2 is None) if maps is None else torch.equal(maps2, maps)


@pytest.mark.parametrize("n_coils", [0, 3])
@pytest.mark.parametrize("large", [False, True])
def test_packed_network_is_the_network(n_coils, large):
    net = network(large, in_channels=2, ref_channels=2, data_term="hard")
    x0, guide = noise(2, 1, 12, 16), torch.rand(2, 2, 12, 16)
    mask = torch.rand(2, 1, 1, 16) > 0.4
    maps = noise(2, n_coils, 12, 16) / (2 * n_coils) ** 0.5 if n_coils else None
    packed = PackedMultiContrast(net)(pack_multi_contrast(x0, mask, guide, maps))
    assert packed.shape == (2, 12, 12, 16)
    channels = None if maps is None else complex_to_channels(maps)
    shifted = torch.fft.ifftshift(mask.expand(2, 1, 12, 16), dim=(-2, -1)).float()
    restored, synthesised = net(complex_to_channels(x0), guide, shifted, channels)
    torch.testing.assert_close(packed[:, :2], restored)
    torch.testing.assert_close(packed[:, 2:4], synthesised)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
def test_images_are_their_inputs_and_two_parts(large, channels):
    net = network(large, in_channels=channels, ref_channels=1)
    image = torch.randn(2, 4, 14, 18, generator=torch.Generator().manual_seed(0))
    pred = PackedMultiContrast(net)(image)
    x, y, x_unique, x_common, y_unique, y_common = pred.split([2, 1, 2, 2, 1, 1], 1)
    torch.testing.assert_close(x[:, :channels], (image[:, :2] + x_unique + x_common)[:, :channels])
    torch.testing.assert_close(y, image[:, 3:4] + y_unique + y_common)
    for part in (x_unique, x_common, y_unique, y_common):
        assert float(part.abs().max()) > 1e-3, "a part is empty"
    if channels == 1:
        assert not pred[:, [1, 4, 6]].any()


def test_torchscript_of_the_packed_network_agrees(tmp_path):
    net = PackedMultiContrast(network(True, in_channels=2, ref_channels=1, data_term="soft"))
    sizes = [torch.rand(1, 8, *size) for size in ((32, 40), (45, 33))]
    assert max(to_torchscript(net, tmp_path / "model.ts", sizes).errors.values()) < 1e-4


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_onnx_of_the_packed_network_agrees(tmp_path):
    net = PackedMultiContrast(network(True, in_channels=2, ref_channels=1, data_term="soft"))
    sizes = [torch.rand(1, 4, *size) for size in ((32, 40), (45, 33))]
    assert max(to_onnx(net, tmp_path / "model.onnx", sizes).errors.values()) < 1e-4


def test_loss_of_packed_images_is_that_of_the_pairs():
    pred, label = torch.rand(2, 9, 6, 6), torch.rand(2, 3, 6, 6)
    loss = MultiContrastLoss(0.3)
    expected = loss((pred[:, :2], pred[:, 2:3]), (label[:, :2], label[:, 2:]))
    assert torch.equal(loss(pred, label), expected)
    other = pred.clone()
    other[:, 3:] += 1
    assert torch.equal(loss(other, label), expected), "the parts do not count"
    real = MultiContrastLoss(0.3, target_channels=1)
    assert torch.equal(real(pred, label[:, :2]), real((pred[:, :1], pred[:, 1:2]), (label[:, :1], label[:, 1:2])))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pack_multi_contrast(noise(1, 1, 4, 4), torch.ones(1, 1, 1, 4), torch.ones(1, 1, 4, 5)), "'guide'"),
        (lambda: pack_multi_contrast(noise(1, 1, 4, 4), torch.ones(1, 1, 1, 4), torch.ones(1, 0, 4, 4)), "'guide'"),
        (lambda: pack_multi_contrast(noise(1, 1, 4, 4), torch.ones(1, 1, 1, 4), torch.ones(4, 4)), "'guide'"),
        (
            lambda: PackedMultiContrast(network(in_channels=2, ref_channels=1))(torch.ones(1, 5, 8, 8)),
            "have 4 \\+ 2 coil",
        ),
        (
            lambda: PackedMultiContrast(network(in_channels=2, ref_channels=2))(torch.ones(1, 4, 8, 8)),
            "have 5 \\+ 2 coil",
        ),
        (lambda: MultiContrastLoss()(torch.ones(1, 9, 4, 4), torch.ones(1, 2, 4, 4)), "more than 2 channels"),
        (lambda: MultiContrastLoss()(torch.ones(1, 9, 4, 4), torch.ones(1, 3, 4, 5)), "must have shape"),
        (lambda: MultiContrastLoss(target_channels=0), "'target_channels'"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
