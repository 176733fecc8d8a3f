"""SIGKILL in the middle of an attack loses nothing: the resumed run ends with the same outcomes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from script_loader import load_script

script = load_script("kill_resume")

# Takes the place of ``robustlab attack``: a campaign on a slow model of a few words.
PROGRAM = """
import sys, time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, {tests!r})
from attack_fakes import REVIEWS, WordTarget

from robustlab.attack.campaign import Campaign
from robustlab.attack.examples import classification_set
from robustlab.attack.recipe import load_recipe
from robustlab.runs import RunDirectory


class SlowTarget(WordTarget):
    def answer(self, request):
        time.sleep(0.01)
        return super().answer(request)


command, how, place = sys.argv[1:]
assert command == "attack"
place = Path(place)
target, recipe = SlowTarget(), load_recipe("typo-noise")
examples = [
    replace(example, id=f"{{example.id}}-{{number}}", text=f"{{example.text}} {{number}}")
    for number in range(3)
    for example in REVIEWS.examples
]
chosen = classification_set(
    target, replace(REVIEWS, examples=tuple(examples)), recipe, data_spec="x", limit=None, seed=0
)
campaign = Campaign(target, chosen, recipe, seed=0, concurrency=3)
if how == "--resume":
    run = RunDirectory.open(place)
else:
    run = RunDirectory.create(place, campaign.manifest(arguments={{}}))
with run:
    campaign.run(run)
"""


# Resumed, it comes to other outcomes.
FORGETFUL = """
import json, sys, time
from pathlib import Path

place, resumed = Path(sys.argv[3]), sys.argv[2] == "--resume"
place.mkdir(parents=True, exist_ok=True)
file = place / "outcomes.jsonl"
kept = file.read_bytes() if resumed else b""
kept = kept[: kept.rfind(b"\\n") + 1]
file.write_bytes(kept)
(place / "manifest.json").write_text("{}")
with file.open("ab", buffering=0) as stream:
    for number in range(kept.count(b"\\n"), 20):
        outcome = {"id": f"e{number}", "queries": number + resumed, "seconds": time.time()}
        time.sleep(0.02)
        stream.write(json.dumps(outcome).encode() + b"\\n")
(place / "summary.json").write_text("{}")
"""


def test_killed_and_resumed_it_ends_with_the_same_outcomes(tmp_path: Path) -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", program]
    result = script.experiment([], tmp_path / "runs", kills=2, seed=2, command=command)
    assert result.outcomes == 24
    assert len(result.kills) == 2
    assert any(0 < kill.outcomes < 24 for kill in result.kills)
    assert result.differences == ()


def test_a_resumed_run_that_differs_is_found_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORGETFUL]
    result = script.experiment([], tmp_path / "runs", kills=1, seed=3, command=command)
    kept = result.kills[0].outcomes
    assert 0 < kept < 20
    assert len(result.differences) == 20 - kept
    assert "killed-1: . e19 queries: 19 became 20" in result.differences


def test_an_attack_that_fails_is_no_result(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no such recipe')"]
    with pytest.raises(RuntimeError, match="ended with 1: no such recipe"):
        script.experiment([], tmp_path / "runs", kills=1, seed=0, command=command)


def test_the_comparison_by_hand(tmp_path: Path) -> None:
    for name, lines in {
        "one": [{"id": "a", "x": 1, "seconds": 2.0}, {"id": "b", "x": None, "seconds": 1}],
        "two": [{"id": "b", "x": 0, "seconds": 3}, {"id": "c", "x": 1, "seconds": 1}],
    }.items():
        (tmp_path / name / "runs" / "r").mkdir(parents=True)
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        file = tmp_path / name / "runs" / "r" / "outcomes.jsonl"
        file.write_text(f'{text}{{"id": "cut o', encoding="utf-8")
    one, two = (script.read_outcomes(tmp_path / name) for name in ("one", "two"))
    found = list(script.compare(one, two))
    assert found == [
        "runs/r a is missing",
        "runs/r b x: None became 0",
        "runs/r c is there and should not be",
    ]
