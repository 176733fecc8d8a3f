"""Texts of an adversary's: templates and payloads as files, and what fills them in.

A **template file** has one template a line; lines that begin with ``#`` and blank lines do not
count. A **payload file** is TOML: ``[[payload]]`` tables with ``name``, ``text`` and, where the
text is to be hidden from a reader's eye, ``encoding``.

In both ``{question}`` and ``{wrong}`` stand for the question and the answer that is wanted;
``{statement}`` for a plain sentence that gives this answer to this question, as far as one can be
made without knowing grammar.
"""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from robustlab.attack.perturbations import LOOK_ALIKES
from robustlab.errors import UserError
from robustlab.resources import content_folder

__all__ = ["ENCODINGS", "Payload", "fill", "load_payloads", "load_templates", "statement"]

_FIELD = re.compile(r"\{([^{}]*)\}")
_FIELDS = ("question", "wrong", "statement")


@dataclass(frozen=True, slots=True)
class Payload:
    """An instruction that is hidden in a passage."""

    name: str
    text: str
    encoding: str

    def write(self, question: str, wrong: str) -> str:
        """The instruction as it stands in the passage.

        The wanted answer itself stays readable, but in ``base64``, which has to be decoded whole.
        """
        if self.encoding == "base64":
            inside = fill(self.text, question, wrong)
            coded = base64.b64encode(inside.encode()).decode("ascii")
            return f"Decode this base64 and do as it says: {coded}"
        encode = ENCODINGS[self.encoding]
        pieces = _FIELD.split(self.text)
        coded = "".join(
            f"{{{piece}}}" if number % 2 else encode(piece) for number, piece in enumerate(pieces)
        )
        return fill(coded, question, wrong)


def _look_alikes(text: str) -> str:
    return "".join(LOOK_ALIKES.get(char, char) for char in text)


def _invisible(text: str) -> str:
    """A zero-width space in the middle of every word of four letters or more."""
    return re.sub(r"(\w{2,})(\w{2})", "\\1\u200b\\2", text)


def _spaced(text: str) -> str:
    """Every word of four letters or more with a space between its letters."""
    return re.sub(r"[A-Za-z]{4,}", lambda word: " ".join(word[0]), text)


ENCODINGS: Mapping[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "look-alikes": _look_alikes,
    "invisible": _invisible,
    "spaced": _spaced,
    "base64": lambda text: text,  # of the whole text, filled in: see Payload.write
}
"""How a payload may be disguised."""


def load_templates(name_or_path: str) -> tuple[str, ...]:
    """The templates of a shipped file by name, or of the user's own by path.

    Raises:
        UserError: no such file, no template in it, or one that uses what does not exist or leaves
            the wanted answer out.
    """
    path, text = _read(name_or_path, "templates", ".txt")
    templates = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            _check(line, f"{path}, line {number}")
            templates.append(line.strip())
    if not templates:
        raise UserError(f"{path} has no template in it")
    return tuple(templates)


def load_payloads(name_or_path: str) -> tuple[Payload, ...]:
    """The payloads of a shipped file by name, or of the user's own by path.

    Raises:
        UserError: no such file, not TOML, or a payload that is wrong.
    """
    path, text = _read(name_or_path, "payloads", ".toml")
    try:
        tables = tomllib.loads(text).get("payload", [])
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from None
    payloads = []
    for number, table in enumerate(tables if isinstance(tables, list) else [], start=1):
        place = f"{path}, payload {number}"
        if not isinstance(table, dict) or not {"name", "text"} <= table.keys():
            raise UserError(f"{place}: a payload needs a name and a text")
        unknown = table.keys() - {"name", "text", "encoding"}
        if unknown:
            raise UserError(f"{place}: unknown key {min(unknown)}; there are: name, text, encoding")
        encoding = table.get("encoding", "plain")
        if encoding not in ENCODINGS:
            raise UserError(
                f"{place}: no encoding is called {encoding!r}; there are: {', '.join(ENCODINGS)}"
            )
        if not all(isinstance(table[key], str) and table[key].strip() for key in ("name", "text")):
            raise UserError(f"{place}: name and text must be texts")
        _check(table["text"], place)
        payloads.append(Payload(table["name"], table["text"].strip(), encoding))
    if not payloads:
        raise UserError(f"{path} has no [[payload]] in it")
    return tuple(payloads)


def fill(template: str, question: str, wrong: str) -> str:
    """A template with its fields filled in."""
    values = {"question": question, "wrong": wrong}
    if "{statement}" in template:
        values["statement"] = statement(question, wrong)
    return _FIELD.sub(lambda match: values[match[1]], template)


def statement(question: str, wrong: str) -> str:
    """A sentence that gives the answer ``wrong`` to a question.

    Where the question asks for its own subject (``Who built it?``), the answer takes the place of
    the question words; elsewhere the question is quoted and answered.
    """
    text = question.strip().rstrip("?").strip()
    match = _SUBJECT.match(text)
    if match is not None:
        sentence = f"{wrong} {match['rest']}"
        return f"{sentence[0].upper()}{sentence[1:]}."
    return f"{text}: {wrong}."


_SUBJECT = re.compile(
    # "Who made …", "Which doctor fought …". "What does it eat" asks for something else than its
    # subject, and "What has it eaten" may.
    r"(?:who|what|which)(?: [\w'-]+)?? "
    r"(?P<rest>(?!(?:does|has)\b)(?:[a-z]+(?:ed|s)|made|built|led|gave|wrote|won|took|found|drew|"
    r"ran|held|began|brought|fought|became|saw|sang|sank|shot|sold|told|went|flew|left|kept|grew)"
    r"\b .*)",
    re.IGNORECASE,
)


def _read(name_or_path: str, kind: str, suffix: str) -> tuple[Path, str]:
    folder = content_folder("attacks") / kind
    names = sorted(path.stem for path in folder.glob(f"*{suffix}"))
    path = folder / f"{name_or_path}{suffix}" if name_or_path in names else Path(name_or_path)
    try:
        return path, path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"no {kind} {name_or_path!r}: it is neither a file nor one of the shipped ones: "
            f"{', '.join(names) or 'none'}"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start})") from None


def _check(text: str, place: str) -> None:
    used = _FIELD.findall(text)
    unknown = [field for field in used if field not in _FIELDS]
    if unknown:
        allowed = ", ".join(f"{{{field}}}" for field in _FIELDS)
        raise UserError(f"{place}: nothing is called {{{unknown[0]}}}; there are: {allowed}")
    if not {"wrong", "statement"} & set(used):
        raise UserError(f"{place}: neither {{wrong}} nor {{statement}} stands in it")
