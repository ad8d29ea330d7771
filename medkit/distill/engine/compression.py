"""What a distillation saves: size, work, time and memory of teacher and student, and what it costs in the metric."""

from __future__ import annotations

import io
import json
import logging
import os
import statistics
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)
_ROWS = {
    "parameters": ("parameters", "{:,.0f}"),
    "macs": ("MACs", "{:,.0f}"),
    "latency_ms": ("latency (ms, median)", "{:.2f}"),
    "peak_memory_mb": ("peak memory of a run (MB)", "{:.2f}"),
    "file_mb": ("file of weights (MB)", "{:.2f}"),
}


def compression_report(
    student: nn.Module,
    teacher: nn.Module,
    example: Tensor | Sequence[int],
    metrics: Mapping[str, float] | None = None,
    n_repeats: int = 20,
    device: str | torch.device = "cpu",
    output_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Compare a student with its teacher: size, work, time, memory and metrics.

    Both run on one example in ``eval`` mode without gradients; their modes and devices are put back. Multiply and
    accumulate count once (``torch.utils.flop_counter`` counts matrix products and convolutions); the latency is the
    median over repeats, the two networks in turn; peak memory is that of the tensors that a run makes, beside weights
    and input: on CUDA what the allocator says, on CPU the sum of the tensors alive at a time.

    Args:
        student: the small network.
        teacher: the large one.
        example: an input of both, ``(B, C, *S)``, or its shape.
        metrics: name and value of what was measured elsewhere, such as ``{"teacher": 0.91, "student_before": 0.86,
            "student": 0.89}``.
        n_repeats: timed runs of each.
        device: where they run.
        output_dir: where ``compression.json`` and ``compression.md`` are written; ``None``: nowhere.

    Returns:
        ``{"teacher": {...}, "student": {...}, "ratio": {...}, "metrics": {...}, "example": shape, "device": name}``, of
        each network ``parameters``, ``macs``, ``latency_ms``, ``peak_memory_mb``, ``file_mb`` (10⁶ bytes).

    Raises:
        ValueError: if ``n_repeats`` is below 1, or a network does not take the example.

    Example:
        >>> compression_report(student, teacher, [1, 1, 64, 64])["ratio"]["parameters"]
        8.3
    """
    if n_repeats < 1:
        raise ValueError(f"compression_report: 'n_repeats' must be at least 1, got {n_repeats}")
    device = torch.device(device)
    image = (example if isinstance(example, Tensor) else torch.rand(*example)).to(device)
    networks = {"teacher": teacher, "student": student}
    with ExitStack() as stack:
        for network in networks.values():
            for module in network.modules():
                stack.callback(setattr, module, "training", module.training)
            home = next((parameter.device for parameter in network.parameters()), device)
            stack.callback(network.to, home)
            network.to(device).eval()
        stack.enter_context(torch.no_grad())
        values = {name: _measured(name, network, image) for name, network in networks.items()}
        for name, latency in _latencies(networks, image, n_repeats).items():
            values[name]["latency_ms"] = latency
    ratio = {key: values["teacher"][key] / values["student"][key] if values["student"][key] else None for key in _ROWS}
    report = {
        **values,
        "ratio": ratio,
        "metrics": dict(metrics or {}),
        "example": list(image.shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }
    table = _table(report)
    for line in table:
        logger.info("%s", line)
    if output_dir is not None:
        for name, text in (("json", json.dumps(report, indent=2)), ("md", "\n".join(table))):
            with atomic_path(Path(output_dir) / f"compression.{name}") as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
    return report


def _measured(name: str, network: nn.Module, image: Tensor) -> dict[str, float]:
    """All but the latency."""
    with FlopCounterMode(display=False) as counter:
        try:
            network(image)
        except (RuntimeError, IndexError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"compression_report: the {name} does not take an input of {tuple(image.shape)}: {reason}"
            ) from error
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "macs": counter.get_total_flops() // 2,
        "latency_ms": 0.0,
        "peak_memory_mb": _peak(network, image) / 1e6,
        "file_mb": file.getbuffer().nbytes / 1e6,
    }


@torch.no_grad()
def _peak(network: nn.Module, image: Tensor) -> int:
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
        before = torch.cuda.memory_allocated(image.device)
        torch.cuda.reset_peak_memory_stats(image.device)
        network(image)
        torch.cuda.synchronize(image.device)
        return torch.cuda.max_memory_allocated(image.device) - before
    known = [tensor.untyped_storage() for tensor in (*network.parameters(), *network.buffers(), image)]
    with _LiveTensors(known) as live:
        network(image)
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Bytes of the storages that operations made and that are alive; ``peak`` is the most at a time."""

    def __init__(self, known: Sequence[torch.UntypedStorage]) -> None:
        super().__init__()
        self._seen = {storage._cdata for storage in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _latencies(networks: Mapping[str, nn.Module], image: Tensor, n_repeats: int) -> dict[str, float]:
    """Median time of a run in ms; the networks take turns, so that what disturbs one disturbs the other."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for i in range(n_repeats + 2):
        for name, network in networks.items():
            _wait(image)
            start = time.perf_counter()
            network(image)
            _wait(image)
            if i >= 2:  # the first runs choose algorithms
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(image: Tensor) -> None:
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)


def _table(report: Mapping[str, Any]) -> list[str]:
    """Lines of markdown."""
    lines = ["| | teacher | student | teacher / student |", "|---|---|---|---|"]
    for key, (title, form) in _ROWS.items():
        ratio = report["ratio"][key]
        cells = (form.format(report["teacher"][key]), form.format(report["student"][key]))
        lines.append(f"| {title} | {cells[0]} | {cells[1]} | {'' if ratio is None else f'{ratio:.2f}'} |")
    if report["metrics"]:
        lines += ["", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in report["metrics"].items()]
    shape = "×".join(map(str, report["example"]))
    return [*lines, "", f"One input of {shape} on {report['device']}, {report['threads']} threads."]
