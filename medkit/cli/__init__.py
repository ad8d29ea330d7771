"""The ``medkit`` command."""

from medkit.cli.command import find_bundles, main

__all__ = ["find_bundles", "main"]
