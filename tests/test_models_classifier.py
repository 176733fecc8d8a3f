"""Classifiers of every architecture: what they answer, and that a text's answer is its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSIFIERS, TEXTS, bert_tokenizer, save_tiny, tiny_model, tiny_tokenizer

from robustlab.errors import UserError
from robustlab.models.classifier import ClassifierTarget
from robustlab.models.load import load_target
from robustlab.models.target import (
    FloatArray,
    Generate,
    Gradient,
    Gradients,
    Predict,
    Predictions,
    Target,
    TextInput,
    TokenGradient,
)

CPU = torch.device("cpu")
LONG = " ".join(TEXTS) + " " + " ".join(TEXTS)
PAIRS: tuple[TextInput, ...] = (("the old bridge", "a new road"), ("a river", "water in the town"))
MIXED: tuple[TextInput, ...] = (*TEXTS, "", LONG, *PAIRS)
GOALS = (0, 1, 2, 0, 1, 2, 0, 1, 2)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Target]:
    loaded: dict[str, Target] = {}

    def get(name: str) -> Target:
        if name not in loaded:
            folder = save_tiny(name, tmp_path_factory.mktemp(name))
            loaded[name] = load_target(str(folder), device="cpu", dtype="fp32", batch_tokens=1024)
        return loaded[name]

    return get


def predict(target: Target, *texts: TextInput) -> np.ndarray[Any, Any]:
    response = target.answer(Predict(texts))
    assert isinstance(response, Predictions)
    return response.probabilities


def gradients(target: Target, texts: tuple[TextInput, ...], goals: tuple[int, ...]) -> Gradients:
    response = target.answer(Gradient(texts, goals))
    assert isinstance(response, Gradients)
    return response


def target_of(name: str, **config: Any) -> ClassifierTarget:
    tokenizer = tiny_tokenizer(name)
    model = tiny_model(name, len(tokenizer))
    for key, value in config.items():
        setattr(model.config, key, value)
    return ClassifierTarget("tiny", model, tokenizer, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_answers_every_request(load: Callable[[str], Target], name: str) -> None:
    target = load(name)
    assert isinstance(target, Target)
    assert target.kind == "classifier"
    assert target.label_names == ("negative", "neutral", "positive")
    assert target.answers == {Predict, Gradient}
    before = target.fingerprint()
    probabilities = predict(target, *MIXED)
    assert probabilities.shape == (len(MIXED), 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.ptp(probabilities, axis=0).max() > 0.01, "every text got the same answer"
    items = gradients(target, MIXED, GOALS).items
    for row, item in enumerate(items):
        tokens = len(item.token_ids)
        assert item.gradient.shape == (tokens, 16 if name == "albert" else 32)
        assert item.gradient.dtype == np.float32
        assert len(item.offsets) == tokens
        assert item.loss == pytest.approx(-np.log(probabilities[row, GOALS[row]]), abs=1e-4)
        assert np.abs(item.gradient).max() > 0
    with pytest.raises(TypeError, match="does not answer Generate"):
        target.answer(Generate(("a",)))
    assert target.fingerprint() == before


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_an_answer_does_not_depend_on_the_batch(load: Callable[[str], Target], name: str) -> None:
    target = load(name)
    together = predict(target, *MIXED)
    items = gradients(target, MIXED, GOALS).items
    for row in (0, 2, 5, 6, 7):
        text = MIXED[row]
        np.testing.assert_allclose(predict(target, text)[0], together[row], atol=1e-5)
        alone = gradients(target, (text,), (GOALS[row],)).items[0]
        np.testing.assert_allclose(alone.gradient, items[row].gradient, atol=1e-5)
        assert alone.loss == pytest.approx(items[row].loss, abs=1e-5)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_gradient_agrees_with_a_finite_difference(load: Callable[[str], Target], name: str) -> None:
    target = load(name)
    assert isinstance(target, ClassifierTarget)
    text, goal, step = TEXTS[0], 1, 1e-2
    gradient = gradients(target, (text,), (goal,)).items[0].gradient
    token, axis = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
    layer = target._model.get_input_embeddings()

    def loss(shift: float) -> float:
        def move(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            output = output.clone()
            output[0, token, axis] += shift
            return output

        handle = layer.register_forward_hook(move)
        try:
            return float(-np.log(predict(target, text)[0, goal]))
        finally:
            handle.remove()

    measured = (loss(step) - loss(-step)) / (2 * step)
    assert measured == pytest.approx(gradient[token, axis], rel=0.02)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_gradients_at_shifted_embeddings(load: Callable[[str], Target], name: str) -> None:
    """Along the gradient itself, at embeddings that are no token's."""
    target = load(name)
    texts, goals = (TEXTS[0], TEXTS[2], PAIRS[0]), (1, 0, 2)
    plain = gradients(target, texts, goals).items
    rng = np.random.default_rng(0)
    shifts = tuple(rng.normal(0, 0.2, item.gradient.shape).astype(np.float32) for item in plain)

    def at(moved: tuple[FloatArray, ...]) -> tuple[TokenGradient, ...]:
        response = target.answer(Gradient(texts, goals, moved))
        assert isinstance(response, Gradients)
        return response.items

    found = at(shifts)
    norms = [float(np.linalg.norm(item.gradient)) for item in found]
    steps = [0.01 * item.gradient / norm for item, norm in zip(found, norms, strict=True)]
    up = at(tuple(shift + step for shift, step in zip(shifts, steps, strict=True)))
    down = at(tuple(shift - step for shift, step in zip(shifts, steps, strict=True)))
    measured = [(one.loss - other.loss) / 0.02 for one, other in zip(up, down, strict=True)]
    assert measured == pytest.approx(norms, rel=0.02)
    for goal, item in zip(goals, found, strict=True):
        assert item.probabilities is not None
        assert item.loss == pytest.approx(-np.log(item.probabilities[goal]), abs=1e-4)

    unmoved = at(tuple(np.zeros_like(shift) for shift in shifts))
    for before, same, moved in zip(plain, unmoved, found, strict=True):
        assert same.loss == pytest.approx(before.loss, abs=1e-6)
        np.testing.assert_allclose(same.gradient, before.gradient, atol=1e-6)
        assert abs(moved.loss - before.loss) > 1e-3


def test_a_gradient_tells_the_probabilities_that_predict_does() -> None:
    target = target_of("bert")
    items = gradients(target, MIXED, GOALS).items
    told = np.stack([item.probabilities for item in items if item.probabilities is not None])
    np.testing.assert_allclose(told, predict(target, *MIXED), atol=1e-6)


def test_shifts_that_do_not_fit_are_refused() -> None:
    target = target_of("bert")
    zeros = np.zeros((5, 32), dtype=np.float32)
    with pytest.raises(ValueError, match="2 texts have 1 shifts"):
        target.answer(Gradient(("a bad film", "red"), (0, 1), (zeros,)))
    with pytest.raises(ValueError, match=r"shift 2 has shape \(5, 32\), but its text has 3 tokens"):
        target.answer(Gradient(("a bad film", "red"), (0, 1), (zeros, zeros)))
    with pytest.raises(ValueError, match=r"shape \(5, 8\), but its text has 5 tokens of width 32"):
        target.answer(Gradient(("a bad film",), (0,), (zeros[:, :8],)))


def test_predicts_what_the_model_itself_says() -> None:
    tokenizer = bert_tokenizer()
    model = tiny_model("bert", len(tokenizer))
    target = ClassifierTarget("tiny", model, tokenizer, device=CPU, dtype=torch.float32)
    for text in (TEXTS[2], PAIRS[0]):
        inputs = tokenizer(
            *([text] if isinstance(text, str) else text),
            return_tensors="pt",
            return_token_type_ids=True,
        )
        expected = model(**inputs).logits.softmax(-1).detach().numpy()
        np.testing.assert_allclose(predict(target, text), expected, atol=1e-6)


def test_offsets_point_into_the_text() -> None:
    target = target_of("bert")
    item = gradients(target, ("the  Good film",), (0,)).items[0]
    assert item.offsets == ((0, 0), (0, 3), (5, 9), (10, 14), (0, 0))
    pair = gradients(target, (("a film", "good"),), (0,)).items[0]
    assert pair.offsets == ((0, 0), (0, 1), (2, 6), (0, 0), (0, 4), (0, 0))


def test_the_two_texts_of_a_pair_are_told_apart() -> None:
    target = target_of("bert")
    there, back = predict(target, ("the river", "a road"), ("a road", "the river"))
    assert np.abs(there - back).max() > 1e-3


@pytest.mark.parametrize(("name", "limit"), [("bert", 64), ("roberta", 64)])
def test_long_texts_are_cut_at_the_models_limit(name: str, limit: int) -> None:
    """RoBERTa's 66 position embeddings hold 64 tokens."""
    target = target_of(name)
    target._tokenizer.model_max_length = 10**30
    fresh = ClassifierTarget(
        "tiny", target._model, target._tokenizer, device=CPU, dtype=torch.float32
    )
    kept = " ".join(["good"] * (limit - 2))
    item = gradients(fresh, (kept + " bad" * 500,), (0,)).items[0]
    assert len(item.token_ids) == limit
    np.testing.assert_allclose(predict(fresh, kept + " bad" * 500), predict(fresh, kept))


def test_the_tokenizers_limit_counts_too() -> None:
    target = target_of("bert")
    target._tokenizer.model_max_length = 10
    fresh = ClassifierTarget(
        "tiny", target._model, target._tokenizer, device=CPU, dtype=torch.float32
    )
    assert len(gradients(fresh, (LONG,), (0,)).items[0].token_ids) == 10


def test_big_bird_reads_a_long_text_alike_before_and_after_a_short_one(
    load: Callable[[str], Target],
) -> None:
    """Its own code switches from sparse to full attention for good at the first short text."""
    target = load("big_bird")
    first = predict(target, LONG)
    predict(target, "red")
    np.testing.assert_array_equal(predict(target, LONG), first)
    assert target._model.config.attention_type == "original_full"  # type: ignore[attr-defined]


def test_weights_are_frozen_and_the_model_is_in_eval_mode() -> None:
    tokenizer = bert_tokenizer()
    model = tiny_model("bert", len(tokenizer)).train()
    target = ClassifierTarget("tiny", model, tokenizer, device=CPU, dtype=torch.float32)
    first, second = (predict(target, TEXTS[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    gradients(target, (TEXTS[0],), (0,))
    assert not model.training
    assert all(not p.requires_grad and p.grad is None for p in model.parameters())


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    folder = str(save_tiny("bert", tmp_path))
    full = load_target(folder, device="cpu", dtype="fp32")
    half = load_target(folder, device="cpu", dtype="bf16")
    assert half.describe()["dtype"] == "bf16"
    np.testing.assert_allclose(predict(half, *TEXTS), predict(full, *TEXTS), atol=0.05)
    item = gradients(half, (TEXTS[0],), (0,)).items[0]
    assert item.gradient.dtype == np.float32


def test_describe_says_what_the_manifest_needs(load: Callable[[str], Target]) -> None:
    target = load("bert")
    described = dict(target.describe())
    assert described.pop("parameters") > 10_000
    assert described == {
        "spec": target.spec,
        "kind": "classifier",
        "architecture": "BertForSequenceClassification",
        "device": "cpu",
        "dtype": "fp32",
    }


def test_fingerprint_changes_with_a_weight() -> None:
    target = target_of("bert")
    before = target.fingerprint()
    with torch.no_grad():
        target._model.classifier.bias[0] += 1
    assert target.fingerprint() != before


def test_an_empty_request_has_an_empty_answer() -> None:
    target = target_of("bert")
    assert predict(target).shape == (0, 3)
    assert gradients(target, (), ()).items == ()


def test_goals_must_be_classes() -> None:
    target = target_of("bert")
    for goals in ((3,), (-1,), ("good",)):
        with pytest.raises(ValueError, match="class indices from 0 to 2"):
            target.answer(Gradient(("a film",), goals))
    with pytest.raises(ValueError, match="1 texts have 2 goals"):
        target.answer(Gradient(("a film",), (0, 1)))


def test_regression_and_multi_label_heads_are_refused() -> None:
    with pytest.raises(UserError, match="1 label, which is a regression head"):
        target_of("bert", num_labels=1)
    with pytest.raises(UserError, match="several labels at once"):
        target_of("bert", problem_type="multi_label_classification")


def test_a_decoder_only_classifier_without_a_pad_token(tmp_path: Path) -> None:
    """Its answer is read at the last token, which the padding must not hide."""
    head = "AutoModelForSequenceClassification"
    target = load_target(str(save_tiny("gpt2", tmp_path, head=head)), device="cpu", dtype="fp32")
    assert target.kind == "classifier"
    together = predict(target, *TEXTS)
    for row, text in enumerate(TEXTS):
        np.testing.assert_allclose(predict(target, text)[0], together[row], atol=1e-5)
    assert gradients(target, TEXTS, (0, 1, 0, 1, 0)).items[0].gradient.shape == (7, 32)


def test_an_encoder_decoder_classifier_gives_no_half_gradient(tmp_path: Path) -> None:
    head = "AutoModelForSequenceClassification"
    target = load_target(str(save_tiny("bart", tmp_path, head=head)), device="cpu", dtype="fp32")
    assert target.answers == {Predict}
    together = predict(target, *TEXTS)
    np.testing.assert_allclose(predict(target, TEXTS[0])[0], together[0], atol=1e-5)
    with pytest.raises(TypeError, match="does not answer Gradient"):
        target.answer(Gradient(TEXTS[:1], (0,)))
