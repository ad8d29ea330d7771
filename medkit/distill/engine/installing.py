"""Teachers put into the config that MONAI is running, before anything of it is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from medkit.distill.engine.rewiring import add_distillation, references
from medkit.workflow import report_errors_in_one_line
from medkit.workflow.merging import running_files
from medkit.workflow.overrides import running_config

logger = logging.getLogger(__name__)
_SEPARATOR = ReferenceResolver.sep


def install_distillation(
    trainer_id: str = "train#trainer", evaluator_id: str | None = "validate#evaluator", required: Iterable[str] = ()
) -> None:
    """Put teachers into the config that is being run; belongs into ``initialize``.

    See :func:`add_distillation` for what is changed. What was already built and depends on none of it is kept.

    Args:
        trainer_id: where the config has its ``SupervisedTrainer``.
        evaluator_id: where it has its validation; without one the teacher is not compared with its student.
        required: options that must not be ``None``.

    Raises:
        ValueError: if an option or an id is missing or unknown, or what stands there cannot be wrapped.

    Example:
        >>> parser = monai.bundle.ConfigParser({"initialize": [{"_target_": "medkit.distill.install_distillation"}]})
    """
    report_errors_in_one_line()
    parser, workflow = running_config()
    if parser is None or not isinstance(parser.config, dict):
        raise ValueError("install_distillation: it belongs into 'initialize' of a config that is being run")
    config: dict[str, Any] = parser.config
    if workflow is not None and "tracking_uri" not in config:
        _check_names(config, {workflow.init_id, workflow.run_id, workflow.final_id})
    changed = add_distillation(config, trainer_id, evaluator_id, required)
    resolver = parser.ref_resolver
    built = dict(resolver.resolved_content)
    parser.parse(reset=True)
    for id, content in built.items():
        if id in resolver.items and not _touches(id, changed, resolver, {}):
            resolver.resolved_content[id] = content
        elif id in resolver.items and "_target_" in str(resolver.items[id].get_config()):
            logger.info("%s was built before teachers were put in, and is built anew", id.replace(_SEPARATOR, "#"))


def _touches(id: str, changed: set[str], resolver: ReferenceResolver, known: dict[str, bool]) -> bool:
    """Whether an item is, holds or refers to something that changed, directly or not."""
    if id in known:
        return known[id]
    known[id] = any(id == other or id.startswith(other + _SEPARATOR) for other in changed)
    if not known[id] and id in resolver.items:
        below = resolver.find_refs_in_config(resolver.items[id].get_config(), id)
        known[id] = any(_touches(other, changed, resolver, known) for other in below)
    return known[id]


def _check_names(config: dict[str, Any], allowed: set[str]) -> None:
    """Refuse an option that no config has and nothing refers to: MONAI would store a misspelt one silently."""
    known: set[str] = set()
    for file in running_files():
        content = ConfigParser.load_config_file(file)
        known |= {ReferenceResolver.split_id(name.lstrip("+"))[0] for name in content}
    referred = {ReferenceResolver.split_id(id)[0] for id in references(config)}
    for name in config:
        if known and name not in known | referred | allowed and not name.startswith("_"):
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "no name of the configs is near it"
            raise ValueError(f"install_distillation: unknown option '{name}': {hint}")
