"""``robustlab compare``: the same examples in several runs, their differences and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from robustlab.attack.compare import compare_runs
from robustlab.cli.main import cli
from robustlab.errors import UserError
from robustlab.metrics import mcnemar_exact
from robustlab.runs import RunDirectory

THREAT = {
    "goal": "untargeted-classification",
    "knowledge": "score",
    "query_budget": 2000,
    "constraints": [],
}

STATUSES = {"S": "succeeded", "F": "failed", "K": "skipped", "E": "error"}


def make_run(
    folder: Path,
    letters: str,
    *,
    texts: Mapping[str, str] | None = None,
    complete: bool = True,
    reverse: bool = False,
    **manifest: Any,
) -> Path:
    """A run whose i-th example has the status of the i-th letter; ``-`` for none."""
    made = {
        "command": "attack",
        "seed": 0,
        "data": {"spec": "reviews", "split": "test", "fingerprint": "abc"},
        "target": {"spec": "builtin:classifier", "fingerprint": "f1"},
        "recipe": {"name": "deepwordbug"},
        "threat_model": THREAT,
        **manifest,
    }
    with RunDirectory.create(folder, made) as run:
        numbered = list(enumerate(letters))
        for number, letter in reversed(numbered) if reverse else numbered:
            if letter == "-":
                continue
            key = f"r{number}"
            original = (texts or {}).get(key, f"text {number}")
            run.append({"id": key, "status": STATUSES[letter], "original": original})
        if complete:
            run.write_summary({"examples": len(letters)})
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    # In common are the first ten and the last.
    return (
        make_run(tmp_path / "base", "FFSSSSSSSKFE-FF"),
        make_run(
            tmp_path / "other",
            "FSFFFFFSKKSFFEF",
            texts={"r10": "another text"},
            reverse=True,
            target={"spec": "my/model", "fingerprint": "f2"},
            threat_model={**THREAT, "query_budget": 500},
        ),
    )


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["compare", *map(str, words)])


def test_counts_and_rates_by_hand(two: tuple[Path, Path]) -> None:
    found = json.loads(run(*two, "--json").stdout)
    assert found["examples"] == 11
    assert found["left_out"] == {"missing": 1, "different": 1, "errors": 2}
    (pair,) = found["comparisons"]
    # r14 is still right in both; r0 too; r1 only in the baseline; r2-r6 only in the other run.
    assert pair["still_right"] == {"both": 2, "only_baseline": 1, "only_run": 5, "neither": 3}
    assert pair["robust_accuracy"]["baseline"]["value"] == pytest.approx(3 / 11)
    assert pair["robust_accuracy"]["run"]["value"] == pytest.approx(7 / 11)
    assert pair["robust_accuracy"]["difference"]["value"] == pytest.approx(4 / 11)
    assert pair["clean_accuracy"]["baseline"]["value"] == pytest.approx(10 / 11)
    assert pair["clean_accuracy"]["run"]["value"] == pytest.approx(9 / 11)
    # r8 was skipped in the other run, so nine were attacked in both: 6 and 2 of them fell.
    success = pair["attack_success_rate"]
    assert success["difference"]["n"] == 9
    assert success["baseline"]["value"] == pytest.approx(6 / 9)
    assert success["run"]["value"] == pytest.approx(2 / 9)
    assert pair["mcnemar_p"] == pair["mcnemar_p_holm"] == mcnemar_exact(1, 5)
    assert pair["conditions"] == {
        "target.spec": {"baseline": "builtin:classifier", "run": "my/model"},
        "target.fingerprint": {"baseline": "f1", "run": "f2"},
        "threat_model.query_budget": {"baseline": 2000, "run": 500},
    }


def test_the_tables(two: tuple[Path, Path]) -> None:
    done = run(*two)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["robust", "accuracy", "27.3", "%", "63.6", "%", "+36.4"] in [row[:7] for row in rows]
    text = " ".join(done.stdout.split())
    assert "11 examples compared, 4 left out: 1 not in every run, 1 with different texts, 2" in text
    assert "still right under attack: both 2, only baseline 1, only run 5, neither 3" in text
    assert "McNemar's exact test: p = 0.2188" in text
    assert "Holm" not in text
    assert "query budget (2000 → 500)" in text


def test_json_is_alone_on_stdout(two: tuple[Path, Path]) -> None:
    done = run(*two, "--json")
    assert done.stdout.count("\n") == 1
    assert "McNemar" in done.stderr


def test_several_runs_share_their_examples_and_are_corrected(tmp_path: Path) -> None:
    base = make_run(tmp_path / "a", "SSSSSSSSSS")
    first = make_run(tmp_path / "b", "FFFFFFFFSS")
    second = make_run(tmp_path / "c", "FFFFFFSSS-")
    comparison = compare_runs([base, first, second])
    assert (comparison.examples, comparison.left_out.missing) == (9, 1)
    assert [pair.p_value for pair in comparison.pairs] == [2 / 2**8, 2 / 2**6]
    assert [pair.adjusted for pair in comparison.pairs] == [4 / 2**8, 2 / 2**6]
    text = run(base, first, second).stdout
    assert "p = 0.0078, = 0.0156 with Holm's correction for 2 tests" in text


def test_a_suite_counts_by_its_worst_cases(tmp_path: Path) -> None:
    base = make_run(tmp_path / "a", "FFS")
    recipes = ["x", "y"]
    suite = make_run(tmp_path / "b", "FSS", command="suite", recipe=None, recipes=recipes)
    (pair,) = compare_runs([base, suite]).pairs
    assert pair.run.recipes == ("x", "y")
    assert (pair.robust.only_first, pair.robust.both) == (1, 1)


def test_texts_of_a_manifest_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    base = make_run(tmp_path / "a", "F", target={"spec": "x\x1b[2J[red]"})
    shown = run(base, make_run(tmp_path / "b", "S")).stdout
    assert "\x1b" not in shown
    assert "x\\x1b[2J[red]" in shown


def test_rates_over_nothing_are_dashes(tmp_path: Path) -> None:
    done = run(make_run(tmp_path / "a", "KK"), make_run(tmp_path / "b", "KF"))
    row = next(line for line in done.stdout.splitlines() if line.startswith("attack success"))
    assert row.split() == ["attack", "success", "rate", "–", "–", "–", "0"]
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        ({"data": {"spec": "other", "split": "test", "fingerprint": "x"}}, "on different data"),
        ({"command": "evaluate"}, "is a run of 'evaluate'"),
        ({"complete": False}, "is not complete; finish it with: robustlab attack --resume"),
        ({"texts": {"r0": "something else"}}, "no example in common"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, manifest: dict[str, Any], sentence: str) -> None:
    done = run(make_run(tmp_path / "a", "F"), make_run(tmp_path / "b", "S", **manifest))
    assert (done.exit_code, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_other_mistakes(tmp_path: Path) -> None:
    base = make_run(tmp_path / "a", "F")
    assert "at least two" in run(base).stderr
    assert "compared with itself" in run(base, base).stderr
    assert run().exit_code == 2
    assert "holds no run" in run(base, tmp_path / "absent").stderr
    foreign = make_run(tmp_path / "b", "")
    (foreign / "outcomes.jsonl").write_text('{"id": "r0", "correct": true}\n')
    with pytest.raises(UserError, match="'r0' is not one of an attack"):
        compare_runs([base, foreign])
