"""Magnetic-resonance contrasts from tissue shares: signal equations, texture, slow variation and receive bias."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.labels import TISSUES, Tissue
from medkit.data.cohort.lattice import Field, Grid, lattice_shape, smooth_field, uniform
from medkit.data.cohort.ranges import Ranges

CONTRASTS = ("t1", "t2", "pd", "flair")


@dataclass(frozen=True)
class PulseSequence:
    """One sequence: ``kind`` is ``gradient_echo``, ``spin_echo`` or ``inversion``; times in ms, flip in degrees."""

    kind: str
    tr: float
    te: float
    flip: float = 90.0
    ti: float = 0.0


def signal(sequence: PulseSequence, t1: float, t2: float, density: float) -> float:
    r"""Evaluate the steady-state signal of one tissue.

    .. math::
        S_{GRE} = \rho\,\sin\alpha\frac{1 - E_1}{1 - E_1\cos\alpha}\,e^{-T_E/T_2},\quad
        S_{SE} = \rho\,(1 - E_1)\,e^{-T_E/T_2},\quad
        S_{IR} = \rho\,|1 - 2 e^{-T_I/T_1} + E_1|\,e^{-T_E/T_2},\qquad E_1 = e^{-T_R/T_1}

    Args:
        sequence: what is played.
        t1: longitudinal relaxation time in ms.
        t2: transverse relaxation time in ms.
        density: proton density, water = 1.

    Returns:
        Magnitude in units of the equilibrium magnetisation of water.
    """
    e1 = math.exp(-sequence.tr / t1)
    decay = density * math.exp(-sequence.te / t2)
    if sequence.kind == "gradient_echo":
        angle = math.radians(sequence.flip)
        return decay * math.sin(angle) * (1 - e1) / (1 - e1 * math.cos(angle))
    if sequence.kind == "inversion":
        return decay * abs(1 - 2 * math.exp(-sequence.ti / t1) + e1)
    return decay * (1 - e1)


def draw_sequence(contrast: str, ranges: Ranges, fluid_t1: float, gen: torch.Generator) -> PulseSequence:
    """Draw the timing of ``t1``, ``t2``, ``pd`` or ``flair``; ``fluid_t1`` in ms fixes FLAIR's inversion."""
    if contrast == "t1":
        choice = uniform(0, 1, gen)
        if choice < 0.4:
            tr, ti = uniform(*ranges.t1_ir_tr, gen), uniform(*ranges.t1_ir_ti, gen)
            return PulseSequence("inversion", tr, uniform(2, 5, gen), ti=ti)
        if choice < 0.75:
            return PulseSequence(
                "gradient_echo", uniform(*ranges.t1_tr, gen), uniform(2, 5, gen), uniform(*ranges.t1_flip, gen)
            )
        return PulseSequence("spin_echo", uniform(*ranges.t1_se_tr, gen), uniform(8, 15, gen))
    if contrast == "t2":
        return PulseSequence("spin_echo", uniform(*ranges.t2_tr, gen), uniform(*ranges.t2_te, gen))
    if contrast == "pd":
        return PulseSequence("spin_echo", uniform(*ranges.pd_tr, gen), uniform(*ranges.pd_te, gen))
    tr = uniform(*ranges.flair_tr, gen)
    null = fluid_t1 * math.log(2 / (1 + math.exp(-tr / fluid_t1)))
    return PulseSequence("inversion", tr, uniform(*ranges.flair_te, gen), ti=null * uniform(*ranges.flair_null, gen))


def draw_relaxation(ranges: Ranges, gen: torch.Generator) -> dict[str, Tissue]:
    """Draw a subject's table of tissues: field strength and age move all of them, chance moves each."""
    low, high = ranges.relaxation
    common = uniform(low, high, gen)
    out = {}
    for name, tissue in TISSUES.items():
        own = [uniform(low / 2, high / 2, gen) for _ in range(3)]
        out[name] = Tissue(
            tissue.label,
            tissue.t1 * (1 + common + own[0]),
            tissue.t2 * (1 - common / 2 + own[1]),
            min(1.0, tissue.density * (1 + own[2] / 2)),
            tissue.texture,
            tissue.spread,
        )
    return out


@dataclass(frozen=True)
class Look:
    """Everything random about one contrast of one subject but its voxel noise, drawn once and used slab by slab.

    Args:
        sequence: what is played.
        level: signal of each tissue.
        texture: factor on the tissues' texture.
        bias: standard deviation of the bias field's logarithm.
        shade: bias field of unit variance.
        octaves: texture fields, coarse to fine, each of unit variance.
        seed: of the texture at the size of a voxel.
    """

    sequence: PulseSequence
    level: Mapping[str, float]
    texture: float
    bias: float
    shade: Field
    octaves: tuple[Field, ...]
    seed: int

    @classmethod
    def draw(
        cls, contrast: str, tissues: Mapping[str, Tissue], ranges: Ranges, grid: Grid, gen: torch.Generator
    ) -> "Look":
        """Draw the look of ``contrast`` in a subject with the given tissues."""
        sequence = draw_sequence(contrast, ranges, tissues["csf"].t1, gen)
        level = {name: signal(sequence, t.t1, t.t2, t.density) for name, t in tissues.items()}
        top = max(level[n] for n in ("white_matter", "cortex", "csf"))
        blood, suppressed = uniform(*ranges.inflow, gen), uniform(*ranges.fat, gen)
        level["vessel"] = top * (blood if sequence.kind == "gradient_echo" else 0.15 * blood)
        for name in ("fat", "marrow"):
            level[name] *= suppressed
            if contrast == "t1":  # real scans hold fat down by dephasing and shimming
                level[name] = min(level[name], (0.9 + suppressed) * level["white_matter"])
        texture, bias = uniform(*ranges.texture, gen), uniform(*ranges.bias, gen)
        steps, step = [], 1.4 * grid.spacing
        while step < 10:
            steps.append(step)
            step *= 1.8
        octaves = tuple(_white(step, gen) for step in steps)
        seed = int(torch.randint(2**62, (), generator=gen))
        return cls(sequence, level, texture, bias, smooth_field(60.0, gen, step=20.0), octaves, seed)

    def grain(self, grid: Grid) -> Tensor:
        """Evaluate the texture: a spectrum like 1/f from the voxel up to 15 mm, unit variance, ``(X, Y, Z)``."""
        x, y, z = grid.first
        gen = torch.Generator().manual_seed(self.seed + x + 4096 * (y + 4096 * z))
        out = 0.4 * torch.randn(grid.shape, generator=gen)
        total = 0.4**2
        for octave in self.octaves:
            weight = (octave.step / grid.spacing) ** 0.25 * 0.6
            out += octave.on(grid)[0].mul_(weight)
            total += weight**2
        return out.div_(math.sqrt(total))


def _white(step: float, gen: torch.Generator) -> Field:
    """Draw white noise on a lattice whose spline has unit variance."""
    one_axis = 151 / 315  # mean over the positions of the sum of squared cubic B-spline weights
    return Field(torch.randn((1, *lattice_shape(step)), generator=gen) / one_axis**1.5, step)


def render(
    shares: Tensor,
    tissues: Mapping[str, Tissue],
    looks: Mapping[str, Look],
    variation: Tensor | None,
    grid: Grid,
    extra: Mapping[str, tuple[Tensor, float]],
) -> dict[str, Tensor]:
    """Compute noise-free images.

    Args:
        shares: share of each tissue, as :func:`medkit.data.cohort.anatomy.tissue_shares` gives them.
        tissues: relaxation times and densities of this subject.
        looks: the contrasts.
        variation: slow changes of T1, T2 and density inside the tissues, unit variance, ``(3, X, Y, Z)``; ``None``
            leaves away these, texture and bias.
        grid: voxel grid, or a slab of it.
        extra: for some contrasts a lesion's share in it alone and its brightness in units of white matter.

    Returns:
        For each contrast its magnitude, float32, ``(X, Y, Z)``, in units of the equilibrium magnetisation of water.
    """
    names, n = list(TISSUES), len(looks)
    weights = torch.zeros(2 * n + 2, len(names))
    for column, name in enumerate(names):
        tissue = tissues[name]
        for row, look in enumerate(looks.values()):
            weights[row, column] = look.level[name]
            weights[n + row, column] = tissue.spread * min(look.sequence.te / tissue.t2, 2.0)
        weights[2 * n, column], weights[2 * n + 1, column] = tissue.texture, tissue.spread
    maps = (weights @ shares.flatten(1)).reshape(-1, *grid.shape)
    out = {}
    for row, (contrast, look) in enumerate(looks.items()):
        image = maps[row]
        if contrast in extra:
            share, value = extra[contrast]
            image += share * (value * look.level["white_matter"] - image)
        if variation is not None:
            by_t1 = 0.7 if look.sequence.te < 50 else 0.2
            change = maps[n + row].mul_(variation[1])
            change += maps[-1] * (variation[2] - by_t1 * variation[0])
            change += maps[2 * n] * look.grain(grid).clamp_(-3, 3).mul_(look.texture)
            image = image.mul_(change.add_(look.shade.on(grid)[0], alpha=look.bias).exp_())
        out[contrast] = image
    return out
