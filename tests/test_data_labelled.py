from __future__ import annotations

import json

import pytest

from robustlab.data import LabelledExample, load_labelled
from robustlab.errors import UserError


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def card(folder, names=("bad", "good")):
    (folder / "card.toml").write_text(f"label_names = {json.dumps(list(names))}\n")


def test_jsonl_with_ids_and_indices(tmp_path):
    file = jsonl(
        tmp_path / "set.jsonl",
        [{"id": "a", "text": "fine", "label": 2}, {"id": 7, "text": "poor", "label": "0"}],
    )
    data = load_labelled(file)
    assert (data.name, data.split, data.label_names) == ("set", "all", ("0", "1", "2"))
    assert data.examples == (LabelledExample("a", "fine", 2), LabelledExample("7", "poor", 0))


def test_names_without_a_card_are_numbered_in_sorted_order(tmp_path):
    file = tmp_path / "set.csv"
    file.write_text('review,sentiment\n"good, really",positive\nbad,negative\n')
    data = load_labelled(str(file))
    assert data.label_names == ("negative", "positive")
    assert data.examples == (
        LabelledExample("all-2", "good, really", 1),
        LabelledExample("all-3", "bad", 0),
    )


def test_a_csv_field_may_span_lines_and_a_byte_order_mark_is_ignored(tmp_path):
    file = tmp_path / "set.csv"
    file.write_bytes(b'\xef\xbb\xbftext,label\r\n"one\r\ntwo",1\r\nthree,x0\r\n')
    with pytest.raises(UserError, match=r"set\.csv, line 4: label 'x0'"):
        load_labelled(str(file))
    data = load_labelled(str(file), skip_bad_rows=True)
    assert [example.text for example in data.examples] == ["one\r\ntwo"]


def test_tsv_has_no_quoting(tmp_path):
    file = tmp_path / "set.tsv"
    file.write_text('sentence\tlabel\n"unclosed quote\t1\nplain\t0\n')
    assert [e.text for e in load_labelled(str(file)).examples] == ['"unclosed quote', "plain"]


def test_pairs_are_found_and_columns_can_be_mapped(tmp_path):
    rows = [{"premise": "It rains.", "hypothesis": "It is wet.", "y": 1, "body": "b"}]
    file = jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(UserError, match=r"no label column .*its columns are: premise, hypothesis"):
        load_labelled(file)
    data = load_labelled(file, label_column="y")
    assert data.examples[0] == LabelledExample("all-1", "It rains.", 1, "It is wet.")
    data = load_labelled(file, label_column="y", text_column="body", pair_column="premise")
    assert data.examples[0] == LabelledExample("all-1", "b", 1, "It rains.")
    with pytest.raises(UserError, match="has no text column 'absent'"):
        load_labelled(file, label_column="y", text_column="absent")


def test_folder_splits_and_label_names_from_the_card(tmp_path):
    card(tmp_path)
    jsonl(tmp_path / "train.jsonl", [{"id": "t", "text": "x", "label": 0}])
    jsonl(tmp_path / "validation.jsonl", [{"id": "v", "text": "x", "label": "good"}])
    data = load_labelled(str(tmp_path))
    assert (data.name, data.split) == (tmp_path.name, "validation")
    assert data.label_names == ("bad", "good")
    assert data.examples == (LabelledExample("v", "x", 1),)
    assert load_labelled(str(tmp_path), split="train").examples[0].id == "t"
    with pytest.raises(UserError, match="no split 'test'; it has: train, validation"):
        load_labelled(str(tmp_path), split="test")
    (tmp_path / "test.tsv").write_text("text\tlabel\ny\t1\n")
    assert load_labelled(str(tmp_path)).split == "test"


def test_training_data_are_never_the_default(tmp_path):
    jsonl(tmp_path / "train.jsonl", [{"text": "x", "label": 0}])
    with pytest.raises(UserError, match="neither a test nor a validation split"):
        load_labelled(str(tmp_path))


def test_a_file_is_its_own_only_split_and_takes_the_card_beside_it(tmp_path):
    card(tmp_path)
    file = jsonl(tmp_path / "validation.jsonl", [{"text": "x", "label": 1}])
    assert load_labelled(file).label_names == ("bad", "good")
    with pytest.raises(UserError, match="no split 'validation'; it has: all"):
        load_labelled(file, split="validation")


def test_names_in_a_folder_need_a_card(tmp_path):
    jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": "spam"}])
    with pytest.raises(UserError, match=r"list them in its card\.toml"):
        load_labelled(str(tmp_path))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "x", "label": 2}', r"label 2 is out of range: there are 2 classes, 0 to 1"),
        ('{"text": "x", "label": -1}', "label -1 is out of range"),
        ('{"text": "x", "label": "ugly"}', "label 'ugly' is none of: bad, good"),
        ('{"text": "x", "label": 1.0}', "label 1.0 is neither"),
        ('{"text": "x", "label": true}', "label True is neither"),
        ('{"text": "x"}', "label None is neither"),
        ('{"text": " ", "label": 1}', "'text' is empty"),
        ('{"text": 5, "label": 1}', "'text' is not a string but 5"),
        ('{"label": 1}', "'text' is missing"),
        ('{"text": "\\ud800", "label": 1}', "half a surrogate pair"),
        ('{"text": "x", "label": 1', "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"id": "first", "text": "x", "label": 1}', "a second example has the id 'first'"),
        ('{"id": null, "text": "x", "label": 1}', "'id' is missing"),
    ],
)
def test_a_bad_row_has_file_and_line_or_is_counted(tmp_path, line, reason):
    card(tmp_path)
    file = tmp_path / "test.jsonl"
    good = '{"id": "first", "text": "fine", "label": 1}'
    if '"id"' not in line:
        line = line.replace("{", '{"id": "second", ', 1)
    file.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(UserError, match=rf"test\.jsonl, line 3: .*{reason}"):
        load_labelled(str(file))
    data = load_labelled(str(file), skip_bad_rows=True)
    assert (len(data.examples), data.skipped_rows) == (1, 1)


def test_ragged_table_rows_are_bad(tmp_path):
    file = tmp_path / "set.csv"
    file.write_text('text,label\na,1,2\nb,1\n"c" d,1\n')
    with pytest.raises(UserError, match=r"line 2: 3 cells, where the table has 2 columns"):
        load_labelled(str(file))
    data = load_labelled(str(file), skip_bad_rows=True)
    assert (len(data.examples), data.skipped_rows) == (1, 2)


def test_wrong_encoding_is_one_sentence_even_when_rows_may_be_skipped(tmp_path):
    file = tmp_path / "set.csv"
    file.write_bytes("text,label\nfine,1\ncafé,0\n".encode("latin-1"))
    for skip in (False, True):
        with pytest.raises(UserError, match=r"set\.csv, line 3: not UTF-8 \(byte 0xe9\)"):
            load_labelled(str(file), skip_bad_rows=skip)


def test_nothing_to_read(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(UserError, match="holds no examples"):
        load_labelled(str(empty))
    empty.write_text('{"text": "", "label": 1}\n')
    with pytest.raises(UserError, match=r"no usable examples \(1 bad rows\)"):
        load_labelled(str(empty), skip_bad_rows=True)
    with pytest.raises(UserError, match="no labelled set"):
        load_labelled(str(tmp_path))
    with pytest.raises(UserError, match="no data at"):
        load_labelled(str(tmp_path / "absent"))
    other = tmp_path / "set.xlsx"
    other.write_text("")
    with pytest.raises(UserError, match="unknown kind of file"):
        load_labelled(str(other))


def test_a_corpus_is_not_a_labelled_set(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("")
    with pytest.raises(UserError, match="is a corpus of passages"):
        load_labelled(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["label_names = [1, 2]", 'label_names = "ab"', 'label_names = ["a", "a"]', "label_names"],
)
def test_a_broken_card_is_reported(tmp_path, text):
    (tmp_path / "card.toml").write_text(text)
    jsonl(tmp_path / "test.jsonl", [{"text": "x", "label": 0}])
    with pytest.raises(UserError, match=r"card\.toml"):
        load_labelled(str(tmp_path))
