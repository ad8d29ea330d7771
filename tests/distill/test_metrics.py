"""Metrics, loss and transform of classifiers: closed forms, agreement with scikit-learn, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medkit.distill import ClassAccuracy, ClassificationLoss, classification_metrics, expected_calibration_error
from medkit.distill.metrics import class_probabilities


def drawn(n=200, c=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, c, (n,), generator=generator)
    logits = torch.randn(n, c, generator=generator) + 1.5 * torch.nn.functional.one_hot(label, c)
    return logits, label


def test_metrics_of_one_class_agree_with_scikit_learn():
    logits, label = drawn()
    found = classification_metrics(logits, label)
    probabilities = class_probabilities(logits).numpy()
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == label).float().mean()))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, logits.argmax(1)))
    rows = probabilities / probabilities.sum(axis=1, keepdims=True)
    assert found["auc"] == pytest.approx(roc_auc_score(label, rows, multi_class="ovr"), abs=1e-6)


def test_metrics_of_several_classes_at_a_time_agree_with_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    label = (torch.rand(100, 4, generator=generator) < 0.3).float()
    logits = torch.randn(100, 4, generator=generator) + 2 * label - 1
    found = classification_metrics(logits, label)
    assert found["auc"] == pytest.approx(roc_auc_score(label, torch.sigmoid(logits)), abs=1e-6)
    assert found["accuracy"] == pytest.approx(float(((logits > 0) == (label > 0.5)).float().mean()))
    each = [balanced_accuracy_score(label[:, k], logits[:, k] > 0) for k in range(4)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(each))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = torch.tensor([[0.8, 0.2]]).repeat(10, 1)
    assert expected_calibration_error(sure, torch.tensor([0] * 8 + [1] * 2)) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(sure, torch.tensor([1] * 10)) == pytest.approx(0.8, abs=1e-6)
    several = torch.tensor([[0.9, 0.3]])
    assert expected_calibration_error(several, torch.tensor([[1.0, 0.0]])) == pytest.approx((0.1 + 0.3) / 2, abs=1e-6)
    opposite = torch.tensor([[0.6, 0.4]] * 10 + [[0.95, 0.05]] * 10)  # too low by 0.4, too high by 0.45: no cancelling
    label = torch.tensor([0] * 10 + [0] * 5 + [1] * 5)
    assert expected_calibration_error(opposite, label) == pytest.approx((0.4 + 0.45) / 2, abs=1e-6)
    certain = torch.tensor([[1.0, 0.0]])
    assert expected_calibration_error(certain, torch.tensor([0])) == 0


def test_a_class_that_is_missing_or_fills_the_set_is_left_out():
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0]])
    assert classification_metrics(logits, torch.tensor([0, 1]))["auc"] == 1
    alone = classification_metrics(logits[:1], torch.tensor([0]))
    assert alone["accuracy"] == alone["balanced_accuracy"] == 1
    assert math.isnan(alone["auc"])


def test_accuracy_as_a_metric_of_monai():
    metric = ClassAccuracy()
    logits, label = drawn(30)
    for part, own in zip(logits.split(7), label.split(7), strict=True):
        metric(part, own)
    assert float(metric.aggregate()) == pytest.approx(classification_metrics(logits, label)["accuracy"])
    metric.reset()
    metric([torch.tensor([0.0, 1.0])], [torch.tensor(1)])
    assert float(metric.aggregate()) == 1


def test_loss_reads_from_the_labels_which_kind_they_are():
    logits, label = drawn(6, 3)
    loss = ClassificationLoss()
    assert float(loss(logits, label)) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, label)))
    assert float(loss(logits, label[:, None])) == pytest.approx(float(loss(logits, label)))
    one_hot = torch.nn.functional.one_hot(label, 3).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, one_hot)
    assert float(loss(logits, one_hot)) == pytest.approx(float(expected))
    assert float(ClassificationLoss(0.1)(100 * one_hot, label)) == pytest.approx(100 * 0.1 * 2 / 3, rel=1e-4)
    with pytest.raises(ValueError, match="whole numbers"):
        loss(logits, label.float())
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        ClassificationLoss(1.0)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="as many labels as logits"):
        classification_metrics(torch.zeros(2, 3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="at least one bin"):
        expected_calibration_error(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
