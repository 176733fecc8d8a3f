"""The versions in constraints.txt can be installed on every Python that is promised."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"


def oldest_python() -> str:
    """The first version that ``requires-python`` lets in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest,) = SpecifierSet(project["requires-python"])
    assert oldest.operator == ">="
    return f"{oldest.version}.0"


def test_no_pinned_version_needs_a_newer_python() -> None:
    """With one that does, pip searches on among the versions of everything else, for hours."""
    pinned = {
        tuple(line.split("=="))
        for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    refused = []
    known = 0
    for name, version in sorted(pinned):
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        needed = metadata["Requires-Python"]
        known += metadata["Version"].partition("+")[0] == version
        if needed and not SpecifierSet(needed).contains(oldest_python()):
            refused.append(f"{name}=={version} needs Python {needed}")
    assert refused == []
    assert known > 50
