"""A training with teachers in this process, or in each of those of torchrun with its share of the batch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

from medkit.distill import (
    DistillationHandler,
    FeatureRefiner,
    FitNet,
    LogitKD,
    SoKD,
    SoKDPolicyHandler,
    UnifiedDistributionKD,
    WeightedTerm,
    join_parameters,
)
from tests.distill.small_training import Net, distillation, samples, trainer

STAGES = ["stage1", "stage2"]


class Plain(Net):
    """Without statistics of the batch, which differ between processes."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.stage1[1] = nn.Identity()


def train(folder: Path) -> None:
    """Train for two epochs and save student, loss and policy."""
    rank, n = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(0)
    student, teacher = Plain(4), Plain(6)
    network = nn.parallel.DistributedDataParallel(student) if n > 1 else student
    # Noise is of the batch's shape, and so another one where the batch is in two parts.
    refiner = FeatureRefiner(("channel_drop", "cutout"), n_together=1)
    terms = {
        "unikd": WeightedTerm(UnifiedDistributionKD(3, logit_term=LogitKD()), 1.0, STAGES, STAGES),
        "sokd": WeightedTerm(SoKD(FitNet(norm=None), refiner, n_areas=0, area_weight=1.0), 1.0, ["stage2"], ["stage2"]),
    }
    torch.manual_seed(rank)  # other layers in each process, until they are made alike
    loss = distillation(network, teacher, terms)
    if n == 1:
        torch.save(loss.state_dict(), folder / "first.pt")
    optimizer = torch.optim.SGD(join_parameters(network.parameters(), loss), 0.05, momentum=0.9)
    policy = SoKDPolicyHandler(loss)
    # A batch of 4 is a batch of 2 in each of two processes.
    data = [
        sample for start in range(0, 8, 4) for sample in samples()[start + rank * 4 // n : start + (rank + 1) * 4 // n]
    ]
    engine = trainer(network, loss, [DistillationHandler(loss), policy], 2, optimizer=optimizer, data=data)
    loader = torch.utils.data.DataLoader(data, batch_size=4 // n)
    engine.data_loader, engine.state.epoch_length = loader, 2
    engine.run()
    state = {"student": student.state_dict(), "loss": loss.state_dict(), "policy": policy.state_dict()}
    torch.save(state, folder / f"state_{n}_{rank}.pt")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    train(Path(sys.argv[1]))
    dist.destroy_process_group()
