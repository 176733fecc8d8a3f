"""Steps a second of nanoGCG and of our GCG, and whether they agree on losses."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from attack_bench.common import (
    SEED,
    Bench,
    Recorder,
    note,
    ratio,
    recipe_named,
    run_campaign,
    silence,
)
from attack_bench.decoder import random_decoder

__all__ = ["LOSS_TOLERANCE", "bench_gcg"]

LOSS_TOLERANCE = 1e-4
"""How far losses of the same candidates may lie apart in fp32."""

_PROMPT = (
    "The harbour office keeps a list of every boat that comes in after dark. Each entry holds the "
    "name of the boat, the number of its crew, the time it was seen from the pier and the berth it "
    "was given. A visitor asks which boat came in last, and the officer looks at the list and says"
)
_WANTED = "the last boat was the grey one from the north"
_SUFFIX_TOKENS = 20
_TOP_K = 256


@dataclass(frozen=True, slots=True)
class Steps:
    """Some steps of one side.

    ``scored``: how many candidates were; ``kinds``: seconds that the model took, by kind of
    request, of ours only.
    """

    number: int
    seconds: float
    scored: int
    kinds: Mapping[str, float]


def bench_gcg(bench: Bench) -> dict[str, Any]:
    """Both in turn on one prompt, for every width of the search."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from robustlab.models.device import resolve_device, resolve_dtype
    from robustlab.models.load import load_target

    folder = random_decoder(bench.place / "generator", large=bench.options.large)
    dtype = "fp32" if bench.device == "cpu" else "auto"
    target = load_target(str(folder), kind="causal", device=bench.device, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    precision = resolve_dtype(dtype, resolve_device(bench.device))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=precision).to(bench.device)
    wanted = len(tokenizer(_WANTED, add_special_tokens=False)["input_ids"])
    cached, why_not = _prefix_cache(model, tokenizer)
    steps, rounds = bench.options.steps, bench.options.rounds
    with silence():  # warm both
        _nanogcg(model, tokenizer, 1, 4, cached).run(f"{_PROMPT} {{optim_str}}", _WANTED)
        _our_steps(target, 1, 4, wanted + 1)
    widths = {}
    for width in bench.options.widths:
        theirs, ours = [], []
        for number in range(rounds):
            gcg = _nanogcg(model, tokenizer, steps, width, cached)
            with silence():
                start = time.perf_counter()
                result = gcg.run(f"{_PROMPT} {{optim_str}}", _WANTED + tokenizer.eos_token)
                seconds = time.perf_counter() - start
            theirs.append(Steps(len(result.losses), seconds, gcg.scored, {}))
            ours.append(_our_steps(target, steps, width, wanted + 1))
            note(f"gcg: width {width}, round {number + 1} of {rounds} done")
        suffixes = _random_suffixes(target, width)
        widths[str(width)] = {
            "nanogcg": _speed(theirs),
            "robustlab": _speed(ours),
            "robustlab_time_in": {
                kind: sum(part.kinds[kind] for part in ours) / sum(part.seconds for part in ours)
                for kind in ours[0].kinds
            },
            "faster": ratio(
                [part.seconds / part.number for part in theirs],
                [part.seconds / part.number for part in ours],
            ),
            "largest_difference": {
                "random_candidates": _apart(
                    _our_losses(target, suffixes), _nanogcg_losses(gcg, suffixes)
                ),
                "path_of_nanogcg": _apart(_our_losses(target, result.strings), result.losses),
            },
        }
    return {
        "model": _described(model),
        "dtype": str(precision).removeprefix("torch."),
        "prompt_tokens": len(tokenizer(_PROMPT)["input_ids"]),
        "suffix_tokens": _SUFFIX_TOKENS,
        "wanted_tokens": wanted,
        "top_k": _TOP_K,
        "steps": steps,
        "rounds": rounds,
        "nanogcg_prefix_cache": cached,
        "nanogcg_prefix_cache_fails": why_not,
        "widths": widths,
    }


def _nanogcg(model: Any, tokenizer: Any, steps: int, width: int, cached: bool) -> Any:
    """nanoGCG, its defaults where nothing else is said, counting what it scores."""
    import nanogcg
    import torch
    from nanogcg.gcg import GCG

    class Counting(GCG):  # type: ignore[misc]
        scored = 0

        def compute_candidates_loss(self, search_batch_size: int, input_embeds: Any) -> Any:
            self.scored += len(input_embeds)
            return super().compute_candidates_loss(search_batch_size, input_embeds)

    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    torch.manual_seed(SEED)
    config = nanogcg.GCGConfig(
        num_steps=steps,
        optim_str_init=" ".join(["x"] * _SUFFIX_TOKENS),
        search_width=width,
        topk=_TOP_K,
        use_prefix_cache=cached,
        verbosity="ERROR",
    )
    return Counting(model, tokenizer, config)


def _prefix_cache(model: Any, tokenizer: Any) -> tuple[bool, str | None]:
    """Whether nanoGCG's prefix cache runs with this version of transformers, else why not."""
    try:
        with silence():
            _nanogcg(model, tokenizer, 1, 4, True).run(f"{_PROMPT} {{optim_str}}", _WANTED)
    except Exception as error:  # whatever two versions that do not fit may raise
        return False, f"{type(error).__name__}: {error}".partition("\n")[0]
    return True, None


def _our_steps(target: Any, steps: int, width: int, output_tokens: int) -> Steps:
    """A campaign on one prompt, timed by its own clock."""
    from robustlab.attack.campaign import Campaign
    from robustlab.attack.examples import AttackExample, AttackSet
    from robustlab.attack.goals import ForceOutput, Frame
    from robustlab.attack.recipe import Budget, Component
    from robustlab.models.target import Score

    shipped = recipe_named("gcg-suffix")
    changed = {"length": _SUFFIX_TOKENS, "init": "x", "steps": steps, "width": width}
    options = {**shipped.search.options, **changed, "top_k": _TOP_K}
    recipe = replace(shipped, search=Component(shipped.search.kind, options), budget=Budget())
    goal = ForceOutput(Frame(), _WANTED, output_tokens)
    examples = AttackSet((AttackExample("gcg", _PROMPT, goal, _WANTED),), {}, {}, {})
    recorder = Recorder(target)
    summary, (outcome,) = run_campaign(Campaign(recorder, examples, recipe, seed=SEED))
    if "notes" not in outcome:
        raise RuntimeError(f"the attack made no step: {outcome.get('error', outcome['status'])}")
    scored = sum(len(asked.prompts) for asked in recorder.requests if isinstance(asked, Score))
    return Steps(
        int(outcome["notes"]["steps"]), summary.wall_seconds, scored, dict(recorder.seconds)
    )


def _speed(parts: Sequence[Steps]) -> dict[str, float]:
    per_second = median(part.number / part.seconds for part in parts)
    scored = sum(part.scored for part in parts) / sum(part.number for part in parts)
    return {"steps_per_second": per_second, "candidates_per_step": scored}


def _random_suffixes(target: Any, count: int) -> list[str]:
    """Suffixes of whole words, which both sides read as the same tokens."""
    import numpy as np

    vocabulary = target.vocabulary()
    words = [vocabulary.spellings[token].strip() for token in vocabulary.begins_word.nonzero()[0]]
    plain = [word for word in words if word.isascii() and word.isalpha()]
    drawn = np.random.default_rng(SEED).integers(len(plain), size=(count, _SUFFIX_TOKENS))
    return [" ".join(plain[place] for place in row) for row in drawn.tolist()]


def _our_losses(target: Any, suffixes: Sequence[str]) -> list[float]:
    """The mean cross-entropy of the wanted text and its end behind each suffix."""
    from robustlab.models.target import Score

    prompts = tuple(f"{_PROMPT} {suffix}" for suffix in suffixes)
    scores = target.answer(Score(prompts, (_WANTED,) * len(prompts)))
    return [-float(a) / int(n) for a, n in zip(scores.log_probs, scores.tokens, strict=True)]


def _nanogcg_losses(gcg: Any, suffixes: Sequence[str]) -> list[float]:
    """The same by nanoGCG's own scoring of candidates; ``gcg`` has been run."""
    import torch

    ids = gcg.tokenizer(list(suffixes), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        own = gcg.embedding_layer(torch.tensor(ids, device=gcg.model.device))
        before = [] if gcg.prefix_cache else [gcg.before_embeds]
        parts = [*before, own, gcg.after_embeds, gcg.target_embeds]
        rows = torch.cat([part.expand(len(ids), -1, -1) for part in parts], dim=1)
        losses: list[float] = gcg.compute_candidates_loss(len(ids), rows).tolist()
    return losses


def _apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def _described(model: Any) -> str:
    config = model.config
    return (
        f"{type(model).__name__}, {config.num_hidden_layers} layers, {config.hidden_size} wide, "
        f"{config.vocab_size:,} tokens, {model.num_parameters() / 1e6:.0f} M random parameters"
    )
