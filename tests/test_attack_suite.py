"""Several recipes at once: the worst case of every example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustlab.attack.suite import load_recipes, worst_case
from robustlab.errors import UserError

RECIPE = """
name    = "{name}"
summary = "what it does"
paper   = "none"
[threat]
goal      = "{goal}"
knowledge = "score"
surface   = "words"
[search]
method = "{method}"
"""


def outcome(key: str, status: str, edits: int | None = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": key, "status": status, "edits": edits, "queries": 10, "seconds": 0.5,
        "perturbed": f"{status} {edits}", **more,
    }  # fmt: skip


def write(folder: Path, name: str, *, goal: str = "untargeted-classification") -> str:
    file = folder / f"{name}.toml"
    file.write_text(RECIPE.format(name=name, goal=goal, method="greedy"), encoding="utf-8")
    return str(file)


def test_one_success_breaks_an_example_and_the_smallest_edit_is_shown() -> None:
    worst = worst_case(
        {
            "a": [outcome("x", "succeeded", 4), outcome("y", "failed"), outcome("z", "skipped")],
            "b": [outcome("x", "succeeded", 2), outcome("y", "failed"), outcome("z", "skipped")],
            "c": [outcome("x", "failed"), outcome("y", "succeeded", 9), outcome("z", "skipped")],
        }
    )
    assert [(o["id"], o["status"], o["recipe"]) for o in worst] == [
        ("x", "succeeded", "b"),
        ("y", "succeeded", "c"),
        ("z", "skipped", "a"),
    ]
    assert worst[0]["perturbed"] == "succeeded 2"
    assert [(o["queries"], o["seconds"]) for o in worst] == [(30, 1.5)] * 3


def test_an_error_leaves_the_verdict_to_the_others() -> None:
    worst = worst_case(
        {
            "a": [outcome("x", "error", None), outcome("y", "error", None)],
            "b": [outcome("x", "failed"), outcome("y", "error", None)],
        }
    )
    assert [o["status"] for o in worst] == ["failed", "error"]


def test_what_no_text_realises_does_not_count() -> None:
    worst = worst_case(
        {
            "pgd": [outcome("x", "succeeded", 0, embedded=True)],
            "a": [outcome("x", "failed")],
        }
    )
    assert [(o["status"], o["recipe"], o["queries"]) for o in worst] == [("failed", "a", 10)]


def test_suites_are_replaced_by_their_recipes(tmp_path: Path) -> None:
    names = [write(tmp_path, name) for name in ("one", "two")]
    suite = tmp_path / "both.toml"
    listed = ", ".join(f"'{name}'" for name in names)
    head = "name = 'both'\nsummary = 'two'\npaper = 'none'\n"
    suite.write_text(f"{head}suite = [{listed}]\n", encoding="utf-8")
    assert [recipe.name for recipe in load_recipes([str(suite), names[0]])] == ["one", "two"]
    nested = tmp_path / "nested.toml"
    nested.write_text(f"{head}suite = ['{suite}']\n", encoding="utf-8")
    with pytest.raises(UserError, match="which is a suite itself"):
        load_recipes([str(nested)])


def test_recipes_that_cannot_stand_together_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path, "one")
    other = tmp_path / "other"
    other.mkdir()
    (other / "one.toml").write_text(
        Path(one).read_text(encoding="utf-8").replace("greedy", "random"), encoding="utf-8"
    )
    with pytest.raises(UserError, match="two recipes are called one"):
        load_recipes([one, str(other / "one.toml")])
    with pytest.raises(UserError, match="one and two pursue different goals"):
        load_recipes([one, write(tmp_path, "two", goal="targeted-classification")])
