"""The house rules that no linter knows: no two files import each other, and a docstring is a sentence.

What does not hold yet is data in ``tests/house/``: each list may only shrink, and a line that is no longer true must go.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = Path(__file__).with_name("house")
ROOMS = ("tapnet", "slirp", "nic_models")
WORDS = 5  # of a docstring, at least
Named = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[tuple[str, Path, ast.Module]]:
    """Every module of the three packages: its name, file and tree."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, path, ast.parse(path.read_text())


def listed(name: str) -> set[str]:
    """The lines of a list, without its comments."""
    lines = (LISTS / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def imports() -> dict[str, set[str]]:
    """For each module the modules that it names in an import, for types as well."""
    trees = {name: (path, tree) for name, path, tree in sources()}
    found: dict[str, set[str]] = {}
    for name, (path, tree) in trees.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        named: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                of = ".".join([*base, *([node.module] if node.module else [])])
                named |= {
                    f"{of}.{alias.name}" if f"{of}.{alias.name}" in trees else of for alias in node.names
                }
        found[name] = (named & trees.keys()) - {name}
    return found


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """All modules that ``start`` leads to."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in graph[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def test_no_file_leads_back_to_itself() -> None:
    graph = imports()
    assert len(graph) > 250 and graph["tapnet.vlan.hub"], "the graph itself"
    assert {name for name in graph if name in reached(graph, name)} == listed("circles.txt")


def test_a_docstring_is_a_sentence() -> None:
    short = set()
    for name, _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, Named) and (text := ast.get_docstring(node)) and len(text.split()) < WORDS:
                what = getattr(node, "name", "")
                short.add(f"{name}{':' + what if what else ''}: {' '.join(text.split())}")
    assert short == listed("short_docstrings.txt")
