"""Pieces of work: each is run once, kills lose nothing that is done, and nobody waits for the dead."""

import json
import os
import subprocess
import sys
import time

import pytest

from medkit.atlas.building.jobs import Jobs


def test_what_is_done_is_not_done_again(tmp_path):
    ran = []

    def work(name):
        ran.append(name)
        if name == "b" and len(ran) == 2:
            raise RuntimeError("killed")
        return {"n": ran.index(name)}

    jobs = Jobs(tmp_path)
    with pytest.raises(RuntimeError, match="killed"):
        jobs.each("phase", ["a", "b", "c"], work)
    found = Jobs(tmp_path).each("phase", ["a", "b", "c"], work)
    assert ran == ["a", "b", "b", "c"]
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == {"n": 0}
    assert jobs.once("other", lambda: {"x": 1.0 / 3}) == {"x": 1.0 / 3}
    assert jobs.once("other", lambda: {"x": 2.0}) == {"x": 1.0 / 3}


def test_a_record_is_whole_or_not_there(tmp_path):
    jobs = Jobs(tmp_path)
    with pytest.raises(TypeError):
        jobs.each("phase", ["a"], lambda name: {"n": object()})
    assert [path.name for path in (tmp_path / "phase").iterdir()] == []


WORKER = """
import json, os, sys, time
from pathlib import Path
from medkit.atlas.building.jobs import Jobs
root = Path(sys.argv[1])
def work(name):
    with open(root / "log", "a") as log:
        log.write(f"{name} {os.getpid()}\\n")
    time.sleep(0.05)
    return {"name": name}
print(json.dumps(Jobs(root, shared=True).each("phase", [f"{i:02d}" for i in range(24)], work)))
"""


def test_processes_share_the_work(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert found[0] == found[1]
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(name for name, _ in lines) == [f"{i:02d}" for i in range(24)], "each once"
    assert not list((tmp_path / "phase").glob("*.lock"))


def test_a_lock_of_the_dead_is_taken_over_and_one_of_the_living_is_not(tmp_path, caplog):
    jobs = Jobs(tmp_path, shared=True, lease=2.0)
    lock = jobs.folder("phase") / "a.lock"
    lock.touch()
    os.utime(lock, (time.time() - 10, time.time() - 10))
    assert jobs.each("phase", ["a"], lambda name: {"n": 1}) == {"a": {"n": 1}}
    assert "left by a process that died" in caplog.text
    with jobs._owned(jobs.folder("phase") / "b.json") as mine:
        assert mine
        time.sleep(2.5)  # longer than the lease, but renewed
        with Jobs(tmp_path, shared=True, lease=2.0)._owned(jobs.folder("phase") / "b.json") as theirs:
            assert not theirs
