"""How an atlas is built: its energy, its pyramid, where transformations start, and when a level ends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medkit.atlas.registration import RegistrationModel

MODES = ("iterative", "hybrid", "amortized", "map")
ALIGNMENTS = ("affine", "rigid", "none")
# Gradient steps of each round at each of three levels; a prior spares some of the first ones.
N_STEPS: Mapping[str, tuple[int, ...]] = {
    "iterative": (15, 10, 5),
    "hybrid": (8, 5, 5),
    "map": (8, 5, 5),
    "amortized": (0, 0, 0),
}


@dataclass(frozen=True)
class AtlasSettings:
    """How an atlas is built.

    Args:
        model: the energy.
        mode: ``"iterative"``, gradient steps alone; ``"hybrid"``, steps from where a prior starts them;
            ``"amortized"``, the prior's transformations without any step; ``"map"``, as hybrid, and the energy keeps
            them near the prior's.
        prior_weight: of the pull towards the prior's transformations, for ``"map"``.
        factors: how much coarser each level of the pyramid is, falling to 1.
        n_rounds: rounds of each level at most: every subject once, then the template.
        n_steps: gradient steps of a subject in a round, for each level; ``None``: those of the mode.
        n_template_steps: majorise-minimise steps of the template in each round, for each level; empty: 2 at the
            finest, one less at each coarser one.
        n_final_steps: the same, of the final template.
        symmetric: whether the template is its own left-right mirror image.
        alignment: what goes before: ``"affine"``, ``"rigid"``, or ``"none"`` for subjects that are aligned already.
        n_alignment_rounds: rounds of it.
        margin: voxels of background around the subjects.
        bias_correction: whether N4 takes slow changes of brightness out of the images before anything else.
        match_intensities: whether all images get the median of their quantiles before anything else.
        tolerance: a level ends once a round lowers the energy by less than this share of it.
        smallest_motion: a level ends once a round moves points of the foreground by less than this, on average,
            in voxels of the template.

    Raises:
        ValueError: if a value is out of its range.

    Example:
        >>> AtlasSettings(mode="iterative").steps
        (15, 10, 5)
    """

    model: RegistrationModel = field(default_factory=RegistrationModel)
    mode: str = "iterative"
    prior_weight: float = 0.5
    factors: tuple[float, ...] = (4, 2, 1)
    n_rounds: tuple[int, ...] = (4, 3, 3)
    n_steps: tuple[int, ...] | None = None
    n_template_steps: tuple[int, ...] = ()
    n_final_steps: int = 3
    symmetric: bool = False
    alignment: str = "affine"
    n_alignment_rounds: int = 3
    margin: int = 8
    tolerance: float = 1e-3
    smallest_motion: float = 0.02
    bias_correction: bool = False
    match_intensities: bool = False

    def __post_init__(self) -> None:
        """Check the values; what a config gives as lists becomes tuples."""
        for name in ("factors", "n_rounds", "n_steps", "n_template_steps"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (("mode", MODES), ("alignment", ALIGNMENTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"AtlasSettings: '{name}' must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        factors = list(self.factors)
        if not self.n_template_steps:
            steps = tuple(max(0, 2 - coarser) for coarser in reversed(range(len(factors))))
            object.__setattr__(self, "n_template_steps", steps)
        if not factors or factors != sorted(factors, reverse=True) or factors[-1] != 1:
            raise ValueError(f"AtlasSettings: 'factors' must fall to 1, got {factors}")
        for name in ("n_rounds", "n_template_steps") + (() if self.n_steps is None else ("n_steps",)):
            numbers = getattr(self, name)
            if len(numbers) != len(factors) or any(int(n) != n or n < (name == "n_rounds") for n in numbers):
                raise ValueError(
                    f"AtlasSettings: '{name}' must be {len(factors)} whole numbers, one for each of 'factors' "
                    f"{factors}, got {numbers}"
                )
        if self.n_steps is None and len(factors) != 3:
            raise ValueError(f"AtlasSettings: 'n_steps' must be given for other than three levels, got {factors}")
        for name, least in (("prior_weight", 0), ("n_final_steps", 0), ("n_alignment_rounds", 1), ("margin", 0),
                            ("tolerance", 0), ("smallest_motion", 0)):  # fmt: skip
            if not getattr(self, name) >= least:
                raise ValueError(f"AtlasSettings: '{name}' must be at least {least}, got {getattr(self, name)}")

    @property
    def steps(self) -> tuple[int, ...]:
        """Gradient steps of a subject in a round, for each level."""
        return N_STEPS[self.mode] if self.n_steps is None else self.n_steps

    def digest(self, **more: Any) -> str:
        """Return a word that changes with any setting, and with whatever else is given."""
        text = json.dumps([asdict(self), more], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
