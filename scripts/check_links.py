#!/usr/bin/env python3
"""Check that every relative link and every named script in the documents exists."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
NAMED = re.compile(r"\b((?:scripts|docs|corpora|attacks|tests|robustlab)/[\w./-]*[\w-])")


def broken(document: Path) -> list[str]:
    """Places that a document names and that do not exist, relative to it or to the root."""
    text = document.read_text(encoding="utf-8")
    places = {link for link in LINK.findall(text) if "://" not in link}
    places |= set(NAMED.findall(text))
    return sorted(
        place
        for place in places
        if not (ROOT / place).exists() and not (document.parent / place).exists()
    )


def main() -> int:
    """Print every broken place; 1 if there is one."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    faults = [(document, place) for document in documents for place in broken(document)]
    for document, place in faults:
        print(f"{document.relative_to(ROOT)}: {place} does not exist", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
