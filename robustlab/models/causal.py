"""Decoder-only generators: GPT-2, Llama, Qwen2, Mixtral and their kin."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustlab.models._generator import UNLIMITED, Generated, GeneratorTarget
from robustlab.models._transformers import (
    TransformersGenerator,
    output_log_probs,
    pad_batch,
    position_limit,
)

if TYPE_CHECKING:
    import torch

__all__ = ["CausalTarget", "TransformersCausal"]


class CausalTarget(GeneratorTarget):
    """A decoder-only model that answers Generate, Score and Gradient."""

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
        return _plain_ids(self.tokenizer, joined)

    def generate(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        """See :meth:`GeneratorBackend.generate`. Padded on the left, so that all rows end alike."""
        ids, mask = pad_batch(prompt_ids, self.pad_id, self.device, left=True)
        return self.greedy(ids, mask, skip=ids.shape[1], max_new_tokens=max_new_tokens)

    @property
    def input_layer(self) -> torch.nn.Module:
        """The token embedding layer."""
        layer: torch.nn.Module = self.module.get_input_embeddings()
        return layer

    def log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Log-probabilities of outputs and end tokens, float32 (batch,).

        Padded on the right: positions are then right by themselves, causal attention never sees
        the padding, and no row of the attention matrix is empty.
        """
        # The end token is predicted, never read.
        rows = [prompt + output for prompt, output in zip(prompt_ids, output_ids, strict=True)]
        ids, mask = pad_batch(rows, self.pad_id, self.device)
        first = min(len(prompt) for prompt in prompt_ids) - 1
        keep = {"logits_to_keep": ids.shape[1] - first} if self._keeps_logits else {}
        logits = self.module(input_ids=ids, attention_mask=mask, use_cache=False, **keep).logits
        skipped = ids.shape[1] - logits.shape[1]
        targets = [[*output, self.end_id] for output in output_ids]
        return output_log_probs(logits, targets, [len(row) - 1 - skipped for row in prompt_ids])


def _plain_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids without special tokens."""
    batch = tokenizer(
        list(texts),
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = batch["input_ids"]
    return ids


def _joins_with_space(tokenizer: Any) -> bool:
    """Whether a word inside a sentence is tokenised as ``" word"`` and not as ``"word"``."""
    alone, spaced, twice = _plain_ids(tokenizer, ["a", " a", "a a"])
    return twice[-len(alone) :] != alone and twice[-len(spaced) :] == spaced
