"""All that is made of a built atlas, from its velocities to its report."""

from __future__ import annotations

from pathlib import Path

from medkit.atlas.outputs.final_template import recompute_template
from medkit.atlas.outputs.label_atlas import write_label_atlas
from medkit.atlas.outputs.label_propagation import write_subject_labels
from medkit.atlas.outputs.measures import write_measures
from medkit.atlas.outputs.report import write_report
from medkit.atlas.outputs.saved_transforms import write_transforms
from medkit.atlas.result import AtlasFolder


def finish_atlas(folder: str | Path, composite: bool = False, smoothing: float = 0.0) -> AtlasFolder:
    """Make everything of an atlas whose record and velocities are there.

    Transformations, the template that follows from them, labels where subjects have some, measures and a report, in
    this order; see :func:`write_transforms`, :func:`recompute_template`, :func:`write_label_atlas`,
    :func:`write_subject_labels`, :func:`write_measures` and :func:`write_report`. What was there is replaced.

    Args:
        folder: of the atlas.
        composite: see :func:`write_transforms`.
        smoothing: see :func:`write_transforms`.

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
    write_transforms(atlas, composite=composite, smoothing=smoothing)
    recompute_template(atlas)
    dice = write_subject_labels(atlas) if write_label_atlas(atlas) else {}
    write_measures(atlas, dice)
    write_report(atlas)
    return atlas
