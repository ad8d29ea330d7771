"""What is written after an evaluation: intervals of the differences from the zero-filled image, and their picture."""

import csv
import json
import logging

import matplotlib.image
import numpy as np
import pytest
import torch
from ignite.engine import Engine

from medkit.mri import SaveReconstructions, engine, haarpsi, hfen, paired_bootstrap
from medkit.mri.comparison import draw_comparison, save_comparison


def make_cases(n=6, seed=0):
    """Metrics of cases, of which the method makes the first one worse."""
    random = np.random.default_rng(seed)
    cases = []
    for i in range(n):
        gain = -1.0 if i == 0 else 2 + random.random()
        zero_filled = {"psnr": 25 + random.random(), "ssim": 0.7, "nmse": 0.02}
        net = {"psnr": zero_filled["psnr"] + gain, "ssim": 0.7 + gain / 50, "nmse": 0.02 - gain / 500}
        cases.append({"case": f"c{i}", "zero_filled": zero_filled, "net": net})
    return cases


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def compared(folder, cases, subjects=None, **options):
    save_comparison(folder, cases, subjects or [case["case"] for case in cases], "net", **options)
    path = folder / "comparison.json"
    return json.loads(path.read_text())["differences"] if path.exists() else None


def is_red(path):
    picture = matplotlib.image.imread(path)[..., :3]
    return bool(((picture[..., 0] > 0.7) & (picture[..., 1:] < 0.3).all(-1)).any())


def test_the_file_holds_the_paired_bootstrap_of_each_metric(tmp_path, caplog):
    cases = make_cases()
    with caplog.at_level(logging.INFO, "medkit"):
        found = compared(tmp_path, cases)
    assert list(found) == ["psnr", "ssim", "nmse"]
    for metric, one in found.items():
        a, b = ([case[name][metric] for case in cases] for name in ("net", "zero_filled"))
        assert one == paired_bootstrap(a, b)._asdict()
    about = json.loads((tmp_path / "comparison.json").read_text())
    assert {key: about[key] for key in ("method", "baseline", "confidence", "n_resamples")} == {
        "method": "net", "baseline": "zero_filled", "confidence": 0.95, "n_resamples": 10000}  # fmt: skip
    (line,) = caplog.messages
    assert line.startswith(f"net less zero_filled over 6 subjects, 95 % intervals: psnr {found['psnr']['mean']:+.4f} [")
    assert names(tmp_path) == ["comparison.json", "metrics.png"]


def test_cases_of_one_subject_count_as_one(tmp_path, caplog):
    cases = make_cases(12)
    found = compared(tmp_path, cases, [f"s{i // 2}" for i in range(12)])
    assert found["psnr"]["n"] == 6
    with caplog.at_level(logging.INFO, "medkit"):
        assert compared(tmp_path, cases, [f"s{i // 3}" for i in range(12)]) is None
    assert caplog.messages == ["no intervals of differences: they need at least 5 subjects"]
    assert names(tmp_path) == ["metrics.png"]


def test_a_case_that_two_processes_had_counts_once(tmp_path):
    cases = make_cases()
    once = compared(tmp_path / "once", cases)
    assert compared(tmp_path / "twice", [*cases, cases[0], cases[1]]) == once
    assert compared(tmp_path / "few", [*cases[:4], *cases[:4]]) is None


def test_values_that_are_not_finite_are_left_out(tmp_path):
    cases = make_cases(7)
    cases[1]["zero_filled"]["psnr"] = float("inf")
    cases[2]["net"]["ssim"] = float("nan")
    del cases[3]["zero_filled"]["nmse"], cases[4]["net"]["nmse"], cases[5]["net"]["nmse"]
    found = compared(tmp_path, cases)
    assert {metric: one["n"] for metric, one in found.items()} == {"psnr": 6, "ssim": 6}
    assert (tmp_path / "metrics.png").exists()


def test_what_fewer_cases_would_contradict_is_removed(tmp_path):
    compared(tmp_path, make_cases())
    assert compared(tmp_path, make_cases(4)) is None
    assert names(tmp_path) == []
    without_reference = [
        {"case": f"c{i}", "zero_filled": {"residual": 0.0}, "net": {"residual": 0.1}} for i in range(6)
    ]
    assert compared(tmp_path, without_reference) is None
    compared(tmp_path, make_cases(), use_png=False)
    assert names(tmp_path) == ["comparison.json"]


def test_the_picture_marks_what_became_worse(tmp_path):
    cases = [{**case, "$net_1$": case["net"]} for case in make_cases()]
    draw_comparison(tmp_path / "good.png", cases[1:], "$net_1$", {})
    draw_comparison(tmp_path / "mixed.png", cases, "$net_1$", {})
    assert (is_red(tmp_path / "mixed.png"), is_red(tmp_path / "good.png")) == (True, False)


def sample(name, seed, subject=None):
    generator = torch.Generator().manual_seed(seed)
    reference = 1 + torch.rand(1, 20, 18, 2, generator=generator)
    zero_filled = (reference + 0.5 * torch.rand(reference.shape, generator=generator)).to(torch.complex64)
    pred = reference + 0.1 * torch.rand(reference.shape, generator=generator)
    who = {} if subject is None else {"subject": subject}
    return {"case": name, "zero_filled": zero_filled, "reference": reference.to(torch.complex64), **who}, {"pred": pred}


def evaluate(folder, samples, **options):
    evaluator = Engine(lambda _, item: setattr(evaluator.state, "batch", [item[0]]) or [item[1]])
    SaveReconstructions(folder, "net", **{"use_nifti": False, "use_png": False, **options}).attach(evaluator)
    return evaluator.run(samples)


def test_more_metrics_are_those_of_the_functions(tmp_path):
    one = sample("a", 0)
    evaluate(tmp_path, [one], use_more_metrics=True)
    case = json.loads((tmp_path / "metrics.json").read_text())["cases"][0]
    truth = one[0]["reference"][0].abs().movedim(-1, 0)
    images = {"zero_filled": one[0]["zero_filled"][0].abs(), "net": one[1]["pred"][0]}
    for method, image in images.items():
        volume = image.movedim(-1, 0)
        assert list(case[method]) == ["psnr", "ssim", "nmse", "haarpsi", "hfen"]
        assert case[method]["haarpsi"] == pytest.approx(haarpsi(volume, truth))
        assert case[method]["hfen"] == pytest.approx(hfen(volume, truth))
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert float(rows[1]["hfen"]) == pytest.approx(case["net"]["hfen"])
    evaluate(tmp_path, [one])
    assert list(json.loads((tmp_path / "metrics.json").read_text())["summary"]["net"]) == ["psnr", "ssim", "nmse"]


@pytest.mark.parametrize(("subjects", "n"), [([None] * 6, 6), (["s", "s", "t", "u", "v", "w"], 5)])
def test_an_evaluation_compares_over_subjects(tmp_path, subjects, n):
    samples = [sample(f"c{i}", i, who) for i, who in enumerate(subjects)]
    evaluate(tmp_path, samples, use_png=True, use_more_metrics=True)
    found = json.loads((tmp_path / "comparison.json").read_text())["differences"]
    assert list(found) == ["psnr", "ssim", "nmse", "haarpsi", "hfen"]
    assert {one["n"] for one in found.values()} == {n}
    assert found["psnr"]["low"] > 0 > found["hfen"]["high"]
    assert "metrics.png" in names(tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics["cases"][0]) == {"case", "zero_filled", "net"}


@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_compare_all_cases_once(tmp_path, monkeypatch, rank):
    """Two processes have three cases each; the second is played by what the first would gather from it."""
    evaluate(tmp_path / "all", [sample(f"c{i}", i) for i in range(6)])

    def gather(parts, rows):
        other = [row for row in rows if isinstance(row, str)] and [f"c{i}" for i in (3, 4, 5)]
        if rows and isinstance(rows[0], dict):
            cases = json.loads((tmp_path / "all" / "metrics.json").read_text())["cases"]
            other = cases[3:]
        parts[:] = [rows, other]

    monkeypatch.setattr(engine.idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(engine.idist, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    evaluate(tmp_path / "two", [sample(f"c{i}", i) for i in range(3)])
    if rank:
        assert not (tmp_path / "two").exists()
        return
    for name in ("metrics.json", "comparison.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "all" / name).read_text()
