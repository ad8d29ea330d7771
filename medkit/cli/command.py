"""The ``medkit`` command: find a bundle by name, and hand it to ``monai.bundle`` with the right paths."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medkit import __version__
from medkit.cli.atlas import add_atlas_commands
from medkit.cli.distill import add_distill_command

__all__ = ["find_bundles", "main"]

_DESCRIPTION = """\
Run, inspect, verify and export medkit's bundles, convert data for them, build atlases, and register images.

  medkit list                               the bundles that are found, with what they do
  medkit info clgnet                        what a bundle reads, writes and reaches, and its options
  medkit run clgnet                         inference with the released weights, on simulated data
  medkit run clgnet train --max_epochs 3    train; any option of the config can follow
  medkit verify clgnet                      metadata, required ids, and the network's input and output
  medkit export clgnet                      TorchScript and ONNX files
  medkit convert scans fast                 k-space of any readable format as .h5 files that are fast to read
  medkit atlas build --images 'a/*.nii.gz'  an atlas of a cohort; see medkit atlas --help
  medkit distill their_bundle --teacher …   train a bundle's network with a teacher; see medkit distill --help
  medkit register fixed.nii moving.nii out  two images, and the transformations between them

Bundles are looked for in $MEDKIT_BUNDLES (folders, separated as in $PATH), in ./bundles, and beside the package;
a path to a bundle works everywhere instead of its name. MEDKIT_DEBUG=1 shows the traceback of an error.
"""
_RUN_DESCRIPTION = """\
Run a bundle: the same as `python -m monai.bundle run --config_file … --bundle_root … [--option value …]`.

Name configs of the bundle, without `.json`: train, evaluate, inference (default), others that stand alone such as
register of hybrid_atlas, or overlays on train such as small and multi_gpu_train; several are merged in order:
`medkit run clgnet train small`. With torchrun:
`torchrun --nproc_per_node=2 -m medkit.cli run clgnet multi_gpu_train`.
"""
_BASES = ("train", "inference")  # of every bundle; a config without what makes one stand alone is an overlay on train
_FORMATS = ("torchscript", "onnx")
_NOT_OPTIONS = {"imports", "initialize", "run", "finalize", "run_dir", "config_dir", "network", "average"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: words of the command line; default those of the process.

    Returns:
        Exit code: 0 when all went well, 1 when a check failed, 2 when the command was wrong.

    Example:
        >>> main(["run", "clgnet", "train", "--max_epochs", "3"])
        0
    """
    options = _parser().parse_args(arguments)
    try:
        return options.action(options)
    except CommandError as error:
        sys.stderr.write(f"medkit: error: {error}\n")
        return 2


class CommandError(ValueError):
    """A command line that cannot be followed; its message says what to do."""


def find_bundles() -> dict[str, Path]:
    """Return the folders of all bundles that are found, by name; the first place that has a name wins.

    Returns:
        Absolute path by name, from ``$MEDKIT_BUNDLES``, ``./bundles`` and the folder ``bundles`` beside the package.

    Example:
        >>> find_bundles()["clgnet"]
        PosixPath('/home/me/medkit/bundles/clgnet')
    """
    places = [Path(place) for place in os.environ.get("MEDKIT_BUNDLES", "").split(os.pathsep) if place]
    places += [Path.cwd() / "bundles", Path(__file__).resolve().parents[2] / "bundles"]
    found: dict[str, Path] = {}
    for place in places:
        for metadata in sorted(place.glob("*/configs/metadata.json")):
            found.setdefault(metadata.parent.parent.name, metadata.parent.parent.resolve())
    return found


def _parser() -> argparse.ArgumentParser:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("medkit", description=_DESCRIPTION, formatter_class=style)
    parser.add_argument("--version", action="version", version=f"medkit {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)

    def add(name: str, action: Any, text: str, **details: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, formatter_class=style, **{"description": text, **details})
        command.set_defaults(action=action)
        if name not in ("list", "convert"):
            command.add_argument("bundle", help="name of a bundle, or path to its folder")
        return command

    add("list", _list, "list the bundles that are found")
    add("info", _info, "show what a bundle is, its options and its results")
    run = add(
        "run",
        _run,
        "run a bundle",
        description=_RUN_DESCRIPTION,
        usage="medkit run bundle [config …] [--option value …]",
    )
    run.add_argument("rest", nargs=argparse.REMAINDER, metavar="config … --option value …", help="see above")
    add("verify", _verify, "check a bundle's metadata, ids, and network input and output")
    export = add("export", _export, "export a bundle's network to TorchScript and ONNX, and check the files against it")
    export.add_argument("--output_dir", help="where to write model.ts and model.onnx (default: models/ of the bundle)")
    export.add_argument("--ckpt_path", help="weights (default: models/model.pt of the bundle)")
    export.add_argument("--formats", nargs="+", choices=_FORMATS, default=_FORMATS, help="default: both")
    export.add_argument(
        "--method", choices=("script", "trace"), default="script", help="of TorchScript (default: script)"
    )
    add_atlas_commands(commands, _run)
    add_distill_command(commands, _bundle, _config_files)
    convert = add("convert", _convert, "convert k-space to .h5 files that are fast to read, for a training")
    convert.add_argument("source", help="file, folder or datalist of exams")
    convert.add_argument("dest", help="folder to write to")
    convert.add_argument("--pattern", nargs="+", default=["*"], help="file names to convert (default: all)")
    convert.add_argument(
        "--repetitions", help=r"regular expression of what repetitions differ by, to be averaged; of M4Raw '\d\d$'"
    )
    convert.add_argument("--overwrite", action="store_true", help="replace files that were made of something else")
    convert.add_argument("--skip_bad", action="store_true", help="go on after a file that cannot be converted")
    convert.add_argument("--key", help="name of the array, or what to take of ISMRMRD: contrast=0,repetition=1")
    convert.add_argument("--axes", help="names of the array's axes, such as slice,H,W,coil_ri")
    convert.add_argument("--domain", choices=("kspace", "image"), help="what a complex array holds")
    convert.add_argument("--not_centred", dest="centred", action="store_false", help="the zero frequency is at index 0")
    return parser


def _bundle(name: str) -> Path:
    if (Path(name) / "configs" / "metadata.json").is_file():
        return Path(name).resolve()
    found = find_bundles()
    if name not in found:
        from difflib import get_close_matches

        near = get_close_matches(name, found, n=1)
        known = f"did you mean '{near[0]}'?" if near else f"found are: {', '.join(sorted(found)) or 'none'}"
        raise CommandError(f"no bundle '{name}'; {known}")
    return found[name]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _list(options: argparse.Namespace) -> int:
    found = find_bundles()
    if not found:
        raise CommandError("no bundles are found; run it in the repository, or set MEDKIT_BUNDLES to their folder")
    width = max(map(len, found))
    for name, folder in sorted(found.items()):
        metadata = _read(folder / "configs" / "metadata.json")
        _say(f"{name:<{width}}  {metadata.get('version', '?'):<7} {metadata.get('task', '')}")
    return 0


def _is_option(name: str, value: object) -> bool:
    """Tell a setting at the top of a config from what the config builds."""
    parts = value if isinstance(value, list) else [value]
    return name not in _NOT_OPTIONS and not any(isinstance(part, dict) for part in parts)


def _info(options: argparse.Namespace) -> int:
    folder = _bundle(options.bundle)
    metadata = _read(folder / "configs" / "metadata.json")
    _say(f"{metadata.get('name', folder.name)} {metadata.get('version', '')}: {metadata.get('task', '')}")
    _say("", str(metadata.get("description", "")), "", f"folder    {folder}")
    configs = sorted(path.stem for path in (folder / "configs").glob("*.json") if path.name != "metadata.json")
    _say(f"configs   {' '.join(configs)}")
    weights = folder / "models" / "model.pt"
    size = f"{weights.stat().st_size / 2**20:.1f} MB" if weights.is_file() else "none, train it first"
    _say(f"weights   {size}", "", "options   (any other id of a config can be given too)")
    for name in (*_BASES, *(name for name in configs if name not in _BASES)):
        if name in configs and _is_base(folder, name):
            content = _read(folder / "configs" / f"{name}.json")
            _say(f"  medkit run {options.bundle} {name}")
            _say(
                *(f"    --{knob:<20} {json.dumps(value)}" for knob, value in content.items() if _is_option(knob, value))
            )
    if metadata.get("eval_metrics"):
        _say("", "results   (how they were got: docs/README.md)", json.dumps(metadata["eval_metrics"], indent=2))
    return 0


def _run(options: argparse.Namespace) -> int:
    folder = _bundle(options.bundle)
    names = options.rest[: _first_option(options.rest)]
    overrides = options.rest[len(names) :]
    if "--help" in overrides or "-h" in overrides:
        return _info(options)
    files = _config_files(folder, names or ["inference"])
    import fire
    from monai.bundle import run

    from medkit.workflow import config_order_fault, report_errors_in_one_line

    fault = config_order_fault(files)  # here too: MONAI may end while it merges, before check_overrides is asked
    if fault is not None:
        raise CommandError(fault)
    report_errors_in_one_line(always=True)
    words = ["--config_file", str(files), "--bundle_root", str(folder), *overrides]
    fire.Fire(run, command=words, name="medkit run")
    return 0


def _first_option(words: Sequence[str]) -> int:
    return next((i for i, word in enumerate(words) if word.startswith("-")), len(words))


def _config_files(folder: Path, names: Sequence[str]) -> list[str]:
    if not any(_is_base(folder, name) for name in names):
        names = ["train", *names]
    files = [folder / "configs" / f"{name}.json" for name in names]
    missing = [file.stem for file in files if not file.is_file()]
    if missing:
        known = sorted(path.stem for path in (folder / "configs").glob("*.json") if path.name != "metadata.json")
        raise CommandError(f"bundle '{folder.name}' has no config {missing}; it has {', '.join(known)}")
    return [str(file) for file in files]


def _is_base(folder: Path, name: str) -> bool:
    from medkit.workflow import stands_alone

    path = folder / "configs" / f"{name}.json"
    return name in _BASES or (path.is_file() and stands_alone(_read(path)))


def _verify(options: argparse.Namespace) -> int:
    folder = _bundle(options.bundle)
    from medkit.workflow import verify_bundle

    logging.disable(logging.INFO)  # MONAI logs what it was called with
    try:
        checks = list(verify_bundle(folder))
    finally:
        logging.disable(logging.NOTSET)
    _say(*(f"{check:<28} {'ok' if fault is None else fault}" for check, fault in checks))
    return int(any(fault is not None and not fault.startswith("skipped") for _, fault in checks))


def _export(options: argparse.Namespace) -> int:
    folder = _bundle(options.bundle)
    weights = Path(options.ckpt_path or folder / "models" / "model.pt")
    if not weights.is_file():
        raise CommandError(f"there are no weights at {weights}; train the bundle, or give --ckpt_path")
    import torch
    from monai.bundle import ConfigParser

    from medkit.export import to_onnx, to_torchscript
    from medkit.workflow import example_inputs, report_errors_in_one_line

    report_errors_in_one_line(always=True)
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser.read_meta(folder / "configs" / "metadata.json")
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    examples, metadata = example_inputs(parser["_meta_"]), parser["_meta_"]
    output_dir = Path(options.output_dir or folder / "models")
    writers = {  # ONNX first: it may lack its libraries
        "onnx": lambda: to_onnx(network, output_dir / "model.onnx", examples, metadata=metadata),
        "torchscript": lambda: to_torchscript(
            network, output_dir / "model.ts", examples, options.method, metadata=metadata
        ),
    }
    for name in (name for name in writers if name in options.formats):
        _say(f"exporting to {name}, and comparing with the network; an unrolled network takes minutes ...")
        report = writers[name]()
        _say(f"{report.path}  {report.kind}, differs from the network by at most {max(report.errors.values()):.1e}")
    return 0


def _convert(options: argparse.Namespace) -> int:
    from medkit.mri import convert_acquisitions
    from medkit.workflow import report_errors_in_one_line

    report_errors_in_one_line(always=True)
    arguments = {name: value for name, value in vars(options).items() if name != "action"}
    files = convert_acquisitions(**arguments)
    _say(f"{len(files)} files are in {options.dest}")
    return 0
