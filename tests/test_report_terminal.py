from __future__ import annotations

import io
import unicodedata

import pytest

from robustlab.report.marks import changed_pieces, pieces
from robustlab.report.measures import measures
from robustlab.report.terminal import make_console, marked_text, measures_table, safe_text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain words, [bold]brackets[/bold] too", "plain words, [bold]brackets[/bold] too"),
        ("red \x1b[31malert\x1b[0m", r"red \x1b[31malert\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb", r"a\u202eb"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("one\r\ntwo\tthree", r"one\r\ntwo\tthree"),
        ("line\u2028break\x85", r"line\u2028break\x85"),
        ("half \ud800 pair", r"half \ud800 pair"),
        ("tag \U000e0041", r"tag \U000e0041"),
        ("Grüße, 東京 ☃ é", "Grüße, 東京 ☃ é"),
    ],
)
def test_safe_text_spells_out_what_a_terminal_would_obey_or_hide(raw: str, shown: str) -> None:
    assert safe_text(raw) == shown


def test_safe_text_leaves_no_control_or_format_character() -> None:
    shown = safe_text("".join(map(chr, range(0x10000))))
    # What is left unprintable to Python are the wider spaces, such as U+00A0.
    assert all(char.isprintable() or unicodedata.category(char) == "Zs" for char in shown)


def test_pieces_cut_a_text_and_lose_nothing() -> None:
    cut = list(pieces("the blue whale", [(4, 8), (8, 8), (9, 14)]))
    assert cut == [("the ", False), ("blue", True), (" ", False), ("whale", True)]


def test_changed_words_are_marked_in_both_texts() -> None:
    before, after = changed_pieces("a truly bad film", "a turly bad flim")
    assert before == (("a ", False), ("truly", True), (" bad ", False), ("film", True))
    assert after == (("a ", False), ("turly", True), (" bad ", False), ("flim", True))


def rendered() -> str:
    file = io.StringIO()
    console = make_console(file)
    parts = [("[red]not markup[/red] ", False), ("here\x1b[2J", True), (" :smile:", False)]
    console.print(marked_text(parts, console, "bold reverse"))
    return file.getvalue()


def test_marks_are_brackets_where_there_are_no_styles(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    assert rendered() == "[red]not markup[/red] [[here\\x1b[2J]] :smile:\n"


def test_marks_are_styles_on_a_terminal_and_texts_cannot_add_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # how rich is told that this is a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = rendered()
    assert "\x1b[1;7mhere\\x1b[2J\x1b[0m" in shown
    assert "[red]not markup[/red]" in shown
    assert "\x1b[2J" not in shown


def test_measures_are_ordered_named_and_written_in_their_units() -> None:
    rows = measures(
        {
            "recall@10": {"value": 0.98, "low": 0.95, "high": 1.0, "n": 189},
            "recall@5": {"value": 0.95, "low": 0.9, "high": 0.97, "n": 189},
            "bleu": {"value": 41.26, "low": None, "high": None, "n": 189},
            "ndcg@10": {"value": 0.9123, "low": 0.9, "high": 0.92, "n": 189},
            "accuracy": {"value": None, "low": None, "high": None, "n": 0},
            "accuracy[positive]": {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10},
            "queries_total": 12345,
            "kind": "rag",
        }
    )
    assert [(row.name, row.value, row.interval) for row in rows] == [
        ("accuracy", "–", ""),
        ("accuracy[positive]", "50.0 %", "20.0 – 80.0"),
        ("BLEU", "41.3", ""),
        ("recall@5", "95.0 %", "90.0 – 97.0"),
        ("recall@10", "98.0 %", "95.0 – 100.0"),
        ("nDCG@10", "0.912", "0.900 – 0.920"),
        ("queries in all", "12,345", ""),
    ]
    assert rows[3].bounds == (0.9, 0.95, 0.97)


def test_a_label_name_in_the_table_is_no_markup_and_no_escape_sequence() -> None:
    file = io.StringIO()
    entry = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10}
    rows = measures({"accuracy[[bold]x\x1b[2J]": entry})
    make_console(file).print(measures_table(rows))
    assert "accuracy[[bold]x\\x1b[2J]" in file.getvalue()
    assert "\x1b" not in file.getvalue()
