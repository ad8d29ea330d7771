"""Speed of registration: one gradient iteration against the time that its memory traffic alone would take.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.atlas_speed --output atlas_speed.json

The model of the traffic: squared differences on the images' grid, a stationary velocity on half of it, six squarings,
each float32 array read or written once for each step that needs it; 1.2 GB at 160x192x224. The peer is a core that
moves it at 10 GB/s: ratios are CPU seconds over that, which a busy machine disturbs less than seconds. Each number is
the shortest of the repeats; parts are timed alone, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medkit.atlas import data_term, regulariser
from medkit.atlas.pyramid import Grid
from medkit.atlas.registration import PairEnergy, RegistrationModel
from medkit.ops import exponential, resize_field
from medkit.ops.diffeomorphisms import count_squarings
from medkit.workflow import atomic_path
from tests.atlas.phantom import intensity, velocities

BANDWIDTH = 10e9  # bytes per second and core
# Bytes for each voxel of the images; a field on half the grid has 1.5.
TRAFFIC = {
    "exponential forward": 6 * 3 * 1.5,
    "exponential backward": 6 * 5 * 1.5,
    "finer grid forward": 1.5 + 12,
    "finer grid backward": 12 + 1.5,
    "data term forward": 12 + 4 + 4,
    "data term backward": 12 + 4 + 4 + 12,
    "smoothing": 20.0,
    "step": 4.5,
}


def cpu_seconds(call: Callable[[], Any], n_repeats: int) -> float:
    """Shortest CPU time of all threads."""
    times = []
    for _ in range(n_repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def there_and_back(call: Callable[[Tensor], Tensor], at: Tensor, n_repeats: int) -> tuple[float, float]:
    """Time a function that is differentiated, and its derivative."""
    free = at.detach().requires_grad_()
    forward = cpu_seconds(lambda: call(free), n_repeats)
    out = call(free)
    ones = torch.ones_like(out)
    return forward, cpu_seconds(lambda: torch.autograd.grad(out, free, ones, retain_graph=True), n_repeats)


def row(size: tuple[int, ...], amplitude: float, n_repeats: int) -> dict[str, Any]:
    """Time one iteration and its parts.

    Args:
        size: voxels of the images.
        amplitude: largest velocity, in voxels of its own grid.
        n_repeats: of which the shortest counts.
    """
    half = tuple(n // 2 for n in size)
    v = velocities(half, 2, 1.0, 6.0, 0)[:1]
    v = amplitude * v / v.abs().amax()
    points = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij"))[None]
    template = intensity(points, size)
    subject = template + 0.01 * torch.randn(template.shape, generator=torch.Generator().manual_seed(0))
    problem = PairEnergy(RegistrationModel(), Grid(size, (1.0,) * len(size)), template, subject)

    def iteration() -> Tensor:
        free = v.detach().requires_grad_()
        misfit = problem.data(free)
        float(misfit.detach() + regulariser(problem.metric, v))
        (slope,) = torch.autograd.grad(misfit.sum(), free)
        direction = v + problem.metric.gradient(slope)
        return v - 0.1 / float(direction.square().sum(1).max().sqrt()) * direction

    iteration()
    total = cpu_seconds(iteration, n_repeats)
    with torch.no_grad():
        coarse = exponential(v, inverse=True)
        fine = resize_field(coarse, size, corners=False)
    parts: dict[str, float] = {}
    for name, call, at in (
        ("exponential", lambda x: exponential(x, inverse=True), v),
        ("finer grid", lambda x: resize_field(x, size, corners=False), coarse),
        ("data term", lambda x: data_term(template, subject, x), fine),
    ):
        parts[f"{name} forward"], parts[f"{name} backward"] = there_and_back(call, at, n_repeats)
    parts["smoothing"] = cpu_seconds(lambda: problem.metric.gradient(v), n_repeats)
    parts["step"] = max(total - sum(parts.values()), 0.0)
    floor = {name: math.prod(size) * n / BANDWIDTH for name, n in TRAFFIC.items()}
    return {
        "size": list(size),
        "largest_velocity_voxels": amplitude,
        "n_squarings": count_squarings(v),
        "cpu_seconds": total,
        "floor_cpu_seconds": sum(floor.values()),
        "times_the_floor": total / sum(floor.values()),
        "parts": {
            name: {"cpu_seconds": t, "share": t / total, "times_the_floor": t / floor[name]}
            for name, t in parts.items()
        },
    }


def main(arguments: list[str]) -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--amplitude", type=float, default=3.0, help="largest velocity, in voxels of its grid")
    parser.add_argument("--sizes", nargs="*", default=["64x64x64", "160x192x224"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for text in options.sizes:
        found = row(tuple(int(n) for n in text.split("x")), options.amplitude, options.repeats)
        rows.append(found)
        sys.stdout.write(f"{text}  {found['cpu_seconds']:.3g} CPU s  {found['times_the_floor']:.3g} times the floor\n")
        for name, part in found["parts"].items():
            sys.stdout.write(
                f"  {name:22}{part['cpu_seconds']:9.4f} s{part['share']:7.0%}{part['times_the_floor']:8.1f} x\n"
            )
    if options.output:
        machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
        with atomic_path(options.output) as path:
            path.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
