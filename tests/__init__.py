"""Tests of medkit; the tree mirrors the package."""
