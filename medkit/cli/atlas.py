"""The commands of the atlas wing: build an atlas, use it, and register two images."""

from __future__ import annotations

import argparse
import glob
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medkit.atlas import AtlasFolder

ATLAS_DESCRIPTION = """\
Build an atlas of a cohort, and use it.

  medkit atlas build --images 'brains/*.nii.gz' --output_dir my_atlas      build, or go on building
  medkit atlas build --images 'brains/*.nii.gz' --initial 1001 --output_dir my_atlas      begin with one of them
  medkit atlas add my_atlas new_brain.nii.gz                               register and label a new scan
  medkit atlas apply my_atlas 1001 activation.nii.gz out.nii.gz            bring a map of a subject to the template
  medkit atlas apply my_atlas 1001 regions.nii.gz out.nii.gz --inverse --nearest   and labels of the template to it
  medkit atlas conditional my_atlas age 30 --bandwidth 5                   the template of an age
  medkit atlas shape my_atlas                                              principal components of the shapes
  medkit atlas report my_atlas                                             write measures, pictures and report anew

`medkit atlas build --help` lists the options; each of them can be given as in `medkit run hybrid_atlas`.
"""
N_COMPONENTS = 3  # of shape, where nothing is said
Run = Callable[[argparse.Namespace], int]


def add_atlas_commands(commands: argparse._SubParsersAction, run_bundle: Run) -> None:
    """Add ``atlas`` and ``register`` to the commands.

    Args:
        commands: of the parser.
        run_bundle: runs a bundle, with ``bundle`` and ``rest`` of the options.
    """
    style = argparse.RawDescriptionHelpFormatter
    atlas = commands.add_parser(
        "atlas", help="build an atlas of a cohort, and use it", description=ATLAS_DESCRIPTION, formatter_class=style
    )
    parts = atlas.add_subparsers(title="commands", metavar="command", required=True)

    def part(name: str, action: Run, text: str, **details: Any) -> argparse.ArgumentParser:
        made = parts.add_parser(name, help=text, description=text, **details)
        made.set_defaults(action=action)
        if name != "build":
            made.add_argument("atlas", help="folder of the atlas")
        return made

    # As options of a bundle, which have a value.
    switch: Any = {"nargs": "?", "const": True, "default": False, "type": _truth, "metavar": "True|False"}
    # No word of this parser is an option of its own, not even --help: argparse takes a first --option out of the rest.
    text = "build an atlas, or go on building it; the bundle hybrid_atlas"
    build = part("build", _build(run_bundle), text, prefix_chars="\0", add_help=False)
    build.add_argument("rest", nargs=argparse.REMAINDER)
    add = part("add", _add, "register new scans to a finished template, and label them")
    add.add_argument("images", nargs="+", help="NIfTI files of the atlas's first contrast, or patterns of them")
    add.add_argument("--mask", nargs="+", default=None, help="what is kept of each, such as its brain")
    add.add_argument("--alignment", choices=("affine", "rigid", "none"), default="affine", help="default: affine")
    add.add_argument("--exclude_failed", **switch, help="go on without scans whose alignment failed")
    add.add_argument("--replace", **switch, help="put scans in the place of those that were added under their names")
    apply = part("apply", _apply, "bring an image through the transformations of a subject")
    apply.add_argument("subject", help="name of the subject")
    apply.add_argument("image", help="in the space of the subject; with --inverse in that of the template")
    apply.add_argument("output", help="NIfTI file to write")
    apply.add_argument("--inverse", action="store_true", help="from the template to the subject")
    apply.add_argument("--nearest", action="store_true", help="for labels")
    part("report", _report, "write measures, pictures and the report anew")
    conditional = part("conditional", _conditional, "the template of a value of an attribute, such as an age")
    conditional.add_argument("attribute", help="column of the covariates")
    conditional.add_argument("value", type=float)
    conditional.add_argument("--bandwidth", type=float, required=True, help="standard deviation of the weights")
    shape = part("shape", _shape, "principal components of the subjects' shapes")
    shape.add_argument("--n_components", type=int, help="default: 3, or one less than subjects where these are fewer")
    register = commands.add_parser("register", help="register two images", description="Register two images.")
    register.set_defaults(action=_register)
    register.add_argument("fixed", help="NIfTI file")
    register.add_argument("moving", help="NIfTI file that is brought to it")
    register.add_argument("output_dir", help="folder of the results")
    register.add_argument("--fixed_mask", help="what is kept of the fixed image")
    register.add_argument("--moving_mask", help="what is kept of the moving image")
    register.add_argument("--alignment", choices=("affine", "rigid", "none"), default="affine", help="default: affine")
    register.add_argument("--similarity", choices=("ssd", "lncc", "mi"), default="ssd", help="default: ssd")
    register.add_argument("--path", choices=("svf", "lddmm"), default="svf", help="default: svf")
    register.add_argument("--sigma", type=float, default=0.01, help="noise, intensities being 0 to 1; default 0.01")
    register.add_argument("--composite", action="store_true", help="also one .h5 file for ITK")


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be True or False, got {word!r}")
    return word.lower() == "true"


def _build(run_bundle: Run) -> Run:
    def build(options: argparse.Namespace) -> int:
        return run_bundle(argparse.Namespace(bundle="hybrid_atlas", rest=options.rest))

    return build


def _opened(options: argparse.Namespace) -> AtlasFolder:
    from medkit.atlas import AtlasFolder
    from medkit.workflow import report_errors_in_one_line

    report_errors_in_one_line(always=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return AtlasFolder(options.atlas)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _expanded(words: list[str]) -> list[str]:
    """Files of patterns, which come as such from quotes and from shells that leave them alone."""
    found = [[word] if Path(word).exists() else sorted(glob.glob(word)) or [word] for word in words]  # noqa: PTH207
    return [path for paths in found for path in paths]


def _add(options: argparse.Namespace) -> int:
    atlas = _opened(options)
    from medkit.atlas import add_scans

    images, masks = _expanded(options.images), None if options.mask is None else _expanded(options.mask)
    added = add_scans(atlas.folder, images, masks, options.alignment, options.exclude_failed, options.replace)
    for member in added:
        _say(f"{member.name} is in {atlas.folder / 'subjects'}, energy {member.energy:.6g}")
    return 0


def _apply(options: argparse.Namespace) -> int:
    atlas = _opened(options)
    from medkit.atlas import apply_transformation

    mode = "nearest" if options.nearest else "linear"
    apply_transformation(atlas, options.subject, options.image, options.output, options.inverse, mode)
    _say(f"wrote {options.output}")
    return 0


def _report(options: argparse.Namespace) -> int:
    atlas = _opened(options)
    from medkit.atlas import write_measures, write_report

    write_measures(atlas)
    write_report(atlas)
    _say(f"wrote {atlas.folder / 'report.html'}")
    return 0


def _conditional(options: argparse.Namespace) -> int:
    atlas = _opened(options)
    from medkit.atlas import conditional_template

    conditional_template(atlas, options.attribute, options.value, options.bandwidth)
    _say(f"wrote into {atlas.folder}")
    return 0


def _shape(options: argparse.Namespace) -> int:
    atlas = _opened(options)
    from medkit.atlas import write_shape

    most = min(N_COMPONENTS, len(atlas.members) - 1)
    write_shape(atlas, most if options.n_components is None else options.n_components)
    _say(f"wrote {', '.join(str(atlas.folder / f'shape.{kind}') for kind in ('csv', 'json', 'png'))}")
    return 0


def _register(options: argparse.Namespace) -> int:
    from medkit.atlas import RegistrationModel, register_files
    from medkit.workflow import report_errors_in_one_line

    report_errors_in_one_line(always=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    register_files(
        options.fixed,
        options.moving,
        options.output_dir,
        fixed_mask=options.fixed_mask,
        moving_mask=options.moving_mask,
        alignment=options.alignment,
        model=RegistrationModel(sigma=options.sigma, similarity=options.similarity, path=options.path),
        composite=options.composite,
    )
    _say(f"wrote into {Path(options.output_dir)}")
    return 0
