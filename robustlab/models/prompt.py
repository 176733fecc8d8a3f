"""Prompt templates: small text files with named placeholders.

A template file has sections, each begun by a line such as ``--- prompt ---``:

- ``prompt`` (once): the whole prompt, with ``{question}``, ``{passages}`` and, where there are
  examples, ``{examples}``;
- ``passage`` (once): the form of one passage, with ``{passage}`` (title and text) or ``{title}``
  and ``{text}``, and if wanted its ``{number}`` in the prompt, from 1;
- ``example`` (any number): in-context examples, inserted as they stand, a blank line between
  them.

What stands above the first section is a note to people. Line breaks around a section are not
part of it; passages are put one on a line. ``{{`` and ``}}`` stand for braces. A file is read
once into literal pieces and placeholders, so whatever a question or a passage contains is
inserted as it is and never read as a template.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from robustlab.data.records import Passage
from robustlab.errors import UserError
from robustlab.models.target import Target

__all__ = ["PromptTemplate", "default_prompt", "load_prompt", "prompt_names"]

Form: TypeAlias = tuple[str, ...]
"""Literal text and names of placeholders in turn, beginning and ending with a literal."""

_FOLDER = Path(__file__).resolve().parent / "prompts"
_SECTION = re.compile(r"---\s*(.*?)\s*---\s*")
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")
_SHOWN = re.compile(r"\{(?:passage|title|text)\}")
_PROMPT_FIELDS = ("question", "passages", "examples")
_PASSAGE_FIELDS = ("passage", "title", "text", "number")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A parsed template file; make one with :func:`load_prompt` or :meth:`parse`."""

    name: str
    source: str
    """The text of the file."""
    examples: tuple[str, ...]
    _prompt: Form = field(repr=False)
    _passage: Form = field(repr=False)

    @classmethod
    def parse(cls, source: str, name: str) -> PromptTemplate:
        """Read the text of a template file; ``name`` is the file's, for messages.

        Raises:
            UserError: an unknown, missing or repeated section or placeholder, or a single brace,
                with file and line.
        """
        sections = _sections(source, name)
        examples = tuple(text for _, text in sections["example"])
        prompt = _form(*_only(sections, "prompt", name), _PROMPT_FIELDS, name)
        passage = _form(*_only(sections, "passage", name), _PASSAGE_FIELDS, name)
        used = prompt[1::2]
        for needed in ("question", "passages"):
            if needed not in used:
                raise UserError(f"{name}: the prompt does not use {{{needed}}}")
        if not {"passage", "text"} & set(passage[1::2]):
            raise UserError(f"{name}: the passage section uses neither {{passage}} nor {{text}}")
        if ("examples" in used) is not bool(examples):
            problem = (
                "the prompt uses {examples}, but there is no example section"
                if "examples" in used
                else "there are example sections, but the prompt does not use {examples}"
            )
            raise UserError(f"{name}: {problem}")
        return cls(name, source, examples, prompt, passage)

    def framed(
        self, name: str, *, before: str, after: str, opening: str, closing: str
    ) -> PromptTemplate:
        """The same template with text around all passages, and around each of them.

        ``opening`` stands before a passage's title or text, behind what else the template begins
        it with, and may have ``{number}`` in it; braces in the other texts are literal.
        """
        sections: list[list[str]] = [[]]
        for line in self.source.split("\n"):
            if _SECTION.fullmatch(line):
                sections.append([])
            sections[-1].append(line)
        around = f"{_doubled(before)}{{passages}}{_doubled(after)}"
        number = _doubled(opening).replace("{{number}}", "{number}")
        for section in sections:
            header = _SECTION.fullmatch(section[0]) if section else None
            body = "\n".join(section[1:])
            if header is not None and header[1] == "prompt":
                section[1:] = [body.replace("{passages}", around)]
            elif header is not None and header[1] == "passage":
                fields = list(_SHOWN.finditer(body))
                start, end = fields[0].start(), fields[-1].end()
                section[1:] = [
                    f"{body[:start]}{number}{body[start:end]}{_doubled(closing)}{body[end:]}"
                ]
        source = "\n".join(line for section in sections for line in section)
        return PromptTemplate.parse(source, name)

    def render_passage(self, passage: Passage, number: int) -> str:
        """One passage as it stands in the prompt; ``number`` counts from 1."""
        return _fill(
            self._passage,
            {
                "passage": passage.contents,
                "title": passage.title,
                "text": passage.text,
                "number": str(number),
            },
        )

    def render(self, question: str, passages: Sequence[Passage]) -> str:
        """The prompt for a question and its passages, best first."""
        shown = "\n".join(
            self.render_passage(passage, number) for number, passage in enumerate(passages, 1)
        )
        values = {
            "question": question,
            "passages": shown,
            "examples": "\n\n".join(self.examples),
        }
        return _fill(self._prompt, values)

    def describe(self) -> Mapping[str, str]:
        """What goes into the manifest: name, text and its SHA-256."""
        digest = hashlib.sha256(self.source.encode("utf-8")).hexdigest()
        return {"name": self.name, "sha256": digest, "text": self.source}


def prompt_names() -> tuple[str, ...]:
    """Names of the shipped templates, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.txt")))


def load_prompt(name_or_path: str) -> PromptTemplate:
    """A shipped template by name, or the user's own by path.

    Raises:
        UserError: no such file, not text in UTF-8, or not a template.
    """
    path = Path(name_or_path)
    if name_or_path in prompt_names():
        path = _FOLDER / f"{name_or_path}.txt"
    try:
        source = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"no prompt {name_or_path!r}: it is neither a file nor one of the shipped templates: "
            f"{', '.join(prompt_names())}"
        ) from None
    except OSError as error:
        raise UserError(f"the prompt {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the prompt {path} is not text in UTF-8") from None
    return PromptTemplate.parse(source, name_or_path)


def default_prompt(generator: Target) -> PromptTemplate:
    """The template that fits a generator: the layout it was trained on, else zero-shot."""
    style = getattr(generator, "prompt_style", None)
    return load_prompt("qa-zero-shot" if style is None else style)


def _sections(source: str, name: str) -> dict[str, list[tuple[int, str]]]:
    """Section name -> (line number of its first line, text) of each section of that name."""
    found: dict[str, list[tuple[int, str]]] = {"prompt": [], "passage": [], "example": []}
    lines: list[str] | None = None
    begun: list[tuple[str, int, list[str]]] = []
    for number, line in enumerate(source.split("\n"), 1):
        header = _SECTION.fullmatch(line)
        if header is not None:
            if header[1] not in found:
                raise UserError(
                    f"{name}, line {number}: no section is called {header[1]!r}; there are: "
                    f"{', '.join(found)}"
                )
            lines = []
            begun.append((header[1], number + 1, lines))
        elif lines is not None:
            lines.append(line)
    for section, first, content in begun:
        text = "\n".join(content)
        # Blank lines above the text move its first line down.
        first += len(text) - len(text.lstrip("\n"))
        text = text.strip("\n")
        if not text.strip():
            raise UserError(f"{name}, line {first}: the section {section!r} is empty")
        found[section].append((first, text))
    return found


def _only(
    sections: Mapping[str, list[tuple[int, str]]], section: str, name: str
) -> tuple[int, str]:
    found = sections[section]
    if len(found) != 1:
        amount = "no" if not found else "more than one"
        raise UserError(f"{name} has {amount} section '--- {section} ---'")
    return found[0]


def _form(line: int, text: str, fields: tuple[str, ...], name: str) -> Form:
    """Split a section's text at its placeholders; ``line`` is where it begins in the file."""
    pieces: list[str] = [""]
    end = 0
    for match in _PIECE.finditer(text):
        pieces[-1] += text[end : match.start()]
        end = match.end()
        place = f"{name}, line {line + text.count(chr(10), 0, match.start())}"
        if match[0] in ("{{", "}}"):
            pieces[-1] += match[0][0]
        elif match[1] is None:
            raise UserError(f"{place}: a single {match[0]} is no placeholder; write it twice")
        elif match[1] in fields:
            pieces += [match[1], ""]
        else:
            allowed = ", ".join(f"{{{field}}}" for field in fields)
            raise UserError(
                f"{place}: no placeholder is called {match[0]}; here there are: {allowed}"
            )
    pieces[-1] += text[end:]
    return tuple(pieces)


def _doubled(text: str) -> str:
    """The text with its braces as literals of a template."""
    return text.replace("{", "{{").replace("}", "}}")


def _fill(form: Form, values: Mapping[str, str]) -> str:
    return "".join(values[piece] if index % 2 else piece for index, piece in enumerate(form))
