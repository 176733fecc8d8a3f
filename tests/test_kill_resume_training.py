"""The script that kills trainings: it continues what it killed, and sees every difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from script_loader import load_script

script = load_script("kill_resume_training")

# Takes the place of ``robustlab advtrain``: three models, each of which takes a while.
PROGRAM = """
import json, sys, time
from pathlib import Path

wrong, way, folder = sys.argv[1:]
run = Path(folder)
assert run.exists() == (way == "--resume"), way
run.mkdir(exist_ok=True)
(run / "manifest.json").write_text("{}")
for number in range(3):
    place = run / "models" / f"m{number}"
    if (place / "training.json").is_file():
        continue
    (place / "model").mkdir(parents=True, exist_ok=True)
    time.sleep(0.3)
    weights = f"{number}{way if wrong == 'wrong' else ''}"
    (place / "model" / "model.safetensors").write_text(weights)
    (place / "training.json").write_text("{}")
(run / "tradeoff.json").write_text(json.dumps({"points": [{"seconds": time.time()}]}))
(run / "summary.json").write_text("{}")
"""


@pytest.mark.parametrize("wrong", ["wrong", "right"])
def test_a_killed_training_is_continued_and_compared(tmp_path: Path, wrong: str) -> None:
    command = (sys.executable, "-c", PROGRAM)
    kills, unequal = script.experiment([wrong], tmp_path, kills=1, seed=0, command=command)
    assert len(kills) == 1
    assert "models trained" in kills[0]
    # What was trained before the kill is as it was; the last model was made by a resumed run.
    last = f"{Path('models/m2/model/model.safetensors')}: other weights"
    assert (last in unequal) == (wrong == "wrong")
    assert unequal if wrong == "wrong" else not unequal


def test_every_difference_of_a_curve_is_told(tmp_path: Path) -> None:
    for name, value in (("one", 0.5), ("other", 0.6)):
        place = tmp_path / name / "models" / "m" / "model"
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"w")
        point = {"clean": value, "train_seconds": value, "n": [1, 2]}
        (tmp_path / name / "tradeoff.json").write_text(json.dumps({"points": [point]}))
    assert list(script.differences(tmp_path / "one", tmp_path / "other")) == [
        "tradeoff.json.points[0].clean: 0.5 became 0.6"
    ]


def test_a_run_without_weights_proves_nothing(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tradeoff.json").write_text("{}")
    assert list(script.differences(tmp_path / "one", tmp_path / "other")) == [
        "the run in peace left no weights"
    ]
