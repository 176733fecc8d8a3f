"""``robustlab attacks``: the list, and the file of each recipe as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_cli_main import HEAVY

from robustlab.attack import catalogue as listing
from robustlab.cli.main import cli
from robustlab.resources import recipe_names, recipe_path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["attacks", *map(str, words)])


def test_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "missing", lambda recipe: None)
    done = run()
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["hotflip", "untargeted", "white-box", "words"] in [row[:4] for row in rows]
    row = next(row for row in rows if row[:1] == ["deepwordbug"])
    assert (row[4], row[-1]) == ("2,000", "ready")
    assert max(map(len, done.stdout.splitlines())) <= 100
    for name in recipe_names():
        assert name in done.stdout


def test_what_is_missing_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lack = "TextAttack\x1b[2J is not installed; install it"
    monkeypatch.setattr(listing, "missing", lambda recipe: lack)
    done = run()
    row = next(line for line in done.stdout.splitlines() if line.startswith("deepwordbug"))
    assert row.split()[-1] == "missing"
    shown = "missing  TextAttack\\x1b[2J is not installed; install it"
    assert done.stdout.splitlines().count(shown) == 1


def test_json() -> None:
    done = run("--json")
    assert done.stdout.count("\n") == 1
    found = json.loads(done.stdout)
    flip = next(entry for entry in found["recipes"] if entry["name"] == "hotflip")
    assert (flip["knowledge"], flip["needs"], flip["ready"]) == ("white-box", [], True)


@pytest.mark.parametrize("name", recipe_names())
def test_show_prints_the_file_exactly(name: str) -> None:
    done = run("show", name)
    assert done.exit_code == 0, done.output
    assert done.stdout == recipe_path(name).read_text(encoding="utf-8")


def test_show_of_a_file_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    text = 'name = "x"\nsummary = "\u202eno"\npaper = "p"\n\tsuite = ["quick"]\n'
    own.write_text(text, encoding="utf-8")
    assert run("show", own).stdout == text.replace("\u202e", "\\u202e")


def test_an_unknown_name_suggests_the_nearest() -> None:
    done = run("show", "hotflop")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("robustlab: no recipe 'hotflop'")
    assert done.stderr.endswith("the nearest of these is hotflip\n")


def test_the_list_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from robustlab.cli.main import main\n"
        "sys.argv[1:] = ['attacks']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    heavy = set(json.loads(done.stdout.splitlines()[-1]))
    # The table is rich's, the rooms count with NumPy, and the hub's constants say where models are.
    assert heavy <= {"numpy", "rich", "huggingface_hub"}, done.stdout + done.stderr
