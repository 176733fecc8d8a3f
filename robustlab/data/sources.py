"""What a data spec names: a path, shipped content, or a data set on the Hugging Face hub."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustlab.data.rows import Row
from robustlab.errors import UserError
from robustlab.resources import corpus_folder, corpus_names

__all__ = ["HubData", "label_names_of", "load_hub", "path_of", "source_name"]

_HUB = "hf:"


@dataclass(frozen=True, slots=True)
class HubData:
    """A data set of the hub: split name -> its rows as a ``datasets.Dataset``."""

    name: str
    splits: Mapping[str, Any]

    def rows(self, split: str) -> Iterator[Row]:
        """Rows of one split; the place counts from 0, as the hub's viewer does."""
        for number, fields in enumerate(self.splits[split]):
            yield Row(f"{_HUB}{self.name}, split {split}, row {number}", number, fields)

    def class_names(self, split: str, column: str) -> tuple[str, ...]:
        """Label names that the data set declares for a column; empty where it does not."""
        return tuple(getattr(self.splits[split].features.get(column), "names", ()))


def path_of(spec: str) -> Path | None:
    """The file or folder that a spec names, or None for ``hf:NAME``.

    An existing path comes first; then the name of shipped content, with or without a leading
    ``corpora/``.
    """
    if spec.startswith(_HUB):
        return None
    path = Path(spec)
    if spec and path.exists():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("corpora",) else path.parts
    names = corpus_names()
    if len(parts) == 1 and parts[0] in names:
        return corpus_folder(parts[0])
    raise UserError(
        f"no data at {spec!r}: it is no file or folder here, and the shipped ones are called: "
        f"{', '.join(names) or 'none'} (a set of the Hugging Face hub is written hf:NAME)"
    )


def source_name(path: Path) -> str:
    """What a set is called: the folder's name, or the file's without its suffix."""
    resolved = path.resolve()
    return resolved.name if resolved.is_dir() else resolved.stem


def label_names_of(folder: Path) -> tuple[str, ...]:
    """``label_names`` of the folder's ``card.toml``; empty without a card or without the key."""
    card = folder / "card.toml"
    if not card.is_file():
        return ()
    try:
        names = tomllib.loads(card.read_text(encoding="utf-8")).get("label_names", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{card} is not a TOML file: {error}") from None
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not valid or len(set(names)) < len(names):
        raise UserError(f"{card}: label_names must be a list of different strings")
    return tuple(names)


def load_hub(spec: str) -> HubData:
    """``hf:NAME`` or ``hf:NAME:CONFIG`` through the Hugging Face ``datasets`` package."""
    name, _, config = spec.removeprefix(_HUB).partition(":")
    if not name:
        raise UserError(f"{spec!r} names no data set; write hf:NAME or hf:NAME:CONFIG")
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{spec} needs the package datasets; install it with: pip install 'robustlab[datasets]'"
        ) from None
    try:
        loaded = datasets.load_dataset(name, config or None)
    except datasets.exceptions.DatasetNotFoundError:
        raise UserError(
            f"{spec}: the Hugging Face hub has no such data set, or asks for a login"
        ) from None
    except ConnectionError:
        raise UserError(
            f"{spec}: the Hugging Face hub cannot be reached and the data set is not in the "
            "local cache; fetch it once while online, or pass a file or folder"
        ) from None
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{spec} cannot be loaded: {reason}") from None
    return HubData(spec.removeprefix(_HUB), dict(loaded))
