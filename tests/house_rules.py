"""The rules of the house, as functions from a repository to the list of its faults; no rule imports the package.

Floors, wings, faces, file sizes, names, bundles: CONTRIBUTING.md says them in words, ``test_house.py`` applies them.
``python -m tests.house_rules`` rewrites ``tests/public_names.json`` after a public name was added or removed.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

FLOORS = {
    "ops": 0,
    **dict.fromkeys(("data", "workflow", "blocks", "losses", "metrics"), 1),
    **dict.fromkeys(("mri", "atlas", "denoise", "distill", "video", "points"), 2),
    "export": 3,
    "cli": 4,  # the command on the roof calls everything
}
MAX_LINES = 400
MAX_WEIGHTS_MB = 25
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
BUNDLE_FILES = (
    *(f"configs/{name}.json" for name in ("metadata", "train", "evaluate", "inference", "multi_gpu_train", "small")),
    "configs/logging.conf",
    "LICENSE",
    "docs/README.md",
    "docs/data_license.txt",
)


def library_files(root: Path) -> list[Path]:
    """Return the package's Python files."""
    return sorted((root / "medkit").rglob("*.py"))


def faces(root: Path) -> dict[str, Path]:
    """Return the file that holds the public names of each room: its ``__init__.py``, or the room's single file."""
    rooms = {path.parent.name: path for path in sorted((root / "medkit").glob("*/__init__.py"))}
    return rooms | {path.stem: path for path in sorted((root / "medkit").glob("*.py")) if path.stem != "__init__"}


def public_names(root: Path) -> dict[str, list[str]]:
    """Return what each face exports, read from its ``__all__``."""
    return {f"medkit.{room}": sorted(_exports(path) or []) for room, path in sorted(faces(root).items())}


def floors_are_kept(root: Path) -> list[str]:
    """A room uses only rooms of lower floors: shared rooms never each other, wings never another wing."""
    faults = []
    for path in library_files(root):
        own = _room(root, path)
        if own is None:
            continue
        if own not in FLOORS:
            faults.append(f"{_where(root, path)}: room '{own}' has no floor; add it to tests/house_rules.py")
            continue
        for node, module in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            parts = module.split(".")
            if parts[0] != "medkit" or len(parts) < 2 or parts[1] in (own, "__version__"):
                continue
            if FLOORS.get(parts[1], 9) >= FLOORS[own]:
                faults.append(f"{_where(root, path, node)}: medkit.{own} must not import medkit.{parts[1]}")
    return faults


def imports_are_absolute_and_on_top(root: Path) -> list[str]:
    """No relative and no star imports; medkit itself is imported at the top, but for the roof (export, cli)."""
    faults = []
    for path in library_files(root):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                faults.append(f"{_where(root, path, node)}: relative import")
            if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
                faults.append(f"{_where(root, path, node)}: star import")
        if FLOORS.get(_room(root, path) or "", 0) < 3:
            for function in ast.walk(tree):
                if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    inner = [node for node, module in _imports(function) if module.startswith("medkit")]
                    faults += [f"{_where(root, path, node)}: medkit is imported inside a function" for node in inner]
    return faults


def ground_needs_only_torch(root: Path) -> list[str]:
    """Files of ``ops`` import the standard library, torch and ops, and nothing else at their top."""
    faults = []
    for path in sorted((root / "medkit" / "ops").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for statement in tree.body:
            for node, module in _imports(statement) if isinstance(statement, (ast.Import, ast.ImportFrom)) else ():
                package = module.split(".")[0]
                if package not in ("torch", "medkit") and package not in sys.stdlib_module_names:
                    faults.append(f"{_where(root, path, node)}: ops must need torch only, not {package}")
    return faults


def faces_are_plain(root: Path) -> list[str]:
    """A face is one docstring line, explicit imports, and an ``__all__`` of exactly what it imports."""
    faults = []
    for path in sorted((root / "medkit").rglob("*/__init__.py")):
        if path.parent == root / "medkit":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstring = ast.get_docstring(tree)
        if docstring is None or "\n" in docstring:
            faults.append(f"{_where(root, path)}: a face opens with one docstring line")
        imported: set[str] = set()
        for node in tree.body[1:]:
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                imported |= {name.asname or name.name for name in node.names}
            elif not _is_all(node) and not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
                faults.append(f"{_where(root, path, node)}: a face holds imports and __all__ only")
        exports = _exports(path)
        if exports is None:
            faults.append(f"{_where(root, path)}: a face has a literal __all__")
        elif set(exports) != imported:
            faults.append(f"{_where(root, path)}: __all__ and the imports differ in {sorted(set(exports) ^ imported)}")
    return faults


def root_imports_nothing(root: Path) -> list[str]:
    """``medkit/__init__.py`` holds a docstring and ``__version__``."""
    path = root / "medkit" / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [f"{_where(root, path, node)}: import medkit must import nothing" for node, _ in _imports(tree)]


def files_are_short(root: Path) -> list[str]:
    """No Python file is longer than 400 lines."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _own_python(root)}
    return [f"{_where(root, path)}: {n} lines, more than {MAX_LINES}" for path, n in lengths.items() if n > MAX_LINES]


def files_open_with_a_sentence(root: Path) -> list[str]:
    """The first line of every file is a docstring line that ends a sentence; of a notebook's script, its title."""
    faults = []
    for path in _own_python(root):
        if path.parent.name == "tutorials" and path.read_text(encoding="utf-8").startswith("# %% [markdown]\n# # "):
            continue
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = docstring.split("\n")[0]
        starts = path.read_text(encoding="utf-8").lstrip("r").startswith('"""')
        if not starts or not first.endswith((".", "?")):
            faults.append(f"{_where(root, path)}: the first line must be a docstring of one sentence, got {first!r}")
    return faults


def files_bear_no_public_name(root: Path) -> list[str]:
    """No file or folder of a room has the exact name of what the room exports; nothing is a drawer."""
    faults = []
    for room in faces(root):
        names = set(public_names(root)[f"medkit.{room}"])
        for path in (root / "medkit" / room).rglob("*") if (root / "medkit" / room).is_dir() else ():
            if path.stem in names and (path.suffix == ".py" or path.is_dir()):
                faults.append(f"{_where(root, path)}: bears the name of the public medkit.{room}.{path.stem}")
    for path in library_files(root):
        drawers = DRAWERS & {part.removesuffix(".py") for part in path.relative_to(root).parts}
        faults += [f"{_where(root, path)}: '{drawer}' is a drawer; name what is in it" for drawer in drawers]
    return faults


def library_is_polite(root: Path) -> list[str]:
    """No ``print``, no ``assert``, no bare or general ``except`` in the package."""
    faults = []
    for path in library_files(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                faults.append(f"{_where(root, path, node)}: print; use logging")
            if isinstance(node, ast.Assert):
                faults.append(f"{_where(root, path, node)}: assert; raise an error that says what is wanted")
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
            ):
                faults.append(f"{_where(root, path, node)}: catches everything; name the errors")
    return faults


def bundles_are_complete(root: Path) -> list[str]:
    """Each bundle has every file of the contract, weights of at most 25 MB, and no Python."""
    faults = []
    for bundle in bundles(root):
        missing = [name for name in BUNDLE_FILES if not (bundle / name).is_file()]
        faults += [f"{_where(root, bundle)}: {name} is missing" for name in missing]
        faults += [f"{_where(root, path)}: no Python in bundles" for path in sorted(bundle.rglob("*.py"))]
        weights = bundle / "models" / "model.pt"
        if weights.is_file() and weights.stat().st_size > MAX_WEIGHTS_MB * 2**20:
            faults.append(f"{_where(root, weights)}: larger than {MAX_WEIGHTS_MB} MB")
    return faults


def configs_name_faces(root: Path) -> list[str]:
    """What a config calls of medkit is ``medkit.<room>.<Name>``, and that room exports it."""
    names = public_names(root)
    faults = []
    for path in configs(root):
        for called in re.findall(r"\bmedkit(?:\.\w+)+", path.read_text(encoding="utf-8")):
            room, _, name = called.rpartition(".")
            if called.count(".") != 2 and called not in names:
                faults.append(f"{_where(root, path)}: {called} must have three parts, medkit.<room>.<Name>")
            elif called.count(".") == 2 and name not in names.get(room, []):
                faults.append(f"{_where(root, path)}: {called} is not exported")
    return faults


RULES = (
    floors_are_kept,
    imports_are_absolute_and_on_top,
    ground_needs_only_torch,
    faces_are_plain,
    root_imports_nothing,
    files_are_short,
    files_open_with_a_sentence,
    files_bear_no_public_name,
    library_is_polite,
    bundles_are_complete,
    configs_name_faces,
)


def bundles(root: Path) -> list[Path]:
    """Return the folders of all bundles."""
    return sorted(
        path for path in (root / "bundles").glob("*") if path.is_dir() and not path.name.startswith((".", "_"))
    )


def configs(root: Path) -> list[Path]:
    """Return the configs of all bundles, without their metadata."""
    found = [path for bundle in bundles(root) for path in sorted(bundle.glob("configs/*.json"))]
    return [path for path in found if path.name != "metadata.json"]


def _imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "medkit":
            yield from ((node, f"medkit.{name.name}") for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node, node.module


def _is_all(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and [getattr(target, "id", None) for target in node.targets] == ["__all__"]


def _exports(path: Path) -> list[str] | None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if _is_all(node) and isinstance(node, ast.Assign) and isinstance(node.value, (ast.List, ast.Tuple)):
            return list(ast.literal_eval(node.value))
    return None


def _own_python(root: Path) -> list[Path]:
    return [
        path for folder in ("medkit", "tests", "tutorials", "data") for path in sorted((root / folder).rglob("*.py"))
    ]


def _room(root: Path, path: Path) -> str | None:
    parts = path.relative_to(root / "medkit").parts
    return None if parts == ("__init__.py",) else parts[0].removesuffix(".py")


def _where(root: Path, path: Path, node: ast.AST | None = None) -> str:
    return path.relative_to(root).as_posix() + ("" if node is None else f":{getattr(node, 'lineno', '?')}")


def main() -> None:
    """Rewrite ``tests/public_names.json``."""
    root = Path(__file__).resolve().parent.parent
    text = json.dumps(public_names(root), indent=2)
    (root / "tests" / "public_names.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
