"""Each tutorial runs from start to end, and its notebook is its script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundle_runs import ROOT, environment

SCRIPTS = sorted((ROOT / "tutorials").glob("*.py"))


def cells_of_script(path: Path) -> list[tuple[str, str]]:
    """Return (kind, text) of the cells of a percent script."""
    cells = []
    for part in re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if "[markdown]" in head:
            body = "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines())
            cells.append(("markdown", body))
        else:
            cells.append(("code", body.strip()))
    return cells


def test_there_is_a_tutorial():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_is_its_script(script):
    notebook = json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]]
    assert cells == cells_of_script(script), f"run: jupytext --to ipynb {script.name}"
    assert not any(cell.get("outputs") for cell in notebook["cells"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_tutorial_runs(script):
    line = [sys.executable, str(script)]
    done = subprocess.run(line, cwd=script.parent, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
