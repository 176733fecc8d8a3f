from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from robustlab.cli import main as entry
from robustlab.cli import options
from robustlab.cli.main import cli


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run a command ``index`` with a few of the shared options; it prints what it got."""

    @click.command("index", context_settings=options.SETTINGS)
    @options.seed
    @options.top_k
    @options.skip_bad_rows
    @options.split
    @options.common
    def command(**got: object) -> None:
        click.echo(" ".join(f"{key}={got[key]}" for key in sorted(got)))

    monkeypatch.setattr(entry, "index", command, raising=False)
    monkeypatch.setitem(entry._COMMANDS, "index", "robustlab.cli.main:index")
    file = tmp_path / "options.toml"

    def invoke(toml: str, *words: str, **env: str) -> Result:
        file.write_text(toml, encoding="utf-8")
        return CliRunner().invoke(cli, ["index", "--config", str(file), *words], env=env)

    return invoke


def test_a_file_gives_options_in_the_commands_table_or_for_all(run: Any) -> None:
    done = run('seed = 7\nsplit = "train"\n[index]\nsplit = "dev"\ntop-k = 3\nskip_bad_rows = true')
    assert done.output == "json=False seed=7 skip_bad_rows=True split=dev top_k=3\n"


def test_the_command_line_beats_the_variables_and_these_the_file(run: Any) -> None:
    done = run("seed = 1\ntop-k = 1", "--seed", "3", ROBUSTLAB_SEED="2", ROBUSTLAB_TOP_K="2")
    assert "seed=3" in done.output
    assert "top_k=2" in done.output


def test_keys_and_tables_of_other_commands_are_left_to_them(run: Any) -> None:
    done = run('recipe = "mine.toml"\n[attack]\nquery-budget = 9\n[index]\nseed = 4')
    assert "seed=4" in done.output


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("sed = 1", "no command has the option 'sed'"),
        ("[index]\nrecipe = 'x'", "index has no option 'recipe'"),
        ("[attack]\nnonsense = 1", "attack has no option 'nonsense'"),
        ("index = 3", "'index' is a command"),
        ("[attak]\nseed = 1", "no command has the option 'attak'"),
        ("config = 'other.toml'", "no command has the option 'config'"),
        ("skip-bad-rows = 'yes'", "skip-bad-rows must be true or false"),
        ("seed = true", "seed must not be true or false"),
        ("seed = [1]", "seed must be a single value"),
        ("seed = ", "is not a TOML file"),
    ],
)
def test_a_wrong_file_is_one_sentence(run: Any, toml: str, sentence: str) -> None:
    done = run(toml)
    assert done.exit_code == 2
    assert done.stderr.startswith("robustlab: ")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_value_of_the_wrong_type_is_refused_as_on_the_command_line(run: Any) -> None:
    done = run("top-k = 2.5")
    assert done.exit_code == 2
    assert "'2.5' is not a valid integer" in done.stderr


def test_a_missing_file_is_one_sentence() -> None:
    done = CliRunner().invoke(cli, ["attack", "--config", "nowhere.toml"])
    assert done.exit_code == 2
    assert done.stderr == "robustlab: cannot read nowhere.toml: No such file or directory\n"
