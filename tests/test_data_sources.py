from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from robustlab import resources
from robustlab.data import load_corpus, load_labelled, sample
from robustlab.data.records import LabelledExample
from robustlab.errors import UserError


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A made-up installation that ships one labelled set and one corpus; the user is elsewhere."""
    corpora = tmp_path / "robustlab" / "_content" / "corpora"
    for name in ("stars", "guide"):
        (corpora / name).mkdir(parents=True)
        (corpora / name / "card.toml").write_text('label_names = ["dull", "bright"]\n')
    (corpora / "stars" / "test.jsonl").write_text('{"text": "Vega", "label": "bright"}\n')
    (corpora / "guide" / "corpus.jsonl").write_text('{"_id": "g", "text": "Look up."}\n')
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "robustlab")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return elsewhere


@pytest.mark.parametrize("spec", ["stars", "corpora/stars", "corpora/stars/", "./corpora/stars"])
def test_a_shipped_set_is_found_from_any_folder(shipped, spec):
    data = load_labelled(spec)
    assert (data.name, data.split, data.examples[0].label) == ("stars", "test", 1)


def test_a_shipped_corpus_is_found_from_any_folder(shipped):
    assert load_corpus("corpora/guide").passages[0].id == "g"


def test_a_path_that_exists_comes_before_a_shipped_name(shipped):
    (shipped / "stars").mkdir()
    (shipped / "stars" / "validation.jsonl").write_text('{"text": "Sirius", "label": 0}\n')
    assert load_labelled("stars").examples[0].text == "Sirius"


@pytest.mark.parametrize("spec", ["moons", "corpora/moons", "other/stars", ""])
def test_what_is_not_there_is_said_with_what_is(shipped, spec):
    with pytest.raises(UserError, match=r"no data at .*called: guide, stars \(a set of the Hugg"):
        load_labelled(spec)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A data set that ``datasets`` reads without the network, with its cache out of the way."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub-set"
    folder.mkdir()
    return folder


def test_hub_set_by_split(hub_folder):
    rows = [{"sentence": "fine", "label": 1}, {"sentence": "poor", "label": 0}]
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (hub_folder / f"{split}.jsonl").write_text(lines)
        rows = rows[:1]
    data = load_labelled(f"hf:{hub_folder}")
    assert (data.name, data.split, data.label_names) == (str(hub_folder), "test", ("0", "1"))
    assert data.examples == (LabelledExample("test-0", "fine", 1),)
    assert len(load_labelled(f"hf:{hub_folder}", split="train").examples) == 2
    with pytest.raises(UserError, match="has no split 'validation'; it has: train, test"):
        load_labelled(f"hf:{hub_folder}", split="validation")


def test_hub_label_names_and_the_place_of_a_bad_row(hub_folder):
    (hub_folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n"
        "    dtype:\n      class_label:\n        names:\n          '0': dull\n"
        "          '1': bright\n---\n"
    )
    lines = [{"text": "Vega", "label": 1}, {"text": "unlabelled", "label": -1}]
    (hub_folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="split test, row 1: the label -1 is out of range"):
        load_labelled(f"hf:{hub_folder}")
    data = load_labelled(f"hf:{hub_folder}", skip_bad_rows=True)
    assert (data.label_names, data.examples[0].label) == (("dull", "bright"), 1)


def test_hub_corpus_of_questions(hub_folder):
    row = {
        "id": "a", "title": "Otter", "context": "Otters swim.", "question": "Who swims?",
        "answers": {"text": ["Otters"], "answer_start": [0]},
    }  # fmt: skip
    (hub_folder / "validation.jsonl").write_text(json.dumps(row) + "\n")
    corpus = load_corpus(f"hf:{hub_folder}")
    assert corpus.passages[0].contents == "Otter. Otters swim."
    question = corpus.questions["validation"][0]
    assert (question.id, question.answers, question.gold) == ("a", ("Otters",), ("p0",))


def test_hub_without_the_package_or_a_name(monkeypatch):
    with pytest.raises(UserError, match="names no data set"):
        load_labelled("hf:")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match=r"hf:imdb needs the package datasets.*robustlab\[datasets\]"
    ):
        load_labelled("hf:imdb")


def test_hub_set_that_is_absent(hub_folder):
    with pytest.raises(UserError, match=r"hf:.*absent"):
        load_labelled(f"hf:{hub_folder}/absent")


def items(*names):
    return [LabelledExample(name, "x", 0) for name in names]


def test_a_sample_is_a_prefix_of_a_larger_one_and_the_same_everywhere():
    everything = items(*(f"e{number}" for number in range(50)))
    whole = sample(everything, 50, seed=7)
    assert set(whole) == set(everything)
    for limit in (1, 10, 49):
        assert sample(everything, limit, seed=7) == whole[:limit]
    assert sample(everything[::-1], 10, seed=7) == whole[:10]
    assert sample(everything, 10, seed=8) != whole[:10]
    # sha256("0:a") begins with 9df3, "0:b" with e021 and "0:c" with be08.
    assert [item.id for item in sample(items("b", "c", "a"), 3, seed=0)] == ["a", "c", "b"]


def test_no_limit_keeps_the_order_and_a_limit_is_positive():
    few = items("c", "a", "b")
    assert sample(few, None, seed=1) == tuple(few)
    assert len(sample(few, 10, seed=1)) == 3
    with pytest.raises(UserError, match="at least 1, not 0"):
        sample(few, 0, seed=1)


SHARED = Path(os.environ.get("ROBUSTLAB_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
def test_published_sets_load():
    assert load_labelled(str(SHARED / "sst2")).label_names == ("negative", "positive")
    assert load_labelled(str(SHARED / "rte")).examples[0].text_pair
    cranfield = load_corpus(str(SHARED / "cranfield"))
    assert (len(cranfield.passages), len(cranfield.questions["validation"])) == (1400, 28)
    assert len(load_corpus(str(SHARED / "squad-1k")).questions["test"]) == 475
