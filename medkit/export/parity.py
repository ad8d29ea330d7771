"""What an export must prove: on every example, the file gives what the network gives."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how well it agrees with the network.

    Attributes:
        path: the file.
        kind: how it was made: ``"script"``, ``"trace"`` or ``"onnx"``.
        errors: for each shape that was compared, the largest absolute difference to the network, in units of the
            output, or of its largest magnitude if that is above 1.
    """

    path: Path
    kind: str
    errors: Mapping[tuple[int, ...], float]


def check_examples(name: str, examples: Sequence[Tensor]) -> list[Tensor]:
    """Return the examples as a list, or say what is wrong with them.

    Args:
        name: of the function that was called, for the message.
        examples: inputs of the network.

    Returns:
        The examples.

    Raises:
        ValueError: if they are not real tensors with the same number of axes.
    """
    if isinstance(examples, Tensor):
        raise ValueError(f"{name}: 'examples' must be a sequence of inputs, got one tensor; write [tensor]")
    examples = list(examples)
    if not examples or any(not isinstance(x, Tensor) or x.is_complex() or x.ndim < 2 for x in examples):
        got = [f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in examples]
        raise ValueError(f"{name}: 'examples' must hold at least one real tensor (B, C, ...), got {got}")
    if len({x.ndim for x in examples}) > 1:
        raise ValueError(
            f"{name}: 'examples' must have the same number of axes, got {[tuple(x.shape) for x in examples]}"
        )
    return examples


def frozen_copy(network: nn.Module) -> nn.Module:
    """Copy a network, in evaluation mode and without gradients; the original stays as it is.

    Args:
        network: any network.

    Returns:
        The copy.
    """
    return copy.deepcopy(network).eval().requires_grad_(False)


def compare(
    name: str,
    network: Callable[[Tensor], Tensor],
    exported: Callable[[Tensor], Tensor],
    examples: Sequence[Tensor],
    tolerance: float,
) -> dict[tuple[int, ...], float]:
    """Run both on every example.

    Args:
        name: of the function that was called, for the message.
        network: the original, in evaluation mode.
        exported: what was read back from the file.
        examples: inputs.
        tolerance: largest difference allowed, see :class:`ExportReport`.

    Returns:
        Largest difference for each shape.

    Raises:
        ValueError: if the network does not return one real tensor.
        RuntimeError: if the two disagree.
    """
    errors: dict[tuple[int, ...], float] = {}
    for example in examples:
        with torch.no_grad():
            expected, got = network(example), exported(example)
        if not isinstance(expected, Tensor) or expected.is_complex():
            kind = f"{expected.dtype} tensor" if isinstance(expected, Tensor) else type(expected).__name__
            raise ValueError(f"{name}: 'network' must return one real tensor, got {kind}; wrap it in an adapter")
        shape = tuple(example.shape)
        if got.shape != expected.shape:
            raise RuntimeError(
                f"{name}: for an input {shape} the export gives {tuple(got.shape)} where the network gives "
                f"{tuple(expected.shape)}; nothing was written"
            )
        scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        error = float((got.to(expected) - expected).abs().max()) / scale if expected.numel() else 0.0
        if not error <= tolerance:
            raise RuntimeError(
                f"{name}: for an input {shape} the export differs by {error:.3g}, more than the tolerance "
                f"{tolerance:g}; nothing was written"
            )
        errors[shape] = max(error, errors.get(shape, 0.0))
    return errors
