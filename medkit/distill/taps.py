"""Taps: what named modules of any network put out, caught by hooks that are gone when they are not wanted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from medkit.distill.paths import find_module, unwrapped

logger = logging.getLogger(__name__)


class Observation(NamedTuple):
    """What a network said of a batch.

    Attributes:
        output: what it returned: logits ``(B, C, *S)``, or a list of them under deep supervision.
        features: path of each tap and the tensor that was caught there, any floating dtype.
    """

    output: Any
    features: Mapping[str, Tensor]


class FeatureTaps:
    """Catch the outputs of named modules, from ``with`` until its end.

    Between two reads only the last call of a module counts: a sliding window or shared weights call it several times.

    Args:
        network: any module; DataParallel, DistributedDataParallel and compiled wrappers are looked through.
        paths: modules by path, such as ``"features.denseblock3"``, or by stage of :func:`unet_stages`.
        select: for modules whose output is no tensor, path and the index (of a tuple or list) or key (of a mapping).
        only_training: catch only while ``network.training``: what validation does is not seen.
        clone: copy what is caught. Needed where the next operation writes in place, which is otherwise an error.

    Attributes:
        network: the network, without wrappers.
        input: the tensor that the network got, ``(B, C, *S)``; ``None`` before its first call.

    Raises:
        ValueError: if a path is unknown or never called, or ``select`` names no tap.

    Example:
        >>> with FeatureTaps(network, ["features.denseblock3"]) as taps:
        ...     logits = network(image)
        >>> taps.features["features.denseblock3"].shape
        torch.Size([1, 1024, 2, 2])
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Sequence[str],
        select: Mapping[str, int | str] | None = None,
        only_training: bool = False,
        clone: bool = False,
    ) -> None:
        if isinstance(paths, str):
            raise ValueError(f"FeatureTaps: 'paths' must be a list of paths, got the text {paths!r}")
        self.network = unwrapped(network)
        self._modules = {path: find_module(network, path) for path in paths}
        self._select = dict(select or {})
        if strangers := sorted(set(self._select) - set(self._modules)):
            raise ValueError(f"FeatureTaps: 'select' must name taps of {list(self._modules)}, got {strangers}")
        self.only_training = only_training
        self.clone = clone
        self.input: Tensor | None = None
        self.calls = dict.fromkeys(self._modules, 0)
        self._caught: dict[str, tuple[Tensor, int]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> FeatureTaps:
        if not self._hooks:
            self._hooks = [self.network.register_forward_pre_hook(self._input_hook())]
            self._hooks += [module.register_forward_hook(self._hook(path)) for path, module in self._modules.items()]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def features(self) -> dict[str, Tensor]:
        """What was caught, by path.

        Raises:
            ValueError: if a tap saw nothing, or was overwritten in place.
        """
        for path in self._modules:
            if path not in self._caught:
                raise ValueError(f"FeatureTaps: the module at {path!r} was not called; tap one that is")
        if lost := self.overwritten:
            raise ValueError(
                f"FeatureTaps: what {lost[0]!r} put out was overwritten in place by a later module; "
                "tap that one, or set clone=True"
            )
        return {path: self._caught[path][0] for path in self._modules}

    @property
    def overwritten(self) -> list[str]:
        """Paths of what was caught and then overwritten in place."""
        return [path for path, (tensor, version) in self._caught.items() if tensor._version != version]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of what was caught, by path in the order of the taps."""
        return {path: tuple(self._caught[path][0].shape) for path in self._modules if path in self._caught}

    def clear(self) -> None:
        """Forget what was caught, so that its memory can go."""
        self.input = None
        self._caught = {}
        self.calls = dict.fromkeys(self._modules, 0)

    def _is_awake(self) -> bool:
        return self.network.training or not self.only_training

    # Hooks are closures, and ask who calls: a deep copy of the network has them too, and is none of our business.
    def _input_hook(self) -> Any:
        def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if module is self.network and self._is_awake() and inputs and isinstance(inputs[0], Tensor):
                self.input = inputs[0]

        return see

    def _hook(self, path: str) -> Any:
        def catch(module: nn.Module, _: Any, output: Any) -> None:
            if module is not self._modules[path] or not self._is_awake():
                return
            tensor = self._chosen(path, output)
            tensor = tensor.clone() if self.clone else tensor
            self.calls[path] += 1
            self._caught[path] = (tensor, tensor._version)

        return catch

    def _chosen(self, path: str, output: Any) -> Tensor:
        """The tensor in what a module put out."""
        chosen = output
        if path in self._select:
            try:
                chosen = output[self._select[path]]
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(
                    f"FeatureTaps: the output of {path!r} is {_described(output)}, it has no {self._select[path]!r}"
                ) from error
        if not isinstance(chosen, Tensor):
            raise ValueError(
                f"FeatureTaps: the output of {path!r} is {_described(chosen)}, no tensor; "
                f"choose one of its items, such as select={{{path!r}: 0}}"
            )
        return chosen


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a mapping with keys {list(output)}"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"


class FrozenTeacher:
    """A teacher: in ``eval`` mode, without gradients, and outside the parameters of whatever holds it.

    It is no module, so a student's optimizer, state dict, and wrapper for parallel training never see it.

    Args:
        network: the teacher; its parameters are switched to ``requires_grad=False``.
        paths: taps, as of :class:`FeatureTaps`.
        select: as of :class:`FeatureTaps`.
        clone: as of :class:`FeatureTaps`.

    Raises:
        ValueError: as :class:`FeatureTaps`.

    Example:
        >>> teacher = FrozenTeacher(network, ["features.denseblock3"])
        >>> teacher(image).output.shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        network: nn.Module,
        paths: Sequence[str] = (),
        select: Mapping[str, int | str] | None = None,
        clone: bool = False,
    ) -> None:
        self.taps = FeatureTaps(network, paths, select, clone=clone)
        self.network = network.eval().requires_grad_(False)

    # Not inference_mode: its tensors cannot be kept for the backward pass of a student's loss.
    @torch.no_grad()
    def __call__(self, image: Tensor) -> Observation:
        """Look at a batch.

        Args:
            image: ``(B, C, *S)``, on the teacher's device.

        Returns:
            Output and features, without gradient.
        """
        self.network.eval()
        with self.taps:
            output = self.network(image)
        observation = Observation(output, self.taps.features)
        self.taps.clear()
        return observation


def probe_taps(
    network: nn.Module,
    paths: Sequence[str],
    example: Tensor,
    select: Mapping[str, int | str] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Run a network once and say what the taps would catch; the table goes to the log (level INFO).

    The run is in ``eval`` mode without gradients; every module's mode is put back.

    Args:
        network: any module.
        paths: taps, as of :class:`FeatureTaps`.
        example: an input, ``(B, C, *S)``.
        select: as of :class:`FeatureTaps`.

    Returns:
        Path and shape of each tap, in the order of ``paths``.

    Raises:
        ValueError: if a path is unknown or its module is never called, or its output is no tensor.

    Example:
        >>> probe_taps(UNet(2, 1, 1, (4, 8), (2,)), ["bottom"], torch.zeros(1, 1, 16, 16))
        {'bottom': (1, 8, 8, 8)}
    """
    taps = FeatureTaps(network, paths, select)
    _, shapes = dry_run(taps, example)
    width = max((len(path) for path in shapes), default=0)
    for path, shape in shapes.items():
        several = f"  (called {taps.calls[path]} times, the last one counts)" if taps.calls[path] > 1 else ""
        logger.info("%s  %s%s", path.ljust(width), shape, several)
    return shapes


def dry_run(taps: FeatureTaps, example: Tensor) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """Run the tapped network once in ``eval`` mode without gradients; every module's mode is put back.

    Args:
        taps: of the network.
        example: an input, ``(B, C, *S)``.

    Returns:
        What the network returned, and path and shape of each tap.

    Raises:
        ValueError: if a tapped module is never called, or its output is no tensor.
    """
    with ExitStack() as stack:
        for module in taps.network.modules():
            stack.callback(setattr, module, "training", module.training)
        taps.network.eval()
        with taps, torch.no_grad():
            output = taps.network(example)
    silent = [path for path, n_calls in taps.calls.items() if n_calls == 0]
    if silent:
        raise ValueError(
            f"probe_taps: {silent} of {type(taps.network).__name__} are never called; tap modules that are"
        )
    return output, taps.shapes
