"""A teacher's weights from a file of tensors, and the parameters that the student's optimizer gets besides."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from medkit.distill.paths import unwrapped

logger = logging.getLogger(__name__)
NAMES = ("model", "network", "net", "state_dict", "student", "network_def")
PREFIXES = ("module.", "_orig_mod.")


def load_teacher(
    network: nn.Module, ckpt_path: str | os.PathLike[str] | None = None, key: str | None = None
) -> nn.Module:
    """Load a teacher's weights from a file that holds tensors only.

    Args:
        network: the teacher.
        ckpt_path: a state dict, or a checkpoint that holds one; ``None``: the network keeps the weights that it has,
            which a warning says.
        key: of the state dict in the checkpoint; ``None``: found under the usual names.

    Returns:
        The network, on its device.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds other things than tensors and plain values, no state dict, or that of another network.

    Example:
        >>> load_teacher(DenseNet121(2, 1, 3), "runs/teacher/model.pt")
    """
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"load_teacher: 'network' must be a network, got {type(network).__name__}; write a teacher as "
            "{'_target_': 'DenseNet121', 'spatial_dims': 2, ...}"
        )
    if ckpt_path is None:
        logger.warning("load_teacher: no weights are given, the teacher keeps those of its definition")
        return network
    path = Path(ckpt_path)
    if not path.is_file():
        raise FileNotFoundError(f"load_teacher: there are no weights at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"load_teacher: {path} is no file of weights alone ({' '.join(str(error).split())[:120]}); "
            "save the network's state_dict()"
        ) from error
    state = _plain_names(_state_in(content, key, path))
    bare = unwrapped(network)
    own = bare.state_dict()
    if strangers := sorted(set(own) ^ set(state)):
        missing = "lacks" if strangers[0] in own else "has besides"
        raise ValueError(
            f"load_teacher: {path} holds the weights of another network than {type(bare).__name__} as it is defined; "
            f"it {missing} {strangers[0]!r} ({len(strangers)} such names)"
        )
    for name, value in own.items():
        if isinstance(value, Tensor) and value.shape != getattr(state[name], "shape", None):
            raise ValueError(
                f"load_teacher: {path} is of a {type(bare).__name__} of other sizes: {name!r} is "
                f"{tuple(state[name].shape)} there and {tuple(value.shape)} here"
            )
    bare.load_state_dict(state)
    return network


def bundle_network(
    bundle: str | os.PathLike[str],
    network_id: str = "network_def",
    configs: Sequence[str] | None = None,
    ckpt_path: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the network of a bundle with its weights: a teacher that is a bundle.

    Args:
        bundle: its folder.
        network_id: of the network in the configs.
        configs: names of configs, merged in order; ``None``: ``inference``, or ``train`` where there is none.
        ckpt_path: weights; ``None``: ``models/model.pt`` of the bundle, where there is one.
        options: ids of the configs and their values.

    Returns:
        The network.

    Raises:
        FileNotFoundError: if there is no such bundle or config.
        ValueError: if it has no such network, or the weights do not fit.

    Example:
        >>> bundle_network("bundles/clgnet")
    """
    folder = Path(bundle)
    names = list(
        configs or [name for name in ("inference", "train") if (folder / "configs" / f"{name}.json").is_file()][:1]
    )
    files = [folder / "configs" / f"{name}.json" for name in names]
    if not files or (lost := [file for file in files if not file.is_file()]):
        raise FileNotFoundError(f"bundle_network: there is no config {[str(f) for f in lost] if files else folder}")
    parser = ConfigParser()
    parser.read_config([str(file) for file in files])
    parser.update({"bundle_root": str(folder), **dict(options or {})})
    if network_id not in parser:
        raise ValueError(
            f"bundle_network: {folder} has no '{network_id}', it has {sorted(parser.get())}; name it with 'network_id'"
        )
    network = parser.get_parsed_content(network_id)
    weights = folder / "models" / "model.pt" if ckpt_path is None else Path(ckpt_path)
    if ckpt_path is None and not weights.is_file():
        logger.warning("bundle_network: %s has no weights", folder)
        return network
    return load_teacher(network, weights)


def _state_in(content: Any, key: str | None, path: Path) -> Mapping[str, Any]:
    if key is not None:
        if not isinstance(content, Mapping) or not isinstance(content.get(key), Mapping):
            there = sorted(content) if isinstance(content, Mapping) else type(content).__name__
            raise ValueError(f"load_teacher: {path} has no state dict under {key!r}, it has {there}")
        return content[key]
    if isinstance(content, Mapping):
        if content and any(isinstance(value, Tensor) for value in content.values()):
            return content
        for name in NAMES:
            if isinstance(content.get(name), Mapping):
                return content[name]
    there = sorted(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
    raise ValueError(f"load_teacher: {path} holds no state dict, but {there}; name it with 'key'")


def _plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names without what wrappers for parallel training and compilation put before them."""
    state = dict(state)
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def join_parameters(params: Iterable[Any], loss: nn.Module) -> list[Any]:
    """What an optimizer shall train: the network's parameters, and those of a loss.

    Args:
        params: parameters, or groups of them, as an optimizer takes them.
        loss: such as :class:`DistillationLoss`.

    Returns:
        Parameters, or groups of which the loss's is the last.

    Example:
        >>> torch.optim.SGD(join_parameters(network.parameters(), loss), 0.1)
    """
    first, own = list(params), list(loss.parameters())
    if not own:
        return first
    return [*first, {"params": own}] if first and isinstance(first[0], Mapping) else first + own
