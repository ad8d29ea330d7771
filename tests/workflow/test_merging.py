"""Tests of the order in which the configs of a run are merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medkit.workflow import config_order_fault, stands_alone

BUNDLES = sorted(folder.parent for folder in (Path(__file__).parents[2] / "bundles").glob("*/configs"))


def paths(bundle: Path, *names: str) -> list[Path]:
    return [bundle / "configs" / f"{name}.json" for name in names]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_overlays_of_the_bundles_belong_behind_a_config_that_stands_alone(bundle: Path) -> None:
    contents = {path.stem: json.loads(path.read_text()) for path in (bundle / "configs").glob("*.json")}
    found = {name for name, content in contents.items() if name != "metadata" and not stands_alone(content)}
    assert found == set(contents) - {"metadata", "train", "inference", "register"}
    for overlay in found:
        assert config_order_fault(paths(bundle, "train", overlay)) is None
        assert config_order_fault(paths(bundle, "train", "evaluate", overlay)) is None
        assert f"name them as train, {overlay}" in str(config_order_fault(paths(bundle, overlay, "train")))
        assert "must be named first" in str(config_order_fault(paths(bundle, "evaluate", overlay, "inference")))
    fault = config_order_fault(paths(bundle, "inference", "evaluate"))
    assert "the config evaluate changes 'validate#" in str(fault)
    assert "but no config named before it has 'validate'" in str(fault)


def test_two_configs_that_stand_alone_are_not_merged(bundle: Path) -> None:
    assert stands_alone({"bundle_root": ".", "run": [], "more": 1})
    assert not stands_alone({"run": []})
    assert "train and inference stand alone each" in str(config_order_fault(paths(bundle, "train", "inference")))


def test_what_cannot_be_read_is_left_to_others(bundle: Path) -> None:
    (bundle / "configs" / "broken.json").write_text("{")
    (bundle / "configs" / "list.json").write_text(json.dumps([1]))
    for name in ("broken", "list", "missing"):
        assert config_order_fault(paths(bundle, name, "train")) is None
