from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
import torch
from click.testing import CliRunner

import robustlab
from robustlab.cli import main as entry
from robustlab.cli.main import cli
from robustlab.errors import UserError

HEAVY = (
    "torch", "transformers", "sentence_transformers", "faiss", "textattack", "datasets", "numpy",
    "peft", "rich", "jinja2", "pydantic", "sacrebleu", "ir_measures", "huggingface_hub",
)  # fmt: skip


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "attack --help",
        "attacks --help",
        "attacks show --help",
        "compare --help",
        "verify --help",
        "evaluate --help",
        "rag-query --help",
        "index --help",
        "--version",
        "attack --no-such-option",
    ],
)
def test_help_imports_nothing_heavy(words: str) -> None:
    done = run_python(
        "import sys\n"
        "from robustlab.cli.main import main\n"
        f"sys.argv[1:] = {words.split()}\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        f"print('heavy:', sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    assert done.stdout.splitlines()[-1] == "heavy: []", done.stdout + done.stderr


def test_help_lists_the_commands_and_says_how_to_complete_them() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    for word in ("attack", "evaluate", "rag-query", "index", "_ROBUSTLAB_COMPLETE=fish_source"):
        assert word in shown


def test_version() -> None:
    done = CliRunner().invoke(cli, ["--version"])
    assert done.output == f"robustlab, version {robustlab.__version__}\n"


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "robustlab", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"robustlab, version {robustlab.__version__}\n"


def test_shell_completion_knows_commands_options_and_shipped_names() -> None:
    def completed(words: str, count: int) -> str:
        return (
            CliRunner()
            .invoke(
                cli,
                prog_name="robustlab",
                env={
                    "_ROBUSTLAB_COMPLETE": "bash_complete",
                    "COMP_WORDS": words,
                    "COMP_CWORD": str(count),
                },
            )
            .output
        )

    assert "rag-query" in completed("robustlab ra", 1)
    assert "--recipe" in completed("robustlab attack --rec", 2)
    assert "reviews" in completed("robustlab attack --data rev", 3)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Let the command ``index`` be one that raises."""

    def arrange(error: BaseException) -> None:
        @click.command("index")
        def command() -> None:
            raise error

        monkeypatch.setattr(entry, "index", command, raising=False)
        monkeypatch.setitem(entry._COMMANDS, "index", "robustlab.cli.main:index")

    return arrange


def test_a_users_mistake_is_one_sentence_and_exit_2(
    failing: Callable[[BaseException], None],
) -> None:
    failing(UserError("there is no file\n  'x\x1b[2J'"))
    done = CliRunner().invoke(cli, ["index"])
    assert done.exit_code == 2
    assert done.stderr == "robustlab: there is no file 'x\\x1b[2J'\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (KeyboardInterrupt(), "robustlab: interrupted\n"),
        (KeyboardInterrupt("go on with --resume"), "robustlab: go on with --resume\n"),
    ],
)
def test_an_interrupt_is_exit_130(
    failing: Callable[[BaseException], None], error: BaseException, sentence: str
) -> None:
    failing(error)
    done = CliRunner().invoke(cli, ["index"])
    assert (done.exit_code, done.stderr) == (130, sentence)


def test_a_full_disk_is_for_the_user_to_mend(failing: Callable[[BaseException], None]) -> None:
    failing(OSError(errno.ENOSPC, "No space left on device", "runs/x"))
    done = CliRunner().invoke(cli, ["index"])
    assert (done.exit_code, done.stderr) == (2, "robustlab: runs/x: No space left on device\n")


def test_a_full_gpu_is_for_the_user_to_mend(failing: Callable[[BaseException], None]) -> None:
    failing(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    done = CliRunner().invoke(cli, ["index"])
    assert done.exit_code == 2
    assert done.stderr.startswith("robustlab: the GPU has not enough memory for this: use ")


def test_anything_else_is_a_fault_of_ours_with_its_traceback(
    failing: Callable[[BaseException], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(ZeroDivisionError("seven"))
    monkeypatch.setattr(sys, "argv", ["robustlab", "index"])
    with pytest.raises(SystemExit) as stop:
        entry.main()
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" in err
    assert "ZeroDivisionError: seven" in err
    last = err.splitlines()[-1]
    assert last.startswith(f"robustlab: this is a fault of robustlab {robustlab.__version__}")


@pytest.mark.parametrize("words", [["nonsense"], ["attack", "--limit", "0"], ["rag-query"]])
def test_wrong_usage_is_exit_2(words: list[str]) -> None:
    assert CliRunner().invoke(cli, words).exit_code == 2


def test_the_option_of_the_same_name_means_the_same_everywhere() -> None:
    context = click.Context(cli)
    seen: dict[str, object] = {}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if not isinstance(parameter, click.Option):
                continue
            (option,) = parameter.opts
            assert option == f"--{str(parameter.name).replace('_', '-')}"  # as its variable is
            if option != "--kind":  # a choice among the families that the command takes
                meaning = (type(parameter.type), parameter.is_flag, parameter.multiple)
                assert seen.setdefault(option, meaning) == meaning
