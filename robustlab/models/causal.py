"""Decoder-only generators: GPT-2, Llama, Qwen2, Mixtral and their kin."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from robustlab.models._generator import UNLIMITED, Generated, GeneratorTarget, ReadPrefix
from robustlab.models._transformers import (
    TransformersGenerator,
    output_log_probs,
    pad_batch,
    position_limit,
)
from robustlab.models.vocabulary import plain_ids

if TYPE_CHECKING:
    import torch

__all__ = ["CausalTarget", "TransformersCausal"]


class CausalTarget(GeneratorTarget):
    """A decoder-only model that answers Generate, Score, Next and Gradient."""

    kind = "causal"


class TransformersCausal(TransformersGenerator):
    """The :class:`GeneratorBackend` around a Hugging Face decoder-only model.

    A tokenizer without a pad token is left as it is: the ids are padded here, with any token,
    under the attention mask.

    Args:
        model: a ``…ForCausalLM``; it is put into eval mode, frozen and moved, and its generation
            settings are replaced by greedy ones.
        tokenizer: its fast tokenizer.
        device: where to run.
        dtype: of weights and activations.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(model, tokenizer, device=device, dtype=dtype)
        self.max_input_tokens = position_limit(model, model.config, tokenizer)
        self.max_output_tokens = UNLIMITED
        self.shared_window = True
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._joins_with_space = _joins_with_space(tokenizer)

    def encode_outputs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[list[int]]:
        """Tokenise outputs apart from their prompts, as the model would have written them.

        Byte-level tokenizers (GPT-2, Qwen2) keep the space before a word in its token. For
        these, an output that begins a new word gets the space that generation would have put
        there and :class:`Generations` stripped; not after a prompt that ends with white space.
        """
        joined = [
            f" {output}"
            if self._joins_with_space
            and output
            and not output[0].isspace()
            and not prompt[-1:].isspace()
            else output
            for prompt, output in zip(prompts, outputs, strict=True)
        ]
        return plain_ids(self.tokenizer, joined)

    def generate(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        """See :meth:`GeneratorBackend.generate`. Padded on the left, so that all rows end alike."""
        ids, mask = pad_batch(prompt_ids, self.pad_id, self.device, left=True)
        return self.greedy(ids, mask, skip=ids.shape[1], max_new_tokens=max_new_tokens)

    def next_log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """See :meth:`GeneratorBackend.next_log_probs`. Padded as in :meth:`log_probs`."""
        import torch

        rows = [prompt + output for prompt, output in zip(prompt_ids, output_ids, strict=True)]
        ids, mask = pad_batch(rows, self.pad_id, self.device)
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        more: dict[str, Any] = {}
        if self._keeps_logits:
            kept, last = torch.unique(last, return_inverse=True)
            more = {"logits_to_keep": kept}
        with torch.inference_mode():
            logits = self.module(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
            chosen = logits[torch.arange(len(rows), device=self.device), last]
        return self.next_choice(chosen, output_ids)

    @property
    def input_layer(self) -> torch.nn.Embedding:
        """The token embedding layer."""
        layer: torch.nn.Embedding = self.module.get_input_embeddings()
        return layer

    @cached_property
    def read_prefix(self) -> ReadPrefix | None:
        """Reads a beginning into a cache; None where the cache is more than keys and values.

        Sliding windows, recurrent states and rotary positions that depend on the whole length
        are such cases: going on from a cache would not be exact.
        """
        if _stretches_positions(self.module.config):
            return None
        return self._read if _caches_plainly(self._cache([self.end_id])) else None

    def _read(self, ids: list[int]) -> _CachedPrefix:
        return _CachedPrefix(self, self._cache(ids), len(ids))

    def _cache(self, ids: list[int]) -> Any:
        """What the model keeps of one row of tokens; None if it keeps nothing."""
        import torch

        keep = {"logits_to_keep": 1} if self._keeps_logits else {}
        with torch.inference_mode():
            row = torch.tensor([ids], device=self.device)
            made = self.module(
                input_ids=row, attention_mask=torch.ones_like(row), use_cache=True, **keep
            )
        return getattr(made, "past_key_values", None)

    def log_probs(
        self,
        prompt_ids: Sequence[list[int]],
        output_ids: Sequence[list[int]],
        prefix: _CachedPrefix | None = None,
    ) -> torch.Tensor:
        """Log-probabilities of outputs and end tokens, float32 (batch,).

        Padded on the right: positions are then right by themselves, causal attention never sees
        the padding, and no row of the attention matrix is empty. The prompts go on from
        ``prefix`` if one is given.
        """
        import torch

        # The end token is predicted, never read.
        rows = [prompt + output for prompt, output in zip(prompt_ids, output_ids, strict=True)]
        ids, mask = pad_batch(rows, self.pad_id, self.device)
        first = min(len(prompt) for prompt in prompt_ids) - 1
        more: dict[str, Any] = {"use_cache": False}
        if prefix is not None:
            mask = torch.nn.functional.pad(mask, (prefix.length, 0), value=1)
            more = {"use_cache": True, "past_key_values": prefix.for_rows(len(rows))}
        if self._keeps_logits:
            # Positions one by one, not as a count: the slice that a count makes is multiplied
            # row by row, which is several times slower.
            more["logits_to_keep"] = torch.arange(first, ids.shape[1], device=self.device)
        logits = self.module(input_ids=ids, attention_mask=mask, **more).logits
        skipped = ids.shape[1] - logits.shape[1]
        targets = [[*output, self.end_id] for output in output_ids]
        return output_log_probs(logits, targets, [len(row) - 1 - skipped for row in prompt_ids])


class _CachedPrefix:
    """The keys and values of a beginning; implements ``PrefixScorer``."""

    def __init__(self, causal: TransformersCausal, cache: Any, length: int) -> None:
        self._causal = causal
        self._cache = cache
        self.length = length

    def for_rows(self, rows: int) -> Any:
        """A cache of its own for that many rows: a forward pass appends to what it is given."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for number, layer in enumerate(self._cache.layers):
            keys, values = (part.expand(rows, -1, -1, -1) for part in (layer.keys, layer.values))
            cache.update(keys, values, number)
        return cache

    def score(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Summed log-probabilities of outputs behind what follows the beginning."""
        import torch

        with torch.inference_mode():
            return self._causal.log_probs(prompt_ids, output_ids, self)


def _caches_plainly(cache: Any) -> bool:
    """Whether a cache of one token holds one key and one value a layer, and nothing else."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    return (
        type(cache) is DynamicCache
        and len(cache.layers) > 0
        and all(type(layer) is DynamicLayer for layer in cache.layers)
        and all(layer.get_seq_length() == 1 for layer in cache.layers)
    )


def _stretches_positions(config: Any) -> bool:
    """Whether rotary frequencies depend on the length of the whole text."""
    stated = [getattr(config, name, None) for name in ("rope_scaling", "rope_parameters")]
    settings = [value for value in stated if isinstance(value, dict)]
    # Some versions keep one set of parameters for each type of layer.
    settings += [inner for value in settings for inner in value.values() if isinstance(inner, dict)]
    kinds = {str(value.get(key)) for value in settings for key in ("rope_type", "type")}
    return bool(kinds & {"dynamic", "longrope", "su"})


def _joins_with_space(tokenizer: Any) -> bool:
    """Whether a word inside a sentence is tokenised as ``" word"`` and not as ``"word"``."""
    alone, spaced, twice = plain_ids(tokenizer, ["a", " a", "a a"])
    return twice[-len(alone) :] != alone and twice[-len(spaced) :] == spaced
