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

    def subject_labels(name: str) -> Record:
        dice = write_subject_labels(atlas, [atlas.member(name)])
        return {"dice": {str(label): value for label, value in dice.get(name, {}).items()}}

    names = [member.name for member in atlas.members]
    jobs.each("outputs-transforms", names, transforms)
    jobs.once("outputs-template", template)
    labels = jobs.once("outputs-labels", lambda: {"labels": write_label_atlas(atlas)})["labels"]
    records = jobs.each("outputs-subject-labels", names if labels else [], subject_labels)

    def measures() -> Record:
        dice = {name: {int(k): float(v) for k, v in each["dice"].items()} for name, each in records.items()}
        write_measures(atlas, {name: each for name, each in dice.items() if each})
        write_report(atlas)
        return {}

    if report:
        jobs.once("outputs-report", measures)
    return atlas
