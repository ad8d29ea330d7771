"""Speed of reading, Fourier transforms and sampling masks, against MONAI, torch, sigpy and ismrmrd in the same run.

    python -m tests.benchmarks.mri_transforms --output mri_transforms.json

Everything is a ratio of two times measured in turn, so that a busy machine slows both: the median over the repeats of
peer / medkit for what is to be faster, of medkit / peer for what has a cost. The HDF5 file is written to a temporary
folder and stays in the file cache: what is measured is the work, not the disk, which only widens the gap.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Row = dict[str, Any]
PARTS = ("reading", "raw", "fourier", "masks")
SHORTEST = 0.03  # seconds


def measure(medkit: Callable[[], Any], peer: Callable[[], Any], n_repeats: int) -> list[float]:
    """Return peer time / medkit time of each repeat; the two take turns, each called for about 30 ms at least."""

    def seconds(called: Callable[[], Any], n_calls: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(n_calls):
            called()
        return (time.perf_counter() - start) / n_calls

    medkit(), peer()
    n_medkit, n_peer = (max(1, round(SHORTEST / seconds(called))) for called in (medkit, peer))
    return [seconds(peer, n_peer) / seconds(medkit, n_medkit) for _ in range(n_repeats)]


def row(what: str, peer: str, ratios: list[float], faster: bool, target: float | None = None) -> Row:
    """Make a row of the table: ``faster`` says times faster, otherwise the cost relative to the peer."""
    values = ratios if faster else [1 / ratio for ratio in ratios]
    median = statistics.median(values)
    met = None if target is None else bool(median >= target if faster else median <= target)
    return {
        "what": what,
        "peer": peer,
        "measure": "times faster" if faster else "times the cost",
        "ratio": median,
        "lowest": min(values),
        "highest": max(values),
        "target": target,
        "met": met,
    }


def reading(folder: Path, shape: tuple[int, int, int, int], n_repeats: int) -> Iterator[Row]:
    """Compare one slice out of a volume."""
    import h5py
    import nibabel
    from monai.apps.reconstruction.fastmri_reader import FastMRIReader
    from monai.transforms import LoadImage

    from medkit.mri import LoadAcquisitiond
    from medkit.mri.readers import caching

    n_slices, n_coils, height, width = shape
    rng = np.random.default_rng(0)
    # As a scanner's k-space, strong in the middle: the reader looks at that.
    y, x = (np.arange(n, dtype=np.float32) - n // 2 for n in (height, width))
    strength = 1 / (1 + (y[:, None] ** 2 + x**2) / 16)
    path = folder / "volume.h5"
    with h5py.File(path, "w") as file:
        kspace = file.create_dataset("kspace", shape, np.complex64)
        for i in range(n_slices):
            noise = rng.standard_normal(shape[1:], np.float32) + 1j * rng.standard_normal(shape[1:], np.float32)
            kspace[i] = strength * noise
    reader, load = FastMRIReader(), LoadAcquisitiond()
    i_slice = n_slices // 2

    def whole() -> torch.Tensor:
        return torch.as_tensor(reader.get_data(reader.read(path))[0][i_slice])

    def one() -> torch.Tensor:
        return load({"path": path, "i_slice": i_slice})["kspace"]

    def one_cold() -> torch.Tensor:
        caching.HANDLES._forget()
        caching.EXAMS._forget()
        return one()

    if not torch.equal(whole(), one()):
        raise RuntimeError("the two readers differ")
    size = f"{n_coils} coils {height}x{width}, 1 of {n_slices} slices"
    ratios = measure(one, whole, n_repeats)
    yield row(f"HDF5 slice, file open ({size})", "MONAI FastMRIReader", ratios, True, 10)
    ratios = measure(one_cold, whole, n_repeats)
    yield row("HDF5 slice, file opened anew", "MONAI FastMRIReader", ratios, True, 10)
    ratios = measure(lambda: load({"path": path}), lambda: torch.as_tensor(reader.get_data(reader.read(path))[0]), 3)
    yield row("HDF5 whole volume", "MONAI FastMRIReader", ratios, True)

    image = folder / "volume.nii"
    nibabel.save(nibabel.Nifti1Image(rng.random((height, width, n_slices), np.float32), np.eye(4)), image)
    monai_load = LoadImage(image_only=True, dtype=np.float32)
    ratios = measure(
        lambda: load({"path": image, "i_slice": i_slice}), lambda: monai_load(image)[..., i_slice], n_repeats
    )
    yield row(f"NIfTI slice, mapped ({height}x{width}, 1 of {n_slices})", "MONAI LoadImage", ratios, True)


def raw_readouts(folder: Path, shape: tuple[int, int, int, int], n_repeats: int) -> Iterator[Row]:
    """Compare one slice of ISMRMRD readouts, interleaved as scanners measure, with a loop of the format's library."""
    try:
        import ismrmrd
    except ImportError:
        sys.stderr.write("ismrmrd is not installed: its readouts are left out (pip install 'medkit[test]')\n")
        return
    from medkit.mri import open_acquisition
    from tests.mri.raw_files import header, line, write

    n_slices, n_coils, height, width = shape
    samples = np.random.default_rng(0).standard_normal((n_coils, 2 * height), np.float32).view(np.complex64)
    samples = np.repeat(samples, 2, 1)[:, :height]
    readouts = [line(samples * (1 + step), place, step) for step in range(width) for place in range(n_slices)]
    path = write(folder / "raw.h5", readouts, header((height, width, 1)))
    exam, i_slice = open_acquisition(path), n_slices // 2
    numbers = [i for i, readout in enumerate(readouts) if readout.idx.slice == i_slice]
    del readouts

    def loop() -> torch.Tensor:
        kspace = torch.zeros((n_coils, height, width), dtype=torch.complex64)
        with ismrmrd.Dataset(str(path), mode="r") as file:
            for i in numbers:
                readout = file.read_acquisition(i)
                kspace[:, :, readout.idx.kspace_encode_step_1] = torch.from_numpy(readout.data)
        return kspace

    if not torch.equal(loop(), exam.read_slice(i_slice)):
        raise RuntimeError("the two readers differ")
    ratios = measure(lambda: exam.read_slice(i_slice), loop, n_repeats)
    size = f"{n_coils} coils {height}x{width}, 1 of {n_slices} interleaved slices"
    yield row(f"ISMRMRD slice ({size})", "ismrmrd read_acquisition", ratios, True, 10)


def fourier(shapes: Sequence[tuple[int, int, int]], n_repeats: int) -> Iterator[Row]:
    """Compare the centred transform with the plain one, and with MONAI's centred one."""
    from monai.data.fft_utils import fftn_centered

    from medkit.ops import centered_fft

    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        x = torch.randn(shape, dtype=torch.complex64, generator=generator)
        parts = torch.view_as_real(x)
        size = "x".join(str(n) for n in shape)
        ratios = measure(
            lambda x=x: centered_fft(x), lambda x=x: torch.fft.fftn(x, dim=(-2, -1), norm="ortho"), n_repeats
        )
        yield row(f"centered_fft {size}", "torch.fft.fftn", ratios, False, 1.5)
        ratios = measure(lambda x=x: centered_fft(x), lambda parts=parts: fftn_centered(parts, 2), n_repeats)
        yield row(f"centered_fft {size}", "MONAI fftn_centered", ratios, True)


def masks(shape: tuple[int, int, int], n_repeats: int) -> Iterator[Row]:
    """Compare drawing and applying masks: MONAI's lines, sigpy's Poisson discs."""
    from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask, RandomKspaceMask

    from medkit.mri.masks import EquispacedMask, MaskBank, PoissonDiscMask, RandomMask

    kspace = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    parts = torch.view_as_real(kspace)
    size = "x".join(str(n) for n in shape)
    for ours, theirs in ((RandomMask, RandomKspaceMask), (EquispacedMask, EquispacedKspaceMask)):
        medkit, monai = ours([0.08], [4.0]), theirs([0.08], [4.0])
        ratios = measure(lambda m=medkit: m(kspace), lambda m=monai: m(parts), n_repeats)
        yield row(f"{ours.__name__} on k-space {size}", f"MONAI {theirs.__name__}", ratios, True)
    poisson = PoissonDiscMask(0.01, 8.0)
    bank = MaskBank(poisson, n=10, shapes=[shape[-2:]])
    ratios = measure(lambda: bank.draw(shape[-2:]), lambda: poisson.draw(shape[-2:]), n_repeats)
    yield row(f"MaskBank of PoissonDiscMask {shape[-2]}x{shape[-1]}, 8-fold", "PoissonDiscMask itself", ratios, True)
    try:
        import sigpy.mri
    except ImportError:
        sys.stderr.write("sigpy is not installed: its Poisson-disc masks are left out (pip install 'medkit[peers]')\n")
        return
    ratios = measure(
        lambda: poisson.draw(shape[-2:]), lambda: sigpy.mri.poisson(shape[-2:], 8.0, calib=(24, 24)), n_repeats
    )
    yield row(f"PoissonDiscMask {shape[-2]}x{shape[-1]}, 8-fold", "sigpy.mri.poisson (numba)", ratios, True)


def table(rows: list[Row]) -> str:
    """Lay the rows out for a terminal."""
    lines = [("what", "against", "ratio (lowest to highest)", "", "target")]
    for r in rows:
        target = "" if r["target"] is None else f"{r['target']:g} {'met' if r['met'] else 'MISSED'}"
        spread = f"{r['ratio']:.2f} ({r['lowest']:.2f} to {r['highest']:.2f})"
        lines.append((r["what"], r["peer"], spread, r["measure"], target))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help="write the table as JSON there")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None, help="default: all")
    parser.add_argument("--repeats", type=int, default=9, help="repeats of each measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    parser.add_argument("--slices", type=int, default=36, help="slices of the volume (default: %(default)s)")
    parser.add_argument("--coils", type=int, default=8, help="coils of the volume (default: %(default)s)")
    parser.add_argument("--size", type=int, default=320, help="rows and columns of a slice (default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    parts = options.parts or PARTS
    n = options.size
    rows: list[Row] = []
    if "reading" in parts:
        with tempfile.TemporaryDirectory() as folder:
            rows += reading(Path(folder), (options.slices, options.coils, n, n), min(options.repeats, 5))
    if "raw" in parts:
        with tempfile.TemporaryDirectory() as folder:
            rows += raw_readouts(Path(folder), (min(options.slices, 8), options.coils, n, n), min(options.repeats, 3))
    if "fourier" in parts:
        rows += fourier(
            [(1, n, n), (options.coils, n, n), (16, 2 * n, n), (options.coils, n + 1, n - 1)], options.repeats
        )
    if "masks" in parts:
        rows += masks((options.coils, n, n), min(options.repeats, 5))
    sys.stdout.write(table(rows) + "\n")
    if options.output:
        run = {
            "command": "python -m tests.benchmarks.mri_transforms",
            "options": vars(options),
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
            "rows": rows,
        }
        Path(options.output).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    return int(any(r["met"] is False for r in rows))


if __name__ == "__main__":
    sys.exit(main())
