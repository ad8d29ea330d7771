"""How good a classifier is: accuracy, balanced accuracy, area under the ROC curve, and calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, compute_roc_auc, do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor


def class_probabilities(logits: Tensor, is_multilabel: bool = False) -> Tensor:
    """Return the probabilities that logits stand for.

    Args:
        logits: ``(B, C)``.
        is_multilabel: whether the classes are independent of each other.

    Returns:
        Softmax over the classes, or a sigmoid of each, float32, ``(B, C)``.
    """
    return torch.sigmoid(logits.float()) if is_multilabel else torch.softmax(logits.float(), dim=1)


def is_correct(logits: Tensor, label: Tensor) -> Tensor:
    """Return how right each sample is.

    Args:
        logits: ``(B, C)``.
        label: numbers of classes ``(B,)``, or 0 and 1 ``(B, C)``, floating.

    Returns:
        1 or 0 for one class; of several at a time the share of those that are right. Float32, ``(B,)``.
    """
    if label.is_floating_point():
        return ((logits > 0) == (label > 0.5)).float().mean(dim=1)
    return (logits.argmax(dim=1) == label.reshape(-1)).float()


def expected_calibration_error(probabilities: Tensor, label: Tensor, n_bins: int = 15) -> float:
    r"""Mean gap between confidence and accuracy over bins of confidence, :math:`\sum_b \frac{n_b}{n} |a_b - c_b|`.

    Of one class, confidence is the highest probability; of several at a time, each of them is a decision of its own,
    with confidence ``max(p, 1 - p)``.

    Args:
        probabilities: ``(N, C)``.
        label: numbers of classes ``(N,)``, or 0 and 1 ``(N, C)``, floating.
        n_bins: equally wide bins of confidence between 0 and 1.

    Returns:
        0 (calibrated) to 1.

    Raises:
        ValueError: if ``n_bins`` is below 1, or there is no sample.

    Example:
        >>> expected_calibration_error(torch.tensor([[0.8, 0.2], [0.8, 0.2]]), torch.tensor([0, 1]))
        0.3...
    """
    if n_bins < 1 or not len(probabilities):
        raise ValueError(
            f"expected_calibration_error: wanted at least one bin and one sample, got {n_bins} and {len(probabilities)}"
        )
    if label.is_floating_point():
        confidence = torch.maximum(probabilities, 1 - probabilities).flatten().double()
        right = ((probabilities > 0.5) == (label > 0.5)).flatten().double()
    else:
        highest, best = probabilities.max(dim=1)
        confidence, right = highest.double(), (best == label.reshape(-1)).double()
    bins = (confidence * n_bins).ceil().long().clamp(1, n_bins) - 1
    gaps = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins.cpu(), (right - confidence).cpu())
    return float(gaps.abs().sum() / len(confidence))


def classification_metrics(logits: Tensor, label: Tensor) -> dict[str, float]:
    """Measure a classifier on all samples of a data set together.

    Args:
        logits: ``(N, C)``.
        label: numbers of classes, an integer type, ``(N,)``; or 0 and 1, floating, ``(N, C)``.

    Returns:
        ``accuracy`` (of several labels at a time the share of right decisions), ``balanced_accuracy`` (mean recall of
        the classes that occur; of several at a time the mean over classes of the mean of sensitivity and specificity),
        ``auc`` (mean of the areas under the ROC curves of each class against the others, over classes that occur and do
        not fill the data set; nan where there are none) and ``ece`` (:func:`expected_calibration_error`).

    Raises:
        ValueError: if the numbers of samples differ or are 0.

    Example:
        >>> classification_metrics(torch.eye(3), torch.tensor([0, 1, 2]))["accuracy"]
        1.0
    """
    if not len(logits) or len(label) != len(logits):
        raise ValueError(f"classification_metrics: wanted as many labels as logits, got {len(label)} for {len(logits)}")
    logits = logits.detach().float().cpu()
    label = label.detach().cpu()
    is_multilabel = label.is_floating_point()
    probabilities = class_probabilities(logits, is_multilabel)
    n_classes = logits.shape[1]
    truth = label > 0.5 if is_multilabel else torch.nn.functional.one_hot(label.reshape(-1).long(), n_classes).bool()
    chosen = probabilities > 0.5 if is_multilabel else torch.nn.functional.one_hot(logits.argmax(1), n_classes).bool()
    recalls, areas = [], []
    for k in range(n_classes):
        own = truth[:, k]
        if own.any():
            recall = float(chosen[own, k].float().mean())
            if not is_multilabel:
                recalls.append(recall)
            elif not own.all():
                recalls.append((recall + float((~chosen[~own, k]).float().mean())) / 2)
        if own.any() and not own.all():
            areas.append(float(np.asarray(compute_roc_auc(probabilities[:, k], own.float()))))
    return {
        "accuracy": float(is_correct(logits, label).mean()),
        "balanced_accuracy": sum(recalls) / len(recalls) if recalls else math.nan,
        "auc": sum(areas) / len(areas) if areas else math.nan,
        "ece": expected_calibration_error(probabilities, label),
    }


class ClassAccuracy(CumulativeIterationMetric):
    """Accuracy as a MONAI metric; of several labels at a time the share of right decisions.

    Args:
        reduction: over the samples, of MONAI's.

    Example:
        >>> metric = ClassAccuracy()
        >>> metric(torch.eye(3), torch.tensor([0, 1, 1]))
        tensor([[1.],
                [1.],
                [0.]])
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__()
        self.reduction = reduction

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: Any) -> Tensor:
        if y is None or len(y) != len(y_pred):
            raise ValueError("ClassAccuracy: wanted one label for each prediction")
        return is_correct(y_pred, y)[:, None]

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor:
        """Return the mean over what was seen.

        Args:
            reduction: instead of the metric's own.

        Returns:
            Scalar.
        """
        data = self.get_buffer()
        if not isinstance(data, Tensor):
            raise ValueError("ClassAccuracy: nothing was measured yet")
        value, _ = do_metric_reduction(data, reduction or self.reduction)
        return value
