"""Magnetic-resonance contrasts from tissue shares: signal equations, texture, slow variation and receive bias."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.labels import TISSUES, Tissue
from medkit.data.cohort.lattice import Grid, lattice_shape, smooth, spread, uniform
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
        if uniform(0, 1, gen) < 0.6:
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


def slow_variation(grid: Grid, gen: torch.Generator) -> Tensor:
    """Draw slow changes of T1, T2 and density inside the tissues, unit variance, ``(3, X, Y, Z)``; one per subject."""
    return 0.8 * smooth(18.0, grid, gen, 3) + 0.6 * smooth(6.0, grid, gen, 3)


def fine_texture(grid: Grid, gen: torch.Generator) -> Tensor:
    """Draw texture with a spectrum like 1/f from the voxel up to 16 mm, unit variance, ``(X, Y, Z)``."""
    out = 0.35 * torch.randn(grid.shape, generator=gen)
    total = 0.35**2
    step = 1.5 * grid.spacing
    while step <= 8.0:
        weight = (step / grid.spacing) ** 0.25 * 0.6
        shape = lattice_shape(step)
        out += spread(torch.randn(shape, generator=gen), step, grid).mul_(weight / 0.34)
        total += weight**2
        step *= 2
    return out.div_(math.sqrt(total))


def render(
    shares: Mapping[str, Tensor],
    tissues: Mapping[str, Tissue],
    sequence: PulseSequence,
    ranges: Ranges,
    variation: Tensor,
    grid: Grid,
    gen: torch.Generator,
    texture: float = 1.0,
    bias: float = 0.1,
    extra: Sequence[tuple[Tensor, float]] = (),
) -> Tensor:
    """Compute one noise-free image.

    Args:
        shares: share of each tissue, as :func:`medkit.data.cohort.anatomy.tissue_shares` gives them.
        tissues: relaxation times and densities of this subject.
        sequence: what is played.
        ranges: the split's ranges (brightness of blood).
        variation: :func:`slow_variation` of this subject.
        grid: voxel grid.
        gen: source of this contrast's randomness.
        texture: factor on the tissues' texture; 0 leaves it away.
        bias: standard deviation of the bias field's logarithm; 0 leaves it away.
        extra: pairs of a lesion's share in this contrast alone and its brightness in units of white matter.

    Returns:
        Magnitude, float32, ``(X, Y, Z)``, 0 to 1.
    """
    level = {name: signal(sequence, t.t1, t.t2, t.density) for name, t in tissues.items()}
    top = max(level[n] for n in ("white_matter", "cortex", "csf"))
    level["vessel"] = top * (
        uniform(*ranges.inflow, gen) if sequence.kind == "gradient_echo" else uniform(0, 0.15, gen)
    )
    image = torch.zeros(grid.shape)
    grain = torch.zeros(grid.shape)
    drift = torch.zeros(grid.shape)
    slope = torch.zeros(grid.shape)
    for name, share in shares.items():
        tissue, value = tissues[name], level[name]
        if value <= 0:
            continue
        image.add_(share, alpha=value)
        grain.add_(share, alpha=tissue.texture * texture)
        drift.add_(share, alpha=tissue.spread)
        by_t2 = sequence.te / tissue.t2
        slope.add_(share, alpha=tissue.spread * min(by_t2, 2.0))
    for share, value in extra:
        image += share * (value * level["white_matter"] - image)
    if texture:
        image *= 1 + grain * fine_texture(grid, gen).clamp_(-3, 3)
        change = slope * variation[1] + drift * (variation[2] - (0.7 if sequence.te < 50 else 0.2) * variation[0])
        image *= change.exp_()
    if bias:
        image *= (bias * smooth(70.0, grid, gen)[0]).exp_()
    scale = torch.quantile(image[:: max(1, image.shape[0] // 48), :: max(1, image.shape[1] // 48)].flatten(), 0.998)
    return (image / (1.3 * scale)).clamp_(0, 1)
