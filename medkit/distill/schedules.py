"""Weights over the time of a training: constant, warm-up, cosine, and an end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import cos, pi


class WeightSchedule(ABC):
    """A weight as a function of time; the unit is the caller's: epochs as ignite counts them, from 1, or iterations."""

    @abstractmethod
    def __call__(self, time: float) -> float:
        """Weight at a time.

        Args:
            time: at least 0.

        Returns:
            The weight, at least 0.
        """


def _at_least_0(name: str, **values: float) -> None:
    for key, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: '{key}' must be at least 0, got {value}")


class ConstantWeight(WeightSchedule):
    """The same weight always.

    Args:
        value: the weight, at least 0.

    Raises:
        ValueError: if ``value`` is negative.
    """

    def __init__(self, value: float = 1.0) -> None:
        _at_least_0("ConstantWeight", value=value)
        self.value = float(value)

    def __call__(self, time: float) -> float:
        """See :class:`WeightSchedule`."""
        return self.value


class LinearWarmup(WeightSchedule):
    """From 0 at time 0 straight to the weight, then constant.

    Args:
        value: the weight, at least 0.
        duration: time until it is reached; 0: at once. The first epoch, 1, has ``value / duration``.

    Raises:
        ValueError: if an argument is negative.

    Example:
        >>> LinearWarmup(2.0, duration=4)(1)
        0.5
    """

    def __init__(self, value: float = 1.0, duration: float = 20.0) -> None:
        _at_least_0("LinearWarmup", value=value, duration=duration)
        self.value, self.duration = float(value), float(duration)

    def __call__(self, time: float) -> float:
        """See :class:`WeightSchedule`."""
        return self.value if time >= self.duration else self.value * max(time, 0.0) / self.duration


class CosineWeight(WeightSchedule):
    """Half a cosine from one weight to another, then constant.

    Args:
        first: weight at time 0, at least 0.
        last: weight from ``duration`` on, at least 0.
        duration: time in between, above 0.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, first: float = 1.0, last: float = 0.0, duration: float = 100.0) -> None:
        _at_least_0("CosineWeight", first=first, last=last)
        if not duration > 0:
            raise ValueError(f"CosineWeight: 'duration' must be above 0, got {duration}")
        self.first, self.last, self.duration = float(first), float(last), float(duration)

    def __call__(self, time: float) -> float:
        """See :class:`WeightSchedule`."""
        if time >= self.duration:
            return self.last
        return self.last + (self.first - self.last) * (1 + cos(pi * max(time, 0.0) / self.duration)) / 2


class StopAt(WeightSchedule):
    """Another schedule until a time, and 0 from then on.

    Args:
        schedule: the schedule, or a constant weight.
        time: the end, at least 0.

    Raises:
        ValueError: if an argument is negative.
    """

    def __init__(self, schedule: WeightSchedule | float, time: float) -> None:
        _at_least_0("StopAt", time=time)
        self.schedule, self.time = as_schedule(schedule), float(time)

    def __call__(self, time: float) -> float:
        """See :class:`WeightSchedule`."""
        return 0.0 if time >= self.time else self.schedule(time)


def as_schedule(weight: WeightSchedule | float) -> WeightSchedule:
    """Return a schedule; a number is a constant weight."""
    return weight if isinstance(weight, WeightSchedule) else ConstantWeight(weight)
