"""Speed and accuracy of transforms and CG-SENSE off the Cartesian grid, against sigpy in the same run.

    python -m tests.benchmarks.mri_noncartesian --output mri_noncartesian.json

Both get the same samples, coordinates, maps, weights and numbers of iterations, and take turns. Times are those of the
processor: set OMP_NUM_THREADS=1, so that threads are not added up. The ratio is the median over the repeats of sigpy's
time by medkit's. ``error`` of a transform is that of 300 of its samples, of random images, against the explicit sum in
double precision. The images are resampled from raw data of 8 coils on golden-angle spokes with 1 % of noise; NRMSE is
that of the complex image against all of the Cartesian samples.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.mri import (
    NonCartesianOperator,
    espirit_maps,
    noncartesian_adjoint,
    noncartesian_cg_sense,
    noncartesian_forward,
    nufft,
    nufft_adjoint,
    open_acquisition,
    pipe_menon_weights,
    radial_trajectory,
    radial_weights,
    sense_adjoint,
    spiral_trajectory,
)
from tests.benchmarks.mri_classical import EXAMS, Row, in_turn

CASES = {
    "radial, 100 spokes, 8 x 256x256": (8, (256, 256), radial_trajectory(100, (256, 256))),
    "spiral, 16 arms, 8 x 256x256": (8, (256, 256), spiral_trajectory(16, (256, 256))),
    "radial, 1000 spokes, 4 x 48x48x48": (4, (48, 48, 48), radial_trajectory(1000, (48, 48, 48))),
}


def random(*shape: int) -> Tensor:
    """Complex noise, the same each time."""
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def explicit(image: Tensor, trajectory: Tensor) -> Tensor:
    """Sum the waves of an image (C, *S), one axis after the other, in double precision."""
    size = image.shape[1:]
    waves = [
        torch.exp(-2j * math.pi / n * k[:, None] * (torch.arange(n) - n // 2))
        for k, n in zip(trajectory.double().unbind(-1), size, strict=True)
    ]
    x = torch.einsum("c...d,nd->cn...", image.to(torch.complex128), waves[-1])
    for wave in reversed(waves[:-1]):
        x = torch.einsum("cn...d,nd->cn...", x, wave)
    return x / math.sqrt(math.prod(size))


def error(x: Tensor, reference: Tensor) -> float:
    """Return the relative error."""
    return float((x - reference).norm() / reference.norm())


def transforms(n_repeats: int) -> Iterator[Row]:
    """Compare the transform, its adjoint and the normal operator."""
    import sigpy
    import sigpy.mri

    for name, (n_coils, size, trajectory) in CASES.items():
        image, y, x = random(1, n_coils, *size), random(1, n_coils, len(trajectory)), random(1, 1, *size)
        maps = image / image.abs().square().sum(1, keepdim=True).sqrt()
        fast, slow = (NonCartesianOperator(trajectory, maps, use_toeplitz=toeplitz) for toeplitz in (True, False))
        coordinates = trajectory.numpy()
        linop = sigpy.mri.linop.Sense(maps[0].numpy(), coord=coordinates).N
        pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], np.ndarray]]] = {
            "nufft": (partial(nufft, image, trajectory), partial(sigpy.nufft, image[0].numpy(), coordinates)),
            "nufft_adjoint": (
                partial(nufft_adjoint, y, trajectory, size),
                partial(sigpy.nufft_adjoint, y[0].numpy(), coordinates, tuple(image.shape[1:])),
            ),
            "normal (Toeplitz)": (partial(fast.normal, x), partial(linop, x[0, 0].numpy())),
        }
        some = torch.randperm(len(trajectory), generator=torch.Generator().manual_seed(0))[:300]
        expected = explicit(image[0], trajectory[some])
        for method, (ours, theirs) in pairs.items():
            result, peer, times = in_turn(ours, lambda theirs=theirs: torch.from_numpy(theirs()), n_repeats)
            if method == "nufft":
                accuracy = f"error {error(result[0][:, some], expected):.1e} / {error(peer[:, some], expected):.1e}"
            elif method == "nufft_adjoint":
                accuracy = f"difference {error(peer, result[0]):.1e}"
            else:
                direct, _, others = in_turn(partial(slow.normal, x), partial(torch.zeros, 1), n_repeats)
                accuracy = f"of there and back {error(result, direct):.1e}, which takes {others['seconds']:.3f} s"
            yield {"data": name, "method": method, **times, "accuracy": accuracy}


def images(kspace: Tensor, n_repeats: int) -> Iterator[Row]:
    """Compare CG-SENSE from few spokes."""
    from sigpy.mri.app import SenseRecon

    size = tuple(kspace.shape[-2:])
    maps = espirit_maps(kspace)[0][:, 0]
    reference = sense_adjoint(kspace, None, maps)
    reference = reference / reference.abs().quantile(0.995)
    maximum = math.ceil(math.pi / 2 * max(size))
    for n_spokes in (72, 36, 18):
        trajectory, weights = (f(n_spokes, size, order="golden") for f in (radial_trajectory, radial_weights))
        y = noncartesian_forward(reference, trajectory, maps)
        y = y + 0.01 * y.abs().square().mean().sqrt() * random(*y.shape)
        gridded = noncartesian_adjoint(y, trajectory, maps, weights)
        given = {"coord": trajectory.numpy(), "weights": weights.numpy(), "lamda": 0.01, "max_iter": 15}

        def peer(y: Tensor = y, given: dict[str, object] = given) -> Tensor:
            app = SenseRecon(y[0].numpy(), maps[0].numpy(), show_pbar=False, **given)
            return torch.from_numpy(np.asarray(app.run()))[None, None]

        ours, theirs, times = in_turn(
            lambda y=y, k=trajectory, w=weights: noncartesian_cg_sense(y, k, maps, w, 0.01, 15), peer, n_repeats
        )
        errors = [error(x, reference) for x in (ours, theirs, gridded)]
        iterated = noncartesian_cg_sense(y, trajectory, maps, pipe_menon_weights(trajectory, size), 0.01, 15)
        accuracy = (
            f"NRMSE {errors[0]:.4f} / {errors[1]:.4f}, gridding {errors[2]:.4f}, "
            f"weights of Pipe and Menon {error(iterated, reference):.4f}"
        )
        data = f"{n_spokes} of {maximum} spokes, 8 coils, {size[0]}x{size[1]}"
        yield {"data": data, "method": "noncartesian_cg_sense", **times, "accuracy": accuracy}


def main() -> None:
    """Run, print one table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rows: list[Row] = []
    print("| data | method | sigpy s | medkit s | times faster (range) | accuracy |\n|" + "---|" * 6)  # noqa: T201

    runs = [transforms(options.repeats)]
    path = EXAMS["8 coils, 230x180"]
    if path.exists():
        runs.append(images(open_acquisition(path).read_slice(0)[None], options.repeats))
    else:
        sys.stderr.write(f"skipped CG-SENSE: no file {path}\n")
    for row in itertools.chain(*runs):
        rows.append(row)
        ratio = f"{row['ratio']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})"
        cells = [row["data"], row["method"], f"{row['sigpy seconds']:.3f}", f"{row['seconds']:.3f}", ratio]
        print(f"| {' | '.join([*cells, row['accuracy']])} |", flush=True)  # noqa: T201
    if options.output:
        load = os.getloadavg() if hasattr(os, "getloadavg") else None
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads(), "load": load}
        options.output.write_text(json.dumps({"machine": machine, "results": rows}, indent=1))


if __name__ == "__main__":
    main()
