"""Readers as tasks: their loss is the target's own, and what is saved is what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training_corpus import make_task, save_generator, write_corpus

from robustlab.data.corpus import load_corpus
from robustlab.errors import UserError
from robustlab.metrics.answers import contains_answer
from robustlab.models.load import load_target
from robustlab.models.target import Score, Scores
from robustlab.training.families import JudgePlan
from robustlab.training.readers import NO_ANSWER, make_judge, readings
from robustlab.training.tasks import Task

MODELS = ("builtin-seq2seq", "builtin-causal", "t5", "llama")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus")


def task_of(name: str, place: Path, data: Path, **plan: Any) -> Any:
    folder = save_generator(name, place / name)
    kind = "seq2seq" if name in ("builtin-seq2seq", "t5") else "causal"
    return make_task(kind, folder, data, **plan)


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_is_what_the_target_scores(name: str, tmp_path: Path, data: Path) -> None:
    task = task_of(name, tmp_path, data)
    assert isinstance(task, Task)
    task.module.eval()
    batch = task.collate([0, 3, 5])
    with torch.no_grad():
        loss, logits = task.loss(batch)
    shown = [task.readings[row] for row in batch.rows]
    target = task.target()
    from robustlab.models.prompt import default_prompt

    template = default_prompt(target)
    scores = target.answer(
        Score(
            tuple(template.render(one.question.text, one.context) for one in shown),
            tuple(one.answer for one in shown),
        )
    )
    assert isinstance(scores, Scores)
    assert loss.item() == pytest.approx(float((-scores.log_probs / scores.tokens).mean()), rel=1e-4)
    assert logits.shape[0] == scores.tokens.sum()
    # Logits are of the very distribution that the loss is taken from.
    kept = batch.inputs["kept"].bool()
    answers = batch.inputs["answers"][kept]
    each = -logits.log_softmax(-1).gather(1, answers.unsqueeze(1)).squeeze(1)
    means = [part.mean() for part in each.split(batch.inputs["kept"].sum(1).tolist())]
    assert torch.stack(means).mean().item() == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_shifts_move_the_prompt_and_reach_the_loss(name: str, tmp_path: Path, data: Path) -> None:
    task = task_of(name, tmp_path, data)
    batch = task.collate([1, 2])
    embeddings, mask = task.embeddings(batch)
    assert embeddings.shape[:2] == mask.shape
    # No special token, no padding and no token of the answer may be moved.
    assert 0 < mask.sum() < batch.inputs["mask"].sum()
    shifts = torch.zeros_like(embeddings).requires_grad_(True)
    loss, _ = task.loss(batch, shifts)
    loss.backward()
    assert shifts.grad is not None
    assert (shifts.grad.abs().sum(-1) * mask).sum() > 0
    assert all(p.grad is not None for p in task.trainable().values() if p.dim() > 1)
    with torch.no_grad():
        assert task.loss(batch, torch.zeros_like(embeddings))[0] == pytest.approx(loss.item())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_what_was_trained(name: str, tmp_path: Path, data: Path) -> None:
    task = task_of(name, tmp_path, data, peft="lora")
    before = task.target().fingerprint()
    task.module.train()
    optimiser = torch.optim.SGD(task.trainable().values(), lr=0.1)
    for _ in range(2):  # the first step of LoRA moves one factor only
        task.loss(task.collate([0, 1]))[0].backward()
        optimiser.step()
    assert task.module.training
    task.save(tmp_path / "saved")
    saved = load_target(str(tmp_path / "saved"), device="cpu", dtype="fp32")
    assert saved.fingerprint() == task.target().fingerprint() != before


def test_contexts_hold_the_gold_passage_or_the_answer_is_none(data: Path) -> None:
    corpus = load_corpus(str(data))
    questions = corpus.questions["train"]
    shown = readings(corpus, questions, 0, missing=0.5)
    assert {one.answer == NO_ANSWER for one in shown} == {True, False}
    own = {key for question in questions for key in question.gold}
    for one in shown:
        right = any(contains_answer(p.contents, one.question.answers) for p in one.context)
        assert right is (one.answer != NO_ANSWER)
        # Passages of other splits are not shown, nor those that no question is about.
        assert {p.id for p in one.context} <= own
        assert len({p.id for p in one.context}) == len(one.context)


def test_questions_are_rewritten_in_their_own_contexts(tmp_path: Path, data: Path) -> None:
    task = task_of("builtin-seq2seq", tmp_path, data)
    batch = task.collate([0, 1])
    same = task.perturbed(batch, task.texts(batch))
    assert torch.equal(same.inputs["ids"], batch.inputs["ids"])
    other = task.perturbed(batch, ["where is the light", str(task.texts(batch)[1])])
    assert torch.equal(other.inputs["answers"], batch.inputs["answers"])
    assert not torch.equal(other.inputs["ids"][0], batch.inputs["ids"][0])
    (example,) = task.attack_examples([0])
    asked = example.goal.question([example.text])
    clean = task.target().backend.encode_prompts(asked.prompts)[0].ids
    assert clean == task.tokens([0])[0].prompt


def test_validation_leaves_the_module_alone(tmp_path: Path, data: Path) -> None:
    task = task_of("builtin-causal", tmp_path, data)
    task.module.train()
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    measures = task.validate()
    assert task.module.training
    assert all(torch.equal(before[n], value) for n, value in task.module.state_dict().items())
    assert set(measures) == {"exact_match", "poisoned_exact_match", "not_misled", "mean"}
    assert all(0 <= value <= 1 for value in measures.values())
    assert measures["mean"] == pytest.approx(
        (measures["exact_match"] + measures["poisoned_exact_match"]) / 2
    )


def test_splits_that_are_needed_are_asked_for(tmp_path: Path, data: Path) -> None:
    import shutil

    lacking = tmp_path / "lacking"
    shutil.copytree(data, lacking)
    (lacking / "qrels" / "validation.tsv").unlink()
    with pytest.raises(UserError, match="no validation split"):
        task_of("builtin-seq2seq", tmp_path, lacking)


def test_adapters_that_a_reader_cannot_keep_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match="cannot be saved with a built-in reader"):
        task_of("builtin-seq2seq", tmp_path, data, peft="adapter")


def test_the_judge_counts_who_is_misled(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval_corpus import save_tiny as save_encoder

    from robustlab.retrieval.encoder import SentenceEncoder

    encoder = SentenceEncoder.load(str(save_encoder(tmp_path / "encoder")), device="cpu")
    monkeypatch.setattr(SentenceEncoder, "load", lambda *args, **kwargs: encoder)
    folder = save_generator("builtin-seq2seq", tmp_path / "reader")
    judge = make_judge(JudgePlan(str(data), "cpu", suite="claim,edited", dtype="fp32"))
    assert judge.attacks == ("claim-1", "claim-5", "edited-1", "edited-5")
    judged = judge.judge(str(folder), tmp_path / "judged")
    assert set(judged.clean) == {"q8", "q9"}
    for key, right in judged.robust.items():
        assert right == all(verdicts[key] for verdicts in judged.attacks.values())
    assert judge.judge("no model is loaded again", tmp_path / "judged") == judged
    with pytest.raises(UserError, match="no poison of the kind"):
        make_judge(JudgePlan(str(data), "cpu", suite="standard"))
