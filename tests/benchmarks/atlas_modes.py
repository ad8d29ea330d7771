"""Which mode of atlas building reaches a given energy first: CPU-seconds to energies at full resolution.

    python -m tests.benchmarks.atlas_modes --images 'aligned/*.nii.gz' --spacing 2.0

Images must be aligned affinely; without ``--images`` the simulated cohort is taken, at 4 mm. The modes are in
``atlas_modes.json``, beside this file, fixed before they were run. All end when they have made their rounds, whatever
they gained. CPU-seconds are those of a build on one thread, from its start, without what is written at its end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from medkit.atlas import AtlasSettings, AtlasSubject, HybridAtlas, RegistrationModel, RegistrationPrior, list_subjects
from medkit.data import BrainCohort
from tests.benchmarks.ants_side import cpu_seconds
from tests.benchmarks.atlas_vs_ants_brains import BUNDLE, load_prior

SHARES = (1.10, 1.05, 1.02, 1.01)  # of the lowest energy that any mode reached
Curve = list[tuple[float, float]]  # CPU-seconds, energy


class _Stamped(list[dict[str, Any]]):
    """A trace that notes when each entry came."""

    def append(self, entry: dict[str, Any]) -> None:
        super().append({**entry, "cpu_s": cpu_seconds()})


class StampedAtlas(HybridAtlas):
    """An atlas whose ``energy.json`` knows when each energy was reached."""

    def _run_level(self, *given: Any) -> Any:
        *others, trace = given
        stamped = _Stamped()
        found = super()._run_level(*others, stamped)
        trace.extend(stamped)
        return found


def energy_curve(
    folder: Path, subjects: Sequence[AtlasSubject], settings: AtlasSettings, spacing: float | None,
    prior: RegistrationPrior | None,
) -> Curve:  # fmt: skip
    """Build an atlas, and return when it had which energy at the last level of its pyramid."""
    shutil.rmtree(folder, ignore_errors=True)
    began = cpu_seconds()
    atlas = StampedAtlas(folder, settings, prior, spacing=spacing, report=False).build(subjects)
    last = len(settings.factors)
    return [
        (entry["cpu_s"] - began, entry["energy"])
        for entry in atlas.trace
        if entry["level"] == last and entry["step"] == "template" and entry["round"]
    ]


def first_time(curve: Curve, energy: float) -> float | None:
    """Return the first moment at which an energy is reached, or ``None``."""
    return next((moment for moment, value in curve if value <= energy), None)


def table(curves: Mapping[str, Curve]) -> list[str]:
    """Return lines of a table: CPU-seconds to energies, and the curves."""
    lowest = min(energy for curve in curves.values() for _, energy in curve)
    names = ["mode", *(f"s to {share:g} of the lowest" for share in SHARES), "energy at the end, of the lowest", "s"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for mode, curve in curves.items():
        moments = [first_time(curve, share * lowest) for share in SHARES]
        cells = ["never" if moment is None else f"{moment:.0f}" for moment in moments]
        lines.append(f"| {mode} | {' | '.join(cells)} | {curve[-1][1] / lowest:.4f} | {curve[-1][0]:.0f} |")
    lines += ["", *(f"{m}: {', '.join(f'{s:.0f} s {e / lowest:.4f}' for s, e in c)}" for m, c in curves.items())]
    return lines


def main() -> None:
    """Build with each mode, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="pattern of NIfTI files, affinely aligned")
    parser.add_argument("--spacing", type=float, help="mm; default: that of the images, 4 of the cohort")
    parser.add_argument("--weights", type=Path, default=BUNDLE / "models" / "model.pt", help="of the prior")
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    protocol = json.loads(options.protocol.read_text())
    torch.set_num_threads(1)
    if options.images is None:
        options.spacing = 4.0 if options.spacing is None else options.spacing
        cohort = BrainCohort(6, split="test", seed=0, spacing=options.spacing, contrasts=("t1",))
        subjects = list_subjects(None, cohort=cohort)
    else:
        subjects = list_subjects(options.images)
    prior, curves = load_prior(options.weights), {}
    model = RegistrationModel(**protocol["model"])
    with tempfile.TemporaryDirectory() as place:
        for mode, given in protocol["modes"].items():
            settings = AtlasSettings(model=model, alignment="none", tolerance=0.0, smallest_motion=0.0, **given)
            guess = None if settings.mode == "iterative" else prior
            curves[mode] = energy_curve(Path(place) / "atlas", subjects, settings, options.spacing, guess)
    print("\n".join(table(curves)))  # noqa: T201


if __name__ == "__main__":
    main()
