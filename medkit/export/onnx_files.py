"""ONNX files, which onnxruntime, TensorRT and programs in other languages load."""

import importlib
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

_AXES = ("batch", "channel", "height", "width", "depth")


def _require(*packages: str) -> None:
    missing = []
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise ImportError(f"to_onnx: {', '.join(missing)} not installed; run: pip install 'medkit[export]'")


def _dynamic_axes(examples: Sequence[Tensor]) -> dict[int, str]:
    """Axes on which the examples differ, with a name for each."""
    n_axes = examples[0].ndim
    names = _AXES if n_axes <= len(_AXES) else ("batch", *(f"axis_{i}" for i in range(1, n_axes)))
    return {i: names[i] for i in range(n_axes) if len({x.shape[i] for x in examples}) > 1}


class _OnnxNetwork:
    """An ONNX file as a function of one tensor, run by onnxruntime on the CPU."""

    def __init__(self, path: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(["pred"], {"image": image.detach().cpu().numpy()})[0])


def to_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    examples: Sequence[Tensor],
    tolerance: float = 1e-4,
    metadata: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write a network as ONNX, after checking in onnxruntime that the file gives what the network gives.

    The axes on which the examples differ become dynamic: give two sizes for a network of any size. In a copy of the
    network, each module with an attribute ``fft_backend`` is set to ``"matmul"``, since runtimes lack exact Fourier
    transforms; the comparison is with the network as it was given. The file replaces what is at ``path`` only when all
    examples agree, and holds its weights (no second file).

    Args:
        network: takes one real tensor ``image`` and returns one real tensor ``pred``.
        path: file to write, usually ``model.onnx``.
        examples: inputs, float32. One of them must be at least 2 long on every axis that is to be dynamic.
        tolerance: largest difference allowed, absolute, relative to the largest output if that is above 1.
        metadata: written into the file as the property ``metadata``, as JSON.

    Returns:
        Path, kind and measured differences.

    Raises:
        ImportError: if onnx, onnxscript or onnxruntime is missing.
        ValueError: if an argument is not of this form, or the network does not return one real tensor.
        RuntimeError: if the network cannot be exported, or the file disagrees with it.

    Example:
        >>> sizes = [torch.rand(1, 1, 8, 8), torch.rand(1, 1, 10, 12)]
        >>> to_onnx(torch.nn.Conv2d(1, 1, 3), "model.onnx", sizes).kind
        'onnx'
    """
    examples = check_examples("to_onnx", examples)
    dynamic = _dynamic_axes(examples)
    traced = [x for x in examples if all(x.shape[i] > 1 for i in dynamic)]
    if not traced:
        raise ValueError(
            "to_onnx: one of 'examples' must be at least 2 long on every axis on which they differ "
            f"{list(dynamic.values())}, got {[tuple(x.shape) for x in examples]}"
        )
    _require("onnx", "onnxscript", "onnxruntime")
    import onnx

    original, copied = frozen_copy(network), frozen_copy(network)
    for module in copied.modules():
        if hasattr(module, "fft_backend"):
            setattr(module, "fft_backend", "matmul")  # noqa: B010
    with atomic_path(path) as temporary:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns about its own internals; whether the file is right is measured below.
            warnings.simplefilter("ignore")
            try:
                torch.onnx.export(
                    copied,
                    (traced[0],),
                    str(temporary),
                    input_names=["image"],
                    output_names=["pred"],
                    dynamic_shapes=(dynamic,) if dynamic else None,
                    dynamo=True,
                    external_data=False,
                    verbose=False,
                )
            except torch.onnx.OnnxExporterError as error:
                raise RuntimeError(f"to_onnx: 'network' cannot be exported: {error}") from error
        if metadata is not None:
            model = onnx.load(str(temporary))
            onnx.helper.set_model_props(model, {"metadata": json.dumps(dict(metadata))})
            onnx.save(model, str(temporary))
        errors = compare("to_onnx", original, _OnnxNetwork(temporary), examples, tolerance)
    report = ExportReport(Path(path), "onnx", errors)
    logger.info("%s: onnx, largest difference %.2g", report.path, max(errors.values()))
    return report
