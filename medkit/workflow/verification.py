"""Verification of a bundle: its metadata, the ids that it must have, and what its network takes and gives."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from monai.bundle.scripts import _get_fake_spatial_shape
from torch import Tensor

_PROPERTIES: dict[str, dict[Any, Any]] = {
    "train": {**TrainProperties, **MetaProperties},
    "inference": {**InferProperties, **MetaProperties},
}


def verify_bundle(
    bundle_root: str | os.PathLike[str], schema: str | os.PathLike[str] | None = None
) -> Iterator[tuple[str, str | None]]:
    """Check a bundle without running it.

    Args:
        bundle_root: the bundle's folder.
        schema: file of the metadata schema; default a download of the one that the metadata names, kept in
            ``$MEDKIT_CACHE`` (``~/.cache/medkit``).

    Yields:
        The name of each check and its fault: ``None`` when there is none, ``"skipped: …"`` when it could not be done.

    Raises:
        FileNotFoundError: if the bundle has no ``configs/metadata.json``.

    Example:
        >>> dict(verify_bundle("bundles/clgnet"))
        {'metadata': None, 'ids of train.json': None, 'ids of inference.json': None, 'network input and output': None}
    """
    configs = Path(bundle_root) / "configs"
    metadata = configs / "metadata.json"
    if not metadata.is_file():
        raise FileNotFoundError(f"verify_bundle: 'bundle_root' must hold configs/metadata.json, got {bundle_root}")
    yield "metadata", _metadata_fault(metadata, None if schema is None else Path(schema))
    for name, properties in _PROPERTIES.items():
        if (configs / f"{name}.json").is_file():
            parser = ConfigParser()
            parser.read_config(configs / f"{name}.json")
            parser.read_meta(metadata)
            wanted = [entry["id"] for entry in properties.values() if entry["required"]]
            missing = sorted(id for id in wanted if id not in parser)
            yield f"ids of {name}.json", f"missing: {', '.join(missing)}".replace("::", "#") if missing else None
    yield "network input and output", _network_fault(configs, Path(bundle_root))


def example_inputs(metadata: Mapping[str, Any], seed: int = 0) -> list[Tensor]:
    """Make inputs of the form that a bundle's metadata promises for its network.

    Args:
        metadata: content of ``metadata.json``; ``network_data_format#inputs#image`` is read.
        seed: of the values.

    Returns:
        Tensors ``(1, num_channels, *spatial_shape)`` with values in [0, 1): one, or two of different size when the
        metadata leaves the size open (``"*"`` becomes 32 and 40, ``n`` becomes 2 and 3, ``p`` becomes 5 and 6).

    Raises:
        ValueError: if the metadata does not describe the input.

    Example:
        >>> image = {"num_channels": 3, "spatial_shape": ["*", "8*n"], "dtype": "float32"}
        >>> [tuple(x.shape) for x in example_inputs({"network_data_format": {"inputs": {"image": image}}})]
        [(1, 3, 32, 16), (1, 3, 40, 24)]
    """
    image = metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    lacking = [key for key in ("num_channels", "spatial_shape", "dtype") if key not in image]
    if lacking:
        raise ValueError(f"example_inputs: 'metadata' must give {lacking} of network_data_format#inputs#image")
    sizes = [
        _get_fake_spatial_shape(image["spatial_shape"], p=p, n=n, any=any) for p, n, any in ((5, 2, 32), (6, 3, 40))
    ]
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, image["dtype"])
    shapes = dict.fromkeys((1, image["num_channels"], *size) for size in sizes)
    return [torch.rand(shape, generator=generator).to(dtype) for shape in shapes]


def _metadata_fault(metadata: Path, schema: Path | None) -> str | None:
    content = json.loads(metadata.read_text(encoding="utf-8"))
    if "schema" not in content:
        return "the metadata names no schema"
    if content.get("version") not in content.get("changelog", {}):
        return f"version {content.get('version')} is not in the changelog"
    cache = Path(os.environ.get("MEDKIT_CACHE") or Path.home() / ".cache" / "medkit")
    try:
        verify_metadata(meta_file=str(metadata), filepath=schema or cache / content["schema"].rsplit("/", 1)[-1])
    except OSError as error:
        return f"skipped: {content['schema']} cannot be reached ({error})"
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def _network_fault(configs: Path, bundle_root: Path) -> str | None:
    file = configs / "inference.json"
    if not file.is_file():
        return "configs/inference.json is missing"
    try:
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(configs / "metadata.json"),
            config_file=str(file),
            device="cpu",
            bundle_root=str(bundle_root),
        )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        return " ".join(str(error).split())[:300]
    return None
