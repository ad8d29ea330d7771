"""Speed of CLGNet: its residual block against the same formula written plainly, and the time of each preset.

    python -m tests.benchmarks.clgnet_speed --output clgnet_speed.json --threads 2

The peer is the layer as one would write it down: convolution, torch.fft, 1×1 convolutions, concatenations. Both take
turns, so that a busy machine slows both; ratios are medians. Presets are timed alone: the shortest of the repeats.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from medkit.mri import CLGNet, ContrastiveReconstructionLoss, SpatialFourierResidualBlock
from medkit.workflow import atomic_path


class PlainLayer(nn.Module):
    """The Spatial and Fourier Layer, step by step."""

    def __init__(self, channels: int):
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 3, padding=1)
        self.first = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.second = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.fuse = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(z, norm="ortho")
        parts = torch.cat([spectrum.real, spectrum.imag], 1)
        re, im = self.second(leaky_relu(self.first(parts), 0.1)).chunk(2, 1)
        far = torch.fft.irfft2(torch.complex(re, im), s=z.shape[-2:], norm="ortho")
        return self.fuse(torch.cat([self.near(z), far], 1))


class PlainBlock(nn.Module):
    """The residual block of two plain layers."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = PlainLayer(channels), PlainLayer(channels)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.1))

    def forward(self, z: Tensor) -> Tensor:
        return z + self.scale * self.second(leaky_relu(self.first(z), 0.1))


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def block_row(channels: int, batch: int, size: int, n_repeats: int) -> dict[str, Any]:
    """Compare training and inference of one block."""
    z = torch.randn(batch, channels, size, size, requires_grad=True)
    blocks = [SpatialFourierResidualBlock(channels), PlainBlock(channels)]

    def train(block: nn.Module) -> None:
        block(z).square().mean().backward()

    def infer(block: nn.Module) -> None:
        with torch.no_grad():
            block(z)

    row: dict[str, Any] = {"what": f"block, {channels} channels, {batch} images of {size}²"}
    for name, work in (("training", train), ("inference", infer)):
        for block in blocks:
            work(block)
        times = [[seconds(lambda w=work, b=block: w(b)) for block in blocks] for _ in range(n_repeats)]
        row[f"{name}_times_faster"] = statistics.median(plain / ours for ours, plain in times)
        row[f"{name}_ms"] = 1000 * min(ours for ours, _ in times)
    return row


def preset_row(preset: str, train_size: int, n_repeats: int) -> dict[str, Any]:
    """Time the reconstruction of one 320×320 slice, and a training step of four smaller ones."""
    network, loss = CLGNet(preset), ContrastiveReconstructionLoss()
    optimizer = torch.optim.AdamW(network.parameters())

    def images(batch: int, size: int) -> tuple[Tensor, Tensor]:
        mask = torch.zeros(batch, 1, size, size)
        mask[..., ::4] = 1
        return torch.rand(batch, 2, size, size), mask

    def step() -> None:
        optimizer.zero_grad()
        loss(network(*images(4, train_size)), torch.rand(4, 4, train_size, train_size)).backward()
        optimizer.step()

    with torch.no_grad():
        inputs = images(1, 320)
        infer = min(seconds(lambda: network(*inputs)) for _ in range(n_repeats + 1))
    return {
        "what": f"preset {preset}",
        "parameters": sum(p.numel() for p in network.parameters()),
        "slice_320_seconds": infer,
        f"step_4x{train_size}_seconds": min(seconds(step) for _ in range(n_repeats + 1)),
    }


def main(arguments: list[str]) -> None:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--presets", nargs="*", default=["small", "base"], help="'paper' takes minutes on a CPU")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rows = [block_row(32, 4, 160, options.repeats), block_row(32, 1, 320, options.repeats)]
    rows += [preset_row(preset, size, 2) for preset in options.presets for size in (128, 160)]
    for row in rows:
        cells = (f"{key} {value:.3g}" if isinstance(value, float) else f"{value}" for key, value in row.items())
        sys.stdout.write("  ".join(cells) + "\n")
    if options.output:
        machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
        with atomic_path(options.output) as path:
            path.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
