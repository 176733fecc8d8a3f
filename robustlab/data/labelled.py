"""Labelled sets: classification data from files, folders and the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from robustlab.data.records import LabelledExample, LabelledSet
from robustlab.data.rows import (
    ROW_SUFFIXES,
    BadRowError,
    Rejects,
    Row,
    id_field,
    parse_rows,
    pick_column,
    read_rows,
    text_field,
)
from robustlab.data.sources import HubData, label_names_of, load_hub, path_of, source_name
from robustlab.data.splits import ONLY_SPLIT, choose_split
from robustlab.errors import UserError

__all__ = ["LABEL_COLUMNS", "PAIR_COLUMNS", "TEXT_COLUMNS", "load_labelled"]

TEXT_COLUMNS = (
    "text", "sentence", "review", "content", "comment", "premise", "sentence1", "question1",
)  # fmt: skip
"""Columns tried, in this order, for the text when none is asked for."""

PAIR_COLUMNS = ("text_pair", "hypothesis", "sentence2", "question2")
"""Columns tried for the second text; a set with none of them has single texts."""

LABEL_COLUMNS = ("label", "labels", "class", "category", "sentiment")
"""Columns tried for the label."""

_ID_COLUMNS = ("id", "_id", "idx")
_SPLITS = ("train", "validation", "test")


def load_labelled(
    spec: str,
    *,
    split: str | None = None,
    text_column: str | None = None,
    pair_column: str | None = None,
    label_column: str | None = None,
    skip_bad_rows: bool = False,
) -> LabelledSet:
    """One split of a labelled set.

    ``spec`` is a file (``.jsonl``, ``.csv``, ``.tsv``; its only split is ``all``), a folder with
    ``train``, ``validation`` or ``test`` in one of these formats and ``label_names`` in its
    ``card.toml``, the name of a shipped set, or ``hf:NAME[:CONFIG]``.

    Without ``split`` the ``test`` split is used, else ``validation``. Columns that are not asked
    for are looked up in :data:`TEXT_COLUMNS`, :data:`PAIR_COLUMNS` and :data:`LABEL_COLUMNS`.
    A label is an index or a label name. The names come from the card or the hub; without them
    an index's name is its digits, and names found in the file are numbered in sorted order.

    A row that cannot be used raises :class:`UserError` with file and line, or is counted in
    ``skipped_rows`` when ``skip_bad_rows`` is set.
    """
    rejects = Rejects(skip_bad_rows)
    columns = _Columns(text_column, pair_column, label_column)
    path = path_of(spec)
    if path is None:
        hub = load_hub(spec)
        chosen = choose_split(split, hub.splits, spec)
        return _read(hub.rows(chosen), columns, rejects, spec, hub.name, chosen, hub=hub)
    if path.is_dir():
        files = _split_files(path)
        chosen = choose_split(split, files, str(path))
        file, folder = files[chosen], path
    else:
        chosen = choose_split(split, [ONLY_SPLIT], str(path))
        file, folder = path, path.parent
    names = label_names_of(folder)
    loaded = _read(
        read_rows(file, rejects), columns, rejects, str(file), source_name(path), chosen, names
    )
    if path.is_dir() and not names and not _are_indices(loaded.label_names):
        raise UserError(
            f"{path}: the labels are names, and each split could number them differently; "
            'list them in its card.toml, as label_names = ["…", "…"]'
        )
    return loaded


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns asked for; None where the defaults are to be tried."""

    text: str | None
    pair: str | None
    label: str | None


def _split_files(folder: Path) -> dict[str, Path]:
    if (folder / "corpus.jsonl").is_file():
        raise UserError(f"{folder} is a corpus of passages, not a labelled set")
    files = {}
    for split in _SPLITS:
        found = [folder / (split + suffix) for suffix in ROW_SUFFIXES]
        found = [file for file in found if file.is_file()]
        if len(found) > 1:
            raise UserError(f"{folder} holds the split {split} twice: {found[0]} and {found[1]}")
        if found:
            files[split] = found[0]
    if not files:
        raise UserError(
            f"{folder} is no labelled set: it has none of train, validation and test "
            f"as {', '.join(ROW_SUFFIXES)}"
        )
    return files


def _read(
    rows: Iterator[Row],
    columns: _Columns,
    rejects: Rejects,
    source: str,
    name: str,
    split: str,
    names: tuple[str, ...] = (),
    hub: HubData | None = None,
) -> LabelledSet:
    first = next(rows, None)
    if first is None:
        raise UserError(f"{source} holds no examples")
    text_column = _required(first, columns.text, TEXT_COLUMNS, "text", source)
    pair_column = pick_column(first, columns.pair, PAIR_COLUMNS, "pair", source)
    label_column = _required(first, columns.label, LABEL_COLUMNS, "label", source)
    id_column = pick_column(first, None, _ID_COLUMNS, "id", source)
    if hub is not None:
        names = hub.class_names(split, label_column)
    by_name = {label: index for index, label in enumerate(names)}
    seen: set[str] = set()
    indexed: bool | None = None  # whether labels are indices; decided by the first good row

    def parse(row: Row) -> tuple[str, str, str | None, int | str]:
        nonlocal indexed
        text = text_field(row, text_column)
        pair = text_field(row, pair_column) if pair_column else None
        label = _label(row, label_column, by_name)
        if indexed is not None and isinstance(label, int) is not indexed:
            raise BadRowError(f"label {label!r}: some labels are indices and some are names")
        key = id_field(row, id_column) if id_column else f"{split}-{row.number}"
        if key in seen:
            raise BadRowError(f"a second example has the id {key!r}")
        indexed = isinstance(label, int)
        seen.add(key)
        return key, text, pair, label

    parsed = [item for _, item in parse_rows(chain([first], rows), parse, rejects)]
    if not parsed:
        raise UserError(f"{source} holds no usable examples ({rejects.count} bad rows)")
    if not names:
        names = _names_from([label for *_, label in parsed])
        by_name = {label: index for index, label in enumerate(names)}
    examples = tuple(
        LabelledExample(key, text, label if isinstance(label, int) else by_name[label], pair)
        for key, text, pair, label in parsed
    )
    return LabelledSet(name, split, names, examples, rejects.count)


def _required(
    row: Row, asked: str | None, defaults: tuple[str, ...], what: str, source: str
) -> str:
    column = pick_column(row, asked, defaults, what, source)
    if column is None:
        raise UserError(
            f"{source} has no {what} column ({', '.join(defaults)}); its columns are: "
            f"{', '.join(row.fields)}; name one with --{what}-column"
        )
    return column


def _label(row: Row, column: str, by_name: dict[str, int]) -> int | str:
    """The class index, or a name still to be numbered when no names are known."""
    value = row.fields.get(column)
    if isinstance(value, str):
        value = text_field(row, column).strip()
        if value in by_name:
            return by_name[value]
        if value.isascii() and value.removeprefix("-").isdigit():
            value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadRowError(f"the label {value!r} is neither an index nor a name")
    if by_name:
        if isinstance(value, str):
            raise BadRowError(f"the label {value!r} is none of: {', '.join(by_name)}")
        if not 0 <= value < len(by_name):
            raise BadRowError(
                f"the label {value} is out of range: there are {len(by_name)} classes, "
                f"0 to {len(by_name) - 1} ({', '.join(by_name)})"
            )
    elif isinstance(value, int) and not 0 <= value < _MOST_CLASSES:
        raise BadRowError(f"the label {value} is out of range: an index is 0 or more")
    return value


_MOST_CLASSES = 100_000  # a label like 20231105 is no class index, and would name as many classes


def _names_from(labels: Iterable[int | str]) -> tuple[str, ...]:
    indices = [label for label in labels if isinstance(label, int)]
    if indices:
        return tuple(str(index) for index in range(max(indices) + 1))
    return tuple(sorted({str(label) for label in labels}))


def _are_indices(names: tuple[str, ...]) -> bool:
    return names == tuple(str(index) for index in range(len(names)))
