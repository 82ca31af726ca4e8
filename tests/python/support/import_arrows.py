"""Finds the imports between the package's modules, and those that break the rules of its layout.

All imports count: at the top, inside functions, and under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE_NAME = "gpt2fast"

#: From the top down. Units on one line may not import each other; ``__init__`` is the package's own.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("serving",),
    ("__init__",),
    ("model", "evaluation"),
    ("inference",),
    ("loading",),
    ("export",),
    ("text",),
    ("checkpoints",),
    ("storage",),
    ("config",),
    ("_validation", "errors", "_native"),
)
_DEPTH = {unit: depth for depth, layer in enumerate(LAYERS) for unit in layer}
#: What else lies at the top: the core's types, and data.
_NO_MODULES = ("_core.pyi", "py.typed", "data")

#: Module -> the modules that it imports, each with the line of the first import.
Imports = dict[str, dict[str, int]]


def faults(package: Path) -> list[str]:
    """What breaks the rules in the package at this path; empty if nothing does."""
    found = imports(package)
    return [*_misplaced(package), *_upward(found), *_circles(found)]


def imports(package: Path) -> Imports:
    """The imports between modules of the package; the compiled core is none of them."""
    paths = {_module_name(package, path): path for path in sorted(package.rglob("*.py"))}
    found: Imports = {name: {} for name in paths}
    for name, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for target in _targets(node, name if path.stem == "__init__" else name.rpartition(".")[0]):
                while target and target not in paths:  # a name of a module, not a module
                    target = target.rpartition(".")[0]
                if target and not _is_core(node):
                    found[name].setdefault(target, node.lineno)  # type: ignore[attr-defined]
    return found


def _module_name(package: Path, path: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join((PACKAGE_NAME, *(part for part in parts if part != "__init__")))


def _targets(node: ast.AST, parent: str) -> Iterator[str]:
    """The dotted names that an import statement reaches for, inside the package."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        start = node.module or ""
        if node.level:
            start = ".".join(
                [*parent.split(".")[: len(parent.split(".")) - node.level + 1], *start.split(".")]
            )
        names = [f"{start.rstrip('.')}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        if name.split(".")[0] == PACKAGE_NAME:
            yield name


def _is_core(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and [alias.name for alias in node.names] == ["_core"]


def _unit(module: str) -> str:
    """The sub-package of a module, or the module at the top."""
    return [*module.split("."), "__init__"][1]


def _misplaced(package: Path) -> Iterator[str]:
    for path in sorted(package.iterdir()):
        if path.name in _NO_MODULES or path.name == "__pycache__" or path.suffix == ".so":
            continue
        if (path.stem if path.suffix == ".py" else path.name) not in _DEPTH:
            yield f"{path.name}: has no place at the top of the package"
    for path in sorted(package.glob("*/**/*.py")):
        if path.name.startswith("_") and path.name != "__init__.py":
            yield f"{path.relative_to(package).as_posix()}: modules of a sub-package have no underscore"


def _upward(found: Imports) -> Iterator[str]:
    for module, targets in found.items():
        own = _unit(module)
        for target, line in targets.items():
            other = _unit(target)
            if own != other and _DEPTH.get(own, -1) >= _DEPTH.get(other, -1):
                yield f"{module}, line {line}: {own} must not import {other} ({target})"


def _circles(found: Imports) -> Iterator[str]:
    """One message for each set of modules that all reach each other."""
    reached = {module: _reachable(found, module) for module in found}
    seen: set[str] = set()
    for module in found:
        if module in reached[module] and module not in seen:
            circle = sorted(other for other in reached[module] if module in reached[other])
            seen.update(circle)
            yield f"circle: {', '.join(circle)}"


def _reachable(found: Imports, start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(found[start])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting.extend(found[module])
    return reached
