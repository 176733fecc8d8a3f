"""A pipeline kept in a TOML file, for ``--target my-rag.toml``.

::

    corpus         = "my-corpus"          # a folder beside this file, or any other --corpus
    retriever      = "builtin:retriever"
    generator      = "builtin:seq2seq"
    top_k          = 5
    max_new_tokens = 32
    prompt         = "prompt.txt"         # optional
    index          = "my-index"           # optional

    [[defense]]                           # any number of them, in this order
    name = "perplexity"
    false_positive_rate = 0.01            # optional: numbers that replace the defence's own

Only ``corpus`` must be there. A text that names a file or folder beside the TOML file is that one;
any other is what the option of its name takes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from robustlab.data.records import content_hash
from robustlab.errors import UserError

__all__ = ["RagFile", "load_rag_file"]


@dataclass(frozen=True, slots=True)
class RagFile:
    """What a pipeline file says; each field is the option of its name.

    ``defenses`` are tables with a ``name``, an own file among them by its full path.
    """

    path: Path
    source: str
    """The text of the file."""
    corpus: str
    retriever: str = "builtin:retriever"
    generator: str = "builtin:seq2seq"
    top_k: int = 5
    max_new_tokens: int = 32
    prompt: str | None = None
    index: Path | None = None
    defenses: tuple[Mapping[str, Any], ...] = ()

    @property
    def spec(self) -> str:
        """What names the target: the path as it was given."""
        return str(self.path)

    def describe(self) -> Mapping[str, str]:
        """What goes into the manifest: path, text and hash of the text."""
        return {
            "path": str(self.path),
            "sha256": content_hash([self.source]),
            "text": self.source,
        }


def load_rag_file(path: Path) -> RagFile:
    """Read a pipeline file.

    Raises:
        UserError: no such file, no TOML, an unknown or missing key or a value of a wrong type.
    """
    try:
        source = path.read_text(encoding="utf-8-sig")
        table = tomllib.loads(source)
    except OSError as error:
        raise UserError(f"the pipeline {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the pipeline {path} is no TOML file: {error}") from None
    defenses = _defenses(path, table.pop("defense", []))
    known = [field.name for field in fields(RagFile)][2:-1]
    for key in table:
        if key not in known:
            raise UserError(
                f"the pipeline {path} knows no {key!r}; there are: {', '.join(known)}, [[defense]]"
            )
    if "corpus" not in table:
        raise UserError(f"the pipeline {path} lacks corpus: where its passages are")
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in ("top_k", "max_new_tokens"):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise _wrong(path, key, "a whole number, at least 1", value)
            values[key] = value
        elif not isinstance(value, str) or not value.strip():
            raise _wrong(path, key, "a text", value)
        else:
            placed = _beside(path, value)
            values[key] = Path(placed) if key == "index" else placed
    return RagFile(path, source, defenses=defenses, **values)


def _defenses(path: Path, tables: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"the pipeline {path} is wrong at defense: write [[defense]] tables")
    found = []
    for table in tables:
        name = table.get("name")
        if not isinstance(name, str) or not name.strip():
            raise _wrong(path, "defense.name", "the name of a defence", name)
        found.append({**table, "name": _beside(path, name)})
    return tuple(found)


def _beside(path: Path, text: str) -> str:
    """A file or folder beside the pipeline file by its own path, anything else as it is."""
    place = path.parent / text
    return str(place) if place.exists() else text


def _wrong(path: Path, key: str, wanted: str, value: object) -> UserError:
    return UserError(f"the pipeline {path} is wrong at {key}: {value!r} is not {wanted}")
