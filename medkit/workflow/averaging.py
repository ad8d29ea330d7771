"""Averaged weights: the exponential moving average of a network in training."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    r"""Keep the exponential moving average of a network's weights.

    .. math:: \bar w \leftarrow d\,\bar w + (1 - d)\,w

    A handler for the trainer: one update after each iteration, the first of which copies. Buffers are copied. Put it
    into the ``save_dict`` of :class:`Resume`, and validate and release :attr:`network`.

    Args:
        network: the network in training; DistributedDataParallel is looked through.
        decay: :math:`d`, in [0, 1).

    Raises:
        ValueError: if ``decay`` is outside [0, 1).

    Example:
        >>> average = WeightAverage(net, decay=0.999)
        >>> average.attach(trainer)
    """

    def __init__(self, network: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"WeightAverage: 'decay' must be in [0, 1), got {decay!r}")
        self.source = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
        self._average = AveragedModel(self.source, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @property
    def network(self) -> nn.Module:
        """The network that carries the averaged weights."""
        return self._average.module

    def attach(self, engine: Engine) -> None:
        """Update after each iteration of ``engine``.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)

    def update(self) -> None:
        """Take the weights of now into the average."""
        self._average.update_parameters(self.source)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the number of updates."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`.

        Args:
            state: averaged weights and number of updates.
        """
        self._average.load_state_dict(state)
