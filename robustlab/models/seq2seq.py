"""Encoder-decoder generators: T5, BART, LongT5, SwitchTransformers and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustlab.errors import UserError
from robustlab.models._generator import UNLIMITED, Generated, GeneratorTarget, ReadPrefix
from robustlab.models._transformers import (
    TransformersGenerator,
    output_log_probs,
    pad_batch,
    position_limit,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Seq2SeqTarget", "TransformersSeq2Seq"]


class Seq2SeqTarget(GeneratorTarget):
    """An encoder-decoder model that answers Generate, Score, Next and Gradient."""

    kind = "seq2seq"


class TransformersSeq2Seq(TransformersGenerator):
    """The :class:`GeneratorBackend` around a Hugging Face encoder-decoder model.

    Args:
        model: a ``…ForConditionalGeneration``; it is put into eval mode, frozen and moved, and
            its generation settings are replaced by greedy ones.
        tokenizer: its fast tokenizer.
        device: where to run.
        dtype: of weights and activations.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(model, tokenizer, device=device, dtype=dtype)
        if self.start_id is None:
            raise UserError(
                f"The model {type(model).__name__} does not say which token its decoder starts "
                "with: set decoder_start_token_id in its config.json."
            )
        config = model.config
        self._encoder = model.get_encoder()
        self.max_input_tokens = position_limit(
            self._encoder, getattr(config, "encoder", config), tokenizer
        )
        # Relative positions (T5) do not bound the output; learned ones (BART) do.
        decoder = getattr(config, "decoder", config)
        positions = getattr(decoder, "max_position_embeddings", None)
        self.max_output_tokens: int = positions if isinstance(positions, int) else UNLIMITED
        self.shared_window = False

    def encode_outputs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[list[int]]:
        """Tokenise outputs as labels, the end token taken off."""
        batch = self.tokenizer(
            text_target=list(outputs),
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        rows: list[list[int]] = batch["input_ids"]
        return [row[:-1] if row and row[-1] in self._ends else row for row in rows]

    def generate(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        """See :meth:`GeneratorBackend.generate`."""
        ids, mask = pad_batch(prompt_ids, self.pad_id, self.device)
        return self.greedy(ids, mask, skip=1, max_new_tokens=max_new_tokens)

    def next_log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """See :meth:`GeneratorBackend.next_log_probs`."""
        import torch

        last = torch.tensor([len(row) for row in output_ids], device=self.device)
        with torch.inference_mode():
            logits = self._logits(prompt_ids, output_ids)
            chosen = logits[torch.arange(len(last), device=self.device), last]
        return self.next_choice(chosen, output_ids)

    @property
    def read_prefix(self) -> ReadPrefix | None:
        """None: the encoder reads a prompt in both directions."""
        return None

    @property
    def input_layer(self) -> torch.nn.Embedding:
        """The token embedding layer of the encoder."""
        layer: torch.nn.Embedding = self._encoder.get_input_embeddings()
        return layer

    def log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Log-probabilities of outputs and end tokens, float32 (batch,)."""
        logits = self._logits(prompt_ids, output_ids)
        targets = [[*row, self.end_id] for row in output_ids]
        return output_log_probs(logits, targets, [0] * len(targets))

    def _logits(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """(batch, longest output + 1, vocabulary): at t what follows the first t tokens."""
        assert self.start_id is not None
        ids, mask = pad_batch(prompt_ids, self.pad_id, self.device)
        # Padding on the right is invisible to the causal decoder, so it needs no mask.
        decoder_ids, _ = pad_batch(
            [[self.start_id, *row] for row in output_ids], self.pad_id, self.device
        )
        logits: torch.Tensor = self.module(
            input_ids=ids, attention_mask=mask, decoder_input_ids=decoder_ids, use_cache=False
        ).logits
        return logits
