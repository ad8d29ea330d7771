"""MONAI's networks on packed channels: what MONAI gets wrong, shown, and the same network behind ours, right.

A first assertion that fails says that MONAI mended a defect: then the work-round beside it can go.
"""

import monai.apps.reconstruction.networks.nets.coil_sensitivity_model as monais
import pytest
import torch
from monai.apps.reconstruction.networks.nets.coil_sensitivity_model import CoilSensitivityModel
from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel
from monai.apps.reconstruction.transforms.array import RandomKspaceMask
from torch import nn

from medkit.mri import (
    ImageRefiner,
    PackedReconstructor,
    PackedVarNet,
    PackReconstructiond,
    TrailingComplex,
    pack_reconstruction,
    root_sum_of_squares,
)
from medkit.mri.monai_networks import CentreSensitivities
from medkit.ops import centered_ifft
from tests.mri.small_exams import random_kspace

FEATURES = (4, 4, 4, 4, 4, 4)


def sensitivity_model() -> CoilSensitivityModel:
    torch.manual_seed(1)
    return CoilSensitivityModel(2, FEATURES)


def varnet(num_cascades=2, **options) -> VariationalNetworkModel:
    torch.manual_seed(0)
    return VariationalNetworkModel(sensitivity_model(), ComplexUnet(2, FEATURES), num_cascades, **options)


def columns(*ranges, width=32) -> torch.Tensor:
    """Masks of columns (B, 1, 1, W), each sampled in one range."""
    masks = torch.zeros(len(ranges), 1, 1, width, dtype=torch.bool)
    for mask, (first, last) in zip(masks, ranges, strict=True):
        mask[..., first:last] = True
    return masks


def packed(kspace: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return what PackReconstructiond(coil_images=True) makes of k-space (B, coil, H, W)."""
    coil_images = centered_ifft(kspace * mask)
    return pack_reconstruction(coil_images[:, :1], mask, coil_images)


def magnitude(network: nn.Module, kspace: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    pred = network(packed(kspace, mask))
    assert pred.dtype == torch.float32
    assert not pred[:, 1].any()
    return pred[:, 0]


def test_without_cascades_it_is_the_root_sum_of_squares():
    kspace, mask = random_kspace(2, 3, 32, 24), columns((8, 16), (6, 19), width=24)
    result = magnitude(PackedVarNet(varnet(num_cascades=0)), kspace, mask)
    torch.testing.assert_close(result, root_sum_of_squares(centered_ifft(kspace * mask)))


def test_the_maps_have_norm_1_and_the_phase_of_the_network():
    model, mask = sensitivity_model(), columns((12, 20))[..., None]
    kspace = torch.view_as_real(random_kspace(1, 3, 32, 32))
    theirs = model(kspace, mask).square().sum((1, -1))
    torch.testing.assert_close(theirs, torch.full_like(theirs, 2.0), msg="MONAI normalises complex maps now")
    ours = torch.view_as_complex(CentreSensitivities(model)(kspace, mask))
    torch.testing.assert_close(ours.abs().square().sum(1), torch.ones(1, 32, 32))
    centre = torch.zeros_like(kspace)
    centre[..., 12:20, :] = kspace[..., 12:20, :]
    images = torch.view_as_real(centered_ifft(torch.view_as_complex(centre)))
    raw = torch.view_as_complex(model.conv_net(images[0, :, None]).contiguous())[:, 0]
    torch.testing.assert_close(ours[0], raw / root_sum_of_squares(raw, 0))


def test_it_is_monais_network_but_for_the_norm_of_the_maps(monkeypatch):
    network, kspace, mask = varnet(), random_kspace(1, 3, 32, 32), columns((10, 22))
    measured = torch.view_as_real(kspace * mask)
    ours = magnitude(PackedVarNet(network), kspace, mask)
    assert (network(measured, mask[..., None]) - ours).norm() > 0.01 * ours.norm()
    monkeypatch.setattr(
        monais, "root_sum_of_squares_t", lambda x, spatial_dim: x.square().sum((spatial_dim, -1))[..., None].sqrt()
    )
    torch.testing.assert_close(network(measured, mask[..., None]), ours, atol=1e-4, rtol=1e-4)


def test_three_axes_are_refused():
    network = varnet(spatial_dims=3)
    assert network.cascades[0].spatial_dims == 2, "MONAI builds cascades of 3 axes now"
    with pytest.raises(ValueError, match="PackedVarNet: 'network' must have spatial_dims=2"):
        PackedVarNet(network)


def test_the_mask_may_be_of_numbers():
    masker = RandomKspaceMask(center_fractions=[0.25], accelerations=[2])
    masker.set_random_state(0)
    masked, _ = masker(torch.view_as_real(random_kspace(3, 32, 32)).numpy())
    mask = torch.as_tensor(masker.mask)[None]
    with pytest.raises(RuntimeError, match=r"(?i)bool"):
        varnet()(torch.as_tensor(masked)[None], mask)
    given = packed(torch.view_as_complex(torch.as_tensor(masked))[None], mask[..., 0])
    assert bool(torch.isfinite(PackedVarNet(varnet())(given)).all())


def test_batches_full_sampling_and_points_find_their_centres():
    model = sensitivity_model()
    points = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    points[..., 10:22, 10:22] = True
    masks = {"batch": columns((12, 20), (9, 23)), "full": columns((0, 32)), "points": points}
    for name, error in (("batch", RuntimeError), ("full", IndexError), ("points", RuntimeError)):
        with pytest.raises(error):
            model.get_fully_sampled_region(masks[name][..., None])
    network, kspace = PackedVarNet(varnet()), random_kspace(2, 3, 32, 32)
    together = magnitude(network, kspace, masks["batch"])
    for i in range(2):
        alone = magnitude(network, kspace[i : i + 1], masks["batch"][i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)
    # Maps depend on the centre alone, whatever else is sampled.
    more = points.clone()
    more[..., ::9, ::7] = True
    ours, measured = CentreSensitivities(model), torch.view_as_real(kspace[:1])
    torch.testing.assert_close(ours(measured, points[..., None]), ours(measured, more[..., None]))
    whole = ours(measured, masks["full"][..., None])
    torch.testing.assert_close(whole.square().sum((1, -1)), torch.ones(1, 32, 32))


def test_coils_and_slices_of_zeros_change_nothing_and_keep_gradients_finite():
    kspace, mask = random_kspace(2, 3, 32, 32), columns((10, 22))
    kspace[0, 2] = 0
    theirs = varnet()(torch.view_as_real(kspace[:1] * mask), mask[..., None])
    assert bool(theirs.isnan().any()), "MONAI's normalisation takes coils of zeros now"
    network = PackedVarNet(varnet())
    result = magnitude(network, kspace, mask.expand(2, 1, 1, 32))
    torch.testing.assert_close(result[:1], magnitude(network, kspace[:1, :2], mask))
    result.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters())
    assert not magnitude(network, torch.zeros_like(kspace), mask.expand(2, 1, 1, 32)).any()


def test_complex_unet_refines_and_leaves_what_is_empty():
    torch.manual_seed(0)
    unet = ComplexUnet(2, FEATURES)
    image = torch.randn(2, 2, 32, 24)
    image[1] = 0
    stacked = image.movedim(1, -1)[:, None]
    theirs = unet(stacked)
    assert bool(theirs[1].isnan().any()), "MONAI's ComplexUnet takes images of zeros now"
    ours = TrailingComplex(unet)(image)
    torch.testing.assert_close(ours[0], theirs[0, 0].movedim(-1, 0))
    assert not ours[1].any()
    network = PackedReconstructor(ImageRefiner(TrailingComplex(unet)))
    torch.testing.assert_close(network(torch.cat([image, image[:, :1]], 1)), image + ours)


def test_names_of_weights_are_monais():
    network = varnet()
    assert list(PackedVarNet(network).network.state_dict()) == list(network.state_dict())
    assert type(network.coil_sensitivity_model) is CoilSensitivityModel, "the network that was given is left alone"


@pytest.mark.parametrize("n_slices", [None, 2])
def test_coil_images_are_packed_in_the_place_of_the_maps(n_slices):
    shape = (3, 16, 12) if n_slices is None else (3, 16, 12, n_slices)
    kspace = random_kspace(*shape)
    mask = columns((2, 9), width=12)[0]
    mask = mask if n_slices is None else mask[..., None]
    measured = kspace * mask
    last = measured if n_slices is None else measured[..., 1]
    sample = {"measured": measured, "mask": mask, "scale": torch.tensor(2.0)}
    sample["zero_filled"] = measured[:1]
    image = PackReconstructiond(coil_images=True)(sample)["image"]
    assert image.shape == (9, *shape[1:])
    image = image if n_slices is None else image[..., 1]
    expected = centered_ifft(last[None])[0] / 2
    torch.testing.assert_close(torch.complex(image[3::2], image[4::2]), expected)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PackedVarNet(ComplexUnet(2, FEATURES)), "must be MONAI's VariationalNetworkModel"),
        (lambda: PackedVarNet(VariationalNetworkModel(nn.Identity(), nn.Identity(), 1)), "got .* with Identity"),
        (lambda: PackedVarNet(varnet())(torch.ones(1, 3, 32, 32)), "must hold an image of each coil"),
        (lambda: PackedVarNet(varnet())(packed(random_kspace(1, 2, 32, 32), columns((15, 17)))), "at least 4 lines"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
