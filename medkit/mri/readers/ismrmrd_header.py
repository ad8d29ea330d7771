"""Facts from the ISMRMRD header of raw files and of fastMRI's: matrix sizes, fields of view, encoding, spacing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

MAX_BYTES = 1 << 22
SAME_SPACING = 0.02
SPACES = {"encoded": "encodedSpace", "recon": "reconSpace"}
TEXTS = {
    "field_strength_t": ("acquisitionSystemInformation/systemFieldStrength_T", float),
    "vendor": ("acquisitionSystemInformation/systemVendor", str),
    "sequence": ("measurementInformation/protocolName", str),
}


@dataclass(frozen=True)
class Encoding:
    """How the lines of a raw file fill k-space.

    Args:
        matrix: encoded samples (x, y, z): readout, phase, partition.
        trajectory: ``cartesian``, ``radial``, ...; empty where the header does not say.
        centres: step of the phase and of the partition encoding at which k-space is centred.
    """

    matrix: tuple[int, int, int]
    trajectory: str
    centres: tuple[int, int]


def parse_encoding(xml: str | bytes, i_encoding: int = 0) -> Encoding:
    """Read one encoding of an ISMRMRD header.

    Args:
        xml: the header's text.
        i_encoding: which of its encodings.

    Returns:
        The encoding; a limit that is missing is centred on the matrix.

    Raises:
        ValueError: if the header is no XML, or has no such encoding with an encoded matrix.
    """
    encodings = _parse(xml).findall("{*}encoding")
    matrix = _triple(encodings[i_encoding], "encodedSpace/matrixSize") if i_encoding < len(encodings) else None
    if matrix is None:
        raise ValueError(
            f"parse_encoding: the header must have an encoding {i_encoding} with its matrix, it has {len(encodings)}"
        )
    sizes = (int(matrix[0]), int(matrix[1]), int(matrix[2]))
    encoding, centres = encodings[i_encoding], []
    for axis, n in ((1, sizes[1]), (2, sizes[2])):
        centre = encoding.findtext(f"{{*}}encodingLimits/{{*}}kspace_encoding_step_{axis}/{{*}}center", "").strip()
        centres.append(int(centre) if centre.isdigit() else n // 2)
    return Encoding(sizes, encoding.findtext("{*}trajectory", "").strip().lower(), (centres[0], centres[1]))


def parse_ismrmrd_header(xml: str | bytes, i_encoding: int = 0) -> dict[str, Any]:
    """Read what is there of an ISMRMRD header; what is missing or not a number is left out.

    Args:
        xml: the header's text.
        i_encoding: which of its encodings.

    Returns:
        Of these what the header tells: ``encoded_matrix``, ``recon_matrix`` (x, y, z) in samples, ``encoded_fov_mm``,
        ``recon_fov_mm`` (x, y, z) in mm, ``field_strength_t`` in T, ``vendor``, ``sequence``. x is the readout.

    Raises:
        ValueError: if it is not XML, too large, or declares entities.

    Example:
        >>> parse_ismrmrd_header("<ismrmrdHeader/>")
        {}
    """
    root = _parse(xml)
    encodings = root.findall("{*}encoding")[i_encoding : i_encoding + 1]
    facts: dict[str, Any] = {}
    for name, tag in SPACES.items() if encodings else ():
        matrix = _triple(encodings[0], f"{tag}/matrixSize")
        if matrix is not None:
            facts[f"{name}_matrix"] = tuple(int(n) for n in matrix)
        fov = _triple(encodings[0], f"{tag}/fieldOfView_mm")
        if fov is not None:
            facts[f"{name}_fov_mm"] = fov
    for name, (path, kind) in TEXTS.items():
        element = _find(root, path)
        try:
            if element is not None and element.text:
                facts[name] = kind(element.text.strip())
        except ValueError:
            continue
    return facts


def spacing_affine(facts: dict[str, Any], matrix: tuple[int, int], space: str) -> np.ndarray | None:
    """Make an affine from the field of view: axes as stored, first row and column at the origin, RAS, mm.

    fastMRI stores no orientation: rows run along the readout (x), columns along the phase encoding (y). Zero padding
    keeps the field of view, so that the spacing is field of view / stored samples. The third spacing is the slice
    thickness; a gap between slices is not in the header.

    Args:
        facts: of :func:`parse_ismrmrd_header`.
        matrix: stored height and width.
        space: ``"encoded"`` for k-space, ``"recon"`` for reconstructed images.

    Returns:
        ``(4, 4)`` float64, or ``None`` where the field of view is not known.
    """
    fov = facts.get(f"{space}_fov_mm")
    if fov is None:
        return None
    n_partitions = max(1, facts.get(f"{space}_matrix", (1, 1, 1))[2])
    return np.diag([fov[0] / matrix[0], fov[1] / matrix[1], fov[2] / n_partitions, 1.0])


def recon_size(facts: dict[str, Any], matrix: tuple[int, int]) -> tuple[int, int] | None:
    """Tell which central part of the image of all samples the scanner keeps: over-sampling is cut off.

    Args:
        facts: of :func:`parse_ismrmrd_header`.
        matrix: height and width of the stored k-space.

    Returns:
        Height and width in samples; ``None`` where they are not known, nothing is cut, or the scanner's pixels are of
        another size.
    """
    names = ("recon_matrix", "recon_fov_mm", "encoded_fov_mm")
    if any(name not in facts for name in names):
        return None
    kept = facts["recon_matrix"][:2]
    for size, fov, n, encoded_fov in zip(kept, facts["recon_fov_mm"], matrix, facts["encoded_fov_mm"], strict=False):
        if size > n or abs(fov / size - encoded_fov / n) > SAME_SPACING * fov / size:
            return None
    return None if kept == matrix else kept


def _parse(xml: str | bytes) -> ElementTree.Element:
    text = xml.decode("utf-8", "replace") if isinstance(xml, bytes) else str(xml)
    if len(text) > MAX_BYTES or "<!ENTITY" in text or "<!DOCTYPE" in text:
        raise ValueError("parse_ismrmrd_header: the header must be plain XML of at most 4 MiB without declarations")
    try:
        return ElementTree.fromstring(text.strip("\0 \n\r\t"))
    except ElementTree.ParseError as error:
        raise ValueError(f"parse_ismrmrd_header: the header must be XML ({error})") from error


def _find(root: ElementTree.Element, path: str) -> ElementTree.Element | None:
    return root.find("/".join(f"{{*}}{tag}" for tag in path.split("/")))


def _triple(root: ElementTree.Element, path: str) -> tuple[float, float, float] | None:
    element = _find(root, path)
    if element is None:
        return None
    try:
        values = [float(element.findtext(f"{{*}}{axis}", "")) for axis in "xyz"]
    except ValueError:
        return None
    if not all(math.isfinite(value) and value > 0 for value in values):
        return None
    return values[0], values[1], values[2]
