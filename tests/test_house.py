"""The house stands: every rule holds, and every rule is seen to fail on a planted mistake."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import house_rules as rules

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Path], list[str]]) -> None:
    faults = rule(ROOT)
    assert not faults, "\n".join([str(rule.__doc__), *faults])


def test_public_names_are_as_listed() -> None:
    listed = json.loads((ROOT / "tests" / "public_names.json").read_text(encoding="utf-8"))
    assert rules.public_names(ROOT) == listed, (
        "public names appeared or vanished: if that is meant, say it in CHANGELOG.md and run "
        "`python -m tests.house_rules` to rewrite tests/public_names.json"
    )


def run(code: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False, timeout=300
    )


def test_import_medkit_imports_nothing() -> None:
    code = "import sys; before = set(sys.modules); import medkit; print(sorted(set(sys.modules) - before))"
    assert run(code).stdout.strip() == "['medkit']"


def test_faces_import_without_warnings() -> None:
    """All faces, in one new process; TorchScript's deprecation is the listed exception."""
    done = run(f"import {', '.join(rules.public_names(ROOT))}", "-W", "error", "-W", "ignore:`torch.jit")
    assert done.returncode == 0, done.stderr


def components(config: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield id and content of each component in a config."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield at, config
        for key, value in config.items():
            yield from components(value, f"{at}#{key}")
    elif isinstance(config, list):
        for i, value in enumerate(config):
            yield from components(value, f"{at}#{i}")


def misfits(config: Any) -> list[str]:
    """Return the components whose target does not exist, or does not take their keys, or misses an argument."""
    from pydoc import locate

    from monai.bundle import ComponentLocator, ConfigComponent

    faults = []
    locator = ComponentLocator()
    for at, component in components(config):
        target = ConfigComponent(component, locator=locator).resolve_module_name()
        if not isinstance(target, str) or target.startswith(("$", "@", "%")):
            continue
        called = locate(target)
        if called is None:
            faults.append(f"{at}: _target_ {target} does not exist")
            continue
        given = {key for key in component if key not in ConfigComponent.non_arg_keys}
        try:
            parameters = inspect.signature(called).parameters  # type: ignore[arg-type]
        except ValueError:  # built-in
            continue
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            faults += [f"{at}: {target} takes no '{key}'" for key in sorted(given - set(parameters))]
        if component.get("_mode_", "default") == "default":
            needed = {
                name
                for name, parameter in parameters.items()
                if parameter.default is parameter.empty and "VAR" not in parameter.kind.name
            }
            faults += [f"{at}: {target} needs '{key}'" for key in sorted(needed - given)]
    return faults


@pytest.mark.parametrize("path", rules.configs(ROOT), ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_config_fits_what_it_calls(path: Path) -> None:
    assert misfits(json.loads(path.read_text(encoding="utf-8"))) == []


# From here on: planted mistakes, each in a small house of its own.

GOOD = {
    "medkit/__init__.py": '"""A house."""\n\n__version__ = "1"\n',
    "medkit/ops/__init__.py": '"""Ground."""\n\nfrom medkit.ops.warping import warp\n\n__all__ = ["warp"]\n',
    "medkit/ops/warping.py": '"""Warps."""\n\nimport torch\n\n\ndef warp(x):\n    return torch.abs(x)\n',
    "medkit/mri/__init__.py": '"""MRI."""\n\nfrom medkit.mri.nets import Net\n\n__all__ = ["Net"]\n',
    "medkit/mri/nets.py": '"""Nets."""\n\nfrom medkit.ops import warp\n\nNet = warp\n',
    "medkit/cli.py": '"""Command."""\n\n__all__ = ["main"]\n\n\ndef main():\n    import medkit.mri\n',
    "tests/test_a.py": '"""Tests."""\n',
    **{f"bundles/good/{name}": "{}" for name in rules.BUNDLE_FILES},
    "bundles/good/configs/train.json": '{"net": {"_target_": "medkit.mri.Net"}, "f": "$medkit.ops.warp(1)"}',
}

MISTAKES: list[tuple[Callable[[Path], list[str]], str, str, str]] = [
    (rules.floors_are_kept, "medkit/ops/a.py", '"""A."""\nfrom medkit.mri import Net\n', "must not import medkit.mri"),
    (rules.floors_are_kept, "medkit/atlas/a.py", '"""A."""\nimport medkit.mri.nets\n', "medkit.atlas must not import"),
    (rules.floors_are_kept, "medkit/data/a.py", '"""A."""\nfrom medkit import workflow\n', "import medkit.workflow"),
    (rules.floors_are_kept, "medkit/mri/a.py", '"""A."""\ndef f():\n    import medkit.export\n', "a.py:3"),
    (rules.floors_are_kept, "medkit/attic/a.py", '"""A."""\n', "room 'attic' has no floor"),
    (rules.imports_are_absolute_and_on_top, "medkit/mri/a.py", '"""A."""\nfrom .nets import Net\n', "relative"),
    (rules.imports_are_absolute_and_on_top, "medkit/mri/a.py", '"""A."""\nfrom medkit.ops import *\n', "star"),
    (
        rules.imports_are_absolute_and_on_top,
        "medkit/mri/a.py",
        '"""A."""\ndef f():\n    from medkit.ops import warp\n',
        "inside a function",
    ),
    (rules.ground_needs_only_torch, "medkit/ops/a.py", '"""A."""\nimport numpy as np\n', "torch only, not numpy"),
    (rules.faces_are_plain, "medkit/ops/__init__.py", '"""A.\n\nMore.\n"""\n__all__ = []\n', "one docstring line"),
    (rules.faces_are_plain, "medkit/ops/__init__.py", '"""A."""\nx = 1\n__all__ = []\n', "imports and __all__ only"),
    (rules.faces_are_plain, "medkit/ops/__init__.py", '"""A."""\n', "literal __all__"),
    (rules.faces_are_plain, "medkit/ops/__init__.py", '"""A."""\nfrom a import b, c\n__all__ = ["b"]\n', "['c']"),
    (rules.faces_are_plain, "medkit/mri/masks/__init__.py", '"""A."""\n__all__ = ["b"]\n', "['b']"),
    (rules.root_imports_nothing, "medkit/__init__.py", '"""A."""\nimport os\n', "must import nothing"),
    (rules.files_are_short, "tests/a.py", '"""A."""\n' + "x = 1\n" * 400, "401 lines"),
    (rules.files_open_with_a_sentence, "medkit/mri/a.py", "import os\n", "the first line must be a docstring"),
    (rules.files_open_with_a_sentence, "medkit/mri/a.py", '"""Nets for\nMRI."""\n', "got 'Nets for'"),
    (rules.files_open_with_a_sentence, "tests/a.py", '# Licence\n"""Nets."""\n', "the first line"),
    (rules.files_bear_no_public_name, "medkit/ops/warp.py", '"""A."""\n', "the public medkit.ops.warp"),
    (rules.files_bear_no_public_name, "medkit/ops/warp/a.py", '"""A."""\n', "the public medkit.ops.warp"),
    (rules.files_bear_no_public_name, "medkit/mri/utils.py", '"""A."""\n', "'utils' is a drawer"),
    (rules.library_is_polite, "medkit/mri/a.py", '"""A."""\nprint(1)\n', "a.py:2: print"),
    (rules.library_is_polite, "medkit/mri/a.py", '"""A."""\nassert 1\n', "assert"),
    (rules.library_is_polite, "medkit/mri/a.py", '"""A."""\ntry:\n    x = 1\nexcept:\n    x = 2\n', "everything"),
    (
        rules.library_is_polite,
        "medkit/mri/a.py",
        '"""A."""\ntry:\n    x = 1\nexcept Exception:\n    x = 2\n',
        "everything",
    ),
    (rules.bundles_are_complete, "bundles/bad/LICENSE", "", "bundles/bad: configs/train.json is missing"),
    (rules.bundles_are_complete, "bundles/good/scripts/a.py", "", "no Python in bundles"),
    (rules.bundles_are_complete, "bundles/good/models/model.pt", "x" * (25 * 2**20 + 1), "larger than 25 MB"),
    (rules.configs_name_faces, "bundles/good/configs/a.json", '{"a": "$medkit.mri.nets.Net()"}', "three parts"),
    (rules.configs_name_faces, "bundles/good/configs/a.json", '{"_target_": "medkit.mri.Nett"}', "is not exported"),
]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """Return a small house in which every rule holds."""
    for name, text in GOOD.items():
        write(tmp_path / name, text)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_good_house_has_no_faults(house: Path) -> None:
    assert [fault for rule in rules.RULES for fault in rule(house)] == []
    names = {"medkit.cli": ["main"], "medkit.mri": ["Net"], "medkit.ops": ["warp"]}
    assert rules.public_names(house) == names


@pytest.mark.parametrize(("rule", "file", "text", "fault"), MISTAKES, ids=lambda value: getattr(value, "__name__", ""))
def test_mistake_is_found(house: Path, rule: Callable[[Path], list[str]], file: str, text: str, fault: str) -> None:
    write(house / file, text)
    assert fault in "\n".join(rule(house))


def test_every_rule_has_a_planted_mistake() -> None:
    assert {rule for rule, *_ in MISTAKES} == set(rules.RULES)


def test_vanished_name_is_seen(house: Path) -> None:
    before = rules.public_names(house)
    write(house / "medkit/ops/__init__.py", '"""Ground."""\n\n__all__ = []\n')
    assert rules.public_names(house) != before


@pytest.mark.parametrize(
    ("component", "fault"),
    [
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 2}, None),
        ({"_target_": "Compose", "_desc_": "nothing"}, None),
        ({"_target_": "torch.nn.Linear", "_mode_": "callable", "in_features": 1}, None),
        ({"_target_": "$@other.forward", "x": 1}, None),
        ({"_target_": "torch.nn.Linearr"}, "torch.nn.Linearr does not exist"),
        ({"_target_": "torch.nn.Linear", "in_features": 1}, "needs 'out_features'"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 2, "biass": 0}, "takes no 'biass'"),
        ({"_target_": "LoadImage", "image_onli": True}, None),  # **kwargs go to the reader
    ],
)
def test_misfits_are_found(component: dict[str, Any], fault: str | None) -> None:
    faults = misfits({"a": [component]})
    assert faults == [] if fault is None else fault in faults[0]
