"""Networks as priors: each keeps the contract, with random and with large weights; weights come from files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.networks import nets
from monai.networks.blocks import Warp

from medkit.atlas import (
    AffineNetworkPrior,
    CachedVelocities,
    DisplacementFiles,
    NetworkPrior,
    PairEnergy,
    PriorSpec,
    RegistrationModel,
    SobolevMetric,
    load_weights,
    make_prior,
    predict_velocity,
    register_pair,
    velocity_of_affine,
    write_displacement,
)
from medkit.atlas.pyramid import Grid
from medkit.ops import exponential, identity_points, resize_field
from tests.atlas import prior_contract as contract
from tests.atlas.phantom import velocities

SIZE = {2: (32, 48), 3: (32, 32, 32)}

ADAPTERS = {
    "voxelmorph_unet": lambda d: make_prior("voxelmorph_unet", spatial_dims=d),
    "voxelmorph_unet_bare": lambda d: make_prior("voxelmorph_unet", spatial_dims=d, smoothed=False),
    "voxelmorph_unet_ddf": lambda d: make_prior("voxelmorph_unet", spatial_dims=d, kind="ddf"),
    "localnet": lambda d: make_prior("localnet", spatial_dims=d, extract_levels=(0, 1, 2), num_channel_initial=4),
    "regunet": lambda d: make_prior("regunet", spatial_dims=d, depth=2, num_channel_initial=4),
    "unet": lambda d: make_prior("network", network=nets.UNet(d, 2, d, (4, 8, 8), (2, 2)), spatial_dims=d, divisor=4),
    "dynunet": lambda d: make_prior(
        "network", network=nets.DynUNet(d, 2, d, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 8, 8]), spatial_dims=d
    ),
    "unetr": lambda d: make_prior(
        "network",
        network=nets.UNETR(2, d, SIZE[d], 4, 24, 48, 2, spatial_dims=d),
        spatial_dims=d,
        native_shape=SIZE[d],
    ),
    "swinunetr": lambda d: make_prior(
        "network", network=nets.SwinUNETR(2, d, feature_size=12, spatial_dims=d), spatial_dims=d, divisor=32
    ),
}
# SwinUNETR needs 64 voxels along an axis: at 32 its instance norm has one voxel left.
SIZES = {name: (lambda d: (64, 64)) if name == "swinunetr" else SIZE.get for name in ADAPTERS}
RANDOM = [(name, 2, None) for name in ADAPTERS]
LARGE = [(name, d, 2.0) for name in ADAPTERS for d in (2, 3) if (name, d) != ("swinunetr", 3)]


@pytest.mark.parametrize(("name", "spatial_dims", "scale"), RANDOM + LARGE)
def test_each_network_keeps_the_contract(name: str, spatial_dims: int, scale: float | None) -> None:
    torch.manual_seed(0)
    prior, size = ADAPTERS[name](spatial_dims), SIZES[name](spatial_dims)
    if scale is not None:
        template, subjects = contract.images(size)
        contract.scaled_up(prior.network, template, subjects[:1], scale)
    contract.check_prediction(prior, size)
    if prior.spec.antisymmetric or getattr(prior.network, "antisymmetric", False):
        contract.check_swap(prior, size)


@pytest.mark.parametrize("name", ["voxelmorph_unet", "voxelmorph_unet_bare", "localnet"])
def test_background_around_the_images_changes_nothing(name: str) -> None:
    prior, size = ADAPTERS[name](2), (48, 64)
    template, subjects = contract.images(size)
    contract.scaled_up(prior.network, template, subjects[:1], 0.5)
    contract.check_padding(prior, size)


def test_the_subject_comes_first_as_moving_does_in_monai() -> None:
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 2, *x.shape[2:])

    NetworkPrior(Spy(), spatial_dims=2).predict(torch.zeros(1, 1, 4, 4), torch.ones(2, 1, 4, 4))
    assert seen[0][:, 0].unique().tolist() == [1.0]
    assert seen[0][:, 1].unique().tolist() == [0.0]


def test_of_voxelmorph_the_backbone_speaks_unless_it_learned_around_half_res() -> None:
    torch.manual_seed(0)
    template, subjects = torch.rand(1, 1, 16, 16, 16), torch.rand(1, 1, 16, 16, 16)
    prior = make_prior("voxelmorph")
    assert prior.spec.kind == "svf"
    expected = prior.network(torch.cat([subjects, template], 1)).detach()
    torch.testing.assert_close(prior.predict(template, subjects), expected)
    whole = make_prior("voxelmorph", trained_half_res=True)
    assert (whole.spec.kind, whole.spec.antisymmetric) == ("ddf", False)
    with torch.no_grad():
        torch.testing.assert_close(whole.predict(template, subjects), whole.network.network(subjects, template)[1])
    assert make_prior("voxelmorph", integration_steps=0).spec.kind == "ddf"
    with pytest.raises(ValueError, match="'trained_half_res' must come with 3-D"):
        make_prior("voxelmorph", trained_half_res=True, spatial_dims=2)


def affine(spatial_dims: int) -> torch.Tensor:
    """A turn, a stretch, a shear and a shift, centred."""
    matrix = torch.eye(3)[:spatial_dims, :spatial_dims] + 0.05 * torch.randn(
        spatial_dims, spatial_dims, generator=torch.Generator().manual_seed(0)
    )
    return torch.cat([matrix, torch.arange(1.0, spatial_dims + 1)[:, None] / 2], 1)[None]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_velocity_of_an_affine_map_flows_to_it(spatial_dims: int) -> None:
    size = (40, 36, 32)[:spatial_dims]
    matrix = affine(spatial_dims)
    points = identity_points(size)
    centre = torch.tensor([(n - 1) / 2 for n in size]).reshape(1, -1, *[1] * spatial_dims)
    wanted = torch.einsum("ij,bj...->bi...", matrix[0, :, :-1], points - centre) + centre - points
    wanted = wanted + matrix[0, :, -1].reshape(1, -1, *[1] * spatial_dims)
    found = exponential(velocity_of_affine(matrix, size), n_squarings=10)
    inside = (..., *[slice(8, -8)] * spatial_dims)  # of the border the velocity holds outside, not its line
    assert (found - wanted)[inside].abs().max() < 0.02


@pytest.mark.parametrize(
    "matrix",
    [torch.diag(torch.tensor([-1.0, 1.0])), torch.diag(torch.tensor([-1.0, -1.0])), torch.zeros(2, 2)],
    ids=["mirror", "half turn", "singular"],
)
def test_affine_maps_without_a_logarithm_are_refused_in_one_sentence(matrix: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="must be near the identity"):
        velocity_of_affine(torch.cat([matrix, torch.zeros(2, 1)], 1)[None], (4, 4))
    with pytest.raises(ValueError, match="must be finite"):
        velocity_of_affine(torch.full((1, 2, 3), math.nan), (4, 4))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_globalnet_counts_from_the_first_voxel_and_its_prior_from_the_centre(spatial_dims: int) -> None:
    size = (16, 24, 32)[:spatial_dims]
    prior = make_prior("globalnet", image_size=size, depth=2, num_channel_initial=4)
    template, subjects = contract.images(size)
    contract.check_prediction(prior, size)
    torch.testing.assert_close(
        prior.predict(template, subjects[:1])[0],
        torch.eye(4)[:spatial_dims, : spatial_dims + 1] if spatial_dims == 3 else torch.eye(3)[:2],
    )
    with torch.no_grad():
        fully = prior.network.output_block.fc
        fully.weight.normal_(0, 0.001)
        fully.bias.add_(0.05 * torch.randn(fully.bias.shape))
        ddf = prior.network(torch.cat([subjects[:1], template], 1))
    contract.check_prediction(prior, size)
    matrix = prior.predict(template, subjects[:1])[0]
    centre = torch.tensor([(n - 1) / 2 for n in size]).reshape(1, -1, *[1] * spatial_dims)
    points = identity_points(size) - centre
    moved = torch.einsum("ij,bj...->bi...", matrix[:, :-1], points) + matrix[:, -1].reshape(1, -1, *[1] * spatial_dims)
    torch.testing.assert_close(moved - points, ddf, rtol=1e-4, atol=1e-4)


def test_an_affine_prior_starts_a_registration_on_any_grid() -> None:
    class Says:
        spec = PriorSpec("affine", 2, divisor=1, native_shape=(20, 20), antisymmetric=False)

        def predict(self, template, subjects, *, spacing=None, attributes=None):
            return torch.tensor([[[1.0, 0.0, 1.5], [0.0, 1.0, 0.0]]])

    got = predict_velocity(Says(), torch.rand(1, 1, 39, 39), torch.rand(1, 1, 39, 39), SobolevMetric((39, 39)))
    torch.testing.assert_close(got[0, 0], torch.full((39, 39), 3.0))
    assert not got[0, 1].any()


def test_a_prediction_may_be_descended_from() -> None:
    """Nothing of the prior's inference mode is left."""
    template, subjects = contract.images((32, 32))
    prior = CachedVelocities({"moving": torch.full((2, 4, 4), 0.01)}, spatial_dims=2)
    found = register_pair(template, subjects[:1], factors=(1,), n_steps=(2,), prior=prior)
    assert len(found.energies[0]) > 1


def test_priors_see_the_spacing_of_the_images_they_are_given() -> None:
    seen = []

    class Spy:
        def __init__(self, **options):
            self.spec = PriorSpec("svf", 2, antisymmetric=False, **options)

        def predict(self, template, subjects, *, spacing=None, attributes=None):
            seen.append(spacing.tolist())
            return torch.zeros(1, 2, *subjects.shape[2:])

    for options in ({"divisor": 16}, {"native_shape": (12, 12)}):
        metric = RegistrationModel().metric(Grid((34, 34), (2.0, 1.0)))
        predict_velocity(Spy(**options), torch.rand(1, 1, 34, 34), torch.rand(1, 1, 34, 34), metric)
    assert seen == [[2.0, 1.0], [6.0, 3.0]]


def test_displacement_files_are_read_by_the_subjects_name(tmp_path) -> None:
    fine, size = velocities((32, 32, 32), 2, 1.0, 6.0, 0), (16, 16, 16)
    for name, field in zip(contract.NAMES, fine, strict=True):
        write_displacement(tmp_path / f"{name}_1Warp.nii.gz", field, np.diag([1.0, 1.0, 1.0, 1.0]))
    prior = make_prior("displacement_files", folder=tmp_path)
    out = prior.predict(
        torch.zeros(1, 1, *size), torch.zeros(2, 1, *size), spacing=torch.full((3,), 2.0), names=contract.NAMES
    )
    torch.testing.assert_close(out, resize_field(fine, size, corners=False), rtol=1e-5, atol=1e-6)
    images = torch.zeros(1, 1, *size)
    metric = SobolevMetric((8, 8, 8), 4.0)
    assert predict_velocity(prior, images, images, metric, "ben") is not None
    assert predict_velocity(prior, images, images, metric, "cleo") is None, "a subject without a file has no prior"
    with pytest.raises(FileNotFoundError, match="'cleo'"):
        prior.predict(images, images, names=["cleo"])
    with pytest.raises(ValueError, match="must cover the box of the atlas"):
        prior.predict(images, images, spacing=torch.full((3,), 3.0), names=["ben"])
    with pytest.raises(ValueError, match="a name for each of 1"):
        prior.predict(images, images)
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        DisplacementFiles(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="where the subject's name stands"):
        DisplacementFiles(tmp_path, "warp.nii.gz")


def test_known_velocities_come_from_memory_and_files(tmp_path) -> None:
    known = velocities((12, 10), 2, 1.0, 3.0, 0)
    np.save(tmp_path / "anna.npy", known[0].half().numpy())
    torch.save(known[:1], tmp_path / "anna.pt")
    images = torch.zeros(1, 1, 24, 20)
    wanted = resize_field(known[:1], (24, 20), corners=False)
    for source, pattern, tolerance in (
        ({"anna": known[0]}, "{name}.npy", 0),
        (tmp_path, "{name}.npy", 1e-2),
        (tmp_path, "{name}.pt", 0),
    ):
        prior = make_prior("cached", source=source, pattern=pattern, spatial_dims=2)
        torch.testing.assert_close(prior.predict(images, images, names=["anna"]), wanted, rtol=0, atol=tolerance)
        assert predict_velocity(prior, images, images, SobolevMetric((12, 10), 2.0), "nobody") is None
    contract.check_prediction(CachedVelocities(dict(zip(contract.NAMES, known, strict=True)), spatial_dims=2), (24, 20))


def test_weights_come_from_files_and_wrong_ones_are_refused_in_one_sentence(tmp_path) -> None:
    torch.manual_seed(0)
    prior = make_prior("voxelmorph_unet", spatial_dims=2)
    template, subjects = contract.images((32, 32))
    contract.scaled_up(prior.network, template, subjects[:1])
    state = prior.network.state_dict()
    for content in (state, {"model": {f"module.{name}": value for name, value in state.items()}}):
        torch.save(content, tmp_path / "model.pt")
        again = make_prior("voxelmorph_unet", spatial_dims=2, weights=tmp_path / "model.pt")
        assert torch.equal(again.predict(template, subjects), prior.predict(template, subjects))
    with pytest.raises(FileNotFoundError, match="none at"):
        make_prior("localnet", weights=tmp_path / "nowhere.pt")
    with pytest.raises(ValueError, match="does not fit LocalNet") as caught:
        make_prior("localnet", weights=tmp_path / "model.pt", smoothed=False)
    assert "\n" not in str(caught.value)
    (tmp_path / "text.pt").write_text("weights")
    torch.save(prior, tmp_path / "pickle.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, words in (
        ("text", "must be a state dict"),
        ("pickle", "must be a state dict"),
        ("list", "state dict, got list"),
    ):
        with pytest.raises(ValueError, match=words):
            load_weights(prior.network, tmp_path / f"{name}.pt")
    with pytest.raises(ValueError, match="takes no such options"):
        make_prior("regunet", depht=2)
    with pytest.raises(ValueError, match="AffineNetworkPrior"):
        NetworkPrior(prior.network, kind="affine")
    with pytest.raises(ValueError, match="'network' must have 'image_size'"):
        AffineNetworkPrior(prior.network)
    with pytest.raises(ValueError, match="must have 1 channels"):
        prior.predict(torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16))
    prior.network.forward = lambda x: (x, x)
    with pytest.raises(ValueError, match="must return one tensor"):
        prior.predict(template, subjects)


@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp")  # that MONAI was not compiled
def test_a_velocity_of_monai_is_ours() -> None:
    """What MONAI's warp makes of a subject and a network's velocity is what medkit's energy makes of it."""
    v = velocities((32, 32), 2, 1.0, 5.0, 0)[:1]
    template, subjects = contract.images((32, 32))
    problem = PairEnergy(RegistrationModel(velocity_factor=1.0), Grid((32, 32), (1.0, 1.0)), template, subjects[:1])
    moved = Warp(padding_mode="border")(subjects[:1], problem.displacement(v))
    torch.testing.assert_close(moved, Warp(padding_mode="border")(subjects[:1], exponential(v)), atol=1e-5, rtol=1e-4)
