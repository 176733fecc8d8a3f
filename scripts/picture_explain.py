"""A picture of ``robustlab rag-query --explain``: the real command, as a terminal shows it.

    python scripts/picture_explain.py

Asks one question of the field guide with the poison of ``docs/example-poison.jsonl`` in it and two
defences, and writes ``docs/explain.svg``. The SVG holds the text as text and loads nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

__all__ = ["COMMAND", "picture"]

HERE = Path(__file__).resolve().parents[1]
PICTURE = HERE / "docs" / "explain.svg"
COMMAND = (
    "rag-query",
    "Where do European eels go to spawn?",
    "--poison",
    "docs/example-poison.jsonl",
    "--defense",
    "near-duplicate",
    "--defense",
    "majority-vote",
    "--explain",
)
_WIDTH = 100  # columns


def picture(output: str) -> str:
    """What the command printed, colours and all, as SVG under the line that was typed."""
    from rich.console import Console
    from rich.text import Text

    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=_WIDTH, file=nowhere, color_system="truecolor")
        console.print(Text(f"$ {_typed()}\n", style="bold green"))
        console.print(Text.from_ansi(output))
    svg = console.export_svg(title="robustlab", unique_id="explain")
    return _own_fonts(svg)


def _typed() -> str:
    """The command as one would type it, broken between options."""
    words = shlex.join(["robustlab", *COMMAND]).replace("'", '"')
    first, *options = re.split(r" (?=--)", words)
    return " \\\n    ".join([first, options[0], " ".join(options[1:])])


def _own_fonts(svg: str) -> str:
    """Without the fonts that rich would load from elsewhere; a reader's own are as wide."""
    svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg)
    return svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


def main() -> int:
    """Run the command and save the picture."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    environment["COLUMNS"] = str(_WIDTH)
    done = subprocess.run(
        [sys.executable, "-m", "robustlab", *COMMAND],
        cwd=HERE,
        env=environment,
        capture_output=True,  # what it reports while it loads would be drawn into a pipe
        check=False,
        encoding="utf-8",
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return done.returncode
    part = PICTURE.with_name(f".{PICTURE.name}.part")
    part.write_text(picture(done.stdout), encoding="utf-8")
    os.replace(part, PICTURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
