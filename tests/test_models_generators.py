"""Encoder-decoder and decoder-only generators: greedy output, its score, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny import GENERATORS, SEQ2SEQ, TEXTS, save_tiny, tiny_model, tiny_tokenizer

from robustlab.errors import UserError
from robustlab.models._generator import UNLIMITED, GeneratorTarget
from robustlab.models.causal import CausalTarget, TransformersCausal
from robustlab.models.load import load_target
from robustlab.models.seq2seq import Seq2SeqTarget, TransformersSeq2Seq
from robustlab.models.target import (
    FloatArray,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Next,
    Predict,
    Score,
    Scores,
    Target,
    TokenGradient,
)

CPU = torch.device("cpu")
OUTPUTS = ("red", "the old town", "good", "a green house and a tree", "in the north")
NEW = 5

Load = Callable[[str], GeneratorTarget]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    loaded: dict[str, GeneratorTarget] = {}

    def get(name: str) -> GeneratorTarget:
        if name not in loaded:
            # The end token is one that this model does generate, so that rows end apart.
            backend = in_memory(name)._backend
            prompt = backend.encode_prompts(TEXTS[:1])[0].ids
            end = backend.generate([prompt], NEW)[0].ids[-1]
            loaded[name] = read(save_tiny(name, tmp_path_factory.mktemp(name), end_token=end))
        return loaded[name]

    return get


def read(folder: Path, batch_tokens: int = 200) -> GeneratorTarget:
    target = load_target(str(folder), device="cpu", dtype="fp32", batch_tokens=batch_tokens)
    assert isinstance(target, GeneratorTarget)
    return target


def generate(target: Target, prompts: tuple[str, ...], new: int = NEW) -> Generations:
    return cast(Generations, target.answer(Generate(prompts, new)))


def score(target: Target, prompts: tuple[str, ...], outputs: tuple[str, ...]) -> Scores:
    return cast(Scores, target.answer(Score(prompts, outputs)))


def gradients(target: Target, prompts: tuple[str, ...], outputs: tuple[str, ...]) -> Gradients:
    return cast(Gradients, target.answer(Gradient(prompts, outputs)))


@pytest.mark.parametrize("name", GENERATORS)
def test_answers_every_request(load: Load, name: str) -> None:
    target = load(name)
    assert isinstance(target, Target)
    assert target.kind == ("seq2seq" if name in SEQ2SEQ else "causal")
    assert target.answers == {Generate, Score, Next, Gradient}
    assert target.label_names == ()
    before = target.fingerprint()

    made = generate(target, TEXTS)
    assert len(made.texts) == len(TEXTS)
    assert all(text == text.strip() for text in made.texts)
    assert made.log_probs.shape == made.tokens.shape == (len(TEXTS),)
    assert made.log_probs.dtype == np.float32
    assert (made.log_probs < 0).all()
    assert made.margins.dtype == np.float32
    assert (made.margins > 0).all()
    assert made.tokens.dtype == np.int64
    assert ((made.tokens >= 1) & (made.tokens <= NEW)).all()
    assert len(set(made.texts)) > 1, "every prompt got the same output"

    scored = score(target, TEXTS, OUTPUTS)
    assert scored.log_probs.shape == scored.tokens.shape == (len(TEXTS),)
    assert (scored.log_probs < 0).all()

    for text, loss, tokens, item in zip(
        TEXTS,
        -scored.log_probs,
        scored.tokens,
        gradients(target, TEXTS, OUTPUTS).items,
        strict=True,
    ):
        assert len(item.token_ids) == len(item.offsets) == target.count_tokens(text)
        assert item.gradient.shape == (len(item.token_ids), 32)
        assert item.gradient.dtype == np.float32
        assert np.abs(item.gradient).max() > 0
        assert item.loss == pytest.approx(loss / tokens, abs=1e-4)
        assert max(end for _, end in item.offsets) == len(text)

    with pytest.raises(TypeError, match="does not answer Predict"):
        target.answer(Predict(("a",)))
    assert target.fingerprint() == before


@pytest.mark.parametrize("name", GENERATORS)
def test_an_answer_does_not_depend_on_the_batch(load: Load, name: str) -> None:
    target = load(name)
    made, scored = generate(target, TEXTS), score(target, TEXTS, OUTPUTS)
    items = gradients(target, TEXTS, OUTPUTS).items
    for row in (0, 2):
        text, output = TEXTS[row], OUTPUTS[row]
        alone = generate(target, (text,))
        assert alone.texts[0] == made.texts[row]
        assert alone.tokens[0] == made.tokens[row]
        assert alone.log_probs[0] == pytest.approx(made.log_probs[row], abs=1e-4)
        assert alone.margins[0] == pytest.approx(made.margins[row], abs=1e-4)
        sums = score(target, (text,), (output,)).log_probs
        assert sums[0] == pytest.approx(scored.log_probs[row], abs=1e-4)
        item = gradients(target, (text,), (output,)).items[0]
        np.testing.assert_allclose(item.gradient, items[row].gradient, atol=1e-5)


@pytest.mark.parametrize("name", GENERATORS)
def test_the_log_probability_of_an_output_is_its_score(load: Load, name: str) -> None:
    """Generation with a cache and teacher forcing without one are the same model."""
    backend = load(name)._backend
    prompts = [prompt.ids for prompt in backend.encode_prompts(TEXTS)]
    made = backend.generate(prompts, NEW)
    ended = [i for i, item in enumerate(made) if item.tokens == len(item.ids) + 1]
    assert ended, "no row ended by itself"
    sums = backend.score([prompts[i] for i in ended], [made[i].ids for i in ended])
    expected = [made[i].log_prob for i in ended]
    np.testing.assert_allclose(sums.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "llama"])
def test_generation_is_greedy(load: Load, name: str) -> None:
    """No token of an output could be exchanged, at its place, for a more probable one.

    The margin is the least that it would cost.
    """
    backend = load(name)._backend
    prompt = backend.encode_prompts(TEXTS[2:3])[0].ids
    made = backend.generate([prompt], NEW)[0]
    model = cast(Any, backend).module
    if name in SEQ2SEQ:
        start = [cast(Any, backend).start_id, *made.ids]
        logits = model(
            input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([start])
        ).logits[0]
    else:
        whole = torch.tensor([prompt + made.ids])
        logits = model(input_ids=whole).logits[0, len(prompt) - 1 :]
    logits = logits[: made.tokens]
    assert logits.argmax(-1)[: len(made.ids)].tolist() == made.ids
    best, second = logits.log_softmax(-1).topk(2).values.T
    assert made.margin == pytest.approx(float((best - second).min()), abs=1e-4)


@pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "llama"])
def test_gradient_agrees_with_a_finite_difference(load: Load, name: str) -> None:
    target = load(name)
    prompts, outputs, step = TEXTS[:1], OUTPUTS[1:2], 3e-3
    gradient = gradients(target, prompts, outputs).items[0].gradient
    token, axis = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)

    def loss(shift: float) -> float:
        calls = 0

        def move(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > 1:  # the decoder's use of a shared layer
                return output
            output = output.clone()
            output[0, token, axis] += shift
            return output

        handle = cast(Any, target._backend).input_layer.register_forward_hook(move)
        try:
            made = score(target, prompts, outputs)
            return float(-made.log_probs[0] / made.tokens[0])
        finally:
            handle.remove()

    measured = (loss(step) - loss(-step)) / (2 * step)
    assert measured == pytest.approx(gradient[token, axis], rel=0.03)


@pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "llama"])
def test_gradients_at_shifted_embeddings(load: Load, name: str) -> None:
    """Along the gradient itself, at embeddings that are no token's."""
    target = load(name)
    texts, goals = TEXTS[:3], OUTPUTS[:3]
    plain = gradients(target, texts, goals).items
    rng = np.random.default_rng(0)
    shifts = tuple(rng.normal(0, 0.1, item.gradient.shape).astype(np.float32) for item in plain)

    def at(moved: tuple[FloatArray, ...]) -> tuple[TokenGradient, ...]:
        return cast(Gradients, target.answer(Gradient(texts, goals, moved))).items

    found = at(shifts)
    norms = [float(np.linalg.norm(item.gradient)) for item in found]
    steps = [5e-4 * item.gradient / norm for item, norm in zip(found, norms, strict=True)]
    up = at(tuple(shift + step for shift, step in zip(shifts, steps, strict=True)))
    down = at(tuple(shift - step for shift, step in zip(shifts, steps, strict=True)))
    measured = [(one.loss - other.loss) / 1e-3 for one, other in zip(up, down, strict=True)]
    assert measured == pytest.approx(norms, rel=0.03)

    unmoved = at(tuple(np.zeros_like(shift) for shift in shifts))
    for before, same, moved in zip(plain, unmoved, found, strict=True):
        assert same.loss == pytest.approx(before.loss, abs=1e-6)
        np.testing.assert_allclose(same.gradient, before.gradient, atol=1e-6)
        assert abs(moved.loss - before.loss) > 1e-3
        assert moved.probabilities is None


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_shifts_that_do_not_fit_are_refused(name: str) -> None:
    target = in_memory(name)
    shift = np.zeros((3, 32), dtype=np.float32)
    with pytest.raises(ValueError, match="1 texts have 2 shifts"):
        target.answer(Gradient(TEXTS[:1], OUTPUTS[:1], (shift, shift)))
    with pytest.raises(ValueError, match=r"shift 1 has shape \(3, 32\).*tokens of width 32"):
        target.answer(Gradient(TEXTS[:1], OUTPUTS[:1], (shift,)))


def test_the_score_is_the_sum_of_the_models_log_probabilities() -> None:
    """By hand, for a decoder-only and an encoder-decoder model."""
    causal = in_memory("llama")
    tokenizer = tiny_tokenizer("llama")
    prompt, output = tokenizer("the old")["input_ids"], [*OUTPUT_IDS["llama"], 2]
    logits = causal._backend.module(input_ids=torch.tensor([prompt + output])).logits[0]
    table = logits.log_softmax(-1)
    expected = sum(float(table[len(prompt) - 1 + i, token]) for i, token in enumerate(output))
    scored = score(causal, ("the old",), ("red town",))
    assert scored.log_probs[0] == pytest.approx(expected, abs=1e-4)
    assert scored.tokens[0] == 3

    seq2seq = in_memory("t5")
    labels = torch.tensor([[*OUTPUT_IDS["t5"], 1]])
    inputs = tiny_tokenizer("t5")("the old", return_tensors="pt")
    mean = seq2seq._backend.module(input_ids=inputs["input_ids"], labels=labels).loss
    scored = score(seq2seq, ("the old",), ("red town",))
    assert scored.log_probs[0] == pytest.approx(-3 * float(mean), abs=1e-4)


def in_memory(name: str, **settings: Any) -> GeneratorTarget:
    """A target around a model that was never saved; ``settings`` go to its generation config."""
    tokenizer = tiny_tokenizer(name)
    model = tiny_model(name, len(tokenizer))
    for key, value in settings.items():
        setattr(model.generation_config, key, value)
    if name in SEQ2SEQ:
        backend = TransformersSeq2Seq(model, tokenizer, device=CPU, dtype=torch.float32)
        return Seq2SeqTarget("tiny", backend)
    causal = TransformersCausal(model, tokenizer, device=CPU, dtype=torch.float32)
    return CausalTarget("tiny", causal)


OUTPUT_IDS = {
    name: [tiny_tokenizer(name).convert_tokens_to_ids(f"▁{word}") for word in ("red", "town")]
    for name in ("llama", "t5")
}


@pytest.mark.parametrize("name", ["bart", "gpt2"])
def test_a_models_own_generation_settings_are_not_used(name: str) -> None:
    """Beams and penalties would be neither greedy nor leave the log-probabilities alone."""
    plain = generate(in_memory(name), TEXTS)
    other = in_memory(
        name,
        num_beams=4,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        min_length=5,
        do_sample=True,
        temperature=5.0,
    )
    made = generate(other, TEXTS)
    assert made.texts == plain.texts
    np.testing.assert_allclose(made.log_probs, plain.log_probs, atol=1e-5)


def test_a_forced_first_token_is_generated_and_scored_as_the_model_sees_it() -> None:
    target = in_memory("bart", forced_bos_token_id=0)
    backend = target._backend
    prompts = [prompt.ids for prompt in backend.encode_prompts(TEXTS)]
    made = backend.generate(prompts, NEW)
    assert all(item.ids[0] == 0 for item in made)
    # What was forced had no rival, what came after it had.
    assert all(item.margin == np.inf for item in backend.generate(prompts, 1))
    assert all(item.margin < np.inf for item in made)
    # Scored as outputs of NEW tokens and an end, less the end's part: the prefix alone.
    for prompt, item in zip(prompts, made, strict=True):
        model = cast(Any, backend).module
        start = torch.tensor([[2, *item.ids[:-1]]])
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits[0]
        table = logits.log_softmax(-1)
        expected = sum(float(table[i, token]) for i, token in enumerate(item.ids))
        assert item.log_prob == pytest.approx(expected, abs=1e-4)


def test_bytelevel_outputs_get_the_space_that_generation_wrote() -> None:
    """GPT-2 writes " town" after "the old"; its text is "town", and so is its score's output."""
    backend = in_memory("gpt2")._backend
    tokenizer = tiny_tokenizer("gpt2")

    def tokens(prompt: str, output: str) -> list[str]:
        ids = backend.encode_outputs([prompt], [output])[0]
        made: list[str] = tokenizer.convert_ids_to_tokens(ids)
        return made

    assert tokens("the old", "town") == ["Ġtown"]
    assert tokens("the old", " town") == ["Ġtown"]
    assert tokens("the old ", "town") == ["t", "o", "w", "n"]
    assert tokens("Answer:\n", "town") == ["t", "o", "w", "n"]
    assert tokens("the old", "") == []
    pieces = in_memory("llama")._backend.encode_outputs(["the old"], ["town"])[0]
    assert tiny_tokenizer("llama").convert_ids_to_tokens(pieces) == ["▁town"]


def test_outputs_carry_the_tokens_their_model_puts_around_them() -> None:
    bart = in_memory("bart")._backend
    tokenizer = tiny_tokenizer("bart")
    ids = bart.encode_outputs(["x"], ["the town"])[0]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "the", "town"]
    assert in_memory("t5")._backend.encode_outputs(["x"], [""]) == [[]]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_missing_pad_token_is_made_up_without_touching_the_files(
    tmp_path: Path, name: str
) -> None:
    folder = save_tiny(name, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    target = read(folder)
    tokenizer = cast(Any, target._backend).tokenizer
    assert tokenizer.pad_token is None
    generate(target, TEXTS)
    score(target, TEXTS, OUTPUTS)
    assert tokenizer.pad_token is None
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_generation_has_the_length_asked_for() -> None:
    target = in_memory("gpt2")
    short, long = generate(target, TEXTS, 1), generate(target, TEXTS, 9)
    assert set(short.tokens) == {1}
    assert max(long.tokens) == 9
    with pytest.raises(ValueError, match="at least 1"):
        generate(target, TEXTS, 0)


def test_batches_keep_to_the_token_budget() -> None:
    target = in_memory("llama")
    target._batch_tokens = 60
    shapes: list[tuple[int, int]] = []
    original = target._backend.generate

    def spy(prompt_ids: Any, max_new_tokens: int) -> Any:
        longest = max(len(prompt) for prompt in prompt_ids)
        shapes.append((len(prompt_ids), longest + max_new_tokens))
        return original(prompt_ids, max_new_tokens)

    target._backend.generate = spy  # type: ignore[method-assign]
    generate(target, TEXTS * 4)
    assert sum(rows for rows, _ in shapes) == 20
    assert all(rows * width <= 60 for rows, width in shapes)
    assert max(rows for rows, _ in shapes) == 6  # of up to 4 prompt tokens and 5 new ones


def test_tokens_are_counted_with_the_special_ones() -> None:
    target = in_memory("bart")
    assert target.count_tokens("the film") == 4
    assert target.count_tokens_many(TEXTS) == [7, 5, 22, 7, 4]
    assert target.count_tokens_many([]) == []


def test_limits_of_prompts() -> None:
    causal, seq2seq = in_memory("gpt2"), in_memory("t5")
    assert (causal.input_limit(10), causal.max_input_tokens) == (54, 32)
    assert (seq2seq.input_limit(10), seq2seq.max_input_tokens) == (64, 64)
    free = tiny_tokenizer("t5")
    free.model_max_length = 10**30
    model = tiny_model("t5", len(free))
    backend = TransformersSeq2Seq(model, free, device=CPU, dtype=torch.float32)
    assert Seq2SeqTarget("tiny", backend).max_input_tokens == UNLIMITED


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_a_prompt_as_long_as_the_limit_is_read(name: str) -> None:
    target = in_memory(name)
    room = target.input_limit(4)
    # The first word of GPT-2's is several bytes; BART's has two special tokens around it.
    words = room - 3 if name == "gpt2" else room - 2
    prompt = "red" + " red" * (words - 1 if name == "bart" else words)
    assert target.count_tokens(prompt) == room
    assert generate(target, (prompt,), 4).tokens[0] <= 4
    outputs = ("the old town",)
    assert gradients(target, (prompt,), outputs).items[0].gradient.shape == (room, 32)


def test_what_does_not_fit_is_refused_with_the_lengths() -> None:
    causal, seq2seq = in_memory("gpt2"), in_memory("bart")
    long = "red" + " red" * 100
    with pytest.raises(UserError, match="Prompt 2 has 103 tokens, but tiny reads at most 64"):
        generate(seq2seq, ("red", long))
    with pytest.raises(UserError, match="Prompt 1 has 103 tokens, but tiny reads at most 64"):
        score(causal, (long,), ("red",))
    with pytest.raises(UserError, match=r"has 7 tokens and its output needs 60 more.*64 in all"):
        generate(causal, TEXTS[:1], 60)
    with pytest.raises(UserError, match=r"has 7 tokens and its output needs 102 more"):
        gradients(causal, TEXTS[:1], (long,))
    with pytest.raises(UserError, match=r"output of prompt 1 needs 65 tokens.*at most 64"):
        generate(seq2seq, TEXTS[:1], 65)
    with pytest.raises(UserError, match="Prompt 1 is empty"):
        generate(causal, ("",))


def test_mismatched_requests_are_refused() -> None:
    target = in_memory("gpt2")
    with pytest.raises(ValueError, match="2 prompts are paired with 1 outputs"):
        score(target, ("a", "b"), ("c",))
    with pytest.raises(ValueError, match="1 texts have 0 goals"):
        gradients(target, ("a",), ())
    for texts, goals in (((("a", "b"),), ("c",)), (("a",), (1,))):
        with pytest.raises(ValueError, match="single texts and texts as goals"):
            target.answer(Gradient(cast(Any, texts), cast(Any, goals)))


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_empty_requests_have_empty_answers(name: str) -> None:
    target = in_memory(name)
    assert generate(target, ()).texts == ()
    assert score(target, (), ()).log_probs.shape == (0,)
    assert gradients(target, (), ()).items == ()


@pytest.mark.parametrize("name", ["switch_transformers", "mixtral", "t5"])
def test_bf16_leaves_the_fingerprint_alone(tmp_path: Path, name: str) -> None:
    """Routers that cast themselves in the first forward pass are cast before it."""
    target = load_target(str(save_tiny(name, tmp_path)), device="cpu", dtype="bf16")
    before = target.fingerprint()
    assert target.describe()["dtype"] == "bf16"
    made = generate(target, TEXTS[:2], 2)
    assert np.isfinite(made.log_probs).all()
    assert np.isfinite(gradients(target, TEXTS[:1], OUTPUTS[:1]).items[0].gradient).all()
    assert target.fingerprint() == before


@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_fingerprint_changes_with_a_weight(name: str) -> None:
    target = in_memory(name)
    before = target.fingerprint()
    with torch.no_grad():
        next(target._backend.module.parameters())[0, 0] += 1
    assert target.fingerprint() != before


def test_a_model_without_an_end_token_is_refused() -> None:
    tokenizer = tiny_tokenizer("llama")
    tokenizer.eos_token = None
    model = tiny_model("llama", len(tokenizer))
    model.config.eos_token_id = None
    model.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="no end token"):
        TransformersCausal(model, tokenizer, device=CPU, dtype=torch.float32)


def test_a_model_without_a_start_token_is_refused() -> None:
    tokenizer = tiny_tokenizer("t5")
    model = tiny_model("t5", len(tokenizer))
    model.config.decoder_start_token_id = None
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(UserError, match="which token its decoder starts with"):
        TransformersSeq2Seq(model, tokenizer, device=CPU, dtype=torch.float32)
