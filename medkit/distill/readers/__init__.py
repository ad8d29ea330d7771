"""Labelled pictures on disk: folders, arrays and tables, listed by split."""

from medkit.distill.readers.listing import class_names, image_list

__all__ = ["class_names", "image_list"]
