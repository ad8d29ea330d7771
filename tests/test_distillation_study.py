"""The study of distillation works end to end on a tiny protocol: resumed, tuned on other seeds, and told in a table."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

from tests.benchmarks import distillation
from tests.benchmarks.distillation_table import paired_difference, print_table, summary


@pytest.fixture(scope="module")
def protocol(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = rng.integers(0, 60, (240, 16, 16), dtype=np.uint8)
    images[labels == 1, 5:11] += 120  # training flips pictures, so the bars lie in the middle
    images[labels == 2, :, 5:11] += 120
    np.savez(folder / "bars.npz", images=images, labels=labels, class_names=np.array(["none", "across", "along"]))
    whole = json.loads(distillation.PROTOCOL.read_text())
    methods = {name: whole["methods"][name] for name in ("kd", "sokd_fitnet")}
    for own in methods.values():
        own["trials"] = own["trials"][:2] if "terms#kd#weight" in own["trials"][0] else own["trials"][:1]
        own["against"] = [name for name in own["against"] if name in methods]
    overrides = {"max_epochs": 1, "image_size": 16, "teacher_def#block_inplanes": [8, 8, 8, 8]}
    teacher = {"seed": 0, "max_epochs": 12, "learning_rate": 0.01}
    task = {"dataset": str(folder / "bars.npz"), "teacher": teacher, "overrides": overrides}
    common = {**whole["common"], "batch_size": 16}
    return {**whole, "common": common, "seeds": [1, 2], "tasks": {"bars": task}, "methods": methods}


def test_sweep_is_resumed_tuned_and_told(protocol, tmp_path):
    output = tmp_path / "rows.csv"
    first = distillation.sweep(protocol, output, minutes=0)
    assert [row.stage for row in first] == ["teacher"]
    assert first[0].test_last > 0.8, "bars are easy to tell"
    rows = distillation.sweep(protocol, output)
    assert rows[: len(first)] == first
    assert distillation.read_rows(output) == rows
    stages = [(row.method, row.stage) for row in rows]
    assert stages.count(("teacher", "teacher")) == 1
    assert stages.count(("kd", "tune")) == 2
    assert stages.count(("kd", "final")) == stages.count(("sokd_fitnet", "final")) == 2
    assert {row.seed for row in rows if row.stage == "tune"} == {100}
    assert {row.seed for row in rows if row.stage == "final"} == {1, 2}
    best = distillation.best_trial(rows, "bars", "kd")
    assert {row.trial for row in rows if (row.method, row.stage) == ("kd", "final")} == {best}
    assert all(row.cpu_ms_per_step > 0 and 0 <= row.test_last <= 1 for row in rows)
    out = io.StringIO()
    print_table(protocol, rows, out)
    assert "bars: 8 of 8 trainings" in out.getvalue()
    assert "sokd_fitnet" in out.getvalue()
    line = next(line for line in summary(protocol, rows, "bars") if line["method"] == "sokd_fitnet")
    assert line["differences"]["kd"][2] == 2
    with pytest.raises(ValueError, match="rows of another protocol"):
        distillation.sweep({**protocol, "seeds": [5]}, output)
    with pytest.raises(ValueError, match="'task' must be one of"):
        distillation.sweep(protocol, output, task="nothing")


def test_the_protocol_tunes_every_method_equally():
    whole = json.loads(distillation.PROTOCOL.read_text())
    assert {len(own["trials"]) for own in whole["methods"].values()} == {4}
    assert not set(whole["seeds"]) & set(whole["tuning_seeds"])
    assert len(whole["seeds"]) >= 3
    assert set(whole["methods"]) == set("alone kd fitnet dkd review sokd_fitnet sokd_review unikd".split())
    for own in whole["methods"].values():
        assert set(own["against"]) <= set(whole["methods"])


def test_paired_difference_is_students_interval():
    mean, half, n = paired_difference({1: 0.5, 2: 0.7, 3: 0.6}, {1: 0.4, 2: 0.5, 3: 0.3, 4: 0.9})
    assert (round(mean, 6), n) == (0.2, 3)
    assert half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
