"""The built-in readers behind the same backend protocol as Hugging Face generators."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robustlab.models._generator import EncodedPrompt, Generated, ReadPrefix
from robustlab.models._gradients import InputGradient, output_gradients
from robustlab.models._transformers import pad_batch
from robustlab.models.causal import CausalTarget
from robustlab.models.seq2seq import Seq2SeqTarget
from robustlab.models.target import FloatArray

if TYPE_CHECKING:
    import torch

    from robustlab.models.reader import Reader

__all__ = ["CausalReaderTarget", "ReaderBackend", "Seq2SeqReaderTarget", "find_tokens"]

_MAX_INPUT_TOKENS = 4096
_MAX_OUTPUT_TOKENS = 64


class ReaderBackend:
    """Runs a :class:`~robustlab.models.reader.Reader`; implements ``GeneratorBackend``.

    A prompt is ``question [SEP] passage [SEP] passage …`` as text; the tokens at both ends are
    added here. As in any prompt format, a passage that contains the separator's own spelling is
    read as two: that is a surface an adversary has. The copy bonus of the reader compares token
    numbers, so that no gradient flows through it: gradients see the attention, the copy scores
    and the vocabulary, which is all that varies smoothly.
    """

    def __init__(self, reader: Reader, tokenizer: Any, device: torch.device) -> None:
        self._reader = reader.to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._device = device

    @property
    def module(self) -> torch.nn.Module:
        """The reader itself."""
        return self._reader

    @property
    def max_input_tokens(self) -> int:
        """Positions restart with every passage, so only memory bounds the context."""
        return _MAX_INPUT_TOKENS

    @property
    def max_output_tokens(self) -> int:
        """Answers are spans: longer outputs were never trained."""
        return _MAX_OUTPUT_TOKENS

    @property
    def shared_window(self) -> bool:
        """The answer has positions of its own in both readers."""
        return False

    @property
    def input_layer(self) -> torch.nn.Embedding:
        """The word embeddings."""
        return self._reader.embedding.word

    @property
    def read_prefix(self) -> ReadPrefix | None:
        """None: both readers read a prompt in both directions."""
        return None

    def encode_prompts(
        self, prompts: Sequence[str], *, with_offsets: bool = False
    ) -> list[EncodedPrompt]:
        """``[CLS] prompt [SEP]``, and the decoder-only reader's ``[MASK]`` behind it."""
        config = self._reader.config
        closing = [config.sep_token_id]
        if config.model_type == "robustlab-causal":
            closing.append(config.mask_token_id)
        if not prompts:
            return []
        found = self.tokenizer(
            list(prompts),
            add_special_tokens=False,
            truncation=False,
            return_offsets_mapping=with_offsets,
            verbose=False,
        )
        encoded = []
        for row, ids in enumerate(found["input_ids"]):
            offsets: tuple[tuple[int, int], ...] = ()
            if with_offsets:
                inner = [(int(a), int(b)) for a, b in found["offset_mapping"][row]]
                offsets = ((0, 0), *inner, *[(0, 0)] * len(closing))
            encoded.append(EncodedPrompt([config.cls_token_id, *ids, *closing], offsets))
        return encoded

    def encode_outputs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[list[int]]:
        """Tokens of the outputs alone."""
        found = self.tokenizer(list(outputs), add_special_tokens=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]

    def decode(self, prompts: Sequence[str], outputs: Sequence[list[int]]) -> list[str]:
        """The answers, spelled as in the prompt where they were copied from it.

        The vocabulary is lower-cased and splits at punctuation; a run of tokens that stands in
        the prompt is given back as the prompt writes it ("3.5 km", not "3. 5 km").
        """
        encoded = self.encode_prompts(prompts, with_offsets=True)
        texts = []
        for prompt, source, ids in zip(prompts, encoded, outputs, strict=True):
            start = find_tokens(source.ids, ids)
            if ids and start >= 0:
                span = source.offsets[start : start + len(ids)]
                texts.append(prompt[span[0][0] : span[-1][1]])
            else:
                texts.append(_tidy(self.tokenizer.decode(ids, skip_special_tokens=True)))
        return texts

    def generate(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        """Greedy answers."""
        end, pad = self._reader.config.sep_token_id, self._reader.config.pad_token_id
        answers = self._reader.generate(self._padded(prompt_ids), max_new_tokens)
        results = []
        for row, log_prob, margin in zip(*(part.tolist() for part in answers), strict=True):
            emitted = [token for token in row if token != pad]
            ids = emitted[:-1] if emitted[-1] == end else emitted
            results.append(Generated(ids, log_prob, len(emitted), margin))
        return results

    def score(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Summed log-probabilities of the outputs and their end tokens."""
        import torch

        with torch.inference_mode():
            found = self._reader.token_log_probs(
                self._padded(prompt_ids), self._padded(self._closed(output_ids))
            )
        return found.sum(1)

    @property
    def ends(self) -> tuple[int, ...]:
        """The separator."""
        return (self._reader.config.sep_token_id,)

    def next_log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Log-probabilities of the next tokens."""
        from robustlab.models.reader import next_log_probs

        return next_log_probs(self._reader, self._padded(prompt_ids), self._padded(output_ids))

    def gradient(
        self,
        prompt_ids: Sequence[list[int]],
        output_ids: Sequence[list[int]],
        shifts: Sequence[FloatArray] = (),
    ) -> list[InputGradient]:
        """Gradients of the mean cross-entropy at the prompts' word embeddings."""
        ids, answers = self._padded(prompt_ids), self._padded(self._closed(output_ids))
        return output_gradients(
            self.input_layer,
            lambda: self._reader.token_log_probs(ids, answers).sum(1),
            prompt_ids,
            output_ids,
            shifts,
        )

    def _closed(self, output_ids: Sequence[list[int]]) -> list[list[int]]:
        return [[*ids, self._reader.config.sep_token_id] for ids in output_ids]

    def _padded(self, rows: Sequence[list[int]]) -> torch.Tensor:
        return pad_batch(rows, self._reader.config.pad_token_id, self._device)[0]


class Seq2SeqReaderTarget(Seq2SeqTarget):
    """``builtin:seq2seq``, or one that was trained further."""

    prompt_style = "reader"
    """The prompt template that it was trained on."""


class CausalReaderTarget(CausalTarget):
    """``builtin:causal``, or one that was trained further."""

    prompt_style = "reader"
    """The prompt template that it was trained on."""


# Marks inside words and numbers, which the vocabulary splits: "well - known", "3. 5", "u. s.".
_INNER = (
    re.compile(r"(?<=\w)\s*([-–/'’])\s*(?=\w)"),
    re.compile(r"(?<=\d)\s*([.,:])\s*(?=\d)"),
    re.compile(r"(?<=\b\w)\s*(\.)\s*(?=\w\b)"),
    re.compile(r"([£$€#])\s*(?=\d)"),
)


def _tidy(text: str) -> str:
    """A decoded text with the spaces inside its words and numbers taken out again."""
    for pattern in _INNER:
        text = pattern.sub(r"\1", text)
    return text


def find_tokens(haystack: Sequence[int], needle: Sequence[int]) -> int:
    """First place of a token run in another, or -1."""
    size = len(needle)
    for start in range(len(haystack) - size + 1):
        if haystack[start : start + size] == needle:
            return start
    return -1
