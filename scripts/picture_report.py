"""A picture of a report, as a browser without a window shows it.

    python scripts/picture_report.py RUN docs/report.png

RUN is the folder of a run or suite, with its report.html. Needs Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["browser", "take_picture"]


def browser() -> str | None:
    """The program of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


def take_picture(
    program: str, page: Path, picture: Path, *, width: int, height: int, dark: bool = False
) -> None:
    """The top of a page, ``width`` by ``height``, as PNG."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            program,
            "--headless=new",
            "--no-sandbox",  # does not work as root; the page is our own
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--screenshot={picture.resolve()}",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            page.resolve().as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def main() -> int:
    """Take the picture that the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="folder with report.html")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    parser.add_argument("--width", type=int, default=1240)
    parser.add_argument("--height", type=int, default=1500)
    parser.add_argument("--dark", action="store_true", help="as at night")
    chosen = parser.parse_args()
    program = browser()
    if program is None:
        print("no Chromium or Chrome was found on the PATH", file=sys.stderr)
        return 2
    take_picture(
        program,
        chosen.run / "report.html",
        chosen.picture,
        width=chosen.width,
        height=chosen.height,
        dark=chosen.dark,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
