"""What a classifier's evaluation leaves: table, metrics of the whole, pictures, and other methods beside it."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator
from PIL import Image
from torch.utils.data import DataLoader

from medkit.distill import PreviewClassification, SaveClassification
from medkit.distill.figures import draw_confusion, draw_contact_sheet


class Mean(torch.nn.Module):
    """Two logits: how bright a picture is, and how dark; ``sign`` -1 is always wrong."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.sign = sign

    def forward(self, image):
        bright = image.mean((1, 2, 3)) - 0.5
        return self.sign * 10 * torch.stack([-bright, bright], dim=1)


def evaluated(handlers, items):
    loader = DataLoader(items, batch_size=4)
    SupervisedEvaluator(torch.device("cpu"), loader, Mean(), val_handlers=handlers).run()


def pictures(labelled=True, label=lambda value: value):
    items = []
    for i in range(10):
        item = {"case": f"p{i}", "image": torch.full((1, 8, 8), 0.9 if i % 2 else 0.1)}
        items.append({**item, "label": label(i % 2)} if labelled else item)
    return items


def test_evaluation_leaves_table_metrics_and_pictures(tmp_path):
    saver = SaveClassification(tmp_path, "student", ["dark", "bright"], {"teacher": Mean(-1.0), "nobody": None})
    evaluated([saver], pictures())
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert set(summary) == {"student", "teacher"}
    assert summary["student"]["accuracy"] == summary["student"]["auc"] == 1
    assert summary["teacher"]["balanced_accuracy"] == summary["teacher"]["auc"] == 0
    assert summary["student"]["likelihood"] == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-6)
    assert summary["student"]["ece"] == pytest.approx(1 - summary["student"]["likelihood"], abs=1e-6)
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["predicted"] for row in rows] == [row["label"] for row in rows] == ["dark", "bright"] * 5
    assert float(rows[1]["bright"]) == pytest.approx(0.9997, abs=1e-4)
    for name in ("preview.png", "confusion_student.png", "confusion_teacher.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
            assert np.asarray(picture).std() > 1, name


def test_without_labels_there_is_a_table_and_no_metric(tmp_path):
    evaluated([SaveClassification(tmp_path, "student", ["dark", "bright"])], pictures(labelled=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv", "preview.png"]
    assert (tmp_path / "predictions.csv").read_text().startswith("case,predicted,probability,dark,bright\np0,dark,")


def test_several_classes_at_a_time(tmp_path):
    items = pictures(label=lambda value: np.array([1 - value, value], np.float32))
    evaluated([SaveClassification(tmp_path, "student", ["dark", "bright"], is_multilabel=True)], items)
    assert json.loads((tmp_path / "metrics.json").read_text())["summary"]["student"]["auc"] == 1
    assert "confusion_student.png" not in {path.name for path in tmp_path.iterdir()}
    with (tmp_path / "predictions.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["dark", "bright"] * 5


def test_each_validation_leaves_a_preview(tmp_path):
    evaluated([PreviewClassification(tmp_path, ["dark", "bright"])], pictures())
    newest = (tmp_path / "preview.png").read_bytes()
    assert [path.read_bytes() for path in (tmp_path / "previews").iterdir()] == [newest]


def test_wrong_use_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of 'others'"):
        SaveClassification(tmp_path, "a", ["x"], {"a": Mean()})
    with pytest.raises(ValueError, match="the network has 2 classes, 'classes' has 3"):
        evaluated([SaveClassification(tmp_path, "a", ["x", "y", "z"])], pictures())
    with pytest.raises(ValueError, match="at least one picture"):
        draw_contact_sheet(tmp_path / "a.png", [], [], [])
    with pytest.raises(ValueError, match="as many truths"):
        draw_confusion(tmp_path / "a.png", [0], [], ["x"])
    assert not list(tmp_path.glob("*.png"))
