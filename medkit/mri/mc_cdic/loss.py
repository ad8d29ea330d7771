"""The loss of multi-contrast restoration: the target counts, the reference counts a little."""

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from medkit.mri.channels import channels_to_magnitude, check_target

Images = tuple[Tensor, Tensor]


class MultiContrastLoss(nn.Module):
    r"""Mean absolute error of the target plus a fraction of that of the reference.

    .. math:: L = |\hat x - x^*|_1 + w \, |\hat y - y^*|_1

    Source: MC-CDic (IJCAI 2023, arXiv 2309.01171).

    Differs: nothing known.

    Checked: by closed form in ``tests/mri/test_mc_cdic_network.py``.

    Args:
        reference_weight: w, at least 0.
        target_channels: of images given as one tensor, how many first channels are the target's: Re and Im.
        target: ``"sense"``: Re and Im of the target are compared; ``"rss"``: its magnitudes, since a root sum of
            squares has no phase.

    Raises:
        ValueError: if ``reference_weight`` is negative, ``target_channels`` is below 1, or ``target`` unknown.

    Example:
        >>> one, zero = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> MultiContrastLoss()((one, one), (zero, zero))
        tensor(1.1000)
    """

    def __init__(self, reference_weight: float = 0.1, target_channels: int = 2, target: str = "sense"):
        super().__init__()
        check_target("MultiContrastLoss", target)
        if not reference_weight >= 0:
            raise ValueError(f"MultiContrastLoss: 'reference_weight' must be at least 0, got {reference_weight}")
        if target_channels < 1:
            raise ValueError(f"MultiContrastLoss: 'target_channels' must be at least 1, got {target_channels}")
        self.reference_weight = reference_weight
        self.target_channels = target_channels
        self.is_rss = target == "rss"

    def forward(self, pred: Images | Tensor, label: Images | Tensor) -> Tensor:
        """Compare.

        Args:
            pred: restored target ``(B, C, H, W)`` and re-synthesised reference ``(B, ref_channels, H, W)``, real; or
                both as one tensor, as :class:`PackedMultiContrast` gives it, whose channels beyond those of ``label``
                do not count.
            label: the images to reach, same shapes and unit; or both as one tensor ``(B, C + ref_channels, H, W)``.

        Returns:
            The loss, a scalar in the unit of the images.

        Raises:
            ValueError: if the shapes differ.
        """
        if isinstance(label, Tensor):
            label = self._split(label)
        if isinstance(pred, Tensor):
            pred = self._split(pred[:, : self.target_channels + label[1].shape[1]])
        for name, ours, truth in zip(("target", "reference"), pred, label, strict=True):
            if ours.shape != truth.shape:
                raise ValueError(
                    f"MultiContrastLoss: the {name} of 'label' must have shape {tuple(ours.shape)} like that of "
                    f"'pred', got {tuple(truth.shape)}"
                )
        images = (pred[0], label[0])
        if self.is_rss:
            # The small number keeps the gradient finite where the image is 0.
            images = (channels_to_magnitude(pred[0], epsilon=1e-12), channels_to_magnitude(label[0], epsilon=1e-12))
        return l1_loss(*images) + self.reference_weight * l1_loss(pred[1], label[1])

    def _split(self, packed: Tensor) -> Images:
        n_more = packed.shape[1] - self.target_channels
        if n_more < 1:
            raise ValueError(
                f"MultiContrastLoss: one tensor of both images must have more than {self.target_channels} channels, "
                f"got {tuple(packed.shape)}"
            )
        target, reference = torch.split(packed, [self.target_channels, n_more], 1)
        return target, reference
