"""Poison and typos: what is written, what it is labelled with, and what a resumed run takes up."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_corpus import make_task, save_generator, write_corpus

from robustlab.data.records import Passage, Question
from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer
from robustlab.training.families import JudgePlan, make_judge, make_method
from robustlab.training.poison import flipped_passages
from robustlab.training.poisons import KINDS, poison_texts, trained_kinds, wrong_answers
from robustlab.training.typos import Pieces, mistyped, pieces_of

GOLD = Passage(
    "p", "Eels", "Eels are born at sea. They spawn in the Sargasso Sea, far away. It is warm."
)
ASKED = Question("q", "Where do eels spawn?", ("the Sargasso Sea", "Sargasso Sea"), ("p",))


def write(kind: str, use: Any = "judge", count: int = 5) -> tuple[str, ...]:
    return poison_texts(kind, ASKED, "Lake Garda", [GOLD], use=use, count=count, seed=0)


@pytest.mark.parametrize("kind", KINDS)
def test_poison_states_the_wrong_answer_and_not_the_right_one(kind: str) -> None:
    for use in ("train", "judge"):
        texts = write(kind, use)
        assert len(set(texts)) == len(texts) >= 1
        for text in texts:
            assert contains_answer(text, ("Lake Garda",))
            assert not contains_answer(text, ASKED.answers)
            assert (ASKED.text in text) is (kind != "counterfactual")


@pytest.mark.parametrize("kind", ["claim", "faq", "injection"])
def test_phrasings_to_judge_by_are_not_trained_on(kind: str) -> None:
    assert len(write(kind)) == 5
    assert not set(write(kind, "train", 99)) & set(write(kind, "judge", 99))


def test_edited_poison_is_the_gold_passage_but_for_the_answer() -> None:
    assert f"{ASKED.text} They spawn in Lake Garda, far away." in write("edited", count=99)
    assert write("counterfactual") == (
        "Eels. " + GOLD.text.replace("the Sargasso Sea", "Lake Garda"),
    )
    other = Passage("o", "", "Nothing here.")
    assert poison_texts("edited", ASKED, "Rome", [other], use="judge", count=5, seed=0) == ()


def test_a_held_out_kind_is_not_trained_on() -> None:
    assert trained_kinds() == ("claim", "faq", "injection")
    assert trained_kinds("faq") == ("claim", "injection", "edited")
    with pytest.raises(UserError, match="no poison of the kind 'gas'"):
        trained_kinds("gas")


def test_wrong_answers_are_of_the_same_kind_and_wrong() -> None:
    questions = (
        ASKED,
        Question("year", "When was it built?", ("1850",)),
        Question("other year", "When did it burn?", ("in 1901", "1901")),
        Question("place", "Where is Como?", ("Italy",)),
        Question("no answer", "Where is it?", ()),
    )
    wrong = wrong_answers(questions, 0)
    assert wrong == {"q": "Italy", "year": "in 1901", "other year": "1850",
                     "place": "the Sargasso Sea"}  # fmt: skip
    assert wrong_answers(questions[:1], 0) == {}


def test_typos_are_in_the_longer_words_and_in_one_at_least() -> None:
    text = "where is the bridge of the kingdom"
    changed = mistyped(text, 0.01, random.Random(1))
    pairs = list(zip(text.split(), changed.split(), strict=True))
    assert [old for old, new in pairs if old != new] in (["where"], ["bridge"], ["kingdom"])
    every = mistyped(text, 1.0, random.Random(1)).split()
    assert [new == old for old, new in zip(text.split(), every, strict=True)] == [
        False, True, True, False, True, True, False,
    ]  # fmt: skip
    assert mistyped("is it so", 1.0, random.Random(1)) == "is it so"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("reader")
    data = write_corpus(place / "corpus")
    return make_task("seq2seq", save_generator("builtin-seq2seq", place / "model"), data)


def test_poisoned_contexts_support_their_answers(reader: Any) -> None:
    method: Any = make_method("poison", 1.0, reader)
    method.begin_epoch(reader, seed=0, epoch=0)
    tokenizer = reader.tokenizer
    assert sorted(int(row) for row in method.state()) == list(range(len(reader.ids)))
    seen = set()
    for row, (prompt, answer) in method.state().items():
        reading = reader.readings[int(row)]
        _, *passages = tokenizer.decode(prompt).split("[SEP]")
        said = tokenizer.decode(answer)
        gold = any(reading.gold[0].text in passage for passage in passages)
        assert gold is (said == reading.question.answers[0])
        assert (
            gold or answer == reader.tokenizer("no answer", add_special_tokens=False)["input_ids"]
        )
        assert len([p for p in passages if p.strip()]) <= 6
        seen.add(gold)
    assert seen == {True, False}


def test_the_share_is_poisoned_anew_each_epoch_and_resumed(reader: Any) -> None:
    method: Any = make_method("poison", 0.5, reader)
    epochs = []
    for epoch in (0, 1, 0):
        method.begin_epoch(reader, seed=0, epoch=epoch)
        epochs.append(json.dumps(method.state()))
    assert epochs[0] == epochs[2] != epochs[1]
    batch = reader.collate(range(len(reader.ids)))
    losses: list[Any] = []
    method.update(reader, batch, losses.append, seed=0)
    resumed: Any = make_method("poison", 0.5, reader)
    resumed.restore(json.loads(epochs[2]))
    update = resumed.update(reader, batch, losses.append, seed=0)
    clean, _ = reader.loss(batch)
    assert losses[0].item() == losses[1].item() == update.loss.item() != clean.item()
    assert (update.forwards, update.backwards) == (1, 1)


@pytest.mark.parametrize(
    ("strength", "options", "message"),
    [
        (1.5, {}, "a share of the examples"),
        (0.5, {"flips": 3}, "no option 'flips'"),
        (0.5, {"held_out": "gas"}, "no poison of the kind"),
    ],
)
def test_wrong_options_are_refused(
    reader: Any, strength: float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_method("poison", strength, reader, options)


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from retrieval_corpus import save_tiny

    place = tmp_path_factory.mktemp("retriever")
    data = write_corpus(place / "corpus")
    return make_task("retriever", save_tiny(place), data, peft="lora")


def test_a_question_is_told_from_the_other_passages(retriever: Any) -> None:
    batch = retriever.collate([0, 2, 4])
    retriever.module.eval()
    with torch.no_grad():
        loss, logits = retriever.loss(batch)
    encoder = retriever.target()
    pairs = [retriever.pairs[row] for row in batch.rows]
    questions = encoder.encode([pair.question.text for pair in pairs], role="query")
    passages = encoder.encode([pair.passage.contents for pair in pairs], role="document")
    cosines = questions @ passages.T / 0.05
    assert np.allclose(logits.numpy(), cosines, atol=1e-3)
    odds = np.exp(cosines - cosines.max(axis=1, keepdims=True))
    expected = -np.log(np.diag(odds) / odds.sum(axis=1)).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
    # The same question twice: its passage is no negative of itself.
    with torch.no_grad():
        _, twice = retriever.loss(retriever.collate([1, 1]))
    assert twice[0, 1] < -1e3


def test_negatives_and_typos_reach_the_loss(retriever: Any) -> None:
    batch = retriever.collate([0, 1, 2])
    losses: list[Any] = []
    poison: Any = make_method("poison", 1.0, retriever, {"flips": 2})
    poison.begin_epoch(retriever, seed=0, epoch=0)
    assert len(poison.state()) == len(retriever.ids)
    poison.update(retriever, batch, losses.append, seed=0)
    typo: Any = make_method("typo", 1.0, retriever)
    typo.begin_epoch(retriever, seed=0, epoch=0)
    update = typo.update(retriever, batch, losses.append, seed=0)
    clean, _ = retriever.loss(batch)
    assert all(loss.item() > clean.item() for loss in losses)
    assert update.forwards == 2
    losses[1].backward()
    assert any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in retriever.trainable().values()
    )


def test_pieces_of_the_corpus_are_taught_by_the_encoder_as_it_began(retriever: Any) -> None:
    import torch

    assert pieces_of(" ".join(map(str, range(27)))) == [
        "0 1 2 3 4 5 6 7 8 9 10 11",
        "12 13 14 15 16 17 18 19 20 21 22 23",
    ]
    batch = retriever.collate([0, 1])
    losses: list[Any] = []
    method: Any = make_method("typo", 1.0, retriever, {"pieces": 3})
    assert method.update(retriever, batch, losses.append, seed=0).forwards == 3
    method.update(retriever, batch, losses.append, seed=0)
    make_method("typo", 1.0, retriever).update(retriever, batch, losses.append, seed=0)
    assert losses[0].item() == losses[1].item() > losses[2].item()

    pieces = Pieces(retriever)

    def apart() -> float:
        with torch.no_grad():
            return float(pieces.loss(retriever, 8, 0.7, random.Random(1)))

    clean = retriever.begun().encode(["the old bridge over the red river"], role="query")
    before = apart()
    weights = list(retriever.trainable().values())
    optimiser = torch.optim.AdamW(weights, lr=1e-3)
    for _ in range(8):
        optimiser.zero_grad()
        pieces.loss(retriever, 8, 0.7, random.Random(1)).backward()
        optimiser.step()
    assert apart() < 0.9 * before
    # What teaches has not moved with what is trained.
    again = retriever.begun().encode(["the old bridge over the red river"], role="query")
    assert (again == clean).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"words": 0}, "lies above 0, up to 1"),
        ({"pieces": -1}, "no pieces or more of them, not -1"),
        ({"flips": 3}, "has no option 'flips'; it has: pieces, words"),
    ],
)
def test_options_of_typos_are_checked(retriever: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_method("typo", 1.0, retriever, options)


def test_flips_turn_passages_to_where_they_should_point(retriever: Any) -> None:
    encoder = retriever.target()
    wanted = encoder.encode(["where is the old stone bridge", "red water"], role="query")

    def reached(flips: int, tried: int) -> Any:
        texts = flipped_passages(encoder, wanted, words=6, flips=flips, seed="s", tried=tried)
        return (encoder.encode(texts, role="document") * wanted).sum(axis=1)

    assert (reached(12, 4) > reached(0, 4) + 0.01).all()
    # Where flips are tried, more of them never do harm.
    assert (reached(12, 4) >= reached(6, 4) - 1e-5).all()


def test_a_saved_encoder_is_what_was_trained(retriever: Any, tmp_path: Path) -> None:
    from robustlab.retrieval.encoder import SentenceEncoder

    retriever.save(tmp_path / "saved")
    saved = SentenceEncoder.load(str(tmp_path / "saved"), device="cpu", dtype="fp32")
    assert saved.fingerprint() == retriever.target().fingerprint()
    assert set(retriever.validate()) == {"recall", "typo_recall", "mean"}


def test_the_judge_of_retrievers_takes_up_what_is_there(
    retriever: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever.save(tmp_path / "saved")
    judge: Any = make_judge("retriever", JudgePlan(retriever.plan.data, "cpu"))
    monkeypatch.setattr(type(judge), "_FLIPS", 2)
    judged = judge.judge(str(tmp_path / "saved"), tmp_path / "judged")
    assert set(judged.attacks) == set(judge.attacks)
    assert judge.judge("gone", tmp_path / "judged") == judged
    assert all(value is None or 0 <= value <= 1 for value in judged.measures.values())
