"""All that is made of a built atlas, from its velocities to its report, as pieces of work."""

from __future__ import annotations

import tempfile
from pathlib import Path

from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.outputs import (
    recompute_template,
    write_label_atlas,
    write_measures,
    write_report,
    write_subject_labels,
    write_transforms,
)
from medkit.atlas.result import AtlasFolder


def finish_atlas(
    folder: str | Path,
    composite: bool = False,
    smoothing: float = 0.0,
    report: bool = True,
    jobs: Jobs | None = None,
) -> AtlasFolder:
    """Make everything of an atlas whose record and velocities are there.

    Transformations, the template that follows from them, labels where subjects have some, measures and a report, in
    this order; see :func:`write_transforms`, :func:`recompute_template`, :func:`write_label_atlas`,
    :func:`write_subject_labels`, :func:`write_measures` and :func:`write_report`. What was there is replaced.

    Args:
        folder: of the atlas.
        composite: see :func:`write_transforms`.
        smoothing: see :func:`write_transforms`.
        report: whether to write measures, pictures and the report.
        jobs: runs the pieces, and knows those that are done; ``None``: all are run.

    Returns:
        The finished atlas.

    Raises:
        FileNotFoundError: if there is no built atlas, or a file of it is gone.
        ValueError: if a file is bad.

    Example:
        >>> finish_atlas("my_atlas").template().shape
        torch.Size([1, 1, 192, 224, 192])
    """
    atlas = AtlasFolder(folder)
    if jobs is None:
        with tempfile.TemporaryDirectory() as place:
            return finish_atlas(folder, composite, smoothing, report, Jobs(place))

    def transforms(name: str) -> Record:
        write_transforms(atlas, [atlas.member(name)], composite, smoothing)
        return {}

    def template() -> Record:
        recompute_template(atlas)
        return {}

    def labels() -> Record:
        dice = write_subject_labels(atlas) if write_label_atlas(atlas) else {}
        return {name: {str(label): value for label, value in each.items()} for name, each in dice.items()}

    jobs.each("outputs-transforms", [member.name for member in atlas.members], transforms)
    jobs.once("outputs-template", template)
    dice = jobs.once("outputs-labels", labels)

    def measures() -> Record:
        write_measures(atlas, {name: {int(k): float(v) for k, v in each.items()} for name, each in dice.items()})
        write_report(atlas)
        return {}

    if report:
        jobs.once("outputs-report", measures)
    return atlas
