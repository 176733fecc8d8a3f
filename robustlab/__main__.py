"""``python -m robustlab``: the same as the command ``robustlab``."""

from __future__ import annotations

from robustlab.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
