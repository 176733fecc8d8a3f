"""Prompts that begin alike are read once, and score as if each had been read by itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny import WORDS, tiny_config, tiny_model, tiny_tokenizer

from robustlab.models.causal import CausalTarget, TransformersCausal
from robustlab.models.prefixes import SharedPrefix, _common, _most_saving, share_prefixes
from robustlab.models.target import Score, Scores

CPU = torch.device("cpu")
QUESTION = " ".join(WORDS[:33])
OTHER = " ".join(reversed(WORDS[:33]))


def target_of(model: Any, name: str) -> CausalTarget:
    backend = TransformersCausal(model, tiny_tokenizer(name), device=CPU, dtype=torch.float32)
    return CausalTarget("tiny", backend)


def random_target(name: str) -> CausalTarget:
    return target_of(tiny_model(name, len(tiny_tokenizer(name))), name)


def score(target: CausalTarget, prompts: list[str], outputs: list[str]) -> np.ndarray[Any, Any]:
    response = target.answer(Score(tuple(prompts), tuple(outputs)))
    assert isinstance(response, Scores)
    return response.log_probs


def one_by_one(
    target: CausalTarget, prompts: list[str], outputs: list[str]
) -> np.ndarray[Any, Any]:
    pairs = zip(prompts, outputs, strict=True)
    return np.concatenate([score(target, [prompt], [output]) for prompt, output in pairs])


def passes(target: CausalTarget) -> list[tuple[int, int]]:
    """From now on: the shape of every batch of token ids that the model reads."""
    shapes: list[tuple[int, int]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    target._backend.module.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


def suffixed(question: str, count: int) -> list[str]:
    """As a search over suffixes has them: one word of three is another one."""
    prompts = []
    for number in range(count):
        suffix = ["green", "stone", "dark"]
        suffix[number % 3] = WORDS[number]
        prompts.append(f"{question} {' '.join(suffix)}")
    return prompts


def test_prompts_that_begin_alike_form_a_group() -> None:
    stem = list(range(100, 140))
    prompts = [[*stem, tail, 7] for tail in range(10)]
    prompts += [[1, 2, 3], [*stem[:2], 9, 9, 9]]
    lengths = [len(prompt) + 2 for prompt in prompts]
    groups, alone = share_prefixes(prompts, lengths)
    assert groups == [SharedPrefix(list(range(10)), 40)]
    assert alone == [10, 11]


def test_two_beginnings_are_two_groups() -> None:
    """They share five tokens, and forty each: joining them would save less."""
    start = [1, 2, 3, 4, 5]
    stems = [[*start, *range(low, low + 35)] for low in (100, 200)]
    prompts = [[*stems[number % 2], number, 7] for number in range(20)]
    groups, alone = share_prefixes(prompts, [45] * 20)
    assert groups == [
        SharedPrefix(list(range(0, 20, 2)), 40),
        SharedPrefix(list(range(1, 20, 2)), 40),
    ]
    assert alone == []


def test_a_shorter_beginning_takes_in_more_prompts() -> None:
    """Two of them share 41 tokens, all of them 40."""
    stem = list(range(100, 140))
    prompts = [[*stem, 1, 2, 3], [*stem, 1, 3, 3], *([*stem, tail, 7, 7] for tail in range(2, 9))]
    groups, _ = share_prefixes(prompts, [45] * 9)
    assert groups == [SharedPrefix(list(range(9)), 40)]


def test_the_last_token_of_a_prompt_is_never_shared() -> None:
    stem = list(range(100, 140))
    groups, _ = share_prefixes([stem] * 10, [50] * 10)
    assert groups == [SharedPrefix(list(range(10)), 39)]
    assert share_prefixes([[5]] * 1000, [6] * 1000)[0] == []


def test_what_saves_little_is_left_alone() -> None:
    stem = list(range(100, 140))
    few = [[*stem, tail, 7] for tail in range(7)]
    assert share_prefixes(few, [44] * 7) == ([], list(range(7)))  # 240 tokens
    long = [[*stem, *range(tail, tail + 500)] for tail in range(10)]
    assert share_prefixes(long, [541] * 10) == ([], list(range(10)))  # 7 % of 5410
    assert share_prefixes([], []) == ([], [])


def test_a_run_is_cut_where_its_prompts_share_least_if_that_saves_more() -> None:
    """Against the same rule, written as a recursion over prompts."""

    def saved(shared: list[int]) -> int:
        if not shared:
            return 0
        ends = [place for place, common in enumerate(shared) if common == min(shared)]
        cut = [shared[a + 1 : b] for a, b in pairwise([-1, *ends, len(shared)])]
        return max(len(shared) * min(shared), sum(map(saved, cut)))

    rng = np.random.default_rng(0)
    for size in rng.integers(1, 30, 100).tolist():
        prompts = sorted(rng.integers(0, 2, rng.integers(1, 9)).tolist() for _ in range(size))
        shared = [_common(one, other) for one, other in pairwise(prompts)]
        runs = _most_saving(shared)
        assert sum(run.saved for run in runs) == saved(shared)
        assert all(run.length == min(shared[run.start : run.end - 1]) for run in runs)
        assert all(one.end <= other.start for one, other in pairwise(runs))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "mixtral"])
def test_shared_prompts_score_as_single_ones(name: str) -> None:
    """Two beginnings, prompts and outputs of several lengths, and a stranger among them."""
    target = random_target(name)
    prompts = suffixed(QUESTION, 16) + suffixed(OTHER, 16) + ["red water", f"{QUESTION} red"]
    outputs = ["the old town", "good", "a green house", ""] * 8 + ["red", "in the north"]
    order = np.random.default_rng(0).permutation(len(prompts)).tolist()
    prompts, outputs = [prompts[i] for i in order], [outputs[i] for i in order]
    expected = one_by_one(target, prompts, outputs)
    shapes = passes(target)
    np.testing.assert_allclose(score(target, prompts, outputs), expected, atol=2e-5, rtol=1e-5)
    beginnings = [tokens for rows, tokens in shapes if rows == 1 and tokens > 30]
    assert len(beginnings) == 2
    together = sum(rows * tokens for rows, tokens in shapes)
    lengths = target.count_tokens_many(prompts)
    assert together < 0.5 * sum(lengths)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_outputs_for_one_prompt_are_scored_behind_it(name: str) -> None:
    target = random_target(name)
    outputs = [f"{first} {second}" for first in WORDS[:5] for second in WORDS[40:44]]
    prompts = [QUESTION] * len(outputs)
    expected = one_by_one(target, prompts, outputs)
    shapes = passes(target)
    np.testing.assert_allclose(score(target, prompts, outputs), expected, atol=2e-5, rtol=1e-5)
    assert shapes[0] == (1, target.count_tokens(QUESTION) - 1)


def test_a_pass_takes_more_prompts_behind_a_shared_beginning() -> None:
    """And the beginning is read once for all passes."""
    target = random_target("llama")
    target._batch_tokens = 120
    prompts, outputs = suffixed(QUESTION, 32), ["good"] * 32
    assert target._backend.read_prefix is not None
    shapes = passes(target)
    score(target, prompts, outputs)
    beginning, *rest = shapes
    # 1 + 33 tokens, which weigh 5 in each row; the row's own are 3 of prompt and 2 of output.
    assert beginning == (1, 34)
    assert rest == [(12, 4), (12, 4), (8, 4)]


def config(name: str, **changes: Any) -> Any:
    made = tiny_config(name, len(tiny_tokenizer(name)))
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mixtral", {"sliding_window": 8}),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_models_that_cannot_go_on_exactly_read_every_prompt(
    name: str, changes: dict[str, Any]
) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    target = target_of(AutoModelForCausalLM.from_config(config(name, **changes)), name)
    assert target._backend.read_prefix is None
    prompts, outputs = suffixed(QUESTION, 16), ["good"] * 16
    expected = one_by_one(target, prompts, outputs)
    shapes = passes(target)
    np.testing.assert_allclose(score(target, prompts, outputs), expected, atol=2e-5, rtol=1e-5)
    assert sum(rows for rows, _ in shapes) == 16


def test_a_read_beginning_can_be_used_again_and_again() -> None:
    """A forward pass appends to the cache it is given, so each gets one of its own."""
    backend = cast(TransformersCausal, random_target("llama")._backend)
    assert backend.read_prefix is not None
    prompts = [[5, 6, 7, 8, tail] for tail in (9, 10, 11)]
    scorer = backend.read_prefix(prompts[0][:3])
    rest = [prompt[3:] for prompt in prompts]
    first = scorer.score(rest, [[12]] * 3)
    torch.testing.assert_close(scorer.score(rest, [[12]] * 3), first)
    torch.testing.assert_close(scorer.score(rest[:1], [[12]]), first[:1])
    torch.testing.assert_close(backend.score(prompts, [[12]] * 3), first)


def test_the_models_fingerprint_stays() -> None:
    target = random_target("qwen2")
    before = target.fingerprint()
    score(target, suffixed(QUESTION, 16), ["good"] * 16)
    assert target.fingerprint() == before
