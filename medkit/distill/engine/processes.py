"""Several processes with one loss: the same layers in all of them, and the mean of their gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch import distributed as dist


def n_processes() -> int:
    """Number of processes of the training; 1 without distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def same_in_all_processes(module: nn.Module) -> None:
    """Give all processes the parameters and buffers of the first.

    Args:
        module: built alike in all of them.
    """
    if n_processes() > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.data, 0)


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Replace gradients by their mean over the processes; a process without one counts as 0.

    Args:
        parameters: the same in all processes.
    """
    n = n_processes()
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    if n == 1 or not learned:
        return
    # A parameter that no process has a gradient of keeps none: an optimizer passes it by.
    is_met = torch.tensor([float(p.grad is not None) for p in learned], device=learned[0].device)
    dist.all_reduce(is_met)
    met = [parameter for parameter, count in zip(learned, is_met.tolist(), strict=True) if count]
    for parameter in met:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= n
