"""The network: unrolled proximal gradient steps on unique and common codes, and the images that they add."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from medkit.mri.channel_consistency import ChannelDataConsistency, symmetrised
from medkit.mri.mc_cdic.branches import CodeBranch, ImageBranch
from medkit.mri.mc_cdic.dictionary import MultiScaleDictionary

PRESETS = {
    # name: widths of the codes (coarse to fine), blocks of the proximal networks at each scale, stages
    "paper": ((128, 96, 64), (1, 3, 5), 4),
    "base": ((48, 32, 16), (1, 1, 2), 4),
    "small": ((16, 12, 8), (1, 1, 1), 2),
}
DATA_TERMS = {"implicit": "none", "hard": "hard", "soft": "soft", "grad": "grad"}


class MCCDic(nn.Module):
    r"""Multi-Contrast Convolutional Dictionary network: restores a degraded image with the help of another contrast.

    Features of both images are explained by unique codes u and v and common codes c of multi-scale dictionaries,
    :math:`\tilde X \approx D_x u + B_x c` and :math:`\tilde Y \approx D_y v + B_y c`, with
    :math:`\tilde X = E_x X`, :math:`\tilde Y = E_y Y`. Each stage t takes one proximal gradient step of each, in turn:

    .. math::
        u &\leftarrow R_x(\mathrm{relu}(u - \eta_x^t \tilde D_x^T (D_x u + B_x c - \tilde X)))

        v &\leftarrow R_y(\mathrm{relu}(v - \eta_y^t \tilde D_y^T (D_y v + B_y c - \tilde Y)))

        Z &= W [\tilde X - G_x u, \tilde Y - G_y v], \qquad
        c \leftarrow R_c(\mathrm{relu}(c - \eta_c^t \tilde D_c^T (D_c c - Z)))

    and :math:`\hat X = X + \rho_x(\mathrm{fuse}(G_x u^1, \dots, G_x u^T)) + (G_c c^T)_1`, likewise :math:`\hat Y`.
    Weights are shared by all stages, but for the steps :math:`\eta`.

    Source: Lei, Fang, Zhang, Xu, "Deep Unfolding Convolutional Dictionary Model for Multi-Contrast MRI
    Super-resolution and Reconstruction", IJCAI 2023, doi:10.24963/ijcai.2023/112, arXiv 2309.01171. The method text
    could not be read; the equations above are those of the published code, written anew.

    Differs:
        - Steps and thresholds are learned and saved; in the published code they were neither.
        - Thresholds act on the first codes alone; ``stage_threshold`` gives them to each stage.
        - Dictionaries are drawn once, then copied, :math:`D = \tilde D = G` and :math:`D_c = \tilde D_c`. The steps
          start at 1 / L, L from a power iteration on a grid of 32×32 that leaves the global random state alone.
        - Proximal networks start near the identity, embeddings ten times larger and heads ten times smaller than
          torch starts convolutions, as in the published code; a training then learns several times faster.
        - Channel attention squeezes C channels to C / 16 as in the paper, but not to fewer than 4.
        - No unused decoder: it has 74 304 weights in the published code.
        - Sizes that 4 does not divide are padded by reflection at the bottom and the right, and cropped in the end.
        - The k-space that was sampled can be honoured (``data_term``), of the final estimate and, with
          ``stage_data_term``, between stages; the paper's network knows no mask.
        - Complex images as two channels, several references as channels of one.

    Checked: by the laws in ``tests/mri/test_mc_cdic_network.py``, and by the number of weights, which is that of the
    published code: 9 537 484 with the defaults, to which 15 steps and 864 thresholds come, 9 538 363 in all
    (``stage_threshold``: 9 541 819). No weights of the authors exist to compare with.

    Args:
        preset: ``"paper"`` (codes of 128, 96, 64 channels; 1, 3, 5 blocks; 4 stages), ``"base"`` (48, 32, 16; 1, 1, 2;
            4; 890 321 parameters, for CPUs) or ``"small"`` (16, 12, 8; 1, 1, 1; 2; for tests). The next three
            arguments overrule it.
        widths: channels of the codes at a quarter, a half and the full resolution.
        n_blocks: blocks of each proximal network at these scales.
        n_stages: iterations after the first codes.
        in_channels: channels of the target: 1 for real images, 2 for complex ones (Re, Im).
        ref_channels: channels of the reference, those of all references together; ``None``: ``in_channels``.
        stage_threshold: whether each stage has thresholds of its own.
        data_term: ``"implicit"`` (the paper: none), ``"hard"`` (sampled k-space is put back), ``"soft"`` (weighed with
            the estimate by a learned noise) or ``"grad"`` (a gradient step of learned length).
        stage_data_term: whether the data term also corrects the target between stages.
        fft_backend: ``"fft"``, or ``"matmul"`` for exports; also an attribute, which may be set at any time.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> target, reference = MCCDic(preset="small")(torch.rand(1, 1, 32, 30), torch.rand(1, 1, 32, 30))
        >>> target.shape
        torch.Size([1, 1, 32, 30])
    """

    def __init__(
        self,
        preset: str = "paper",
        widths: Sequence[int] | None = None,
        n_blocks: Sequence[int] | None = None,
        n_stages: int | None = None,
        in_channels: int = 1,
        ref_channels: int | None = None,
        stage_threshold: bool = False,
        data_term: str = "implicit",
        stage_data_term: bool = False,
        fft_backend: str = "fft",
    ):
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"MCCDic: 'preset' must be one of {tuple(PRESETS)}, got {preset!r}")
        own_widths, own_blocks, own_stages = PRESETS[preset]
        widths = own_widths if widths is None else tuple(widths)
        n_blocks = own_blocks if n_blocks is None else tuple(n_blocks)
        n_stages = own_stages if n_stages is None else n_stages
        ref_channels = in_channels if ref_channels is None else ref_channels
        if in_channels not in (1, 2):
            raise ValueError(f"MCCDic: 'in_channels' must be 1 (real images) or 2 (complex), got {in_channels}")
        for argument, value in (("n_stages", n_stages), ("ref_channels", ref_channels)):
            if value < 1:
                raise ValueError(f"MCCDic: '{argument}' must be at least 1, got {value}")
        if data_term not in DATA_TERMS:
            raise ValueError(f"MCCDic: 'data_term' must be one of {tuple(DATA_TERMS)}, got {data_term!r}")
        if stage_data_term and data_term == "implicit":
            raise ValueError("MCCDic: 'stage_data_term' must be False with data_term='implicit', which has no term")
        if fft_backend not in ("fft", "matmul"):
            raise ValueError(f"MCCDic: 'fft_backend' must be 'fft' or 'matmul', got {fft_backend!r}")
        self.in_channels = in_channels
        self.ref_channels = ref_channels
        self.n_stages = n_stages
        self.has_data_term = data_term != "implicit"
        self.stage_data_term = stage_data_term
        self.fft_backend = fft_backend
        sizes = (widths, n_blocks, n_stages, stage_threshold)
        self.target = ImageBranch(in_channels, *sizes)
        self.reference = ImageBranch(ref_channels, *sizes)
        self.common = CodeBranch(in_channels + ref_channels, *sizes)
        # As torch's own layers start: smaller than the other dictionaries, since it writes into the images.
        self.common_synthesis = MultiScaleDictionary(widths, in_channels + ref_channels, gain=math.sqrt(1 / 3))
        self.evidence = nn.Conv2d(2 * widths[-1], widths[-1], 3, padding=1)
        self.data_term = ChannelDataConsistency(DATA_TERMS[data_term], is_real=in_channels == 1)

    def forward(
        self, target: Tensor, reference: Tensor, mask: Tensor | None = None, sens_maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Restore the target.

        Args:
            target: float32, ``(B, in_channels, H, W)``, the degraded image on the full grid: zero-filled
                :math:`A^H y`, or for super-resolution interpolated by zeros in k-space; scaled so that bright tissue
                is near 1. With a data term and ``in_channels=1``: its real part, not its magnitude; that the k-space
                of a real image is Hermitian is used: a sample at k counts at -k as well.
            reference: float32, ``(B, ref_channels, H, W)``, the other contrasts, fully sampled.
            mask: 0/1, real, ``(B, 1, H, W)``, 1 where k-space of the target was sampled (super-resolution: its
                centre), frequency 0 at index 0. Needed by a data term, otherwise not used.
            sens_maps: float32, ``(B, 2 coil, H, W)``, Re and Im of each coil's sensitivity, for a data term and
                ``in_channels=2``; ``None``: one uniform coil.

        Returns:
            Restored target and re-synthesised reference, shapes and units of ``target`` and ``reference``.

        Raises:
            ValueError: if the shapes do not fit together, or a data term lacks its mask.
        """
        x, y, _, _, _, _ = self.decompose(target, reference, mask, sens_maps)
        return x, y

    @torch.jit.export
    def decompose(
        self, target: Tensor, reference: Tensor, mask: Tensor | None = None, sens_maps: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Restore the target, and tell what unique and common codes added to each image.

        Args:
            target: as for :meth:`forward`, like the other arguments.
            reference: the other contrasts.
            mask: where k-space of the target was sampled.
            sens_maps: sensitivities of the coils.

        Returns:
            Restored target and re-synthesised reference; unique and common part of the target; unique and common part
            of the reference. Without a data term, an image is its input plus its two parts.

        Raises:
            ValueError: as :meth:`forward`.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling()):
            self._check(target, reference, mask, sens_maps)
        target = target.to(self.evidence.weight.dtype)
        reference = reference.to(target.dtype)
        if mask is not None and self.has_data_term:
            mask = mask.to(target.dtype)
            if sens_maps is not None:
                sens_maps = sens_maps.to(target.dtype)
            if self.in_channels == 1:
                target, mask = symmetrised(target, mask, self.fft_backend)
        height, width = target.shape[2], target.shape[3]
        padded, guide = pad_to_multiple(target), pad_to_multiple(reference)

        x_features, y_features = self.target.embed(padded), self.reference.embed(guide)
        x_analysed = self.target.analysis.adjoint(x_features)
        y_analysed = self.reference.analysis.adjoint(y_features)
        both = self.common.embed(torch.cat([padded, guide], 1))
        u, v = self.target.start(x_analysed), self.reference.start(y_analysed)
        c = self.common.start(self.common.analysis.adjoint(both))
        x_syntheses: list[Tensor] = []
        y_syntheses: list[Tensor] = []
        for stage in range(1, self.n_stages + 1):
            u = self.target.update(u, c, x_analysed, stage)
            v = self.reference.update(v, c, y_analysed, stage)
            x_syntheses.append(self.target.synthesis(u))
            y_syntheses.append(self.reference.synthesis(v))
            c = self.update_common(c, x_features - x_syntheses[-1], y_features - y_syntheses[-1], stage)
            if self.stage_data_term and mask is not None and stage < self.n_stages:
                estimate = padded + self.target.head(x_syntheses[-1]) + self.common_synthesis(c)[:, : self.in_channels]
                estimate = estimate[..., :height, :width]
                estimate = self.data_term(estimate, target, mask, sens_maps, self.fft_backend)
                x_features = self.target.embed(pad_to_multiple(estimate))
                x_analysed = self.target.analysis.adjoint(x_features)

        shared = self.common_synthesis(c)
        x_unique, y_unique = self.target.fused(x_syntheses), self.reference.fused(y_syntheses)
        x_common, y_common = shared[:, : self.in_channels], shared[:, self.in_channels :]
        x, y = padded + x_unique + x_common, guide + y_unique + y_common
        x, y = x[..., :height, :width], y[..., :height, :width]
        x_unique, y_unique = x_unique[..., :height, :width], y_unique[..., :height, :width]
        x_common, y_common = x_common[..., :height, :width], y_common[..., :height, :width]
        if self.has_data_term:
            if mask is None:
                raise ValueError("MCCDic: 'mask' must be given for a data term other than 'implicit', got None")
            x = self.data_term(x, target, mask, sens_maps, self.fft_backend)
        return x, y, x_unique, x_common, y_unique, y_common

    @torch.jit.export
    def update_common(self, c: list[Tensor], x_residual: Tensor, y_residual: Tensor, stage: int) -> list[Tensor]:
        """Next common codes, from what the unique codes leave of the features of both images."""
        evidence = self.evidence(torch.cat([x_residual, y_residual], 1))
        return self.common.move(c, self.common.analysis.adjoint(self.common.dictionary(c) - evidence), stage)

    @torch.jit.unused
    def _check(self, target: Tensor, reference: Tensor, mask: Tensor | None, sens_maps: Tensor | None) -> None:
        shape = tuple(target.shape)
        if target.ndim != 4 or shape[1] != self.in_channels or min(shape[2:]) < 4:
            raise ValueError(
                f"MCCDic: 'target' must be (B, {self.in_channels}, H, W) with H and W at least 4, got {shape}"
            )
        if tuple(reference.shape) != (shape[0], self.ref_channels, *shape[2:]):
            raise ValueError(
                f"MCCDic: 'reference' must be (B, {self.ref_channels}, H, W) like 'target' {shape}, "
                f"got {tuple(reference.shape)}"
            )
        if not self.has_data_term:
            return
        if mask is None:
            raise ValueError("MCCDic: 'mask' must be given for a data term other than 'implicit', got None")
        if tuple(mask.shape) != (shape[0], 1, *shape[2:]):
            raise ValueError(f"MCCDic: 'mask' must be (B, 1, H, W) like 'target' {shape}, got {tuple(mask.shape)}")
        if sens_maps is None:
            return
        if self.in_channels == 1:
            raise ValueError("MCCDic: 'sens_maps' must be None with in_channels=1: coils need complex images")
        fits = sens_maps.ndim == 4 and sens_maps.shape[1] % 2 == 0 and sens_maps.shape[2:] == target.shape[2:]
        if not fits or sens_maps.shape[0] != shape[0]:
            raise ValueError(
                f"MCCDic: 'sens_maps' must be (B, 2 coil, H, W) like 'target' {shape}, got {tuple(sens_maps.shape)}"
            )


def pad_to_multiple(image: Tensor) -> Tensor:
    """Pad ``(B, C, H, W)`` by reflection at the bottom and the right, to sizes that 4 divides; H and W at least 4."""
    # Always, by 0 at times: exports for sizes known only at run time must not hang on the size they were traced with.
    return pad(image, [0, -image.shape[3] % 4, 0, -image.shape[2] % 4], mode="reflect")
