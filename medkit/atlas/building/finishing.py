"""What a finished atlas consists of, as pieces of work: transformations, template, labels, measures and the report."""

from __future__ import annotations

from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.outputs import recompute_template, write_transforms
from medkit.atlas.result import AtlasFolder


def write_outputs(atlas: AtlasFolder, jobs: Jobs) -> None:
    """Write all files of an atlas whose velocities and record are there.

    Args:
        atlas: the atlas.
        jobs: runs the pieces.
    """

    def transforms(name: str) -> Record:
        write_transforms(atlas, [atlas.member(name)])
        return {}

    def template() -> Record:
        recompute_template(atlas)
        return {}

    jobs.each("outputs-transforms", [member.name for member in atlas.members], transforms)
    jobs.once("outputs-template", template)
