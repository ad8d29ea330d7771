"""Terms on probabilities against their formulas, written again here in double precision."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from torch.distributions import Bernoulli, Categorical, kl_divergence

from medkit.distill import DIST, DKD, MLKD, BernoulliKD, DeepSupervisionKD, LogitKD, standardize_logits

GENERATOR = torch.Generator().manual_seed(0)
S, T = (2 * torch.randn(7, 5, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
Y = torch.tensor([0, 1, 2, 3, 4, 0, 2])


def softmax(x: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(x / temperature - (x / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    return (q * np.log(q / p)).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_divergence_of_the_teacher_from_the_student(temperature):
    wanted = kl_divergence(Categorical(logits=T / temperature), Categorical(logits=S / temperature)).mean()
    assert float(LogitKD(temperature)(S, T)) == pytest.approx(temperature**2 * float(wanted), rel=1e-10)


def test_kd_at_high_temperature_is_the_difference_of_centred_logits():
    wanted = ((S - S.mean(1, keepdim=True)) - (T - T.mean(1, keepdim=True))).square().mean(1).mean() / 2
    assert float(LogitKD(1e4)(S, T)) == pytest.approx(float(wanted), rel=1e-3)


def test_kd_of_voxels_is_kd_of_rows():
    volume_s, volume_t = (x[:6].view(1, 2, 3, 5).permute(0, 3, 1, 2) for x in (S, T))
    assert float(LogitKD()(volume_s, volume_t)) == pytest.approx(float(LogitKD()(S[:6], T[:6])), rel=1e-12)


def test_ignored_label_and_foreground_weight():
    places = kl_divergence(Categorical(logits=T), Categorical(logits=S))
    image = [x.T[None, :, :, None] for x in (S, T)]
    target = Y.view(1, 1, 7, 1)
    got = LogitKD(1, ignore_label=2)(*image, target)
    assert float(got) == pytest.approx(float(places[Y != 2].mean()), rel=1e-10)
    weights = torch.where(Y == 0, 1.0, 3.0)
    got = LogitKD(1, foreground_weight=3)(*image, target)
    assert float(got) == pytest.approx(float((weights * places).sum() / weights.sum()), rel=1e-10)
    weights = torch.where(T.argmax(1) == 0, 1.0, 3.0)
    got = LogitKD(1, foreground_weight=3)(*image)
    assert float(got) == pytest.approx(float((weights * places).sum() / weights.sum()), rel=1e-10)


def test_standardised_logits_forget_scale_and_shift():
    z = standardize_logits(S)
    assert torch.allclose(z.mean(1), torch.zeros(7, dtype=S.dtype), atol=1e-12)
    assert torch.allclose(z.std(1), torch.ones(7, dtype=S.dtype), rtol=1e-9)
    assert torch.allclose(standardize_logits(3 * S + 5), z, rtol=1e-9)
    assert float(LogitKD(2, use_standardized=True)(0.1 * T + 3, T)) == pytest.approx(0, abs=1e-10)
    with pytest.raises(ValueError, match="only the sign"):
        standardize_logits(S[:, :2])


def dkd_by_hand(s: np.ndarray, t: np.ndarray, y: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    p, q = softmax(s, temperature), softmax(t, temperature)
    rows = np.arange(len(y))
    two = [np.stack([x[rows, y], 1 - x[rows, y]], 1) for x in (p, q)]
    rest = [np.stack([np.delete(x[i], y[i]) / (1 - x[i, y[i]]) for i in rows]) for x in (p, q)]
    return kl(two[1], two[0]), kl(rest[1], rest[0])


def test_dkd_by_hand_and_its_decomposition_of_kd():
    true_class, others = dkd_by_hand(S.numpy(), T.numpy(), Y.numpy(), 4.0)
    assert float(DKD(1, 8, 4)(S, T, Y)) == pytest.approx(16 * (true_class + 8 * others).mean(), rel=1e-10)
    # KD = TCKD + (1 - p_t) NCKD, the paper's equation 7: for samples of one p_t, DKD with that beta is KD.
    rest = 1 - softmax(T.numpy(), 4.0)[np.arange(7), Y.numpy()]
    for i in range(7):
        one = slice(i, i + 1)
        assert float(DKD(1, rest[i], 4)(S[one], T[one], Y[one])) == pytest.approx(float(LogitKD(4)(S[one], T[one])))


def test_dkd_permutes_with_the_classes_and_takes_every_form_of_labels():
    order = torch.tensor([2, 0, 4, 1, 3])
    value = float(DKD()(S, T, Y))
    assert float(DKD()(S[:, order], T[:, order], order.argsort()[Y])) == pytest.approx(value, rel=1e-10)
    assert float(DKD()(S, T, torch.eye(5)[Y])) == value
    image = [x.T[None, :, :, None] for x in (S, T)]
    assert float(DKD()(*image, Y.view(1, 7, 1))) == pytest.approx(value, rel=1e-12)
    marked = torch.where(torch.arange(7) < 2, 255, Y)
    got = DKD(ignore_label=255)(*image, marked.view(1, 1, 7, 1))
    assert float(got) == pytest.approx(float(DKD()(S[2:], T[2:], Y[2:])), rel=1e-10)


def test_dkd_errors():
    with pytest.raises(ValueError, match="'target' is needed"):
        DKD()(S, T)
    with pytest.raises(ValueError, match="from 0 to 4"):
        DKD()(S, T, Y + 1)
    with pytest.raises(ValueError, match="classes \\(7,\\)"):
        DKD()(S, T, Y[:3])


def test_mlkd_by_hand():
    wanted = 0.0
    for temperature in (2.0, 3.0):
        p, q = softmax(S.numpy(), temperature), softmax(T.numpy(), temperature)
        wanted += temperature**2 * kl(q, p).mean()
        wanted += ((p @ p.T - q @ q.T) ** 2).sum() / 7 + ((p.T @ p - q.T @ q) ** 2).sum() / 5
    assert float(MLKD((2.0, 3.0))(S, T)) == pytest.approx(wanted, rel=1e-10)


def test_mlkd_of_the_unsure_half():
    p, q, one = softmax(S.numpy(), 2.0), softmax(T.numpy(), 2.0), softmax(T.numpy(), 1.0)
    samples = one.max(1) <= np.percentile(one.max(1), 50)
    classes = one.sum(0) <= np.percentile(one.sum(0), 50)
    wanted = 4 * (kl(q, p) * samples).mean()
    wanted += ((p @ p.T - q @ q.T) ** 2)[samples].sum() / 7 + ((p.T @ p - q.T @ q) ** 2)[classes].sum() / 5
    assert float(MLKD((2.0,), only_unsure=True)(S, T)) == pytest.approx(wanted, rel=1e-10)
    with pytest.raises(ValueError, match="use LogitKD or DIST"):
        MLKD()(torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4))


def test_dist_by_hand():
    p, q = softmax(S.numpy(), 4.0), softmax(T.numpy(), 4.0)
    rows = np.mean([1 - pearsonr(p[i], q[i])[0] for i in range(7)])
    columns = np.mean([1 - pearsonr(p[:, c], q[:, c])[0] for c in range(5)])
    assert float(DIST(2.0, 3.0, 4.0)(S, T)) == pytest.approx(16 * (2 * rows + 3 * columns), rel=1e-6)


def test_dist_of_two_classes_is_refused_but_over_samples():
    with pytest.raises(ValueError, match="±1"):
        DIST()(S[:, :2], T[:, :2])
    assert float(DIST(beta=0)(S[:, :2], T[:, :2])) > 0


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_bernoulli_is_the_divergence_of_each_channel(temperature):
    wanted = kl_divergence(Bernoulli(logits=T / temperature), Bernoulli(logits=S / temperature)).mean()
    assert float(BernoulliKD(temperature)(S, T)) == pytest.approx(temperature**2 * float(wanted), rel=1e-8)


def test_binary_softmax_and_sigmoid_agree():
    teacher, student = T[:, :2], S[:, :1]
    as_two = torch.cat([torch.zeros_like(student), student], 1)
    assert float(BernoulliKD(2)(student, teacher)) == pytest.approx(float(LogitKD(2)(as_two, teacher)), rel=1e-10)
    assert float(BernoulliKD(2)(as_two, teacher[:, 1:] - teacher[:, :1])) == pytest.approx(
        float(LogitKD(2)(as_two, teacher)), rel=1e-10
    )


def test_bernoulli_ignores_unknown_labels():
    target = torch.ones_like(S)
    target[:, 2] = -1
    keep = [0, 1, 3, 4]
    got = BernoulliKD(ignore_label=-1)(S, T, target)
    assert float(got) == pytest.approx(float(BernoulliKD()(S[:, keep], T[:, keep])), rel=1e-10)
    with pytest.raises(ValueError, match="ignore_label"):
        BernoulliKD(ignore_label=-1)(S, T)


def test_one_class_is_sent_to_the_bernoulli_term():
    for term in (LogitKD(), DIST(), MLKD()):
        with pytest.raises(ValueError, match="use BernoulliKD"):
            term(S[:, :1], T[:, :1])


@pytest.mark.parametrize("arguments", [{"temperature": 0}, {"foreground_weight": -1}])
def test_arguments_out_of_range(arguments):
    with pytest.raises(ValueError, match="must be above 0"):
        LogitKD(**arguments)


def test_deep_supervision_is_the_weighted_mean_over_outputs():
    fine, coarse, teacher = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    small = torch.nn.functional.avg_pool2d(teacher, 2)
    term = LogitKD()
    wanted = (float(term(fine, teacher)) + 0.5 * float(term(coarse, small))) / 1.5
    assert float(DeepSupervisionKD(term)([fine, coarse], teacher)) == pytest.approx(wanted, rel=1e-5)
    assert float(DeepSupervisionKD(term, [0, 1])([fine, coarse], [teacher, small])) == pytest.approx(
        float(term(coarse, small)), rel=1e-5
    )
    stacked = torch.stack([fine, fine + 1], 1)
    assert float(DeepSupervisionKD(term, is_stacked=True)(stacked, teacher)) == pytest.approx(
        float(term(fine, teacher)), rel=1e-5
    )


def test_deep_supervision_takes_labels_and_mask_to_each_grid():
    fine, teacher = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    coarse = torch.rand(1, 3, 4, 4)
    target = torch.randint(0, 3, (1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    half = torch.nn.functional.avg_pool2d(teacher, 2)
    wanted = float(DKD()(coarse, half, target[..., ::2, ::2], mask[..., ::2, ::2]))
    got = DeepSupervisionKD(DKD(), [0, 1])([fine, coarse], teacher, target, mask)
    assert float(got) == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="as many as weights"):
        DeepSupervisionKD(DKD(), [1])([fine, coarse], teacher, target)
