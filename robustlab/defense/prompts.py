"""Prompt defences: passages are marked as quotations, or ranked below the question.

Delimiting untrusted text: Willison 2022; Hines et al. 2024 ("spotlighting"), arXiv:2403.14720.
A stated order of authority: Wallace et al. 2024, arXiv:2404.13208; saying it again behind the
passages ("sandwich"): Schulhoff 2023. They ask the generator for something, so they help only as
far as it follows instructions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from robustlab.data.records import content_hash
from robustlab.models.prompt import PromptTemplate

__all__ = ["PromptFrame"]


class PromptFrame:
    """Text before and behind the passages, and marks around each of them.

    Args:
        name: what ``--defense`` calls it.
        before: a paragraph before the passages; none if empty.
        after: a paragraph behind the passages; none if empty.
        opening: what each passage begins with; ``{number}`` is its number in the prompt.
        closing: what each passage ends with.
    """

    def __init__(self, name: str, *, before: str, after: str, opening: str, closing: str) -> None:
        self.name = name
        self._before = before
        self._after = after
        self._opening = opening
        self._closing = closing
        marks = [_pattern(mark) for mark in (opening, closing) if mark.strip()]
        self._marks = re.compile("|".join(marks), re.IGNORECASE) if marks else None

    def template(self, base: PromptTemplate) -> PromptTemplate:
        """The base with the paragraphs and marks put in."""
        return base.framed(
            f"{base.name}+{self.name}",
            before=f"{self._before}\n" if self._before else "",
            after=f"\n{self._after}" if self._after else "",
            opening=self._opening,
            closing=self._closing,
        )

    def clean(self, text: str) -> str:
        """The text without anything that reads like one of the marks, whatever its number."""
        if self._marks is None:
            return text
        # Taking one away may bring another together.
        while (cleaned := self._marks.sub("", text)) != text:
            text = cleaned
        return text

    def describe(self) -> Mapping[str, Any]:
        """Name and texts."""
        return {
            "name": self.name,
            "before": self._before,
            "after": self._after,
            "opening": self._opening,
            "closing": self._closing,
        }

    def fingerprint(self) -> str:
        """Hash of the texts."""
        return content_hash([json.dumps(self.describe(), sort_keys=True)])


def _pattern(mark: str) -> str:
    """The mark with any number in it and any white space."""
    pieces = [r"\s*".join(map(re.escape, part.split())) for part in mark.split("{number}")]
    return r"\s*\d*\s*".join(pieces)
