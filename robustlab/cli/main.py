"""The entry point: finds the command, and turns errors into sentences and exit codes."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback
import warnings
from typing import Any

import click

from robustlab import __version__
from robustlab.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_USER, UserError

__all__ = ["cli", "main"]

_COMMANDS = {
    "advtrain": "robustlab.cli.advtrain:advtrain",
    "attack": "robustlab.cli.attack:attack",
    "attacks": "robustlab.cli.attacks:attacks",
    "compare": "robustlab.cli.compare:compare",
    "verify": "robustlab.cli.verify:verify",
    "certify": "robustlab.cli.certify:certify",
    "evaluate": "robustlab.cli.evaluate:evaluate",
    "rag-query": "robustlab.cli.rag_query:rag_query",
    "index": "robustlab.cli.index:index",
}

# What libraries would otherwise print between our lines. A user's own setting wins.
_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

_QUIET_LOGGERS = ("torchao", "torch.utils._pytree")
"""Transformers imports torchao wherever it is installed, which then warns of GPU kernels that it
cannot load here and that nothing uses."""

# A full disk or a folder that may not be written is for the user to mend.
_USERS_ERRORS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT})

_EPILOG = """\
Options can also stand in a TOML file (--config FILE) or in variables named after them, such as
ROBUSTLAB_DEVICE=cpu. The command line comes first, then the variables, then the file.

\b
Completion of commands, options and names, for your shell's startup file:
  bash   eval "$(_ROBUSTLAB_COMPLETE=bash_source robustlab)"
  zsh    eval "$(_ROBUSTLAB_COMPLETE=zsh_source robustlab)"
  fish   _ROBUSTLAB_COMPLETE=fish_source robustlab | source
"""


class _Stop(click.ClickException):
    """One sentence on stderr, and an exit code."""

    def show(self, file: Any = None) -> None:
        """Print the sentence; what it quotes from files cannot act on the terminal."""
        from robustlab.report.terminal import safe_text

        sentence = safe_text(" ".join(self.message.split()))
        click.echo(f"robustlab: {sentence}", file=file, err=True)


class _Mistake(_Stop):
    exit_code = EXIT_USER


class _Interrupted(_Stop):
    exit_code = EXIT_INTERRUPTED


class _Commands(click.Group):
    """Commands whose modules are imported when they are named, each after a static table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise _Mistake(str(error)) from error
        except KeyboardInterrupt as error:
            # A command that can be resumed says so in the exception.
            raise _Interrupted(str(error) or "interrupted") from error
        except OSError as error:
            if error.errno not in _USERS_ERRORS:
                raise
            place = f"{error.filename}: " if error.filename else ""
            raise _Mistake(f"{place}{error.strerror}") from error
        except RuntimeError as error:
            torch = sys.modules.get("torch")
            if torch is None or not isinstance(error, torch.OutOfMemoryError):
                raise
            raise _Mistake(
                "the GPU has not enough memory for this: use fewer --batch-tokens where the "
                "command takes them (16384 otherwise), --dtype bf16 or --device cpu"
            ) from error


@click.group(
    cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="robustlab")
def cli() -> None:
    """Attacks on language models and retrieval pipelines, offline and counted."""


def main() -> None:
    """Run the command line; the console script ``robustlab``."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not end the program.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cli(prog_name="robustlab")
    except Exception:  # the last stop: whatever was not foreseen is reported as our fault
        traceback.print_exc()
        click.echo(
            f"robustlab: this is a fault of robustlab {__version__}, not yours; "
            "please report it with the lines above.",
            err=True,
        )
        sys.exit(EXIT_FAULT)
