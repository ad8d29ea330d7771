"""What a finished atlas consists of, as pieces of work: transformations, template, labels, measures and the report."""

from __future__ import annotations

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


def write_outputs(atlas: AtlasFolder, jobs: Jobs, with_report: bool = True) -> None:
    """Write all files of an atlas whose velocities and record are there.

    Args:
        atlas: the atlas.
        jobs: runs the pieces.
        with_report: whether to write measures, pictures and the report.
    """

    def transforms(name: str) -> Record:
        write_transforms(atlas, [atlas.member(name)])
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

    def report() -> Record:
        write_measures(atlas, {name: {int(k): float(v) for k, v in each.items()} for name, each in dice.items()})
        write_report(atlas)
        return {}

    if with_report:
        jobs.once("outputs-report", report)
