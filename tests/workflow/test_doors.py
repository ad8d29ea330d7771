"""Tests of user errors in one line: which errors are the user's, and what the terminal shows."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import Lambda

from medkit.workflow import check_knobs, report_errors_in_one_line, user_message


def caught(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def wrong_knob(_: object = None) -> None:
    check_knobs({"max_epochs": 0})


def wrapped(_: object = None) -> None:
    try:
        wrong_knob()
    except ValueError as error:
        raise RuntimeError("applying transform <x>") from error


def test_error_of_a_door_is_the_users() -> None:
    assert user_message(caught(wrong_knob)) == "check_knobs: 'max_epochs' must be a whole number >= 1, got 0"


def test_wrapped_error_is_found() -> None:
    assert "'max_epochs'" in str(user_message(caught(wrapped)))


@pytest.mark.parametrize("action", [wrong_knob, wrapped])
def test_error_of_a_worker_is_found(action: Callable[[object], None]) -> None:
    loader = DataLoader(Dataset([1, 2], Lambda(action)), num_workers=1)
    assert "'max_epochs'" in str(user_message(caught(lambda: list(loader))))


def test_other_errors_keep_their_traceback() -> None:
    def raise_outside() -> None:
        raise ValueError("check_knobs: raised elsewhere")

    assert user_message(caught(raise_outside)) is None
    assert user_message(caught(lambda: check_knobs(None))) is None  # type: ignore[arg-type]
    assert user_message(RuntimeError("File medkit")) is None


def test_missing_file_is_the_users_only_behind_a_door(tmp_path: Path) -> None:
    from medkit.workflow.overrides import known_ids

    (tmp_path / "gone.json").symlink_to(tmp_path / "nothing")
    assert "gone.json" in str(user_message(caught(lambda: known_ids(tmp_path))))
    assert user_message(caught(lambda: (tmp_path / "nothing").read_text())) is None


def test_message_is_one_line() -> None:
    message = user_message(caught(lambda: check_knobs({"device": "a\nb\n  c"})))
    assert message is not None
    assert "\n" not in message


def test_notebooks_and_tests_keep_their_hook() -> None:
    before = sys.excepthook
    assert not report_errors_in_one_line()
    assert sys.excepthook is before


def test_debug_shows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("MEDKIT_DEBUG", "1")
    before = sys.excepthook
    assert not report_errors_in_one_line(always=True)
    assert sys.excepthook is before


def test_hook_and_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.delenv("MEDKIT_DEBUG", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    make = logging.getLogRecordFactory()
    try:
        assert report_errors_in_one_line(always=True)
        users, defect = caught(wrapped), caught(lambda: [][0])
        sys.excepthook(type(users), users, users.__traceback__)
        assert (
            capsys.readouterr().err == "medkit: error: check_knobs: 'max_epochs' must be a whole number >= 1, got 0\n"
        )
        sys.excepthook(type(defect), defect, defect.__traceback__)
        assert "Traceback" in capsys.readouterr().err
        logging.getLogger("a").error("the users", exc_info=users)
        logging.getLogger("a").error("a defect", exc_info=defect)
        assert caplog.messages == ["a defect"]
    finally:
        logging.setLogRecordFactory(make)


def test_error_in_a_running_engine_ends_in_one_line(bundle: Path) -> None:
    """MONAI and ignite log a traceback of what an engine raises; the user sees one sentence instead."""
    transform = (
        "$monai.transforms.Lambda(lambda x: __import__('medkit.workflow').workflow.check_knobs({'device': 'x'}))"
    )
    arguments = ["--config_file", str(bundle / "configs" / "train.json"), "--bundle_root", str(bundle)]
    arguments += ["--train#dataset#transform", transform, "--train#handlers", "[{'_target_': 'StatsHandler'}]"]
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MEDKIT_DEBUG": "0"},
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout, textwrap.shorten(done.stdout + done.stderr, 3000)
    assert done.stderr.splitlines()[-1].startswith("medkit: error: check_knobs: 'device' must be a device such as")
