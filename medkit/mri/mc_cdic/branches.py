"""What the network keeps for each family of codes: the target's, the reference's, and the common ones."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from medkit.mri.mc_cdic.dictionary import MultiScaleDictionary
from medkit.mri.mc_cdic.proximal import ProximalNetwork

THRESHOLD = 0.01  # to start with, in the unit of the codes
EMBED_GAIN = 10.0  # how many times larger than torch's own the embeddings start, so that codes stand above thresholds
HEAD_GAIN = 0.1  # and how many times the heads, so that the first estimates stay near the degraded images


class CodeBranch(nn.Module):
    r"""Codes of one family, and how an iteration moves them.

    Holds the embedding E of images as features, the dictionary D, the dictionary :math:`\tilde D` whose adjoint
    analyses (a copy of D to start with), the proximal network, and for each iteration the logarithm of its step.

    Args:
        in_channels: channels of the images to embed.
        widths: channels of the codes, coarse to fine; features have the last of them.
        n_blocks: blocks of the proximal network at each scale.
        n_stages: iterations after the first codes.
        stage_threshold: whether each iteration has thresholds of its own; otherwise the first codes alone have.

    Example:
        >>> branch = CodeBranch(1, (8, 6, 4), (1, 1, 1), 2, False)
        >>> [tuple(code.shape) for code in branch.start(branch.analysis.adjoint(branch.embed(torch.ones(1, 1, 8, 8))))]
        [(1, 8, 2, 2), (1, 6, 4, 4), (1, 4, 8, 8)]
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], n_blocks: Sequence[int], n_stages: int, stage_threshold: bool
    ):
        super().__init__()
        self.widths = [int(width) for width in widths]
        self.embed = _scaled(nn.Conv2d(in_channels, widths[-1], 3, padding=1), EMBED_GAIN)
        self.dictionary = MultiScaleDictionary(widths)
        self.analysis = copy.deepcopy(self.dictionary)
        self.proximal = ProximalNetwork(widths, n_blocks)
        log_step = -math.log(self.dictionary.largest_eigenvalue())
        self.log_step = nn.Parameter(torch.full((n_stages + 1,), log_step))
        rows = n_stages + 1 if stage_threshold else 1
        self.threshold = nn.Parameter(torch.full((rows, sum(widths)), THRESHOLD))

    @torch.jit.export
    def start(self, analysed: list[Tensor]) -> list[Tensor]:
        r"""First codes :math:`\mathrm{relu}(\eta b - \eta \, \mathrm{relu}(\lambda))` of :math:`b = \tilde D^T f`."""
        step = self.log_step[0].exp()
        thresholds = torch.split(self.threshold[0], self.widths)
        codes: list[Tensor] = []
        for b, threshold in zip(analysed, thresholds, strict=True):
            codes.append(relu(step * b - step * relu(threshold).view(1, -1, 1, 1)))
        return codes

    @torch.jit.export
    def move(self, codes: list[Tensor], gradient: list[Tensor], stage: int) -> list[Tensor]:
        r"""One proximal gradient step, :math:`R(\mathrm{relu}(s - \eta_t g))`; ``stage`` t counts from 1."""
        step = self.log_step[stage].exp()
        moved: list[Tensor] = []
        if self.threshold.shape[0] == 1:
            for code, g in zip(codes, gradient, strict=True):
                moved.append(relu(code - step * g))
        else:
            thresholds = torch.split(self.threshold[stage], self.widths)
            for code, g, threshold in zip(codes, gradient, thresholds, strict=True):
                moved.append(relu(code - step * g - step * relu(threshold).view(1, -1, 1, 1)))
        return self.proximal(moved)


class ImageBranch(CodeBranch):
    r"""Unique codes of one image, with what relates them to that image.

    Besides the rest: the dictionary B through which common codes explain the degraded features, the dictionary G that
    synthesises clean features (a copy of D to start with), and the fusion of those of all stages to an image.

    Args:
        in_channels: channels of the image.
        widths: as :class:`CodeBranch`.
        n_blocks: as :class:`CodeBranch`.
        n_stages: as :class:`CodeBranch`.
        stage_threshold: as :class:`CodeBranch`.

    Example:
        >>> branch = ImageBranch(1, (8, 6, 4), (1, 1, 1), 2, False)
        >>> branch.fused([torch.ones(1, 4, 8, 8)] * 2).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], n_blocks: Sequence[int], n_stages: int, stage_threshold: bool
    ):
        super().__init__(in_channels, widths, n_blocks, n_stages, stage_threshold)
        self.common = MultiScaleDictionary(widths)
        self.synthesis = copy.deepcopy(self.dictionary)
        self.fuse = nn.Conv2d(widths[-1] * n_stages, widths[-1], 1)
        self.head = _scaled(nn.Conv2d(widths[-1], in_channels, 3, padding=1), HEAD_GAIN)

    @torch.jit.export
    def update(self, codes: list[Tensor], common: list[Tensor], analysed: list[Tensor], stage: int) -> list[Tensor]:
        r"""Next codes, with the gradient :math:`\tilde D^T (D u + B c) - b` of the fidelity."""
        back = self.analysis.adjoint(self.dictionary(codes) + self.common(common))
        gradient: list[Tensor] = []
        for r, b in zip(back, analysed, strict=True):
            gradient.append(r - b)
        return self.move(codes, gradient, stage)

    @torch.jit.export
    def fused(self, syntheses: list[Tensor]) -> Tensor:
        """Image (B, in_channels, H, W) that the unique codes of all stages add, from their clean features."""
        return self.head(self.fuse(torch.cat(syntheses, 1)))


@torch.no_grad()
def _scaled(layer: nn.Conv2d, gain: float) -> nn.Conv2d:
    """Return the layer with weights ``gain`` times as large and no bias to start with."""
    layer.weight.mul_(gain)
    layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return layer
