"""The command of the denoising wing: denoise files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

DENOISE_DESCRIPTION = """\
Denoise images with the bundle mdrn: the same as `medkit run mdrn --dataset_dir input --output_dir output …`.

  medkit denoise head.nii.gz out                  out/head_mdrn.nii.gz, and out/head.png to look at
  medkit denoise scans out --sigma 25             a folder of volumes and pictures, whose noise is known
  medkit denoise head_ct out                      a folder with a DICOM series: a new series, and NIfTI
  medkit denoise ct out --ckpt_path my/model.pt --noise_map False    weights of your own training, with its options
"""
Run = Callable[[argparse.Namespace], int]


def add_denoise_command(commands: argparse._SubParsersAction, run_bundle: Run) -> None:
    """Add ``denoise`` to the commands.

    Args:
        commands: of the parser.
        run_bundle: runs a bundle, with ``bundle`` and ``rest`` of the options.
    """
    style = argparse.RawDescriptionHelpFormatter
    denoise = commands.add_parser(
        "denoise",
        help="denoise a volume, a picture, a DICOM series, or a folder of them",
        description=DENOISE_DESCRIPTION,
        formatter_class=style,
        usage="medkit denoise input output [--sigma number] [--device name] [--option value …]",
    )
    denoise.add_argument(
        "input", help="NIfTI file, picture (PNG, TIFF, …), folder of a DICOM series, or a folder of these"
    )
    denoise.add_argument("output", help="folder for the results")
    denoise.add_argument(
        "--sigma",
        help="standard deviation of the noise in the unit of the file (grey levels, HU), or 'white' or 'background' to "
        "estimate it; default: the network finds out",
    )
    denoise.add_argument("--device", help="cpu, cuda or cuda:1; default: cuda where there is one")
    denoise.add_argument("rest", nargs=argparse.REMAINDER, metavar="--option value …", help="see medkit info mdrn")
    denoise.set_defaults(action=_denoise(run_bundle))


def _denoise(run_bundle: Run) -> Run:
    def denoise(options: argparse.Namespace) -> int:
        from medkit.workflow import report_errors_in_one_line

        report_errors_in_one_line(always=True)
        if not Path(options.input).exists():
            raise FileNotFoundError(f"medkit denoise: there is no file or folder {options.input} to denoise")
        if Path(options.output).suffix or Path(options.output).is_file():
            raise ValueError(
                f"medkit denoise: 'output' must be a folder, got {options.output}; name one, the results go into it"
            )
        # In quotes, so that a name such as 0001 stays text.
        words = ["--dataset_dir", repr(options.input), "--output_dir", repr(options.output)]
        words += [] if options.sigma is None else ["--sigma", options.sigma]
        words += [] if options.device is None else ["--device", options.device]
        return run_bundle(argparse.Namespace(bundle="mdrn", rest=["inference", *words, *options.rest]))

    return denoise
