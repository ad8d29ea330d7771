"""Any bundle's training config with teachers put in: what its trainer names is wrapped where it stands."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

logger = logging.getLogger(__name__)
SECTION = "distill"  # of the config, with what is put in: "loss" and "handlers"
_REFERENCE = re.compile(r"[$]?@([\w#:]+)")


def add_distillation(
    config: dict[str, Any],
    trainer_id: str = "train#trainer",
    evaluator_id: str | None = "validate#evaluator",
    required: Iterable[str] = (),
) -> set[str]:
    """Put teachers into a training config, in place.

    The section ``distill`` of the config has ``loss``, a :class:`DistillationLoss`, and ``handlers``, a list with a
    :class:`DistillationHandler`. Network, loss and data loader are what the trainer names, whatever their ids are:

    - the trainer's loss becomes ``distill#loss``, which gets the old one as its ``task_loss`` and the trainer's network
      as its ``student``; without ``example`` it is built with an image of the trainer's data loader;
    - the optimizer's ``params`` become those and the loss's own (:func:`join_parameters`);
    - the handlers are put behind the trainer's; theirs that save or load the optimizer save and load the loss, too.

    Args:
        config: of a bundle, with macros resolved.
        trainer_id: where it has its ``SupervisedTrainer``.
        evaluator_id: where it has its validation; ``None``, or an id that is not there: none.
        required: options that must not be ``None``.

    Returns:
        The ids that changed, with ``::`` between their parts.

    Raises:
        ValueError: if an option or an id is missing, or what stands there cannot be wrapped.
    """
    parser = ConfigParser()
    parser.config = config  # type: ignore[assignment]
    for name in required:
        if parser.get(name) is None or parser.get(name) == []:
            raise ValueError(f"install_distillation: give --{name}{_HINTS.get(name, '')}")
    if isinstance(config.get("teacher"), str) and config["teacher"].lstrip().startswith("{"):
        config["teacher"] = _from_json(config["teacher"])
    section, trainer = parser.get(SECTION), parser.get(trainer_id)
    if not isinstance(section, dict) or not isinstance(section.get("loss"), dict):
        raise ValueError(f"install_distillation: the config has no '{SECTION}#loss'; merge a distill.json behind it")
    if not isinstance(trainer, dict) or "_target_" not in trainer:
        near = get_close_matches(trainer_id, list(_trainers(config)) or list(config), n=3, cutoff=0)
        raise ValueError(
            f"install_distillation: the config has no trainer '{trainer_id}'; give --trainer_id, such as one of {near}"
        )
    if lost := [name for name in ("network", "optimizer", "loss_function", "train_data_loader") if name not in trainer]:
        raise ValueError(f"install_distillation: '{trainer_id}' has no {lost}; a SupervisedTrainer is wanted")
    loss = section["loss"]
    loss |= {"student": trainer["network"], "task_loss": trainer["loss_function"]}
    reference = _referred(loss.get("example"))
    if (loss.get("example") if reference is None else parser.get(reference)) is None:
        batch = {"loader": trainer["train_data_loader"], "prepare_batch": trainer.get("prepare_batch")}
        loss["example"] = {"_target_": "medkit.distill.example_image", **batch}
    changed = {SECTION, trainer_id}
    changed.add(_join_optimizer(parser, trainer, trainer_id))
    trainer["loss_function"] = f"@{SECTION}#loss"
    changed |= _add_handlers(parser, trainer, trainer_id, section)
    is_there = evaluator_id is not None and isinstance(parser.get(evaluator_id), dict)
    if not is_there:
        logger.warning("install_distillation: no evaluator '%s', the teacher is not compared", evaluator_id)
    for handler in section.get("handlers", []):
        if "evaluator" in handler:
            handler["evaluator"] = f"@{evaluator_id}" if is_there else None
    return {ReferenceResolver.normalize_id(id) for id in changed}


_HINTS = {
    "teacher": ", the definition of the network that teaches, such as "
    "--teacher \"{'_target_': 'DenseNet121', 'spatial_dims': 2, 'in_channels': 1, 'out_channels': 3}\"",
    "student_taps": ", paths of the student's modules whose outputs are compared, finest first, such as "
    "--student_taps \"['features.denseblock3']\"; `medkit distill <bundle> --probe` lists them",
    "teacher_taps": ", paths of the teacher's modules, as many as of the student; "
    "`medkit distill <bundle> --probe` lists them",
    "kd_n_classes": ", the number of channels of the logits",
    "kd_n_samples": ", the number of samples of the training set",
    "kd_index_key": ", the key of a batch under which the number of each sample in the training set stands",
}


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"install_distillation: --teacher is no JSON and no Python literal: {error}") from error


def _referred(value: Any) -> str | None:
    """The id that a plain reference names: of '@loss' and '$@loss' it is 'loss'."""
    match = _REFERENCE.fullmatch(value.strip()) if isinstance(value, str) else None
    return match[1] if match else None


def _followed(parser: ConfigParser, id: str) -> tuple[str, Any]:
    """Where plain references from an id lead, and what stands there."""
    value, seen = parser.get(id), {id}
    while (reference := _referred(value)) is not None:
        if reference in seen or reference not in parser:
            raise ValueError(f"install_distillation: the config has no '{reference}', which '{id}' refers to")
        seen.add(reference)
        id, value = reference, parser.get(reference)
    return id, value


def _join_optimizer(parser: ConfigParser, trainer: dict[str, Any], trainer_id: str) -> str:
    """Let the optimizer have the loss's parameters; its id."""
    id, optimizer = _followed(parser, f"{trainer_id}#optimizer")
    if not isinstance(optimizer, dict) or "params" not in optimizer:
        raise ValueError(
            f"install_distillation: the optimizer '{id}' must be a component with '_target_' and 'params', got "
            f"{str(optimizer)[:80]!r}; its parameters have to be joined by those of the adapters"
        )
    join = {"_target_": "medkit.distill.join_parameters", "params": optimizer["params"], "loss": f"@{SECTION}#loss"}
    optimizer["params"] = join
    return id


def _add_handlers(parser: ConfigParser, trainer: dict[str, Any], trainer_id: str, section: Any) -> set[str]:
    """Put the section's handlers behind the trainer's; the changed ids."""
    own = [f"@{SECTION}#handlers#{i}" for i in range(len(section.get("handlers", [])))]
    if trainer.get("train_handlers") is None:
        trainer["train_handlers"] = own
        return set()
    id, handlers = _followed(parser, f"{trainer_id}#train_handlers")
    if isinstance(handlers, str) and handlers.startswith("$"):
        trainer["train_handlers"] = f"$list({handlers[1:]}) + [{', '.join(own)}]"
        return set()
    if not isinstance(handlers, list):
        raise ValueError(f"install_distillation: '{id}' must be a list of handlers, got {str(handlers)[:80]!r}")
    optimizer = _followed(parser, f"{trainer_id}#optimizer")[0]
    kept = {"distillation": f"@{SECTION}#loss"}
    if len(own) > 1:
        kept["policy"] = own[1]
    for states in _states(handlers):
        # A file of the network alone stays one.
        if any(_is_at(parser, value, optimizer) for value in states.values()):
            states.update({name: item for name, item in kept.items() if name not in states})
    handlers.extend(own)
    return {id}


def _states(handlers: list[Any]) -> Iterator[dict[str, Any]]:
    """What handlers save or load, by name."""
    for handler in handlers:
        for name in ("save_dict", "load_dict"):
            if isinstance(handler, Mapping) and isinstance(handler.get(name), dict):
                yield handler[name]


def _is_at(parser: ConfigParser, value: Any, id: str) -> bool:
    reference = _referred(value)
    return reference is not None and reference in parser and _followed(parser, reference)[0] == id


def _trainers(config: Any, at: str = "") -> Iterator[str]:
    """Ids of what looks like a trainer."""
    if isinstance(config, dict):
        if "train_data_loader" in config and "_target_" in config:
            yield at
        for name, value in config.items():
            yield from _trainers(value, f"{at}#{name}" if at else str(name))


def references(config: Any) -> Iterator[str]:
    """Every id that something in a config refers to."""
    if isinstance(config, str):
        yield from ReferenceResolver.match_refs_pattern(config)
    elif isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from references(value)
