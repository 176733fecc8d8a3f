"""Where an answer stands in a passage."""

from __future__ import annotations

import pytest

from robustlab.rag import find_answer


@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        ("field vole", "The Field  Vole; a field\nvole.", ["Field  Vole", "field\nvole"]),
        ("art", "Start the art of smart art.", ["art", "art"]),
        ("$5", "US$5 or $50", ["$5"]),
        ("5.5 km", "5x5 km, 5.5 km", ["5.5 km"]),
        ("C++", "C++, C++11", ["C++", "C++"]),
        ("Ångström", "one ÅNGSTRÖM", ["ÅNGSTRÖM"]),
        ("no answer", "an answer", []),
        ("  ", "a  b", []),
        ("", "a", []),
    ],
)
def test_spans(answer: str, text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in find_answer(answer, text)] == found
