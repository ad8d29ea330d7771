"""Refusal of unknown overrides: MONAI stores a misspelt ``--max_epoch 3`` silently, medkit names what was meant."""

from __future__ import annotations

import difflib
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigComponent, ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from medkit.workflow.doors import report_errors_in_one_line
from medkit.workflow.knobs import KNOBS, check_knobs
from medkit.workflow.merging import config_order_fault, running_files

_SEPARATOR = ReferenceResolver.sep
# The arguments of `monai.bundle run` itself, so that a misspelt one is recognised too.
_COMMAND_NAMES = ("config_file", "meta_file", "logging_file", "args_file", "tracking", "run_id", "init_id", "final_id")
_OTHER_WORDS = {"lr": "learning_rate", "amp": "use_amp", "data": "dataset_dir", "workers": "num_workers"}
_PATHS_WITH_DEFAULTS = ("bundle_root", "dataset_dir")


def check_overrides(bundle_root: str | os.PathLike[str] = ".", allow: Iterable[str] = ()) -> None:
    """Refuse overrides that no config of the bundle knows, and wrong values of the standard knobs.

    Belongs first in ``initialize``, as ``{"_target_": "medkit.workflow.check_overrides", "bundle_root":
    "@bundle_root"}``. It looks at the configuration that is being run: a top-level name must stand in one of the
    bundle's ``configs/*.json`` or be referred to by something; a name inside a section (``train#…``) likewise; a name
    inside a component must stand in a config or be an argument of what the component calls.
    In the commands ``monai.bundle`` and ``medkit`` an error of the user then ends in one line (set ``MEDKIT_DEBUG=1``
    for the traceback).

    Args:
        bundle_root: the bundle's folder; used when the running workflow does not tell where its configs are.
        allow: further top-level names.

    Raises:
        ValueError: if a name is unknown, with the nearest known one, a ``_target_`` in another's place is not found or
            does not take the arguments beside it, the configs are merged in the wrong order (as far as MONAI comes
            here then, see :func:`config_order_fault`), or a knob has a wrong value.
        FileNotFoundError: if a path that the user gave does not exist.

    Example:
        >>> parser = monai.bundle.ConfigParser({"initialize": [{"_target_": "medkit.workflow.check_overrides"}]})
        >>> parser.get_parsed_content("initialize::0")
    """
    report_errors_in_one_line()
    parser, workflow = running_config()
    if parser is None or not isinstance(parser.config, dict):
        return
    fault = config_order_fault(running_files())
    if fault is not None:
        raise ValueError(f"check_overrides: {fault}")
    folder = Path(workflow.config_root_path) if workflow is not None else Path(bundle_root) / "configs"
    known = known_ids(folder)
    if known:
        ids = {workflow.init_id, workflow.run_id, workflow.final_id} if workflow is not None else set()
        allowed = {*allow, *ids, *_tracking_names(parser.config)}
        wrong = list(unknown_ids(parser.config, known, allowed, parser))
        sentences = [_sentence(*each) for each in wrong] or list(_unfit_targets(parser.config, known, parser))
        if sentences:
            raise ValueError("check_overrides: " + "; ".join(sentences))
    check_knobs(_values_to_check(parser, known))


def running_config() -> tuple[ConfigParser | None, ConfigWorkflow | None]:
    """Return the parser whose content is being evaluated, and the workflow that runs it.

    MONAI hands neither to an expression, so they are looked up among the callers.

    Returns:
        Parser and workflow; ``None`` for each that is not there.
    """
    parser: ConfigParser | None = None
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if parser is None and isinstance(owner, ConfigParser):
            parser = owner
        if isinstance(owner, ConfigWorkflow):
            return parser or owner.parser, owner
        frame = frame.f_back
    return parser, None


def known_ids(folder: Path) -> dict[str, list[Any]]:
    """Collect the top-level names of all ``*.json`` configs in a folder, each with the values it takes there.

    A key such as ``train#trainer#max_epochs`` of an overlay counts as a value ``{"trainer": {"max_epochs": …}}`` of
    ``train``.

    Args:
        folder: the bundle's ``configs``.

    Returns:
        Values by name; empty when there are no configs.

    Raises:
        ValueError: if a file is not JSON, or does not hold a dictionary.
    """
    known: dict[str, list[Any]] = {}
    for file in sorted(folder.glob("*.json")):
        if file.name == "metadata.json":
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"check_overrides: {file} is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"check_overrides: {file} must hold a dictionary, got {type(content).__name__}")
        for key, value in content.items():
            first, *rest = ReferenceResolver.split_id(key.lstrip("+"))
            for part in reversed(rest):
                value = {part: value}
            known.setdefault(first, []).append(value)
    return known


def unknown_ids(
    config: Mapping[str, Any], known: Mapping[str, list[Any]], allowed: set[str], parser: ConfigParser
) -> Iterator[tuple[str, str | None]]:
    """Yield each id of a running configuration that nobody knows, with the nearest known one.

    Args:
        config: content of the running parser.
        known: see :func:`known_ids`.
        allowed: further top-level names.
        parser: finds what a component calls.

    Yields:
        The unknown id, and the id that was probably meant or ``None``.
    """
    references = set(_references(config))

    def referred(id: str) -> bool:
        return any(reference == id or reference.startswith(id + _SEPARATOR) for reference in references)

    def inside(id: str, value: Any, versions: list[Any], is_section: bool) -> Iterator[tuple[str, str | None]]:
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield from inside(f"{id}{_SEPARATOR}{i}", item, [], False)
        if not isinstance(value, dict):
            return
        versions = [version for version in versions if isinstance(version, dict)]
        names = {name.lstrip("+") for version in versions for name in version}
        is_component = "_target_" in value
        is_section = is_section and not is_component and any(_holds_component(version) for version in versions)
        for name, item in value.items():
            child = f"{id}{_SEPARATOR}{name}"
            if name not in names and not str(name).startswith("_"):
                candidates = _arguments(str(name), value, parser) if is_component else names if is_section else None
                if candidates is not None and name not in candidates and not (is_section and referred(child)):
                    near = _nearest(str(name), {*candidates, *names})
                    yield child, None if near is None else f"{id}{_SEPARATOR}{near}"
            below = [version[key] for version in versions for key in (name, f"+{name}") if key in version]
            yield from inside(child, item, below, is_section)

    for name, value in config.items():
        if name not in known and name not in allowed and not name.startswith("_") and not referred(name):
            yield name, _nearest(name, {*known, *KNOBS, *allowed, *_COMMAND_NAMES})
        yield from inside(name, value, list(known.get(name, [])), True)


def _unfit_targets(config: Mapping[str, Any], known: Mapping[str, list[Any]], parser: ConfigParser) -> Iterator[str]:
    """Yield what is wrong with each ``_target_`` that took another's place: not found, or with arguments of that."""
    from pydoc import ErrorDuringImport, locate

    def inside(id: str, value: dict[str, Any], versions: list[Any]) -> Iterator[str]:
        versions = [version for version in versions if isinstance(version, dict)]
        target = value.get("_target_")
        known_targets = {version["_target_"] for version in versions if isinstance(version.get("_target_"), str)}
        # Where the configs have one target alone, the names beside it were compared with its arguments already.
        if known_targets - {target} and isinstance(target, str) and target[:1] not in "$@":
            try:
                found = locate(str(ConfigComponent(config=value, locator=parser.locator).resolve_module_name()))
            except ErrorDuringImport:
                found = None
            taken = _arguments("", value, parser)
            strange = sorted(name for name in value if not name.startswith("_") and taken and name not in taken)
            if found is None:
                yield (
                    f"'{id}#_target_' must be a class or function that can be imported, there is no {target!r}; write "
                    f"it in full, e.g. {min(known_targets)}"
                )
            elif strange and taken:
                yield (
                    f"{target} takes no {', '.join(map(repr, strange))}, which '{id}' has beside '_target_'; give "
                    f"--{id} whole, \"{{'_target_': '{target}', ...}}\", with {', '.join(sorted(taken))}; or name the "
                    "config with that target last"
                )
        for name, item in value.items():
            if isinstance(item, dict):
                yield from inside(f"{id}#{name}", item, [version.get(name) for version in versions])

    for name, value in config.items():
        if isinstance(value, dict):
            yield from inside(name, value, list(known.get(name, [])))


def _sentence(id: str, near: str | None) -> str:
    hint = f"did you mean '{near}'?" if near is not None else "no name of the bundle's configs is near it"
    return f"unknown option '{id}': {hint}".replace(_SEPARATOR, "#")


def _nearest(name: str, candidates: Iterable[str]) -> str | None:
    names = sorted(candidates)
    if _OTHER_WORDS.get(name) in names:
        return _OTHER_WORDS[name]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.6)), None)


def _references(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield from ReferenceResolver.match_refs_pattern(config)
    elif isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _references(value)


def _holds_component(config: Any) -> bool:
    if isinstance(config, dict):
        return "_target_" in config or any(map(_holds_component, config.values()))
    return isinstance(config, list) and any(map(_holds_component, config))


def _arguments(name: str, component: dict[str, Any], parser: ConfigParser) -> set[str] | None:
    """Return the names that a component's target takes; ``None`` when ``name`` may be right or nobody can tell."""
    from pydoc import ErrorDuringImport, locate

    target = ConfigComponent(config=component, locator=parser.locator).resolve_module_name()
    try:
        called: Any = locate(target) if isinstance(target, str) else target
        layers = [inspect.signature(called)]
        layers += [inspect.signature(base.__init__) for base in getattr(called, "__mro__", ())[1:]]
    except (ErrorDuringImport, TypeError, ValueError):
        return None
    parameters = layers[0].parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return set(layers[0].parameters)
    # With **kwargs any name may be right, but not one that differs from a known one by an underscore or a plural.
    names = {name for layer in layers for name in layer.parameters} - {"self", "args", "kwargs"}
    return names if name not in names and _blurred(name) in map(_blurred, names) else None


def _blurred(name: str) -> str:
    return name.lower().replace("_", "").rstrip("s")


def _tracking_names(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what ``--tracking mlflow`` writes into a config."""
    settings: dict[str, Any] = DEFAULT_MLFLOW_SETTINGS
    if "tracking_uri" in config:
        for name, value in settings["configs"].items():
            if config.get(name) == value or name not in settings["handlers_id"]:
                yield name


def _values_to_check(parser: ConfigParser, known: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return plain values of the standard knobs, and expressions and paths only where the user gave them.

    Weights that something loads are looked for in any case: a bundle may come without, a run may not be trained yet.
    """
    values: dict[str, Any] = {}
    for name in KNOBS:
        if name not in parser.config:  # type: ignore[operator]
            continue
        value = parser[name]
        is_default = any(value == version for version in known.get(name, []))
        if isinstance(value, str) and value[:1] in ("$", "@"):
            if not is_default or (name == "ckpt_path" and name in set(_references(parser.config))):
                values[name] = parser.get_parsed_content(name)
        elif not (is_default and name in _PATHS_WITH_DEFAULTS):
            values[name] = value
    return values
