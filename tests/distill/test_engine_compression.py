"""The report of a compression: numbers that can be counted by hand."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from medkit.distill import compression_report
from medkit.distill.engine.compression import _peak


def pair() -> tuple[nn.Module, nn.Module]:
    student = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU())
    teacher = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 1, bias=False))
    return student, teacher


def test_numbers_are_those_counted_by_hand(tmp_path, caplog):
    caplog.set_level("INFO", "medkit.distill")
    student, teacher = pair()
    report = compression_report(student, teacher, [1, 1, 10, 10], {"teacher": 0.9}, 3, output_dir=tmp_path)
    assert report["student"]["parameters"] == 18
    assert report["teacher"]["parameters"] == 72 + 64
    assert report["student"]["macs"] == 100 * 18
    assert report["teacher"]["macs"] == 100 * (72 + 64)
    assert report["student"]["peak_memory_mb"] == pytest.approx(2 * 100 * 2 * 4 / 1e6)
    assert report["teacher"]["peak_memory_mb"] == pytest.approx(2 * 100 * 8 * 4 / 1e6)
    assert report["ratio"]["parameters"] == pytest.approx(136 / 18)
    assert report["teacher"]["latency_ms"] > 0
    torch.save(student.state_dict(), tmp_path / "student.pt")
    assert report["student"]["file_mb"] == pytest.approx((tmp_path / "student.pt").stat().st_size / 1e6, rel=0.2)
    assert json.loads((tmp_path / "compression.json").read_text()) == report
    table = (tmp_path / "compression.md").read_text()
    assert "| MACs | 13,600 | 1,800 | 7.56 |" in table
    assert "| teacher | 0.9000 |" in table
    assert "| MACs | 13,600 |" in caplog.text


def test_memory_counts_what_is_alive_at_a_time_once():
    """A chain frees what it passed; a view and an operation in place make nothing new."""
    image = torch.zeros(1, 1, 10, 10)
    chain = nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(6)])
    assert _peak(chain, image) == 2 * 400
    assert _peak(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.ReLU(inplace=True)), image) == 400


def test_modes_and_gradients_are_as_before():
    student, teacher = pair()
    student.train()
    teacher.eval()
    compression_report(student, teacher, torch.rand(2, 1, 5, 5), n_repeats=1)
    assert student.training
    assert not teacher.training
    assert student[0].weight.requires_grad


def test_what_cannot_be_measured_is_said():
    student, teacher = pair()
    with pytest.raises(ValueError, match=r"the teacher does not take an input of \(1, 3, 5, 5\)"):
        compression_report(student, teacher, [1, 3, 5, 5])
    with pytest.raises(ValueError, match="'n_repeats' must be at least 1"):
        compression_report(student, teacher, [1, 1, 5, 5], n_repeats=0)
