"""The house: a room imports only from floors below it, and heavy libraries inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import robustlab

PACKAGE = Path(robustlab.__file__).parent

FLOORS = {
    "errors": 1,
    "resources": 1,
    "data": 2,
    "metrics": 3,
    "models": 3,
    "runs": 3,
    "attack": 4,
    "report": 4,
    "retrieval": 4,
    "rag": 5,
    "evaluation": 6,
    "defense": 6,
    "poisoning": 7,
    "training": 8,
    "cli": 9,
}

# Rooms on one floor that lean on each other in one direction only.
NEIGHBOURS = {
    ("resources", "errors"),
    ("runs", "metrics"),
    ("report", "metrics"),
    ("attack", "retrieval"),
}

HEAVY = {
    "bm25s", "datasets", "faiss", "ir_measures", "jinja2", "matplotlib", "nltk", "peft", "rich",
    "rouge_score", "sacrebleu", "sentence_transformers", "textattack", "transformers",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_content" not in path.parts)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(body: list[ast.stmt], *, inside: bool) -> Iterator[str]:
    """Names of imported modules; of functions too if ``inside``. Type-only imports are no use."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.FunctionDef) and not inside:
            continue
        else:
            nested = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            yield from imports(nested, inside=inside)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    if own not in FLOORS:
        return
    for name in imports(ast.parse(path.read_text(encoding="utf-8")).body, inside=True):
        if not name.startswith("robustlab."):
            continue
        other = name.split(".")[1]
        allowed = other == own or (own, other) in NEIGHBOURS or FLOORS[other] < FLOORS[own]
        assert allowed, f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {name.split(".")[0] for name in imports(tree.body, inside=False)}
    assert not names & HEAVY


def test_every_module_says_what_it_exports() -> None:
    lacking = [
        str(path.relative_to(PACKAGE))
        for path in modules()
        if path.name != "__main__.py" and "__all__" not in path.read_text(encoding="utf-8")
    ]
    assert lacking == []
