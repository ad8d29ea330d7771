"""The loss of a classifier that reads from the labels whether one class holds, or several at a time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ClassificationLoss(nn.Module):
    """Cross-entropy of one class, or of several independent ones.

    Args:
        label_smoothing: share of the target that is spread over all classes, in [0, 1).

    Raises:
        ValueError: if ``label_smoothing`` is out of range; when called, if the labels are neither of both kinds.

    Example:
        >>> ClassificationLoss()(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"ClassificationLoss: 'label_smoothing' must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = float(label_smoothing)

    def forward(self, pred: Tensor, label: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            pred: logits, ``(B, C)``.
            label: numbers of classes, an integer type, ``(B,)`` or ``(B, 1)``; or 0 and 1, floating, ``(B, C)``.

        Returns:
            Scalar.
        """
        if not label.is_floating_point() and label.numel() == pred.shape[0]:
            target = label.reshape(-1).long()
            return functional.cross_entropy(pred, target, label_smoothing=self.label_smoothing)
        if label.is_floating_point() and label.shape == pred.shape:
            target = label * (1 - self.label_smoothing) + self.label_smoothing / 2
            return functional.binary_cross_entropy_with_logits(pred, target.to(pred))
        raise ValueError(
            "ClassificationLoss: 'label' must be whole numbers (B,) or floating 0 and 1 of the shape of 'pred', "
            f"got {label.dtype} {tuple(label.shape)} for {tuple(pred.shape)}"
        )
