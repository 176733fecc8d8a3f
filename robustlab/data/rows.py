"""Rows of JSONL, CSV and TSV files, with the file and line that an error needs.

A row that cannot be used is an error that names its place, or, where the user allowed it, is
left out and counted. A file that is not UTF-8 is always an error: skipping would hide that all
of it is wrong.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from robustlab.errors import UserError

__all__ = [
    "ROW_SUFFIXES",
    "BadRowError",
    "Rejects",
    "Row",
    "answers_field",
    "id_field",
    "parse_rows",
    "pick_column",
    "read_rows",
    "text_field",
]

ROW_SUFFIXES = (".jsonl", ".csv", ".tsv")

T = TypeVar("T")


class BadRowError(Exception):
    """Why one row cannot be used; the place is added by who knows it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record, its place such as ``train.csv, line 7``, and the number in it."""

    place: str
    number: int
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Rejects:
    """What happens to rows that cannot be used: an error, or left out and counted."""

    skip: bool = False
    count: int = 0

    def reject(self, place: str, reason: str) -> None:
        """Count the row when skipping is allowed, else raise :class:`UserError`."""
        if not self.skip:
            raise UserError(f"{place}: {reason}")
        self.count += 1


def read_rows(path: Path, rejects: Rejects) -> Iterator[Row]:
    """Rows of a file by its suffix: ``.jsonl``, ``.csv`` or ``.tsv``; blank lines are passed over.

    CSV is comma-separated with double quotes; TSV has no quoting at all, as its convention
    says. Both begin with a line of column names.
    """
    if path.suffix == ".jsonl":
        return _json_rows(path, rejects)
    if path.suffix == ".csv":
        return _table_rows(path, rejects, delimiter=",", quoting=csv.QUOTE_MINIMAL)
    if path.suffix == ".tsv":
        return _table_rows(path, rejects, delimiter="\t", quoting=csv.QUOTE_NONE)
    raise UserError(f"{path}: unknown kind of file; rows are read from {', '.join(ROW_SUFFIXES)}")


def parse_rows(
    rows: Iterable[Row], parse: Callable[[Row], T], rejects: Rejects
) -> Iterator[tuple[Row, T]]:
    """Each row with what ``parse`` makes of it; rows it refuses go to ``rejects``."""
    for row in rows:
        try:
            yield row, parse(row)
        except BadRowError as bad:
            rejects.reject(row.place, str(bad))


def pick_column(
    row: Row, asked: str | None, defaults: Sequence[str], what: str, source: str
) -> str | None:
    """The column asked for, which must exist, or the first of ``defaults`` that does, or None."""
    if asked is None:
        return next((name for name in defaults if name in row.fields), None)
    if asked not in row.fields:
        raise UserError(
            f"{source} has no {what} column {asked!r}; its columns are: {', '.join(row.fields)}"
        )
    return asked


def text_field(row: Row, column: str, *, may_be_empty: bool = False) -> str:
    """A string out of a row; a missing, empty or unencodable one makes the row bad."""
    value = row.fields.get(column)
    if not isinstance(value, str):
        what = "is missing" if value is None else f"is not a string but {value!r:.40}"
        raise BadRowError(f"{column!r} {what}")
    if not may_be_empty and not value.strip():
        raise BadRowError(f"{column!r} is empty")
    if not _is_text(value):
        raise BadRowError(f"{column!r} holds half a surrogate pair, which is no text")
    return value


def id_field(row: Row, column: str) -> str:
    """An id out of a row: a string or a whole number."""
    value = row.fields.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_field(row, column)


def answers_field(row: Row, column: str) -> tuple[str, ...]:
    """Different answers in order, from a string, a list of strings or SQuAD's ``{"text": []}``."""
    value = row.fields.get(column)
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, str):
        value = [value] if value else []
    if not isinstance(value, list | tuple) or not all(
        isinstance(answer, str) and _is_text(answer) for answer in value
    ):
        raise BadRowError(f"{column!r} is neither a string nor a list of strings")
    return tuple(dict.fromkeys(value))


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8; JSON can spell half of a surrogate pair."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, split at newlines only and decoded one by one, so that errors have a line."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x}); "
                        "convert the file to UTF-8"
                    ) from None
                yield number, line.removeprefix("\ufeff") if number == 1 else line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _json_rows(path: Path, rejects: Rejects) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            rejects.reject(place, f"not JSON ({error})")
            continue
        if not isinstance(fields, dict):
            rejects.reject(place, "not a JSON object")
            continue
        yield Row(place, number, fields)


def _table_rows(path: Path, rejects: Rejects, *, delimiter: str, quoting: int) -> Iterator[Row]:
    lines = (line for _, line in _lines(path))
    # The type stubs want a literal for ``quoting``; read_rows passes only the csv module's own.
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    header: list[str] | None = None
    while True:
        # A quoted field may span lines: the place is where its row begins.
        number = reader.line_num + 1
        place = f"{path}, line {number}"
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if header is None:
                raise UserError(f"{place}: the column names cannot be read ({error})") from None
            rejects.reject(place, f"not a row of the table ({error})")
            continue
        if not cells:
            continue
        if header is None:
            if len(set(cells)) < len(cells):
                raise UserError(f"{place}: a column name stands twice: {', '.join(cells)}")
            header = cells
        elif len(cells) != len(header):
            rejects.reject(place, f"{len(cells)} cells, where the table has {len(header)} columns")
        else:
            yield Row(place, number, dict(zip(header, cells, strict=True)))
