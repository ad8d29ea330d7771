"""Two processes with half a batch each train what one process trains with the whole."""

from __future__ import annotations

import socket
import sys

import torch

from tests.bundle_runs import ROOT, typed
from tests.distill.test_engine_loss import leaves
from tests.distill.training_in_processes import train


def test_two_processes_train_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    train(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = typed(ROOT, [*launcher, "-m", "tests.distill.training_in_processes", str(tmp_path)])
    assert done.returncode == 0, done.stdout + done.stderr
    one, *two = (
        dict(leaves(torch.load(tmp_path / f"state_{name}.pt", weights_only=True))) for name in ("1_0", "2_0", "2_1")
    )
    first = dict(leaves(torch.load(tmp_path / "first.pt", weights_only=True)))
    moved = [key for key, value in first.items() if _is_float(value) and not torch.equal(value, one[f"/loss{key}"])]
    assert len(moved) > 20
    for key, value in one.items():
        if _is_float(value):
            torch.testing.assert_close(two[0][key], value, rtol=1e-4, atol=1e-6)
            assert torch.equal(two[0][key], two[1][key]), key


def _is_float(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
