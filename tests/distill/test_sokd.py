"""SoKD by its laws: around any base, a policy with an optimizer of its own, and nothing left in student or teacher."""

import copy
import io

import pytest
import torch
from monai.networks.nets import UNet

from medkit.distill import (
    CRD,
    AttentionTransfer,
    ChannelWiseKD,
    DistillationSum,
    FeatureRefiner,
    FeatureTaps,
    FitNet,
    FrozenTeacher,
    LinearWarmup,
    LogitKD,
    Observation,
    ReviewKD,
    SoKD,
    WeightedTerm,
    probe_taps,
)

BASES = {
    "fitnet": FitNet,
    "channels": ChannelWiseKD,
    "attention": AttentionTransfer,
    "crd": lambda: CRD(10, 8, 4),
    "review": ReviewKD,
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def still() -> FeatureRefiner:
    """A policy that carries nothing out."""
    refiner = FeatureRefiner(("cutout", "noise"))
    with torch.no_grad():
        refiner.probability.fill_(0)
    return refiner


def levels(name: str, dims: int, channels: int, seed: int = 0) -> list[torch.Tensor]:
    sizes = (8, 4) if name == "review" else (4,)
    return [normal(3, channels + i, *[n] * dims, seed=seed + i) for i, n in enumerate(sizes)]


def built(name: str, dims: int = 2, **options) -> tuple[SoKD, list[torch.Tensor], list[torch.Tensor]]:
    torch.manual_seed(0)
    term, student, teacher = SoKD(BASES[name](), **options), levels(name, dims, 4), levels(name, dims, 6, seed=5)
    term.build([x.shape for x in student], [x.shape for x in teacher])
    return term, student, teacher


HINTS = {"target": torch.tensor([0, 1, 2]), "index": torch.tensor([3, 1, 4])}


@pytest.mark.parametrize("n_areas", [0, 4])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", BASES)
def test_every_base_trains_student_and_layers_and_neither_teacher_nor_policy(name, dims, n_areas):
    term, student, teacher = built(name, dims, n_areas=n_areas)
    for x in (*student, *teacher):
        x.requires_grad_()
    loss = term(student, teacher, **HINTS)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(float(x.grad.abs().max()) > 0 for x in student)
    assert all(x.grad is None for x in teacher)
    assert all(p.grad is not None for p in term.parameters())
    assert all(p.grad is None for p in term.policy_parameters())


@pytest.mark.parametrize("name", BASES)
def test_the_policy_is_no_parameter_of_the_term_and_its_objective_reaches_it_alone(name):
    term, student, teacher = built(name)
    own = {id(p) for p in term.parameters()}
    assert len(term.policy_parameters()) == 3
    assert not own & {id(p) for p in term.policy_parameters()}
    for x in (*student, *teacher):
        x.requires_grad_()
    for _ in range(10):
        term.policy_loss(student, teacher).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in term.policy_parameters())
    assert all(x.grad is None for x in (*student, *teacher))
    assert all(p.grad is None for p in term.parameters())
    term.freeze()
    assert not any(p.requires_grad for p in term.policy_parameters())
    with pytest.raises(ValueError, match="the policy is frozen"):
        term.policy_loss(student, teacher)


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_to_learn_from_oneself_where_the_policy_is_still(dims):
    term = SoKD(FitNet("none"), still(), saliency_weight=0, entropy_weight=0)
    x = normal(2, 4, *[6] * dims)
    term.build([x.shape], [x.shape])
    assert float(term.policy_loss(x, x).detach()) == 0
    assert float(term(x, x).detach()) == 0
    assert float(term(x, x + 1).detach()) > 0


def test_the_objective_is_half_the_mean_square_less_the_entropy():
    term = SoKD(FitNet("none"), still(), entropy_weight=0.5)
    x, y = normal(2, 4, 6, 6), normal(2, 4, 6, 6, seed=1)
    term.build([x.shape], [x.shape])
    wanted = (x - y).square().mean() / 2 - 0.5 * term.refiner.entropy
    assert float(term.policy_loss(x, y).detach()) == pytest.approx(float(wanted.detach()), rel=1e-6)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    x, y = normal(2, 4, 9, 9), normal(2, 4, 9, 9, seed=1)
    term = SoKD(FitNet("none"), still(), n_areas=2, area_weight=3, consistency_weight=5, saliency_weight=7)
    term.build([x.shape], [y.shape])
    own = torch.ones(2, 1, 9, 9)
    own[:, :, :5] = 0
    with torch.no_grad():
        proposal = term.areas(x, y)
        assert 0 < float(proposal.mask.mean()) < 1
        for given, mask in ((None, proposal.mask), (own, own * proposal.mask)):
            wanted = 3 * FitNet("none")(x, y, mask=mask) + 5 * proposal.consistency + 7 * proposal.saliency
            assert float(term(x, y, mask=given)) == pytest.approx(float(wanted), rel=1e-6)


def test_without_areas_and_with_a_still_policy_it_is_the_base():
    x, y = normal(2, 4, 9, 9), normal(2, 4, 9, 9, seed=1)
    term = SoKD(FitNet("none"), still(), n_areas=0, area_weight=2)
    term.build([x.shape], [y.shape])
    assert term.areas is None
    assert float(term(x, y)) == pytest.approx(2 * float(FitNet("none")(x, y)), rel=1e-6)


def test_the_teacher_is_refined():
    refiner = FeatureRefiner(("channel_drop",), n_together=1)
    with torch.no_grad():
        refiner.probability.fill_(1)
        refiner.magnitude.fill_(1)
    term = SoKD(FitNet("none"), refiner, n_areas=0, area_weight=1)
    term.build([(1, 4, 6, 6)], [(1, 4, 6, 6)])
    assert float(term(torch.zeros(2, 4, 6, 6), torch.ones(2, 4, 6, 6))) == pytest.approx(0.5)


def test_vectors_among_the_levels_stay_as_they_are():
    term = SoKD(ReviewKD())
    student, teacher = [normal(3, 4, 4, 4), normal(3, 5)], [normal(3, 6, 4, 4), normal(3, 7)]
    with pytest.raises(ValueError, match="at least one pair of maps"):
        SoKD(CRD(10)).build([(3, 5)], [(3, 7)])
    student[1] = student[1][..., None, None]
    term.build([x.shape for x in student], [x.shape for x in teacher])
    assert torch.isfinite(term(student, teacher))
    assert term._refined(teacher)[1] is teacher[1]


def test_a_saved_state_continues_exactly():
    term, student, teacher = built("attention")
    optimizer = torch.optim.Adam(term.policy_parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        term.policy_loss(student, teacher).backward()
        optimizer.step()
    term.freeze()
    file = io.BytesIO()
    torch.save(term.state_dict(), file)
    file.seek(0)
    other = SoKD(AttentionTransfer())
    other.build([x.shape for x in student], [x.shape for x in teacher])
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.refiner.is_frozen
    assert all(torch.equal(a, b) for a, b in zip(term.policy_parameters(), other.policy_parameters(), strict=True))
    for _ in range(4):
        assert float(term(student, teacher).detach()) == float(other(student, teacher).detach())


@pytest.mark.parametrize("dims", [2, 3])
def test_training_with_it_leaves_the_teacher_and_the_form_of_the_student(dims):
    """Alternating steps in 16 bits: finite, downwards, the policy in float32; nothing of it is part of the student."""
    torch.manual_seed(0)
    student, network = (UNet(dims, 1, 3, channels=(w, 2 * w), strides=(2,), norm="batch") for w in (4, 6))
    keys, before = list(student.state_dict()), copy.deepcopy(network.state_dict())
    term = SoKD(FitNet())
    loss = DistillationSum(
        {
            "sokd": WeightedTerm(term, LinearWarmup(1, 2), ["bottom"], ["bottom"]),
            "logits": WeightedTerm(LogitKD()),
        }
    )
    teacher = FrozenTeacher(network.train(), ["bottom"])
    batches = [torch.rand(2, 1, *[8] * dims) for _ in range(2)]
    loss.build(probe_taps(student, ["bottom"], batches[0]), {"teacher": probe_taps(network, ["bottom"], batches[0])})
    loss.set_time(1)
    assert loss.weights["sokd"] == 0.5
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], 1e-2)
    policy = torch.optim.Adam(term.policy_parameters(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    start = [p.detach().clone() for p in term.policy_parameters()]
    values = []
    with FeatureTaps(student.train(), ["bottom"]) as taps:
        for step in range(12):
            for image, is_policy in ((batches[1], True), (batches[0], False)):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    output = student(image)
                    seen = teacher(image)
                    if is_policy:
                        value = term.policy_loss(taps.features["bottom"], seen.features["bottom"])
                    else:
                        value = loss(Observation(output, taps.features), seen)
                (policy if is_policy else optimizer).zero_grad()
                value.backward()
                (policy if is_policy else optimizer).step()
                taps.clear()
            assert torch.isfinite(value), step
            values.append(float(value.detach()))
    assert sum(values[-3:]) < 0.9 * sum(values[:3])
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in term.policy_parameters())
    assert not any(torch.equal(a, b) for a, b in zip(start, term.policy_parameters(), strict=True))
    assert list(student.state_dict()) == keys
    assert not network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    plain = UNet(dims, 1, 3, channels=(4, 8), strides=(2,), norm="batch").eval()
    plain.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert torch.equal(plain(batches[0]), student.eval()(batches[0]))


def test_errors():
    with pytest.raises(ValueError, match="LogitKD needs logits"):
        SoKD(LogitKD())
    with pytest.raises(ValueError, match="leave 'hint' out"):
        SoKD(FitNet(), hint=FitNet())
    with pytest.raises(ValueError, match="weights must be at least 0"):
        SoKD(area_weight=-1)
    with pytest.raises(ValueError, match="FitNet compares one pair of features, got 2 and 2"):
        SoKD().build([(1, 4, 8, 8)] * 2, [(1, 4, 8, 8)] * 2)
    with pytest.raises(ValueError, match="call build"):
        SoKD()(torch.rand(1, 4, 8, 8), torch.rand(1, 4, 8, 8))
    term, student, teacher = built("review")
    with pytest.raises(ValueError, match="wanted the numbers of levels"):
        term(student[:1], teacher)
