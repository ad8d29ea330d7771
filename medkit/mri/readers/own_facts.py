"""Facts of an exam that fastMRI's layout has no place for, kept as attributes of the HDF5 files that medkit writes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from medkit.mri.readers.acquisition import Acquisition

PREFIX = "medkit_"
SOURCE = "medkit_source"
LONGEST_LIST = 16


def write_facts(attributes: Any, exam: Acquisition, source: str) -> None:
    """Write geometry and header of an exam.

    Args:
        attributes: ``attrs`` of an open HDF5 file.
        exam: the exam.
        source: what the file was made from, to know it again.
    """
    for name, value in exam.header.items():
        attributes[name] = np.array(value) if isinstance(value, tuple) else value
    if exam.has_geometry:
        attributes[f"{PREFIX}affine"] = exam.affine
    own = {"space_code": exam.space_code, "n_frames": exam.n_frames, "mask_may_differ": exam.mask_may_differ}
    attributes[f"{PREFIX}facts"] = json.dumps(own)
    attributes[SOURCE] = source


def own_facts(attributes: Any) -> dict[str, Any]:
    """Return what :func:`write_facts` wrote of geometry, as fields of :class:`Acquisition`; else nothing.

    Raises:
        ValueError: if it is there and of another form.
    """
    if SOURCE not in attributes:
        return {}
    try:
        facts = json.loads(attributes[f"{PREFIX}facts"])
        facts = {
            "space_code": int(facts["space_code"]),
            "n_frames": int(facts["n_frames"]),
            "mask_may_differ": bool(facts["mask_may_differ"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"its attribute {PREFIX}facts cannot be read ({error})") from error
    affine = np.asarray(attributes.get(f"{PREFIX}affine", np.eye(4)), np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or facts["n_frames"] < 1:
        raise ValueError(f"its attributes {PREFIX}affine and {PREFIX}facts must be a finite 4x4 matrix and its facts")
    return {**facts, "affine": affine, "has_geometry": f"{PREFIX}affine" in attributes}


def header_facts(attributes: Any) -> dict[str, Any]:
    """Return the texts, numbers and short lists of numbers among the attributes, but for medkit's own."""
    facts: dict[str, Any] = {}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.ndim == 1:
            value = tuple(value.tolist()) if len(value) <= LONGEST_LIST else None
        if isinstance(value, (str, int, float, bool, tuple)) and not name.startswith(PREFIX):
            facts[name] = value
    return facts
