"""CRD: its estimate by hand, its negatives by their rules, its memory by its recursion."""

import pytest
import torch
from torch.nn.functional import normalize

from medkit.distill import CRD


def built(**options) -> CRD:
    torch.manual_seed(0)
    term = CRD(**{"n_samples": 12, "embedding_size": 4, "n_negatives": 5} | options)
    term.build([(1, 3)], [(1, 6)])
    return term


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, Y, INDEX = normal(3, 3), normal(3, 6, seed=1), torch.tensor([2, 7, 9])


def test_estimate_by_hand():
    term, twin = built(), built()
    negatives = twin.draw_negatives(INDEX)
    with torch.no_grad():
        own, other = normalize(twin.student_embedding(X), dim=1), normalize(twin.teacher_embedding(Y), dim=1)
    chosen = torch.cat([INDEX[:, None], negatives], 1)
    wanted = 0.0
    # The second embedding draws no negatives of its own.
    for v, memory in ((own, twin.teacher_memory), (other, twin.student_memory)):
        score = torch.stack([torch.stack([(v[i] @ memory[j] / 0.07).exp() for j in chosen[i]]) for i in range(3)])
        p, noise = score / (score.mean() * 12), 5 / 12
        wanted -= float(((p[:, 0] / (p[:, 0] + noise)).log() + (noise / (p[:, 1:] + noise)).log().sum(1)).mean())
    assert float(term(X, Y, index=INDEX).detach()) == pytest.approx(wanted, rel=1e-4)


def test_nearer_to_the_own_memory_is_better():
    term = built(seed=3).eval()
    term.student_embedding = torch.nn.Identity()
    term.teacher_embedding = torch.nn.Identity()
    memory = term.teacher_memory[INDEX].clone()
    losses = []
    for share in (0.0, 0.5, 1.0):
        state = term.get_extra_state()
        losses.append(float(term(share * memory + (1 - share) * normal(3, 4), normal(3, 4, seed=1), index=INDEX)))
        term.set_extra_state(state)
    assert losses[0] > losses[1] > losses[2]


def test_gradient_reaches_student_and_both_layers_and_not_the_teacher():
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    term = built()
    term(x, y, index=INDEX).backward()
    assert y.grad is None
    assert float(x.grad.abs().max()) > 0
    assert all(float(p.grad.abs().max()) > 0 for p in term.parameters())


def test_negatives_are_others_of_other_classes():
    term = built(n_negatives=500)
    drawn = term.draw_negatives(INDEX)
    for i, row in zip(INDEX.tolist(), drawn, strict=True):
        assert set(row.tolist()) == set(range(12)) - {i}
    term.labels.copy_(torch.arange(12) % 3)
    drawn = term.draw_negatives(INDEX, INDEX % 3)
    for i, row in zip(INDEX.tolist(), drawn, strict=True):
        assert set(row.tolist()) == {j for j in range(12) if j % 3 != i % 3}
    term.labels.zero_()
    assert term.draw_negatives(INDEX, torch.zeros(3)).shape == (3, 500)


def test_memory_moves_in_training_alone():
    term = built(momentum=0.25)
    before = term.student_memory.clone()
    term.eval()(X, Y, index=INDEX)
    assert torch.equal(term.student_memory, before)
    term.train()(X, Y, index=INDEX)
    with torch.no_grad():
        own = normalize(term.student_embedding(X), dim=1)
    assert torch.allclose(term.student_memory[INDEX], normalize(0.25 * before[INDEX] + 0.75 * own, dim=1), atol=1e-6)
    others = [i for i in range(12) if i not in INDEX]
    assert torch.equal(term.student_memory[others], before[others])


def test_a_saved_state_replays():
    term, twin = built(), built(seed=5)
    term(X, Y, torch.tensor([0, 1, 2]), index=INDEX)
    twin.load_state_dict(term.state_dict())
    for _ in range(2):
        assert float(term(X, Y, index=INDEX).detach()) == float(twin(X, Y, index=INDEX).detach())


def test_large_inputs_in_bfloat16_stay_finite():
    x = (100 * X).bfloat16().requires_grad_()
    loss = built()(x, (100 * Y).bfloat16(), index=INDEX)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


def test_errors():
    with pytest.raises(ValueError, match="'index' is needed"):
        built()(X, Y)
    with pytest.raises(ValueError, match="from 0 to 11, got 2 to 12"):
        built()(X, Y, index=torch.tensor([2, 7, 12]))
    with pytest.raises(ValueError, match="'target' must be classes"):
        built()(X, Y, torch.zeros(2), index=INDEX)
    with pytest.raises(ValueError, match="'n_samples' of at least 2"):
        CRD(1)
    with pytest.raises(ValueError, match="momentum"):
        CRD(4, momentum=1)
