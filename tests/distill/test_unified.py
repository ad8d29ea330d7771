"""UniKD by its laws: divergence in closed form, gradients where they belong, codes that carry the classes."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from medkit.distill import (
    DKD,
    BernoulliKD,
    DistillationSum,
    DistributionHead,
    LogitKD,
    Observation,
    UnifiedDistributionKD,
    WeightedTerm,
    gaussian_divergence,
)
from medkit.distill.distribution import pooled_regions
from medkit.distill.logits import softmax_divergence


def normal(*shape: int, seed: int = 0, **kwargs) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **kwargs)


def gaussians(n: int = 4, d: int = 5) -> list[torch.Tensor]:
    return [normal(n, d, seed=i, dtype=torch.float64) for i in range(4)]


def classifier(dims: int = 2, batch: int = 4) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Logits and levels of a student and of a teacher, and labels."""
    sizes = (7, 4, 2)
    student = [normal(batch, 3, seed=1), *(normal(batch, 3 + i, *[n] * dims, seed=i) for i, n in enumerate(sizes))]
    teacher = [normal(batch, 3, seed=2), *(normal(batch, 4 + i, *[n] * dims, seed=9 + i) for i, n in enumerate(sizes))]
    return student, teacher, torch.arange(batch) % 3


def segmenter(dims: int = 2, n_classes: int = 4) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    student = [normal(2, n_classes, *[8] * dims, seed=1), normal(2, 3, *[8] * dims), normal(2, 5, *[4] * dims)]
    teacher = [normal(2, n_classes, *[8] * dims, seed=2), normal(2, 4, *[8] * dims), normal(2, 6, *[4] * dims)]
    return student, teacher, torch.randint(0, n_classes, (2, 1, *[8] * dims), generator=torch.Generator())


def built(student, teacher, **options) -> UnifiedDistributionKD:
    torch.manual_seed(options.get("seed", 0))
    term = UnifiedDistributionKD(n_classes=student[0].shape[1], **options)
    term.build([x.shape for x in student[1:]], [x.shape for x in teacher[1:]])
    return term


def test_divergence_is_that_of_torch_and_zero_at_equal_parameters_alone():
    ms, ls, mt, lt = gaussians()
    teacher, student = (Independent(Normal(m, (v / 2).exp()), 1) for m, v in ((mt, lt), (ms, ls)))
    assert torch.allclose(gaussian_divergence(ms, ls, mt, lt), kl_divergence(teacher, student) / 5, rtol=1e-10)
    assert torch.equal(gaussian_divergence(ms, ls, ms, ls), torch.zeros(4, dtype=torch.float64))
    for i in range(4):
        changed = [ms, ls, ms.clone(), ls.clone()]
        changed[2 + i % 2][0, 0] += 0.1 * (i + 1)
        assert float(gaussian_divergence(*changed)[0]) > 0


def test_gradient_of_the_mean_in_closed_form():
    ms, ls, mt, lt = gaussians()
    ms.requires_grad_()
    gaussian_divergence(ms, ls, mt, lt).mean().backward()
    assert torch.allclose(ms.grad, (ms.detach() - mt) / ls.exp() / 5 / 4, rtol=1e-10)


def test_head_is_bounded_however_sure_it_is():
    torch.manual_seed(0)
    head = DistributionHead(3, 4)
    mean, log_variance = head(1e4 * torch.randn(20, 3))
    assert float(log_variance.detach().abs().max()) == 6
    zero = torch.zeros_like(mean)
    sure = gaussian_divergence(zero, zero - 6, zero + 1, zero)
    assert torch.isfinite(sure).all()
    assert torch.isfinite(gaussian_divergence(zero, zero, zero, zero - 6)).all()


def test_the_scale_does_not_depend_on_the_dimension():
    values = []
    for d in (10, 1000):
        values.append(float(gaussian_divergence(*(normal(64, d, seed=i) for i in range(4))).mean()))
    assert values[0] == pytest.approx(values[1], rel=0.2)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["gaussian", "sampled"])
def test_gradients_go_to_the_student_both_fusions_and_heads_and_not_the_teacher(dims, mode):
    student, teacher, target = classifier(dims)
    term = built(student, teacher, mode=mode)
    for x in (*student, *teacher):
        x.requires_grad_()
    term(student, teacher, target).backward()
    assert all(float(x.grad.abs().max()) > 0 for x in student)
    assert all(x.grad is None for x in teacher)
    assert all(p.grad is not None for p in term.parameters())
    touched = {name.split(".")[0] for name, p in term.named_parameters() if float(p.grad.abs().max()) > 0}
    assert touched == {"student_branch", "teacher_branch"}


def test_the_anchor_does_not_move_the_logits():
    student, teacher, target = classifier()
    term = built(student, teacher, logit_weight=0)
    student[0].requires_grad_()
    student[1].requires_grad_()
    term(student, teacher, target).backward()
    assert student[0].grad is None
    assert float(student[1].grad.abs().max()) > 0


def test_parts_by_hand():
    student, teacher, target = classifier()
    term = built(student, teacher, anchor_weight=0.5, distribution_weight=2.0)
    total = float(term(student, teacher, target).detach())
    with torch.no_grad():
        pairs = []
        for branch, (logits, *levels) in ((term.student_branch, student), (term.teacher_branch, teacher)):
            pairs.append((*branch.head(branch.fusion(levels).mean((2, 3))), logits))
        (ms, ls, zs), (mt, lt, zt) = pairs
        t, s = (Independent(Normal(m, (v / 2).exp()), 1) for m, v in ((mt, lt), (ms, ls)))
        divergence = float(kl_divergence(t, s).mean()) / 3
        anchor = float((softmax_divergence(ms, zs, 1) + softmax_divergence(mt, zt, 1)).mean())
    assert float(term.parts["distribution"]) == pytest.approx(divergence, rel=1e-4)
    assert float(term.parts["anchor"]) == pytest.approx(anchor, rel=1e-4)
    wanted = float(DKD()(student[0], teacher[0], target)) + 2 * divergence + 0.5 * anchor
    assert total == pytest.approx(wanted, rel=1e-5)


def test_without_distribution_and_anchor_it_is_the_logit_term_bit_for_bit():
    student, teacher, target = classifier()
    term = built(student, teacher, distribution_weight=0, anchor_weight=0)
    assert float(term(student, teacher, target)) == float(DKD()(student[0], teacher[0], target))


def test_draws_have_the_mean_and_variance_of_the_gaussian():
    student, teacher, _ = classifier()
    term = built(student, teacher, mode="sampled", dim=2)
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -1.0]])
    draws = torch.cat([term._draw(mean, log_variance) for _ in range(4000)])
    error = (log_variance / 2).exp()[0] / 4000**0.5
    assert bool(((draws.mean(0) - mean[0]).abs() < 3.5 * error).all())
    assert torch.allclose(draws.var(0), log_variance.exp()[0], rtol=0.1)
    assert torch.equal(term.eval()._draw(mean, log_variance), mean)


def test_sampled_mode_replays_from_a_saved_state():
    student, teacher, target = classifier()
    term, twin = built(student, teacher, mode="sampled"), built(student, teacher, mode="sampled", seed=7)
    term(student, teacher, target)
    twin.load_state_dict(term.state_dict())
    first = float(term(student, teacher, target).detach())
    assert first == float(twin(student, teacher, target).detach())
    assert first != float(term(student, teacher, target).detach())
    values = [float(term.eval()(student, teacher, target).detach()) for _ in range(2)]
    assert values[0] == values[1]


def test_a_batch_is_the_mean_of_its_halves():
    """As on two devices: nothing in fusion or head depends on the other samples."""
    student, teacher, target = classifier()
    term = built(student, teacher)
    halves = [
        float(term([x[i] for x in student], [x[i] for x in teacher], target[i]).detach())
        for i in (slice(0, 2), slice(2, 4))
    ]
    assert float(term(student, teacher, target).detach()) == pytest.approx(sum(halves) / 2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["gaussian", "sampled"])
def test_large_inputs_in_16_bits_stay_finite(dtype, mode):
    student, teacher, target = classifier()
    student, teacher = ([(100 * x).to(dtype) for x in xs] for xs in (student, teacher))
    term = built(student, teacher, mode=mode)
    student[1].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = term(student, teacher, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(student[1].grad).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"use_sigmoid": True}, {"dim": 4}, {"mode": "sampled"}])
def test_regions_of_dense_tasks(dims, options):
    student, teacher, target = segmenter(dims)
    term = built(student, teacher, pool="region", **options)
    for x in student:
        x.requires_grad_()
    loss = term(student, teacher, target)
    loss.backward()
    assert all(float(x.grad.abs().max()) > 0 for x in student)
    assert all(p.grad is not None for p in term.parameters())


def test_absent_classes_contribute_nothing():
    student, teacher, _ = segmenter()
    teacher[0][:, 3] = -100
    term = built(student, teacher, pool="region", logit_weight=0)
    before = float(term(student, teacher).detach())
    # The Gaussian of an empty region: the heads' biases. Were it counted, moving them apart would be seen fully.
    code, is_there = pooled_regions(normal(2, 3, 8, 8), (teacher[0].argmax(1, keepdim=True) == 3).float())
    assert float(is_there.sum()) == 0
    assert float(code.abs().max()) == 0
    by_hand = 0.0
    for b, k in ((b, k) for b in range(2) for k in (1, 2)):
        region = (teacher[0][b].argmax(0) == k).float()
        with torch.no_grad():
            out = []
            for branch, (logits, *levels) in ((term.student_branch, student), (term.teacher_branch, teacher)):
                feature = branch.fusion([x[b : b + 1] for x in levels])[0]
                mean, log_variance = branch.head((feature * region).sum((1, 2)) / region.sum())
                classes = (logits[b] * region).sum((1, 2)) / region.sum()
                by_hand += float(softmax_divergence(branch.readout(mean)[None], classes[None], 1)) / 4
                out += [mean[None], log_variance[None]]
            by_hand += float(gaussian_divergence(*out)) / 4
    assert before == pytest.approx(by_hand, rel=1e-4)
    # No region at all: nothing, without a fault in the gradients.
    teacher[0][:, 0] = 100
    student[1].requires_grad_()
    loss = term(student, teacher)
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(student[1].grad.abs().max()) == 0


def test_order_of_places_inside_a_region_does_not_matter():
    feature, regions = normal(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    regions[..., :2] = 1
    flat = feature.clone()
    flat[..., :2] = flat[..., :2].flip((2, 3))
    assert torch.allclose(pooled_regions(flat, regions)[0], pooled_regions(feature, regions)[0], atol=1e-6)


def test_codes_collapse_without_the_anchor_and_carry_the_classes_with_it():
    n, target = 60, torch.arange(60) % 3
    level = normal(n, 3, 4, 4) * 0.3 + torch.eye(3)[target][:, :, None, None]
    logits = 4 * torch.eye(3)[target]
    results = {}
    for weight in (0.0, 1.0):
        term = built([logits, level], [logits, level], logit_weight=0, anchor_weight=weight)
        optimizer = torch.optim.Adam(term.parameters(), 0.02)
        for _ in range(150):
            optimizer.zero_grad()
            term([logits, level], [logits, level]).backward()
            optimizer.step()
        with torch.no_grad():
            code = term.student_branch.head(term.student_branch.fusion([level]).mean((2, 3)))[0]
        results[weight] = (float(term.parts["distribution"]), float((code.argmax(1) == target).float().mean()))
    assert results[0.0][0] < 1e-2
    assert results[1.0][1] > 0.95


def test_finest_level_of_the_teacher_as_it_is():
    student, teacher, target = classifier()
    term = built(student, teacher, use_teacher_fusion=False)
    assert term.teacher_branch.fusion is None
    assert torch.isfinite(term(student, teacher, target))


def test_in_a_sum_it_gets_logits_and_levels():
    student, teacher, target = classifier()
    loss = DistillationSum(
        {"unikd": WeightedTerm(UnifiedDistributionKD(3), 1, ["a", "b", "c"], ["x", "y", "z"])},
    )
    seen = [
        Observation(x[0], dict(zip(names, x[1:], strict=True))) for x, names in ((student, "abc"), (teacher, "xyz"))
    ]
    torch.manual_seed(0)
    loss.build(
        *({k: v.shape for k, v in s.features.items()} for s in seen[:1]),
        {"teacher": {k: v.shape for k, v in seen[1].features.items()}},
    )
    alone = built(student, teacher)
    assert float(loss(*seen, target).detach()) == float(alone(student, teacher, target).detach())


def test_default_logit_terms():
    assert isinstance(UnifiedDistributionKD(3).logit_term, DKD)
    assert isinstance(UnifiedDistributionKD(3, pool="region").logit_term, LogitKD)
    assert isinstance(UnifiedDistributionKD(1, use_sigmoid=True).logit_term, BernoulliKD)


def test_errors():
    student, teacher, target = classifier()
    with pytest.raises(ValueError, match="call build"):
        UnifiedDistributionKD(3)(student, teacher, target)
    with pytest.raises(ValueError, match="n_classes=4 channels"):
        UnifiedDistributionKD(4)(student, teacher, target)
    with pytest.raises(ValueError, match="and places where 'pool' is 'region'"):
        built(student, teacher, pool="region")(student, teacher, target)
    with pytest.raises(ValueError, match="a list of logits and then"):
        built(student, teacher)(student[:1], teacher, target)
    with pytest.raises(ValueError, match="'mode' must be of"):
        UnifiedDistributionKD(3, mode="mixture")
    with pytest.raises(ValueError, match="'n_classes' of at least 2"):
        UnifiedDistributionKD(1)
    with pytest.raises(ValueError, match="weights must be at least 0"):
        UnifiedDistributionKD(3, anchor_weight=-1)
