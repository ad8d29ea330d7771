"""A step of distillation between networks of MONAI: taps, adapters and terms together, 2-D and 3-D."""

import copy

import pytest
import torch
from monai.networks.nets import DenseNet121, UNet

from medkit.distill import (
    DKD,
    DistillationSum,
    FeatureTaps,
    FitNet,
    FrozenTeacher,
    LinearWarmup,
    LogitKD,
    Observation,
    ReviewKD,
    UnifiedDistributionKD,
    WeightedTerm,
    probe_taps,
)

BLOCKS = ["features.denseblock1", "features.denseblock2"]
STAGES = ["encoder1", "encoder2", "bottom"]


def densenet(dims: int, width: int) -> DenseNet121:
    return DenseNet121(dims, 1, 3, init_features=width, growth_rate=2, block_config=(1, 1, 1, 1))


def unet(dims: int, width: int) -> UNet:
    return UNet(dims, 1, 3, channels=(width, 2 * width, 4 * width), strides=(2, 2))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("make", "paths", "size", "logit_term", "pool"),
    [(densenet, BLOCKS, 32, DKD(), "global"), (unet, STAGES, 8, LogitKD(ignore_label=255), "region")],
    ids=["classification", "segmentation"],
)
def test_a_step_trains_student_and_adapters_and_leaves_the_teacher(dims, make, paths, size, logit_term, pool):
    torch.manual_seed(0)
    student, teacher_net = make(dims, 4), make(dims, 6)
    keys, before = list(student.state_dict()), copy.deepcopy(teacher_net.state_dict())
    loss = DistillationSum(
        {
            "logits": WeightedTerm(logit_term, LinearWarmup(1, 2)),
            "hint": WeightedTerm(FitNet(), 1, paths[-1:], paths[-1:]),
            "review": WeightedTerm(ReviewKD(), 1, paths, paths),
            "unified": WeightedTerm(UnifiedDistributionKD(3, pool=pool, logit_weight=0), 1, paths, paths),
        }
    )
    teacher = FrozenTeacher(teacher_net, loss.teacher_taps["teacher"])
    image = torch.rand(2, 1, *[size] * dims)
    loss.build(probe_taps(student, loss.student_taps, image), {"teacher": probe_taps(teacher_net, paths, image)})
    loss.set_time(1)
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], 1e-2)
    target = torch.randint(0, 3, (2,) if pool == "global" else (2, 1, *[size] * dims))
    values = []
    with FeatureTaps(student.train(), loss.student_taps, only_training=True) as taps:
        for _ in range(6):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = student(image)
                seen = teacher(taps.input)
                total = loss(Observation(output, taps.features), seen, target)
            total.backward()
            values.append(float(total.detach()))
            if len(values) == 1:
                assert all(p.grad is not None for p in loss.parameters())
                assert sum(p.grad is not None for p in student.parameters()) > 0.9 * len(list(student.parameters()))
            optimizer.step()
            taps.clear()
    assert total.dtype == torch.float32
    assert values[-1] < 0.9 * values[0]
    assert list(student.state_dict()) == keys
    assert all(torch.equal(before[key], value) for key, value in teacher_net.state_dict().items())
