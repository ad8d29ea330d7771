"""CRD: the student's embedding told from those of other samples by the teacher's, with a memory of the data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from medkit.distill.contract import DistillationTerm, Hints
from medkit.distill.relations import pooled


class CRD(DistillationTerm):
    r"""Contrastive representation distillation: noise-contrastive estimation against a memory of all samples.

    With embeddings :math:`v` (linear layer, normalised), memories :math:`m_i` of the other network, :math:`N` samples
    and :math:`K` negatives:

    .. math:: L = -\log\frac{P_0}{P_0 + K/N} - \sum_{k=1}^{K} \log\frac{K/N}{P_k + K/N}, \qquad
        P_k = \exp(v^\top m_k / \tau) / Z

    for the student against the teacher's memory and the reverse, summed; the mean over the batch. :math:`Z` is taken
    from the first batch and kept. In training mode each call then moves the memories towards the new embeddings.

    Source: Tian et al., ICLR 2020, arXiv 1910.10699.

    Differs: negatives are drawn here, from one seeded generator whose state is saved; memories are of one process, not
    shared under distributed training.

    Args:
        n_samples: :math:`N`, size of the data set; ``index`` of each call counts into it.
        embedding_size: numbers of an embedding.
        n_negatives: :math:`K`.
        temperature: :math:`\tau`.
        momentum: of the memories, in [0, 1).
        seed: of the first memories and of the negatives.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> term = CRD(n_samples=100, n_negatives=16)
        >>> term.build([(1, 8)], [(1, 16)])
        >>> term(torch.rand(2, 8), torch.rand(2, 16), torch.tensor([0, 1]), index=torch.tensor([5, 7])).shape
        torch.Size([])
    """

    needs: ClassVar[str] = "feature"
    student_memory: Tensor
    teacher_memory: Tensor
    labels: Tensor
    scales: Tensor

    def __init__(
        self,
        n_samples: int,
        embedding_size: int = 128,
        n_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if n_samples < 2 or embedding_size < 1 or n_negatives < 1:
            raise ValueError(
                "CRD: wanted 'n_samples' of at least 2, 'embedding_size' and 'n_negatives' of at least 1, "
                f"got {n_samples}, {embedding_size} and {n_negatives}"
            )
        if not temperature > 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"CRD: 'temperature' must be above 0 and 'momentum' in [0, 1), got {temperature}, {momentum}"
            )
        self.embedding_size, self.n_negatives = embedding_size, n_negatives
        self.temperature, self.momentum = float(temperature), float(momentum)
        self._generator = torch.Generator().manual_seed(seed)
        for name in ("student_memory", "teacher_memory"):
            rows = torch.randn(n_samples, embedding_size, generator=self._generator)
            self.register_buffer(name, normalize(rows, dim=1))
        self.register_buffer("labels", torch.full((n_samples,), -1, dtype=torch.int64))
        self.register_buffer("scales", torch.zeros(2))
        self.student_embedding: nn.Linear | None = None
        self.teacher_embedding: nn.Linear | None = None

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make the two linear layers; the teacher's learns too, its input passes no gradient."""
        self.student_embedding = nn.Linear(student_shapes[0][1], self.embedding_size)
        self.teacher_embedding = nn.Linear(teacher_shapes[0][1], self.embedding_size)

    def get_extra_state(self) -> dict[str, Any]:
        """State of the generator of negatives."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the negatives from a saved state."""
        self._generator.set_state(state["generator"].cpu())

    def draw_negatives(self, index: Tensor, target: Tensor | None = None) -> Tensor:
        """Draw samples other than the given ones, and of other classes where classes are known.

        Args:
            index: ``(B,)``, number of each sample.
            target: classes ``(B,)``; ``None``: any other sample is a negative.

        Returns:
            int64, ``(B, n_negatives)``, with repetitions.
        """
        allowed = torch.ones(len(index), len(self.labels))
        if target is not None:
            allowed = (self.labels.cpu() != target.cpu()[:, None]).float()
        others = torch.ones_like(allowed).scatter_(1, index.cpu()[:, None], 0)
        allowed = allowed * others
        # A data set of one class has no sample of another: then any other one.
        allowed = torch.where(allowed.sum(1, keepdim=True) > 0, allowed, others)
        drawn = torch.multinomial(allowed, self.n_negatives, replacement=True, generator=self._generator)
        return drawn.to(index.device)

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps or vectors; ``hints.index`` is needed, ``hints.target`` chooses the negatives."""
        if self.student_embedding is None or self.teacher_embedding is None:
            raise ValueError("CRD: call build with the shapes of probe_taps first")
        index, target = hints.index, hints.target
        n_samples = len(self.labels)
        if index is None or index.shape != student.shape[:1]:
            got = None if index is None else tuple(index.shape)
            raise ValueError(f"CRD: 'index' is needed, the number of each sample ({len(student)},), got {got}")
        if int(index.min()) < 0 or int(index.max()) >= n_samples:
            raise ValueError(
                f"CRD: 'index' must be from 0 to {n_samples - 1}, got {int(index.min())} to {int(index.max())}"
            )
        if target is not None:
            target = target.flatten().long()
            if target.shape != index.shape:
                raise ValueError(f"CRD: 'target' must be classes ({len(index)},), got {tuple(target.shape)}")
            self.labels[index] = target
        own = normalize(self.student_embedding(pooled(student, hints.mask)), dim=1)
        other = normalize(self.teacher_embedding(pooled(teacher, hints.mask)), dim=1)
        chosen = torch.cat([index[:, None], self.draw_negatives(index, target)], 1)
        pairs = ((own, self.teacher_memory), (other, self.student_memory))
        loss = own.new_zeros(())
        for i, (embedding, memory) in enumerate(pairs):
            score = (torch.einsum("bd,bkd->bk", embedding, memory[chosen]) / self.temperature).exp()
            first = score.detach().mean() * n_samples
            self.scales[i] = torch.where(self.scales[i] == 0, first, self.scales[i])
            loss = loss + self._estimation(score / self.scales[i].clone())
        if self.training:
            for memory, new in ((self.student_memory, own), (self.teacher_memory, other)):
                mixed = self.momentum * memory[index] + (1 - self.momentum) * new.detach()
                memory[index] = normalize(mixed, dim=1).to(memory)
        return loss

    def _estimation(self, probability: Tensor) -> Tensor:
        """Noise-contrastive loss of (B, 1 + K) probabilities, the positive first."""
        noise = self.n_negatives / len(self.labels)
        positive = (probability[:, 0] / (probability[:, 0] + noise)).log()
        negative = (noise / (probability[:, 1:] + noise)).log().sum(1)
        return -(positive + negative).mean()
