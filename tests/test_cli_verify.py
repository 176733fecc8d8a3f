"""``robustlab verify``: what is printed, the exit code, and a real run from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import save_tiny

from robustlab.attack.verify import Disagreement, Verification
from robustlab.cli.main import cli

GOOD = Verification("hotflip", ("r1", "r2"), (), (), 3)
BAD = Verification(
    "odd\x1b[2J",
    ("r1",),
    (
        Disagreement(
            "r9",
            "recorded as succeeded, and the goal is not met",
            {"label": "negative", "probability": 0.61},
            {"label": "positive[red]", "probability": 0.512},
        ),
        Disagreement("r7", "the data has no such example", None, None),
        Disagreement("r8", "the output is another one", {"text": "a\nb"}, {"text": "c"}),
    ),
    ("r4", "r5"),
    0,
)


@pytest.fixture
def verify_run(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands for the verification: gives what a test put there, and notes what it was asked."""
    asked: dict[str, Any] = {"found": (GOOD,)}

    def fake(folder: Path, **options: Any) -> tuple[Verification, ...]:
        asked.update(folder=folder, **options)
        options["progress"](1, 2)
        print("a library says hello on stdout")
        found: tuple[Verification, ...] = asked["found"]
        return found

    monkeypatch.setattr("robustlab.attack.verify.verify_run", fake)
    return asked


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, words)])


def test_all_agreed_is_exit_0(verify_run: dict[str, Any]) -> None:
    done = run("runs/x", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert (verify_run["folder"], verify_run["device"]) == (Path("runs/x"), "cpu")
    assert ["hotflip", "2", "0", "0", "3"] in [line.split() for line in done.stdout.splitlines()]
    assert "hello" not in done.stdout


def test_a_disagreement_is_exit_1_with_its_id(verify_run: dict[str, Any]) -> None:
    verify_run["found"] = (GOOD, BAD)
    done = run("runs/x")
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert (
        "disagreed odd\\x1b[2J, r9: recorded as succeeded, and the goal is not met "
        "(negative 0.610 → positive[red] 0.512)"
    ) in text
    assert "r7: the data has no such example disagreed" in text
    assert "r8: the output is another one ('a\\nb' → 'c')" in text
    assert "not verifiable odd\\x1b[2J (in embedding space, no text): r4, r5" in text
    assert "\x1b" not in done.stdout


def test_json_is_one_object(verify_run: dict[str, Any]) -> None:
    verify_run["found"] = (GOOD, BAD)
    done = run("runs/x", "--json")
    assert done.exit_code == 1
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    assert found["run"] == "runs/x"
    assert (found["agreed"], found["disagreed"], found["not_verifiable"]) == (3, 3, 2)
    assert found["recipes"]["hotflip"]["agreed"] == ["r1", "r2"]
    assert found["recipes"]["odd\x1b[2J"]["disagreed"][1] == {
        "id": "r7",
        "reason": "the data has no such example",
        "recorded": None,
        "found": None,
    }
    assert "r9" in done.stderr


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 2
    assert "holds no run" in done.stderr


def test_a_real_run_from_end_to_end(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path / "bert")
    texts = [f"the {a} {b} was very {c}" for a in ("old", "red") for b in ("film", "book", "town")
             for c in ("good", "bad")]  # fmt: skip
    rows = "".join(f"{text},{number % 3}\n" for number, text in enumerate(texts))
    (tmp_path / "set.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    attack = [
        "attack", "--target", str(tmp_path / "bert"), "--data", str(tmp_path / "set.csv"),
        "--recipe", "typo-noise", "--device", "cpu", "--out", str(tmp_path / "run"), "--limit", "9",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, attack)
    assert done.exit_code == 0, done.output
    done = run(tmp_path / "run", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["disagreed"] == found["not_verifiable"] == 0
    assert found["agreed"] > 0
    assert found["agreed"] + found["without_text"] == 9
    # Whoever exchanges a text afterwards is found out.
    outcomes = tmp_path / "run" / "outcomes.jsonl"
    lines = [json.loads(line) for line in outcomes.read_text(encoding="utf-8").splitlines()]
    changed = next(line for line in lines if line["status"] == "failed")
    changed["status"] = "succeeded"
    outcomes.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    done = run(tmp_path / "run", "--device", "cpu")
    assert done.exit_code == 1
    assert f"{changed['id']}: recorded as succeeded" in " ".join(done.stdout.split())
