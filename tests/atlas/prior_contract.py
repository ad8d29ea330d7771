"""What every prior must keep: a test of a new one calls these, with random weights, large ones, and trained ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medkit.atlas import RegistrationPrior, SobolevMetric, predict_velocity
from medkit.atlas.smoothing import CONVOLUTIONS
from tests.atlas.phantom import cohort

NAMES = ["anna", "ben"]


def images(size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Template ``(1, 1, *size)`` and two subjects ``(2, 1, *size)``, brain-like, 0 to 1."""
    template, subjects, _ = cohort(size, 2, amplitude=1.5, width=4.0)
    return template.clamp(0, 1), subjects.clamp(0, 1)


def scaled_up(network: nn.Module, template: Tensor, subject: Tensor, largest: float = 2.0) -> None:
    """Draw all weights anew, and scale the output's so that the largest prediction has ``largest`` voxels."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 100
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        network.eval()
        pair = torch.cat([subject, template], 1)
        out = network(pair)
        ends = [m for m in network.modules() if isinstance(m, CONVOLUTIONS) and m.out_channels == out.shape[1]]
        for parameter in [p for m in ends for p in m.parameters()]:
            parameter.mul_(largest / out.abs().max())


def asked(prior: RegistrationPrior, template: Tensor, subjects: Tensor) -> Tensor:
    """What the prior itself says of images that it can take."""
    more = {"names": NAMES[: len(subjects)]} if prior.spec.needs_names else {}
    spacing = torch.ones(prior.spec.spatial_dims)
    return prior.predict(template, subjects, spacing=spacing, **more)


def check_prediction(prior: RegistrationPrior, size: tuple[int, ...]) -> None:
    """Shape, dtype and device are as promised, all is finite, inputs stay, and the same question has one answer."""
    template, subjects = images(size)
    kept = template.clone(), subjects.clone()
    out = asked(prior, template, subjects)
    n = prior.spec.spatial_dims
    assert out.shape == ((2, n, n + 1) if prior.spec.kind == "affine" else (2, n, *size))
    assert out.dtype == torch.float32
    assert out.device == subjects.device
    assert torch.isfinite(out).all()
    assert not out.requires_grad
    assert torch.equal(template, kept[0])
    assert torch.equal(subjects, kept[1])
    assert torch.equal(asked(prior, template, subjects), out)
    alone = torch.cat([asked(prior, template, subjects[i : i + 1]) for i in range(2)])
    if not prior.spec.needs_names:
        # Rounding differs between batches, and half the difference of large random activations magnifies it.
        torch.testing.assert_close(alone, out, rtol=0, atol=0.02 * max(1e-3, float(out.abs().max())))


def velocity(prior: RegistrationPrior, template: Tensor, subject: Tensor) -> Tensor:
    """The velocity that the prior gives on the images' grid."""
    found = predict_velocity(prior, template, subject, SobolevMetric(template.shape[2:]), NAMES[0])
    assert found is not None
    return found


def check_swap(prior: RegistrationPrior, size: tuple[int, ...]) -> None:
    """Exchanged images have the opposite velocity, equal images none."""
    template, subjects = images(size)
    there, back = velocity(prior, template, subjects[:1]), velocity(prior, subjects[:1], template)
    torch.testing.assert_close(there, -back, rtol=1e-5, atol=1e-6)
    assert not velocity(prior, template, template).any()


def check_padding(prior: RegistrationPrior, size: tuple[int, ...], tolerance: float = 0.1) -> None:
    """Background around the images changes nothing inside the object."""
    template, subjects = images(size)
    pads = [16] * (2 * len(size))
    wide = velocity(prior, F.pad(template, pads), F.pad(subjects[:1], pads))
    inside = (slice(None), slice(None), *[slice(16, -16)] * len(size))
    object_ = (template > 0.1).expand(1, len(size), *size)
    change = (wide[inside] - velocity(prior, template, subjects[:1]))[object_]
    assert float(change.abs().max()) < tolerance


def check_translation(prior: RegistrationPrior, template: Tensor, shift: int = 2) -> None:
    """A trained prior finds how far, and along which axis, a subject was moved, within a voxel in the mean.

    Args:
        prior: with trained weights.
        template: ``(1, 1, *S)``, as it was trained on, with background around.
        shift: in voxels.
    """
    inside = (template > 0.1)[0, 0]
    for axis in range(prior.spec.spatial_dims):
        found = velocity(prior, template, torch.roll(template, shift, dims=2 + axis))[0]
        means = torch.stack([component[inside].mean() for component in found])
        wanted = torch.zeros(len(means))
        wanted[axis] = shift
        assert float(means[axis]) > 0
        assert float((means - wanted).abs().max()) < 1
