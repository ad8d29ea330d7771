"""TorchScript files, which MONAI bundles, MONAI Label and C++ programs load."""

import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medkit.export.parity import ExportReport, check_examples, compare, frozen_copy
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)


def to_torchscript(
    network: nn.Module,
    path: str | os.PathLike[str],
    examples: Sequence[Tensor],
    method: str = "script",
    tolerance: float = 1e-4,
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a network as TorchScript, after checking that the file gives what the network gives.

    The file is read back and run on every example before it replaces what is at ``path``; the network itself is not
    changed.

    Args:
        network: takes one real tensor ``image`` and returns one real tensor ``pred``.
        path: file to write, usually ``model.ts``.
        examples: inputs to compare on; give two sizes to prove that the file is not tied to one. Tracing follows the
            first one.
        method: ``"script"`` compiles the source of the network and keeps its branches; ``"trace"`` records one run,
            for networks that cannot be scripted.
        tolerance: largest difference allowed, absolute, relative to the largest output if that is above 1.
        metadata: written into the file as ``metadata.json``, where MONAI's ``load_net_with_metadata`` finds it.

    Returns:
        Path, kind and measured differences.

    Raises:
        ValueError: if an argument is not of this form, or the network does not return one real tensor.
        RuntimeError: if the network cannot be exported by this method, or the file disagrees with it.

    Example:
        >>> report = to_torchscript(torch.nn.Conv2d(1, 1, 3), "model.ts", [torch.rand(1, 1, 8, 8)])
        >>> report.kind
        'script'
    """
    if method not in ("script", "trace"):
        raise ValueError(f"to_torchscript: 'method' must be 'script' or 'trace', got {method!r}")
    examples = check_examples("to_torchscript", examples)
    copied = frozen_copy(network)
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript is deprecated, and still what MONAI loads; the comparison below is our check of a trace.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        try:
            scripted = torch.jit.script(copied) if method == "script" else torch.jit.trace(copied, examples[0])
        except (RuntimeError, torch.jit.frontend.NotSupportedError) as error:
            hint = "; try method='trace'" if method == "script" else ""
            raise RuntimeError(
                f"to_torchscript: the network could not be exported by {method}{hint}: {error}"
            ) from error
        with atomic_path(path) as temporary:
            extra = {} if metadata is None else {"metadata.json": json.dumps(dict(metadata))}
            torch.jit.save(scripted, str(temporary), _extra_files=extra)
            loaded = torch.jit.load(str(temporary), map_location=examples[0].device)
            errors = compare("to_torchscript", copied, loaded, examples, tolerance)
    report = ExportReport(Path(path), method, errors)
    logger.info("%s: %s, largest difference %.2g", report.path, method, max(errors.values()))
    return report
