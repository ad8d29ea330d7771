"""The command that puts a teacher into the training of any bundle, lists what can be tapped, and reports the gain."""

from __future__ import annotations

import argparse
import ast
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DISTILL_DESCRIPTION = """\
Train the network of a bundle with a teacher, whatever the bundle's ids are.

  medkit distill their_bundle --teacher "{'_target_': 'DenseNet121', ...}" --teacher_ckpt teacher.pt
  medkit distill their_bundle --teacher big_bundle --terms kd fitnet --student_taps encoder2 --teacher_taps encoder2
  medkit distill their_bundle --teacher their_bundle --unet#channels "[8, 16, 32]"     a narrower one of itself
  medkit distill their_bundle --teacher big_bundle --probe                              the modules that can be tapped
  medkit distill their_bundle --teacher big_bundle --report out                         size, work, time and memory

Terms on one feature take the last of the taps, terms on levels all of them. Options of the terms begin with kd_, as in
--kd_temperature 2, weights end in _weight, as in --fitnet_weight 10; they rise over --kd_warmup_epochs (5). Before the
first epoch the teacher is validated. Further options of the bundle's configs follow as in `medkit run`, and the names
of its overlays behind its own.
"""
_TERMS = "kd dkd mlkd dist bernoulli fitnet at sp rkd cwd crd review hmds sokd unikd"
Run = Callable[[argparse.Namespace], int]


def add_distill_command(
    commands: argparse._SubParsersAction, find: Callable[[str], Path], files_of: Callable[..., list[str]]
) -> None:
    """Add ``distill`` to the commands.

    Args:
        commands: of the parser.
        find: folder of a bundle, by name or path.
        files_of: paths of configs, of a folder and names.
    """
    # No word of this parser is an option of its own: argparse takes a first --option out of the rest.
    command = commands.add_parser(
        "distill", help="train a bundle's network with a teacher", prefix_chars="\0", add_help=False
    )
    command.add_argument("rest", nargs=argparse.REMAINDER)
    command.set_defaults(action=lambda options: _distill(options.rest, find, files_of))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "medkit distill",
        usage="medkit distill bundle [config …] --teacher … [--option value …]",
        description=DISTILL_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--teacher", required=True, help="definition of its network, or a bundle (name or folder)")
    parser.add_argument("--teacher_ckpt", help="its weights (of a bundle by default models/model.pt)")
    parser.add_argument("--terms", nargs="+", default=["kd"], metavar="term", help=f"{_TERMS} (default: kd)")
    parser.add_argument("--student_taps", nargs="+", default=[], metavar="path", help="modules, finest first")
    parser.add_argument("--teacher_taps", nargs="+", default=[], metavar="path", help="as many of the teacher")
    parser.add_argument("--trainer_id", default="train#trainer", help="default: train#trainer")
    parser.add_argument("--evaluator_id", default="validate#evaluator", help="default: validate#evaluator")
    parser.add_argument("--student_ckpt", help="weights of the student without teacher, the bar for the teacher")
    parser.add_argument("--force", action="store_true", help="train with a teacher that is worse than its student")
    parser.add_argument("--probe", action="store_true", help="list the modules that can be tapped, and train nothing")
    parser.add_argument("--report", metavar="folder", help="write compression.json and .md there, and train nothing")
    parser.add_argument("--distilled_ckpt", help="weights of the distilled student, for the report")
    parser.add_argument("--device", help="where all of it runs (default: as the bundle says; cpu for a report)")
    parser.add_argument("--write", metavar="file", help="write the merged config there, and train nothing")
    return parser


def _distill(words: Sequence[str], find: Callable[[str], Path], files_of: Callable[..., list[str]]) -> int:
    names = list(words[: next((i for i, word in enumerate(words) if word.startswith("-")), len(words))])
    parser = _parser()
    options, rest = parser.parse_known_args(words[len(names) :])
    if not names:
        parser.error("name a bundle, or give the path to its folder")
    folder = find(names[0])
    files = files_of(folder, names[1:] or ["train"])
    from medkit.distill import distillation_overlay
    from medkit.workflow import report_errors_in_one_line

    report_errors_in_one_line(always=True)
    overlay = distillation_overlay(options.terms)
    overlay |= {"teacher": _teacher(options.teacher, find), "teacher_ckpt": options.teacher_ckpt}
    for name in ("student_taps", "teacher_taps"):
        taps = _taps(getattr(options, name))
        if taps or name in overlay:
            overlay[name] = taps
    overlay |= {"trainer_id": options.trainer_id, "evaluator_id": options.evaluator_id}
    overlay |= {"student_ckpt": options.student_ckpt, "kd_force": options.force}
    overrides = [*rest, *(["--device", options.device] if options.device else [])]
    base = _read(files)
    if twice := sorted(set(overlay) & set(base)):
        parser.error(f"the bundle's configs have {twice} themselves; rename that there")
    _override(base, overlay, {"bundle_root": str(folder), **_pairs(overrides)})
    if options.probe or options.report:
        return _look(options, base, overlay)
    if options.write:
        return _write(Path(options.write), base, overlay)
    return _train(files, folder, base, overlay, overrides)


def _teacher(text: str, find: Callable[[str], Path]) -> dict[str, Any]:
    if not text.lstrip().startswith("{"):
        return {"_target_": "medkit.distill.bundle_network", "bundle": str(find(text))}
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return _literal("--teacher", text)


def _taps(words: Sequence[str]) -> list[str]:
    """Paths as words, or as one list in Python's spelling."""
    if len(words) == 1 and words[0].lstrip().startswith("["):
        return [str(word) for word in _literal("taps", words[0])]
    return list(words)


def _literal(name: str, text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        _parser().error(f"{name} must be written as in JSON or Python, got {text}")


def _read(files: Sequence[str]) -> dict[str, Any]:
    """The bundle's config."""
    from monai.bundle import ConfigParser

    return ConfigParser.load_config_files(list(files))


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    """Options and their values, as `monai.bundle` reads them."""
    from fire.parser import DefaultParseValue

    return {name.lstrip("-"): DefaultParseValue(value) for name, value in zip(words[::2], words[1::2], strict=False)}


def _override(base: dict[str, Any], overlay: dict[str, Any], values: dict[str, Any]) -> None:
    """Put options into the overlay, which has them, or into the bundle's config."""
    from monai.bundle import ConfigParser

    for name, value in values.items():
        parser = ConfigParser()
        parser.config = overlay if name.replace("::", "#").split("#")[0] in overlay else base  # type: ignore[assignment]
        parser[name] = value


def _write(path: Path, base: dict[str, Any], overlay: dict[str, Any]) -> int:
    from monai.bundle import ConfigParser

    from medkit.distill import add_distillation
    from medkit.workflow import atomic_path

    needed = overlay["+initialize"][0]["required"]
    parser = ConfigParser({**base, **{name: value for name, value in overlay.items() if not name.startswith("+")}})
    parser.resolve_macro_and_relative_ids()
    config: Any = parser.get()
    add_distillation(config, overlay["trainer_id"], overlay["evaluator_id"], needed)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    _say(f"wrote {path}; run it with: python -m monai.bundle run --config_file {path}")
    return 0


def _train(
    files: Sequence[str], folder: Path, base: dict[str, Any], overlay: dict[str, Any], overrides: Sequence[str]
) -> int:
    import fire
    from monai.bundle import run

    if "initialize" not in base:
        overlay = {name.lstrip("+"): value for name, value in overlay.items()}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "distill.json"
        path.write_text(json.dumps(overlay), encoding="utf-8")
        words = ["--config_file", str([*files, str(path)]), "--bundle_root", str(folder), *overrides]
        fire.Fire(run, command=words, name="medkit distill")
    return 0


def _look(options: argparse.Namespace, base: dict[str, Any], overlay: dict[str, Any]) -> int:
    """List what can be tapped, or compare teacher and student."""
    import torch
    from monai.bundle import ConfigParser

    from medkit.distill import compression_report, example_image, load_teacher, tappable_modules, validate_network

    parser = ConfigParser({**base, "teacher": overlay["teacher"]})

    def built(id: str) -> Any:
        return parser.get_parsed_content(id)

    if options.trainer_id not in parser:
        _parser().error(f"the config has no trainer '{options.trainer_id}'; give --trainer_id")
    student = built(f"{options.trainer_id}#network")
    teacher = built("teacher")
    if options.teacher_ckpt:
        load_teacher(teacher, options.teacher_ckpt)
    image = example_image(built(f"{options.trainer_id}#train_data_loader"))
    if options.probe:
        for name, network in (("student", student), ("teacher", teacher)):
            home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
            shapes = tappable_modules(network, image.to(home))
            width = max(map(len, shapes), default=0)
            _say(f"{name}: {type(network).__name__}", *(f"  {p.ljust(width)}  {s}" for p, s in shapes.items()), "")
        return 0
    metrics = {}
    if options.evaluator_id in parser:
        weights = {"student_before": options.student_ckpt, "student": options.distilled_ckpt}
        evaluator = built(options.evaluator_id)
        if options.teacher_ckpt or "bundle" in overlay["teacher"]:
            metrics["teacher"] = validate_network(evaluator, teacher.to(evaluator.state.device))
        for name, path in weights.items():
            if path:
                metrics[name] = validate_network(evaluator, load_teacher(student, path))
    known = {name: value for name, value in metrics.items() if value is not None}
    compression_report(student, teacher, image, known, device=options.device or "cpu", output_dir=options.report)
    _say((Path(options.report) / "compression.md").read_text(encoding="utf-8").rstrip())
    return 0


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
