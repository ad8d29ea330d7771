"""Memory of a build does not grow with the number of subjects; a volume kept of each would be seen."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medkit.atlas import AtlasSettings, HybridAtlas, list_subjects
from medkit.atlas.building.jobs import Jobs
from medkit.atlas.building.level import Level
from medkit.ops import identity_points
from tests.atlas.phantom import intensity
from tests.atlas.test_building import SIZE, save

ONCE = {"factors": (1,), "n_rounds": (1,), "n_steps": (1,), "n_template_steps": (1,), "alignment": "none", "margin": 0}


def many(folder: Path, size: tuple[int, ...], n: int) -> Path:
    """Write one head at three places, again and again."""
    image = intensity(identity_points(size), size)
    return save(folder, torch.cat([image.roll(i % 3 - 1, 2) for i in range(n)]))


def held() -> int:
    """Bytes of all tensors that are alive and were made since the last ``gc.freeze``."""
    gc.collect()
    storages = (x.untyped_storage() for x in gc.get_objects() if type(x) is torch.Tensor)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def most_held(folder: Path, brains: Path, n: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Most bytes that are alive when a piece of work has ended."""
    most, each = [0], Jobs.each

    def watched(self, phase, names, work, show=None):
        def piece(name):
            record = work(name)
            most[0] = max(most[0], held())
            return record

        return each(self, phase, names, piece, show)

    gc.collect()
    gc.freeze()  # what was there before is neither counted nor searched
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Jobs, "each", watched)
            HybridAtlas(folder, AtlasSettings(**ONCE), report=False).build(list_subjects(brains)[:n])
    finally:
        gc.unfreeze()
    return most[0]


def keep_all(monkeypatch: pytest.MonkeyPatch, kept: dict[str, torch.Tensor]) -> None:
    """Plant a leak: each subject that is read stays."""
    subject = Level.subject

    def leaking(self, name):
        found = subject(self, name)
        kept[name] = found[0]
        return found

    monkeypatch.setattr(Level, "subject", leaking)


def test_what_is_held_between_subjects_does_not_grow_with_their_number(tmp_path, monkeypatch):
    brains = many(tmp_path / "brains", SIZE, 12)
    volume = 4 * int(np.prod(SIZE))
    few, more = (most_held(tmp_path / str(n), brains, n, monkeypatch) for n in (4, 12))
    assert more < few + 0.5 * volume
    kept: dict[str, torch.Tensor] = {}
    keep_all(monkeypatch, kept)
    leaking = most_held(tmp_path / "leak", brains, 12, monkeypatch)
    assert len(kept) == 12
    assert leaking > more + 8 * volume, "a leak would be seen"


PEAK = """
import json, sys
from pathlib import Path
import pytest, torch
from medkit.atlas import AtlasSettings, HybridAtlas, list_subjects
from tests.atlas.test_properties_of_memory import ONCE, keep_all
torch.set_num_threads(1)
folder, brains, n, leaks = sys.argv[1:]
kept = {}
if leaks == "True":
    keep_all(pytest.MonkeyPatch(), kept)
HybridAtlas(folder, AtlasSettings(**ONCE), report=False).build(list_subjects(brains)[: int(n)])
lines = Path("/proc/self/status").read_text().splitlines()
print(json.dumps([int(line.split()[1]) for line in lines if line.startswith("VmHWM")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_the_peak_of_the_process_does_not_grow_with_the_number_of_subjects(tmp_path):
    brains = many(tmp_path / "brains", (64, 64, 64), 40)

    def peak(n: int, leaks: bool = False) -> int:
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"{n}-{leaks}"), str(brains), str(n), str(leaks)]
        # What is freed goes back at once: otherwise the allocator's own habits are measured.
        own = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            command, env={**os.environ, **own, "PYTHONPATH": root}, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])[0]

    few = peak(4)
    assert peak(40) < 1.05 * few
    assert peak(40, leaks=True) > 1.05 * few, "a leak would be seen"
