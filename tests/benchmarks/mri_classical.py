"""Speed and accuracy of the methods without learning, against sigpy in the same run, on raw data of two scanners.

    python -m tests.benchmarks.mri_classical --output mri_classical.json

Both get the same samples, maps, weights and numbers of iterations, and take turns. Times are those of the processor,
since a busy machine would decide on the others: set OMP_NUM_THREADS=1, so that threads are not added up. The ratio is
the median over the repeats of sigpy's time by medkit's. ``objective`` is what the method minimises,
divided by its value for sigpy's image, both taken with sigpy's penalty; NRMSE is that of the magnitude, against all
samples. Each method is also run on a batch of the same slice, ``--batch`` times, which sigpy must do one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.mri import (
    EquispacedMask,
    RandomMask,
    cg_sense,
    espirit_maps,
    grappa,
    l1_wavelet,
    open_acquisition,
    root_sum_of_squares,
    sense_adjoint,
    sense_combine,
    sense_forward,
    total_variation,
)
from medkit.ops import centered_ifft

ROOT = Path(__file__).resolve().parents[2]
REAL_DATA = Path(os.environ.get("MEDKIT_REAL_DATA", ROOT.parent / "shared" / "data")) / "mri_recon"
EXAMS = {
    "8 coils, 230x180": REAL_DATA / "sidward__espirit-python" / "full.cfl",
    "16 coils, 96x96": REAL_DATA / "mchiew__SENSE-tutorial" / "raw_data.mat",
}
WEIGHT = {"cg_sense": 0.01, "l1_wavelet": 0.002, "total_variation": 0.002}
ITERATIONS = {"cg_sense": 30, "l1_wavelet": 100, "total_variation": 100}
Row = dict[str, Any]


def in_turn(medkit: Callable[[], Tensor], peer: Callable[[], Tensor], n_repeats: int) -> tuple[Tensor, Tensor, Row]:
    """Return both results, and the ratio of their times."""

    def timed(called: Callable[[], Tensor]) -> tuple[Tensor, float]:
        start = time.process_time()
        result = called()
        return result, time.process_time() - start

    medkit()
    pairs = [(timed(medkit), timed(peer)) for _ in range(n_repeats)]
    ratios = [theirs[1] / ours[1] for ours, theirs in pairs]
    seconds = {"seconds": min(ours[1] for ours, _ in pairs), "sigpy seconds": min(theirs[1] for _, theirs in pairs)}
    times = {"ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios), **seconds}
    return pairs[-1][0][0], pairs[-1][1][0], times


def nrmse(image: Tensor, reference: Tensor) -> float:
    """Return the error of the magnitude, as a part of the reference."""
    return float((image.abs() - reference.abs()).norm() / reference.abs().norm())


def sensitivities(kspace: Tensor, n_repeats: int) -> Row:
    """Compare ESPIRiT: overlap within the crop, Dice of the crops, what projecting the full data leaves."""
    from sigpy.mri.app import EspiritCalib

    given = {"calib_width": 24, "thresh": 0.02, "kernel_width": 6, "crop": 0.95, "max_iter": 100, "show_pbar": False}
    ours, theirs, times = in_turn(
        lambda: espirit_maps(kspace)[0][:, 0],
        lambda: torch.from_numpy(EspiritCalib(kspace[0].numpy(), **given).run())[None],
        n_repeats,
    )
    inside = [maps.abs().sum(1) > 0 for maps in (ours, theirs)]
    both = inside[0] & inside[1]
    coils = centered_ifft(kspace)
    left = [float((coils - m * sense_combine(coils, m)).norm() / coils.norm()) for m in (ours, theirs)]
    overlap = (ours.conj() * theirs).sum(1).abs()[both]
    dice = float(2 * both.sum() / (inside[0].sum() + inside[1].sum()))
    accuracy = f"overlap >= {float(overlap.min()):.6f}, Dice {dice:.4f}, left {left[0]:.5f} / {left[1]:.5f}"
    return {"method": "espirit_maps", **times, "target": 8.0, "accuracy": accuracy}


def images(kspace: Tensor, n_repeats: int, n_batch: int) -> list[Row]:
    """Compare the methods that start from the zero-filled image."""
    import sigpy
    import sigpy.mri.app as app

    size = tuple(kspace.shape[-2:])
    mask = RandomMask(0.12, 3).set_random_state(0).draw(size)[None, None]
    maps = espirit_maps(kspace * mask, mask)[0][:, 0]
    kspace = kspace / sense_adjoint(kspace * mask, None, maps).abs().quantile(0.995)
    measured, reference = kspace * mask, sense_adjoint(kspace, None, maps)
    zero_filled = sense_adjoint(measured, mask, maps)
    weights = np.broadcast_to(mask.numpy()[0], measured.shape[1:]).astype(np.float32)
    wavelet = sigpy.linop.Wavelet(size, wave_name="db4")
    penalties: dict[str, Callable[[Tensor], float]] = {
        "cg_sense": lambda x: 0.5 * float(x.norm()) ** 2,
        "l1_wavelet": lambda x: float(np.abs(wavelet(x[0, 0].numpy())).sum()),
        "total_variation": lambda x: float((x - x.roll(1, -1)).abs().sum() + (x - x.roll(1, -2)).abs().sum()),
    }
    rows: list[Row] = []
    peers = {"cg_sense": "SenseRecon", "l1_wavelet": "L1WaveletRecon", "total_variation": "TotalVariationRecon"}
    for method in (cg_sense, l1_wavelet, total_variation):
        name = method.__name__
        weight, n_iterations = WEIGHT[name], ITERATIONS[name]

        def objective(x: Tensor, name: str = name) -> float:
            misfit = 0.5 * float((sense_forward(x, mask, maps) - measured).norm()) ** 2
            return misfit + WEIGHT[name] * penalties[name](x)

        def peer(name: str = name) -> Tensor:
            recon = getattr(app, peers[name])(
                measured[0].numpy(),
                maps[0].numpy(),
                lamda=WEIGHT[name],
                weights=weights,
                max_iter=ITERATIONS[name],
                show_pbar=False,
            )
            return torch.from_numpy(recon.run())[None, None]

        ours, theirs, times = in_turn(
            lambda method=method, weight=weight, n=n_iterations: method(zero_filled, mask, maps, weight, n),
            peer,
            n_repeats,
        )
        errors = [nrmse(x, reference) for x in (ours, theirs, zero_filled)]
        accuracy = (
            f"objective {objective(ours) / objective(theirs):.5f}, "
            f"NRMSE {errors[0]:.4f} / {errors[1]:.4f}, zero-filled {errors[2]:.4f}"
        )
        rows.append({"method": name, **times, "target": 2.0, "accuracy": accuracy})
        many = [x.expand(n_batch, -1, -1, -1).contiguous() for x in (zero_filled, maps)]
        start = time.process_time()
        method(many[0], mask, many[1], weight, n_iterations)
        rows[-1]["batch seconds per slice"] = (time.process_time() - start) / n_batch
    return rows


def interpolation(kspace: Tensor) -> list[Row]:
    """Measure GRAPPA, which sigpy lacks."""
    rows = []
    truth = root_sum_of_squares(centered_ifft(kspace))
    width = kspace.shape[-1]
    for rate in (2, 3):
        pattern = EquispacedMask(24 / width, rate, count_centre=False).set_random_state(0)
        mask = pattern.draw(tuple(kspace.shape[-2:]))[None, None]
        start = time.process_time()
        filled = grappa(kspace * mask, mask)
        seconds = time.process_time() - start
        errors = [nrmse(root_sum_of_squares(centered_ifft(x)), truth) for x in (filled, kspace * mask)]
        accuracy = f"NRMSE {errors[0]:.4f}, zero-filled {errors[1]:.4f}"
        rows.append({"method": f"grappa, every {rate}. line", "seconds": seconds, "accuracy": accuracy})
    return rows


def main() -> None:
    """Run, print one table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    results: dict[str, list[Row]] = {}
    print("| data | method | sigpy s | medkit s | times faster (range) | target | accuracy |\n|" + "---|" * 7)  # noqa: T201
    for name, path in EXAMS.items():
        if not path.exists():
            sys.stderr.write(f"skipped {name}: no file {path}\n")
            continue
        kspace = open_acquisition(path).read_slice(0)[None]
        rows = [sensitivities(kspace, options.repeats), *images(kspace, options.repeats, options.batch)]
        results[name] = [*rows, *interpolation(kspace)]
        for row in results[name]:
            ratio = f"{row['ratio']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})" if "ratio" in row else "no peer"
            peer = f"{row['sigpy seconds']:.2f}" if "ratio" in row else ""
            target = f">= {row['target']:g}" if "target" in row else ""
            cells = [name, row["method"], peer, f"{row['seconds']:.2f}", ratio, target, row["accuracy"]]
            print(f"| {' | '.join(cells)} |", flush=True)  # noqa: T201
    if options.output:
        load = os.getloadavg() if hasattr(os, "getloadavg") else None
        machine = {"platform": platform.platform(), "threads": torch.get_num_threads(), "load": load}
        options.output.write_text(json.dumps({"machine": machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
