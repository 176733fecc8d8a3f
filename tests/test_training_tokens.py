"""Training examples attacked as text: they hurt, keep their limits, and are shown as attacked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_corpus import make_task, save_generator, write_corpus
from training_tiny import FILLER, TELLING, tiny_task

from robustlab.attack.constraints import Constraints
from robustlab.attack.words import Words, edits
from robustlab.errors import UserError
from robustlab.models.target import Predict
from robustlab.training.families import make_method
from robustlab.training.tokens import (
    Flipped,
    GradientRanked,
    Misspelt,
    TokenMaximisation,
    _examples,
    attack_texts,
    training_methods,
)

WORDS = tuple(dict.fromkeys([*FILLER, *(word for telling in TELLING for word in telling)]))


@dataclass(frozen=True)
class AnyWord:
    """Every word of the tiny vocabulary may stand for every other."""

    def __call__(self, words: Words, position: int, rng: np.random.Generator) -> Sequence[str]:
        return [word for word in WORDS if word != words.words[position]]


RANKED = GradientRanked("any", Constraints(max_edit_rate=0.3), (AnyWord(),))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_task(tmp_path_factory.mktemp("tiny"))


def attacked(task: Any, rows: range, method: Any = RANKED, **more: Any) -> list[Any]:
    examples = _examples(task, rows)
    return attack_texts(task.target(), examples, [method] * len(rows), seed=0, **more)


def test_attacked_examples_are_never_easier_and_keep_the_limit(task: Any) -> None:
    rows = range(len(task.ids))
    texts = attacked(task, rows)
    target = task.target()
    worse = 0
    for row, text in zip(rows, texts, strict=True):
        example = task.examples[row]
        assert edits(example.text, text) <= max(1, int(0.3 * len(example.text.split())))
        clean, after = target.answer(Predict((example.text, text))).probabilities[:, example.label]
        assert after <= clean + 1e-5
        worse += after < clean - 1e-3
    assert worse > 10


def test_examples_that_are_wrong_already_stay_as_they_are(task: Any) -> None:
    rows = range(len(task.ids))
    labels = task.target().answer(Predict(tuple(e.text for e in task.examples))).labels
    for row, text in zip(rows, attacked(task, rows), strict=True):
        if labels[row] != task.examples[row].label:
            assert text == task.examples[row].text


def test_many_at_once_find_what_one_at_a_time_finds(task: Any) -> None:
    rows = range(12)
    assert attacked(task, rows) == attacked(task, rows, concurrency=1)


def test_the_shipped_methods_rank_and_keep_stopwords() -> None:
    assert [method.name for method in training_methods("a2t")] == ["a2t"]
    assert [method.name for method in training_methods("hotflip")] == ["hotflip"]
    mixed = training_methods("mixed")
    assert [method.name for method in mixed] == ["a2t", "hotflip", "look-alikes", "slips"]
    some = training_methods("mixed", kinds=["slips", "a2t"])
    assert [method.name for method in some] == ["a2t", "slips"]
    assert not mixed[0].constraints.may_change(["not", "The", "film"])[:2].any()


def test_the_worst_of_some_misspelt_texts_is_shown(task: Any) -> None:
    rows = range(24)

    def losses(method: Misspelt) -> list[float]:
        target = task.target()
        found = []
        for row, text in zip(rows, attacked(task, rows, method), strict=True):
            own = task.examples[row]
            old, new = own.text.split(), text.split()
            assert len(old) == len(new)
            assert all(a == b or len(a) > 1 for a, b in zip(old, new, strict=True))
            found.append(-float(target.answer(Predict((text,))).probabilities[0, own.label]))
        return found

    slips = training_methods("mixed")[3]
    assert isinstance(slips, Misspelt)
    one, many = losses(replace(slips, draws=1)), losses(replace(slips, draws=16))
    assert np.mean(many) > np.mean(one) + 0.01


def test_the_worst_of_some_joint_substitutions_is_shown(task: Any) -> None:
    rows = range(len(task.ids))
    flips = replace(
        training_methods("hotflip", max_edit_rate=0.5, min_cosine=None)[0],
        constraints=Constraints(max_edit_rate=0.5),
    )
    assert isinstance(flips, Flipped)
    target = task.target()

    def losses(method: Flipped) -> list[float]:
        found = []
        for row, text in zip(rows, attacked(task, rows, method), strict=True):
            own = task.examples[row]
            assert edits(own.text, text) <= max(1, int(0.5 * len(own.text.split())))
            found.append(-float(target.answer(Predict((text,))).probabilities[0, own.label]))
        return found

    clean = [
        -float(target.answer(Predict((task.examples[row].text,))).probabilities[0, label])
        for row, label in enumerate(one.label for one in task.examples)
    ]
    one, many = losses(replace(flips, draws=1)), losses(replace(flips, draws=16))
    # The gradient proposes well at once, and of more texts the worst is worse.
    assert np.mean(clean) + 0.01 < np.mean(one) < np.mean(many)
    assert attacked(task, rows, flips) == attacked(task, rows, flips, concurrency=3)


def test_a_task_behind_repairs_reads_and_attacks_what_is_repaired(
    task: Any, tmp_path: Path
) -> None:
    behind = tiny_task(tmp_path, defense=("unicode-normalise", "typo-repair"))
    texts = ["the f\N{CYRILLIC SMALL LETTER I}lm was godo"]
    meant = ["the film was good"]
    batch = behind.collate([0])
    for name, tensor in behind.perturbed(batch, meant).inputs.items():
        assert torch.equal(behind.perturbed(batch, texts).inputs[name], tensor), name
    said = behind.target().answer(Predict((texts[0], meant[0]))).probabilities
    assert said[0].tolist() == pytest.approx(said[1].tolist())


def shown(method: TokenMaximisation, task: Any, *rows: int) -> dict[int, Any]:
    """What is attacked once these rows have been trained on."""
    method.update(task, task.collate(rows), lambda loss: None, seed=0)
    return dict(method.texts)


def test_the_share_is_attacked_anew_each_epoch(task: Any) -> None:
    method = TokenMaximisation("a2t", 0.5, [RANKED])
    seen = []
    for epoch in (0, 1, 0):
        before = task.target().fingerprint()
        method.begin_epoch(task, seed=3, epoch=epoch)
        assert method.texts == {}
        seen.append(shown(method, task, 0))
        assert task.target().fingerprint() == before
    assert seen[0] == seen[2] != seen[1]
    assert 0.3 < len(seen[0]) / len(task.ids) < 0.7


def test_a_few_batches_are_attacked_at_a_time_by_the_model_as_it_is(
    task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustlab.training.tokens.REFRESH", 2)
    batches = task.batches(0, 0)
    assert len(batches) > 3
    method = TokenMaximisation("a2t", 1.0, [RANKED])
    method.begin_epoch(task, seed=0, epoch=0)
    first = shown(method, task, *batches[0])
    assert set(first) == {*batches[0], *batches[1]}
    weight = next(iter(task.trainable().values()))
    with torch.no_grad():
        weight.mul_(1.5)
    try:
        assert shown(method, task, *batches[1]) == first
        assert set(shown(method, task, *batches[2])) == {*batches[2], *batches[3]}
    finally:
        with torch.no_grad():
            weight.div_(1.5)


def test_a_batch_is_shown_as_attacked_and_a_resumed_run_sees_the_same(task: Any) -> None:
    method = TokenMaximisation("a2t", 1.0, [RANKED])
    method.begin_epoch(task, seed=0, epoch=0)
    batch = task.collate(range(8))
    task.module.eval()
    clean, _ = task.loss(batch)
    losses: list[Any] = []
    update = method.update(task, batch, losses.append, seed=0)
    resumed = TokenMaximisation("a2t", 1.0, [RANKED])
    resumed.restore(json.loads(json.dumps(method.state())))
    assert resumed.texts == method.texts
    resumed.update(task, batch, losses.append, seed=0)
    assert losses[0].item() == losses[1].item() > clean.item()
    assert (update.forwards, update.backwards) == (1, 1)


def test_static_examples_are_made_once(task: Any) -> None:
    method = TokenMaximisation("augment", 0.5, [RANKED], static=True)
    method.begin_epoch(task, seed=0, epoch=0)
    first = dict(method.texts)
    method.begin_epoch(task, seed=0, epoch=1)
    assert dict(method.texts) == first != {}


def test_an_earlier_run_gives_examples(task: Any, tmp_path: Path) -> None:
    from robustlab.attack import attack

    folder, data = Path(task.plan.spec), task.plan.data
    for split in ("train", "test"):
        attack(target_spec=str(folder), data_spec=data, recipe=["typo-noise"], split=split,
               limit=30, device="cpu", out=tmp_path / split)  # fmt: skip
    with pytest.raises(UserError, match="--split train"):
        make_method("augment", 1.0, task, {"run": str(tmp_path / "test")})
    method: Any = make_method("augment", 1.0, task, {"run": str(tmp_path / "train")})
    method.begin_epoch(task, seed=0, epoch=0)
    assert method.texts
    for row, text in method.texts.items():
        assert text != task.examples[row].text


@pytest.mark.parametrize(
    ("name", "strength", "options", "message"),
    [
        ("a2t", 1.5, {}, "a share of the examples"),
        ("a2t", 0.5, {"run": "x"}, "no option 'run'"),
        ("a2t", 0.5, {"recipe": "universal-trigger"}, "writes no text for each example"),
        ("augment", 0.5, {"recipe": "quick"}, "is a suite"),
        ("augment", 0.5, {"recipe": "pgd"}, "writes no text for each example"),
        ("a2t", 0.5, {"max_edit_rate": 0}, "max_edit_rate above 0"),
        ("hotflip", 0.5, {"neighbours": 3}, "no option 'neighbours'"),
        ("mixed", 0.5, {"draws": 0}, "at least one draw"),
        ("mixed", 0.5, {"kinds": ["a2t", "typos"]}, "a list of some of a2t, hotflip, look-alikes"),
        ("mixed", 0.5, {"kinds": "a2t"}, "not 'a2t'"),
        ("mixed", 0.5, {"kinds": []}, "not \\[\\]"),
        ("mixed", 0.5, {"kinds": 3}, "not 3"),
        ("hotflip", 0.5, {"kinds": ["a2t"]}, "no option 'kinds'"),
    ],
)
def test_wrong_options_are_refused(
    task: Any, name: str, strength: float, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_method(name, strength, task, options)


def test_a_readers_question_is_attacked(tmp_path: Path) -> None:
    data = write_corpus(tmp_path / "corpus")
    reader = make_task("causal", save_generator("builtin-causal", tmp_path / "model"), data)
    method = TokenMaximisation("a2t", 1.0, [RANKED])
    method.begin_epoch(reader, seed=0, epoch=0)
    losses: list[Any] = []
    method.update(reader, reader.collate([0, 1]), losses.append, seed=0)
    assert len(method.texts) == len(reader.ids)
    assert losses[0].isfinite()
