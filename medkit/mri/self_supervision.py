"""Training and validation on samples that were held back, where no fully sampled reference exists.

Source: Yaman et al. 2020, doi:10.1002/mrm.28378 (SSDU).
"""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor, nn

from medkit.mri.channels import channels_to_complex, complex_to_channels
from medkit.mri.physics import sense_forward


def pack_held(
    held_measured: Tensor, held_mask: Tensor, sens_maps: Tensor | None = None, channel_dim: int = 1
) -> Tensor:
    """Put samples that were held back, and all that predicts them from an image, into one real tensor.

    Args:
        held_measured: complex, ``(B, coil, H, W[, S])``, or without ``B`` for ``channel_dim=0``; already divided by the
            scale of the image.
        held_mask: bool or 0/1, broadcastable to one channel of ``held_measured``, centred: the samples held back.
        sens_maps: complex, shape of ``held_measured``; ``None`` for one uniform coil.
        channel_dim: 1 for a batch, 0 for a sample.

    Returns:
        float32, ``(B, 1 + 4 coil, H, W[, S])``: the mask, Re and Im of each coil's samples, Re and Im of each coil's
        sensitivity; ``(B, 3, H, W[, S])`` without ``sens_maps``.

    Raises:
        ValueError: if an argument is not of this form.

    Example:
        >>> kspace = torch.ones(1, 2, 4, 4, dtype=torch.complex64)
        >>> pack_held(kspace, torch.ones(1, 1, 1, 4, dtype=torch.bool), kspace).shape
        torch.Size([1, 9, 4, 4])
    """
    if not held_measured.is_complex() or held_measured.ndim < channel_dim + 3:
        raise ValueError(
            f"pack_held: 'held_measured' must be complex (coil, H, W[, S]), got {held_measured.dtype} "
            f"{tuple(held_measured.shape)}"
        )
    one = list(held_measured.shape)
    one[channel_dim] = 1
    fits = held_mask.ndim == len(one) and all(m in (1, n) for m, n in zip(held_mask.shape, one, strict=True))
    if held_mask.is_complex() or not fits:
        raise ValueError(
            f"pack_held: 'held_mask' must be real and broadcast to {tuple(one)}, got {held_mask.dtype} "
            f"{tuple(held_mask.shape)}"
        )
    if sens_maps is None and held_measured.shape[channel_dim] != 1:
        raise ValueError(
            f"pack_held: 'sens_maps' must be given for {held_measured.shape[channel_dim]} coils, got none; put "
            "SensitivityMapsd before"
        )
    parts = [held_mask.expand(one).to(torch.float32), complex_to_channels(held_measured, channel_dim)]
    if sens_maps is not None:
        if sens_maps.shape != held_measured.shape:
            raise ValueError(
                f"pack_held: 'sens_maps' must be of the shape of 'held_measured' {tuple(held_measured.shape)}, got "
                f"{tuple(sens_maps.shape)}"
            )
        parts.append(complex_to_channels(sens_maps, channel_dim))
    return torch.cat(parts, channel_dim).to(torch.float32)


def unpack_held(label: Tensor, channel_dim: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
    """Take a packed tensor apart again: the inverse of :func:`pack_held`.

    Args:
        label: real, ``(B, 3 or 1 + 4 coil, H, W[, S])``, or without ``B`` for ``channel_dim=0``.
        channel_dim: 1 for a batch, 0 for a sample.

    Returns:
        The samples held back, complex ``(B, coil, H, W[, S])``, their mask, bool ``(B, 1, H, W[, S])``, and the
        sensitivity maps, complex ``(B, coil, H, W[, S])``, or ``None`` if there are only three channels.

    Raises:
        ValueError: if the number of channels is not 3, 5, 9, 13, ...

    Example:
        >>> unpack_held(torch.ones(1, 9, 4, 4))[0].shape
        torch.Size([1, 2, 4, 4])
    """
    n_channels = label.shape[channel_dim]
    if label.is_complex() or not (n_channels == 3 or (n_channels >= 5 and n_channels % 4 == 1)):
        raise ValueError(
            f"unpack_held: 'label' must be real with 3 or 1 + 4 coil channels on axis {channel_dim}, as PackHeldd "
            f"packs them, got {label.dtype} {tuple(label.shape)}"
        )
    n_coils = max(1, n_channels // 4)
    mask = label.narrow(channel_dim, 0, 1) > 0.5
    held = channels_to_complex(label.narrow(channel_dim, 1, 2 * n_coils), channel_dim)
    if n_channels == 3:
        return held, mask, None
    return held, mask, channels_to_complex(label.narrow(channel_dim, 1 + 2 * n_coils, 2 * n_coils), channel_dim)


def _predicted(name: str, pred: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Samples held back, and what an image (B, 2 or more, H, W) gives in their place, complex (B, coil, H, W)."""
    if pred.is_complex() or pred.ndim != 4 or pred.shape[1] < 2 or label.ndim != 4:
        raise ValueError(
            f"{name}: 'pred' must be real with channels Re and Im, and 'label' as PackHeldd packs it, got {pred.dtype} "
            f"{tuple(pred.shape)} and {tuple(label.shape)}"
        )
    if (pred.shape[0], *pred.shape[2:]) != (label.shape[0], *label.shape[2:]):
        raise ValueError(
            f"{name}: 'pred' and 'label' must have the same samples, rows and columns, got {tuple(pred.shape)} and "
            f"{tuple(label.shape)}"
        )
    held, mask, maps = unpack_held(label.detach().float())
    return held * mask, sense_forward(channels_to_complex(pred[:, :2].float()), mask, maps)


class SelfSupervisedLoss(nn.Module):
    r"""How far an image, measured anew, is from samples that the network did not see.

    .. math:: L = \frac{\|u - v\|_2}{\|u\|_2} + \frac{\|u - v\|_1}{\|u\|_1}, \qquad v = M_\Lambda F S x

    with :math:`u` the samples held back, of all coils, and :math:`M_\Lambda` their mask; the mean over the samples of
    the batch. What lies outside :math:`M_\Lambda` has no gradient.

    Source: Yaman et al. 2020, doi:10.1002/mrm.28378 (SSDU).

    Differs:
        - The absolute value of a complex sample is its modulus: a phase common to image and samples changes nothing.
        - Where all samples held back are 0, as in a slice of air, nothing is to be learned: such a sample counts 0.

    Checked: by the laws in ``tests/mri/test_self_supervision.py``.

    Raises:
        ValueError: on a call, if the tensors do not fit together.

    Example:
        >>> kspace = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
        >>> SelfSupervisedLoss()(torch.zeros(1, 2, 8, 8), pack_held(kspace, torch.ones(1, 1, 8, 8)))
        tensor(2.)
    """

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            pred: reconstruction, real, ``(B, 2, H, W)``: Re and Im, in the unit of the samples held back.
            target: real, ``(B, 1 + 4 coil, H, W)``, see :func:`pack_held`.

        Returns:
            Scalar, float32; 0 where the image gives the samples held back, 2 where it is 0.
        """
        with torch.autocast(pred.device.type, enabled=False):
            held, predicted = _predicted("SelfSupervisedLoss", pred, target)
            difference = (held - predicted).flatten(1)
            total = pred.new_zeros(held.shape[0], dtype=torch.float32)
            for order in (2, 1):
                size = torch.linalg.vector_norm(held.flatten(1), order, dim=1)
                distance = torch.linalg.vector_norm(difference, order, dim=1)
                total = total + torch.where(size > 0, distance / torch.where(size > 0, size, 1), 0)
            return total.mean()


class VolumeHeldResidual(CumulativeIterationMetric):
    r"""How far images, measured anew, are from samples held back: :math:`\|u - v\|_2 / \|u\|_2` of each volume.

    A metric for MONAI's engines where no reference exists: 0 where the samples are predicted, 1 for an empty image; the
    smaller the better, so give the evaluator a ``metric_cmp_fn``. ``pred`` is real ``(2, H, W[, S])`` and ``label`` as
    :func:`pack_held` packs it; one number for each item of a batch, NaN where all samples held back are 0.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.

    Raises:
        ValueError: on a call, if the tensors do not fit together.

    Example:
        >>> kspace = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
        >>> VolumeHeldResidual()(torch.zeros(1, 2, 8, 8), pack_held(kspace, torch.ones(1, 1, 8, 8)))
        tensor([[1.]])
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__()
        self.reduction = reduction

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if y is None or len(y) != len(y_pred):
            raise ValueError("VolumeHeldResidual: 'y' must hold a label for each item of 'y_pred'")
        values = []
        for pred, label in zip(y_pred, y, strict=True):
            slices = [x[None] if x.ndim == 3 else x.movedim(-1, 0) for x in (pred, label)]
            held, predicted = _predicted("VolumeHeldResidual", *slices)
            size, distance = (torch.linalg.vector_norm(x, dtype=torch.complex128) for x in (held, held - predicted))
            values.append(float(distance / size) if float(size) > 0 else float("nan"))
        return torch.tensor(values, dtype=torch.float32, device=y_pred.device)[:, None]

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor:
        """Join what was accumulated since the last ``reset``; items that are NaN do not count.

        Args:
            reduction: overrides that of the constructor.

        Returns:
            0-dim tensor for ``"mean"``.
        """
        buffer = self.get_buffer()
        if not isinstance(buffer, Tensor):
            raise ValueError("VolumeHeldResidual: nothing was accumulated before 'aggregate'")
        return do_metric_reduction(buffer, reduction or self.reduction)[0]
