from __future__ import annotations

import pytest

from robustlab.attack.words import Words, edits, fields


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a bad, film", ["a", "bad", "film"]),
        ("Don't — half-baked/ok! ", ["Don't", "half-baked", "ok"]),
        ("'quoted' -dashed- rock'n'roll", ["quoted", "dashed", "rock'n'roll"]),
        ("it’s 24 × 7 naïve_café", ["it’s", "24", "7", "naïve", "café"]),
        ("cafe\N{COMBINING ACUTE ACCENT} नमस्ते", ["cafe\N{COMBINING ACUTE ACCENT}", "नमस्ते"]),
        ("  \n", []),
        ("", []),
    ],
)
def test_words_and_gaps_are_the_text(text: str, words: list[str]) -> None:
    split = Words.of(text)
    assert list(split.words) == words
    assert split.text == text
    assert [text[start:end] for start, end in split.spans] == words


def test_a_replacement_leaves_everything_else() -> None:
    words = Words.of("a  bad,\tfilm!").replace(1, "poor")
    assert words.text == "a  poor,\tfilm!"
    assert words.changed(Words.of("a  bad,\tfilm!")) == (1,)


@pytest.mark.parametrize(
    ("text", "position", "without"),
    [
        ("one two three", 0, "two three"),
        ("one two three", 1, "one three"),
        ("one two three", 2, "one two"),
        ("one two, three.", 1, "one , three."),
        ("one two, three.", 2, "one two, ."),
        ("(one) two", 0, "() two"),
        ("one/two three", 1, "one/ three"),
        ("one", 0, ""),
    ],
)
def test_a_deletion_takes_one_space_and_is_one_edit(text: str, position: int, without: str) -> None:
    words = Words.of(text).delete(position)
    assert words.text == without
    assert len(words) == len(Words.of(text))
    assert edits(text, without) == 1


def test_all_words_deleted() -> None:
    words = Words.of(" one two three ")
    for position in range(3):
        words = words.delete(position)
    assert words.text.strip() == ""
    assert words.changed(Words.of(" one two three ")) == (0, 1, 2)


def test_edits_of_a_pair_add_up() -> None:
    assert fields(("a b", "c d")) == ("a b", "c d")
    assert edits("a b", "a c") == 1
    assert edits(("a b", "c d"), ("a x", "y z")) == 3
