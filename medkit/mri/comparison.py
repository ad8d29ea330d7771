"""A method beside the zero-filled image, case by case: intervals of the mean differences, and a picture."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkit.data.keys import CASE, ZERO_FILLED
from medkit.mri.bootstrap import FEWEST, PairedDifference, paired_bootstrap
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)

CONFIDENCE, N_RESAMPLES = 0.95, 10_000
DRAWN = {"psnr": ("PSNR in dB", True), "ssim": ("SSIM", True), "nmse": ("NMSE", False)}  # name, is more better

Cases = Sequence[Mapping[str, Any]]


def save_comparison(
    folder: str | os.PathLike[str], cases: Cases, subjects: Sequence[str], method: str, use_png: bool = True
) -> None:
    """Write ``comparison.json`` and ``metrics.png``, and log the differences; with fewer than 5 cases remove both.

    The JSON file is ``{"method": ..., "baseline": "zero_filled", "confidence": 0.95, "n_resamples": 10000,
    "differences": {metric: {"mean": ..., "low": ..., "high": ..., "n": ...}}}``, of the method less the baseline; see
    :func:`paired_bootstrap`. Of cases of fewer than 5 subjects there is the picture alone.

    Args:
        folder: where to write; made when missing.
        cases: for each case its name under ``case``, and under the name of each method its metrics, as for
            :func:`medkit.workflow.write_metrics`. Those without PSNR, for want of a reference, do not count.
        subjects: whose each case is.
        method: which one is compared with ``zero_filled``; of that itself nothing is written.
        use_png: draw the picture.

    Example:
        >>> save_comparison("eval", cases, [case["case"] for case in cases], "clgnet")
    """
    folder = Path(folder)
    # By name, since several processes may share a case out twice to have equal numbers.
    pairs = {case[CASE]: (case, who) for case, who in zip(cases, subjects, strict=True)}
    known = [(case, who) for case, who in pairs.values() if method != ZERO_FILLED and "psnr" in case.get(method, {})]
    differences = {} if len(known) < FEWEST else _differences(known, method)
    path, picture = folder / "comparison.json", folder / "metrics.png"
    if differences:
        about = {"method": method, "baseline": ZERO_FILLED, "confidence": CONFIDENCE, "n_resamples": N_RESAMPLES}
        rows = {metric: one._asdict() for metric, one in differences.items()}
        with atomic_path(path) as temporary:
            text = json.dumps({**about, "differences": rows}, indent=2, allow_nan=False)
            temporary.write_text(text + "\n", encoding="utf-8")
        words = [f"{metric} {one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}]" for metric, one in differences.items()]
        n = max(one.n for one in differences.values())
        logger.info("%s less %s over %d subjects, 95 %% intervals: %s", method, ZERO_FILLED, n, ", ".join(words))
    else:  # what an earlier run wrote here is of other cases
        path.unlink(missing_ok=True)
        if len(known) >= FEWEST:
            logger.info("no intervals of differences: they need at least %d subjects", FEWEST)
    if use_png and len(known) >= FEWEST:
        draw_comparison(picture, [case for case, _ in known], method, differences)
    else:
        picture.unlink(missing_ok=True)


def _differences(known: Sequence[tuple[Mapping[str, Any], str]], method: str) -> dict[str, PairedDifference]:
    """Compare each metric over the cases in which both have a finite value, if these are of enough subjects."""
    differences = {}
    for metric in dict.fromkeys(name for case, _ in known for name in case[method]):
        found = [(pair, who) for case, who in known for pair in _pairs([case], method, metric)]
        whose = [who for _, who in found]
        if len(set(whose)) >= FEWEST:
            before, after = zip(*(pair for pair, _ in found), strict=True)
            differences[metric] = paired_bootstrap(after, before, N_RESAMPLES, CONFIDENCE, subjects=whose)
    return differences


def _pairs(cases: Cases, method: str, metric: str) -> list[tuple[float, float]]:
    """Return the values of the zero-filled image and of the method, of the cases where both are finite."""
    values = [(case[ZERO_FILLED].get(metric, math.nan), case[method].get(metric, math.nan)) for case in cases]
    return [(float(before), float(after)) for before, after in values if math.isfinite(before) and math.isfinite(after)]


def draw_comparison(
    path: str | os.PathLike[str], cases: Cases, method: str, differences: Mapping[str, PairedDifference]
) -> None:
    """Write a PNG with a panel for each of PSNR, SSIM and NMSE, in which a line joins both values of each case.

    Args:
        path: file to write, replaced atomically.
        cases: as for :func:`save_comparison`; a value that is not finite is left out.
        method: which one is drawn beside ``zero_filled``.
        differences: by metric, what is written above its panel; may lack some.

    Example:
        >>> draw_comparison("metrics.png", cases, "clgnet", {})
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (metric, (label, more_is_better)) in zip(figure.subplots(1, len(DRAWN)), DRAWN.items(), strict=True):
        pairs = _pairs(cases, method, metric)
        n_worse = 0
        for before, after in pairs:
            is_worse = after < before if more_is_better else after > before
            n_worse += is_worse
            style = {"color": "tab:red", "zorder": 3} if is_worse else {"color": "tab:blue", "alpha": 0.6}
            axis.plot([0, 1], [before, after], marker="o", markersize=4, linewidth=1, **style)
        axis.set_xticks([0, 1], ["zero-filled", method], parse_math=False)
        axis.set_xlim(-0.25, 1.25)
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
        notes = [f"{label}, {'more' if more_is_better else 'less'} is better"]
        if metric in differences:
            one = differences[metric]
            notes.append(f"mean {one.mean:+.3g}, 95 %: {one.low:+.3g} to {one.high:+.3g}")
        notes.append(f"{n_worse} of {len(pairs)} worse")
        axis.set_title("\n".join(notes), fontsize=9)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png")
