"""The loss of multi-contrast restoration: the target counts, the reference counts a little."""

from torch import Tensor, nn
from torch.nn.functional import l1_loss


class MultiContrastLoss(nn.Module):
    r"""Mean absolute error of the target plus a fraction of that of the reference.

    .. math:: L = |\hat x - x^*|_1 + w \, |\hat y - y^*|_1

    Source: MC-CDic (IJCAI 2023, arXiv 2309.01171).

    Differs: nothing known.

    Checked: by closed form in ``tests/mri/test_mc_cdic_network.py``.

    Args:
        reference_weight: w, at least 0.

    Raises:
        ValueError: if ``reference_weight`` is negative.

    Example:
        >>> one, zero = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
        >>> MultiContrastLoss()((one, one), (zero, zero))
        tensor(1.1000)
    """

    def __init__(self, reference_weight: float = 0.1):
        super().__init__()
        if not reference_weight >= 0:
            raise ValueError(f"MultiContrastLoss: 'reference_weight' must be at least 0, got {reference_weight}")
        self.reference_weight = reference_weight

    def forward(self, pred: tuple[Tensor, Tensor], label: tuple[Tensor, Tensor]) -> Tensor:
        """Compare.

        Args:
            pred: restored target ``(B, C, H, W)`` and re-synthesised reference ``(B, ref_channels, H, W)``, real.
            label: the images to reach, same shapes and unit.

        Returns:
            The loss, a scalar in the unit of the images.

        Raises:
            ValueError: if the shapes differ.
        """
        for name, ours, truth in zip(("target", "reference"), pred, label, strict=True):
            if ours.shape != truth.shape:
                raise ValueError(
                    f"MultiContrastLoss: the {name} of 'label' must have shape {tuple(ours.shape)} like that of "
                    f"'pred', got {tuple(truth.shape)}"
                )
        return l1_loss(pred[0], label[0]) + self.reference_weight * l1_loss(pred[1], label[1])
