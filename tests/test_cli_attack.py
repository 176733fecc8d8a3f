"""``robustlab attack``: options, interruption and resumption, and a real small attack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import save_tiny

from robustlab.cli.main import cli
from robustlab.runs import RunDirectory

THREAT = {
    "goal": "untargeted-classification",
    "knowledge": "score",
    "surface": "characters",
    "query_budget": 2000,
    "constraints": ["levenshtein-edit-distance (max_edit_distance = 30)", "repeat-modification"],
}


def rate(value: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def outcome(key: str, status: str, original: str, perturbed: str | None) -> dict[str, Any]:
    return {
        "id": key,
        "status": status,
        "original": original,
        "perturbed": perturbed,
        "original_output": {"label": "positive", "probability": 0.987},
        "perturbed_output": {"label": "negative", "probability": 0.61},
        "truth": "positive",
        "queries": 41,
        "edits": 1,
        "similarity": None,
        "seconds": 0.1,
    }


class FakeAttack:
    """Stands for the attack room: writes a run, and can be interrupted in the middle."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.interrupt = False

    def __call__(self, **arguments: Any) -> None:
        self.arguments = arguments
        print("a library says hello on stdout")
        if arguments["resume"] is None:
            kept = {
                name: value
                for name, value in arguments.items()
                if name not in ("defend", "progress")
            }
            manifest = {
                "command": "attack",
                "command_line": ["robustlab", "attack"],
                "arguments": {key: str(v) if isinstance(v, Path) else v for key, v in kept.items()},
                "target": {"spec": arguments["target_spec"], "fingerprint": "abc"},
                "data": {"name": "reviews", "split": "test", "items": 3, "available": 250},
                "recipe": {"name": "deepwordbug", "text": "name = 'x'"},
                "threat_model": THREAT,
            }
            run = RunDirectory.create(arguments["out"], manifest)
        else:
            run = RunDirectory.open(arguments["resume"])
        with run:
            if arguments["resume"] is None:
                run.append(
                    outcome("r2", "succeeded", "a fine [red]film[/red]", "a fime film\x1b[2J")
                )
            if self.interrupt:
                raise KeyboardInterrupt
            run.append(outcome("r1", "succeeded", "good food", "gud food"))
            run.append(outcome("r3", "failed", "so nice", "so nice"))
            run.write_summary(
                {
                    "examples": 3,
                    "clean_accuracy": rate(0.9, 3),
                    "robust_accuracy": rate(0.3, 3),
                    "attack_success_rate": rate(0.667, 3),
                    "errors": 0,
                    "queries_mean": 41.25,
                    "queries_per_second": 812.4,
                }
            )


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAttack:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    fake = FakeAttack()
    monkeypatch.setattr("robustlab.attack.attack", fake)
    return fake


def run(*words: str, **env: str) -> Result:
    return CliRunner().invoke(cli, ["attack", *words], env=env)


def test_without_options_it_attacks_the_default(room: FakeAttack) -> None:
    done = run()
    assert done.exit_code == 0, done.output
    taken = room.arguments
    assert taken["target_spec"] == "builtin:classifier"
    assert taken["data_spec"] is None
    assert list(taken["recipe"]) == []
    assert (taken["suite"], taken["audit"]) == (None, False)
    assert taken["limit"] is None
    assert taken["split"] is None
    assert taken["dtype"] == "fp32"
    assert taken["out"].parent == Path("runs")


def test_the_table_the_threat_model_examples_and_the_run(room: FakeAttack) -> None:
    lines = run("--out", "mine").stdout.splitlines()
    assert lines[0] == "builtin:classifier on reviews, split test, 3 of 250, recipe deepwordbug"
    table = [line.split() for line in lines]
    assert ["clean", "accuracy", "90.0", "%", "85.0", "–", "95.0", "3"] in table
    assert ["robust", "accuracy", "30.0", "%", "25.0", "–", "35.0", "3"] in table
    assert ["attack", "success", "rate", "66.7", "%", "61.7", "–", "71.7", "3"] in table
    assert ["mean", "queries", "41.2"] in table
    assert ["queries/s", "812"] in table
    text = "\n".join(lines)
    assert "threat model  untargeted-classification · sees score · changes characters" in text
    assert "2000 queries an example" in text
    assert "r1  positive 0.99 → negative 0.61, 1 word changed, 41 queries" in lines
    assert "  before  [[good]] food" in lines
    assert "  after   [[gud]] food" in lines
    assert text.index("r1  ") < text.index("r2  ")  # by id, not in the order of finishing
    assert "  after   a [[fime]] [[film\\x1b[2J]]" in lines
    assert "  before  a [[fine]] [[[red]film[/red]]]" in lines
    assert "r3  " not in text
    assert lines[-2:] == ["run     mine", "report  mine/report.html"]
    assert "gud" in Path("mine/report.html").read_text(encoding="utf-8")


def test_json_is_one_object_and_nothing_else_on_stdout(room: FakeAttack) -> None:
    done = run("--json", "--out", "mine")
    found = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert found["run"] == "mine"
    assert found["attack_success_rate"]["value"] == 0.667
    assert found["threat_model"] == THREAT
    assert found["target"]["fingerprint"] == "abc"
    assert "attack success rate" in done.stderr
    assert "a library says hello" in done.stderr


def test_an_interrupted_run_says_how_to_go_on_and_goes_on_with_its_own_options(
    room: FakeAttack,
) -> None:
    room.interrupt = True
    done = run(
        "--out", "mine", "--limit", "3", "--seed", "9", "--recipe", "other", "--batch-tokens", "77",
        "--text-column", "body", "--skip-bad-rows",
    )  # fmt: skip
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == (
        "robustlab: interrupted, and the outcomes so far are kept; "
        "go on with: robustlab attack --resume mine"
    )
    begun = room.arguments
    room.interrupt = False
    done = run("--resume", "mine", "--concurrency", "5")
    assert done.exit_code == 0, done.output
    resumed = room.arguments
    assert resumed["out"] is None
    assert resumed["resume"] == Path("mine")
    assert resumed["concurrency"] == 5
    apart = {"out", "resume", "concurrency", "progress"}
    assert {k: v for k, v in resumed.items() if k not in apart} == {
        k: v for k, v in begun.items() if k not in apart
    }
    assert len(RunDirectory.open(Path("mine")).outcomes()) == 3


def test_an_interrupt_before_there_is_a_run_promises_nothing(
    room: FakeAttack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustlab.attack.attack", interrupted)
    done = run("--out", "mine")
    assert (done.exit_code, done.stderr) == (130, "robustlab: interrupted\n")


def test_a_folder_without_a_run_cannot_be_resumed(room: FakeAttack) -> None:
    done = run("--resume", "nowhere")
    assert done.exit_code == 2
    assert done.stderr.startswith("robustlab: nowhere holds no run")


def test_variables_are_options(room: FakeAttack) -> None:
    run("--out", "mine", ROBUSTLAB_SEED="5", ROBUSTLAB_QUERY_BUDGET="70", ROBUSTLAB_TARGET="t")
    assert room.arguments["seed"] == 5
    assert room.arguments["query_budget"] == 70
    assert room.arguments["target_spec"] == "t"


def test_a_real_attack_from_end_to_end(tmp_path: Path) -> None:
    pytest.importorskip("textattack", reason="TextAttack is not installed")
    save_tiny("bert", tmp_path / "bert")
    texts = [f"the {a} {b} was very {c}" for a in ("old", "red") for b in ("film", "book", "town")
             for c in ("good", "bad")]  # fmt: skip
    rows = "".join(f"{text},{number % 3}\n" for number, text in enumerate(texts))
    (tmp_path / "set.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    words = [
        "--target", str(tmp_path / "bert"), "--data", str(tmp_path / "set.csv"), "--json",
        "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    done = run(*words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["clean_accuracy"]["n"] == len(texts)
    assert found["target"]["fingerprint"] == found["target"]["fingerprint_after"]
    outcomes = RunDirectory.open(tmp_path / "run").outcomes()
    assert {outcome["original"] for outcome in outcomes} == set(texts)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "deepwordbug" in page
    assert "queries" in done.stderr
    complete = run("--resume", str(tmp_path / "run"))
    assert (complete.exit_code, complete.stdout) == (2, "")
    assert "complete" in complete.stderr


def test_a_classifier_is_attacked_behind_repairs(tmp_path: Path) -> None:
    words = ["--recipe", "bad-characters", "--limit", "6", "--device", "cpu", "--json"]
    bare = run(*words, "--out", str(tmp_path / "bare"))
    assert bare.exit_code == 0, bare.output
    repairs = ["--defense", "unicode-normalise", "--defense", "typo-repair"]
    done = run(*words, *repairs, "--out", str(tmp_path / "repaired"))
    assert done.exit_code == 0, done.output
    undefended, found = json.loads(bare.stdout), json.loads(done.stdout)
    # Every look-alike, invisible or reordered character becomes what it looks like.
    assert undefended["attack_success_rate"]["value"] > found["attack_success_rate"]["value"] == 0
    named = [defense["name"] for defense in found["target"]["defenses"]]
    page = (tmp_path / "repaired" / "report.html").read_text(encoding="utf-8")
    assert "behind unicode-normalise, typo-repair" in page
    assert named == ["unicode-normalise", "typo-repair"]
    assert found["target"]["fingerprint"] == found["target"]["fingerprint_after"]
    assert found["target"]["fingerprint"] != undefended["target"]["fingerprint"]
    verified = CliRunner().invoke(
        cli, ["verify", str(tmp_path / "repaired"), "--device", "cpu", "--json"]
    )
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["agreed"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--defense", "ranmask", "--recipe", "hotflip"], "needs gradients"),
        (["--defense", "perplexity"], "perplexity is for RAG pipelines"),
        (["--defense", "typo-repair", "--data", "set.csv"], "train"),
        (["--defense", "typo-repair", "--no-adaptive"], "--adaptive is for pipelines"),
        (["--defense", "typo-repair", "--target", "builtin:causal"], "cannot take it"),
    ],
)
def test_defences_that_do_not_fit(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.csv").write_text("text,label\ngood,positive\nbad,negative\n", encoding="utf-8")
    done = run(*words, "--device", "cpu", "--out", "run")
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("run").exists()
