"""What all targets around Hugging Face models share: preparing, padding, generating, scoring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustlab.errors import UserError
from robustlab.models._generator import UNLIMITED, EncodedPrompt, Generated
from robustlab.models._gradients import InputGradient, output_gradients
from robustlab.models.device import upload
from robustlab.models.target import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = [
    "GreedyRecorder",
    "TransformersGenerator",
    "encode",
    "output_log_probs",
    "pad_batch",
    "position_limit",
    "settle",
]

# Tokenizers without a limit of their own say 10^30.
_NO_LIMIT = 10**9


def settle(model: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Make a model ready for inference: eval mode, frozen, on its device and in its dtype.

    Buffers keep their dtype (rotary frequencies lose too much in bf16), and so do routers that
    the architecture defines in a dtype of their own; those would else cast themselves in the
    first forward pass and change the fingerprint.
    """
    import torch

    model.eval()
    model.requires_grad_(False)
    model.to(device)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    router_dtype = getattr(model.config, "router_dtype", None)
    if router_dtype is not None:
        for name, module in model.named_modules():
            if name.endswith("router.classifier"):
                module.to(getattr(torch, router_dtype))
    return model


def position_limit(model: Any, config: Any, tokenizer: Any) -> int:
    """The longest input in tokens that both the positions and the tokenizer allow.

    RoBERTa's kind of model counts its positions from the padding index + 1, so that many of its
    position embeddings are never used. Returns :data:`UNLIMITED` if nothing states a limit.
    """
    import torch

    limits = [UNLIMITED]
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        positions = getattr(config, "n_positions", None)
    if isinstance(positions, int) and positions > 0:
        offset = 0
        for name, module in model.named_modules():
            if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                offset = 0 if module.padding_idx is None else module.padding_idx + 1
                break
        limits.append(positions - offset)
    if tokenizer.model_max_length < _NO_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    return min(limits)


def encode(tokenizer: Any, texts: Sequence[str], *, with_offsets: bool) -> list[EncodedPrompt]:
    """Tokenise texts in one call, with special tokens and without truncation."""
    if not texts:
        return []
    batch = tokenizer(
        list(texts),
        return_offsets_mapping=with_offsets,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = batch["input_ids"]
    if not with_offsets:
        return [EncodedPrompt(row) for row in ids]
    spans = batch["offset_mapping"]
    return [
        EncodedPrompt(row, tuple((start, end) for start, end in span))
        for row, span in zip(ids, spans, strict=True)
    ]


def pad_batch(
    rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, *, left: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded to the longest row, and their attention mask; both int64 (rows, longest)."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(len(row))
        ids[number, place] = row
        mask[number, place] = 1
    return upload(ids, device), upload(mask, device)


class GreedyRecorder:
    """A logits processor that chooses greedily and notes each choice's log-probability and lead.

    The log-probability is that of the raw logits; the lead is the difference to the second best
    token's, infinite where the choice was forced. Keeping them step by step costs two numbers a
    row, where ``output_logits`` would keep the whole vocabulary for every step.
    """

    def __init__(self, forced_first: int | None) -> None:
        self._forced_first = forced_first
        self._steps: list[torch.Tensor] = []
        self._leads: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Raw logits (batch, vocabulary) in; the same with the choice on top out."""
        import torch

        log_probs = scores.float().log_softmax(dim=-1)
        choice = scores.argmax(dim=-1, keepdim=True)
        best, second = log_probs.topk(2, dim=-1).values.unbind(-1)
        lead = best - second
        if self._forced_first is not None and not self._steps:
            choice = torch.full_like(choice, self._forced_first)
            lead = torch.full_like(lead, torch.inf)
        self._leads.append(lead)
        self._steps.append(log_probs.gather(-1, choice).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter(-1, choice, 0.0)

    def log_probs(self) -> torch.Tensor:
        """Float32 on the CPU, shape (batch, steps)."""
        import torch

        return torch.stack(self._steps, dim=1).cpu()

    def leads(self) -> torch.Tensor:
        """Float32 on the CPU, shape (batch, steps)."""
        import torch

        return torch.stack(self._leads, dim=1).cpu()


class TransformersGenerator(ABC):
    """The part of a generator backend that encoder-decoder and decoder-only models share."""

    def __init__(
        self, model: Any, tokenizer: Any, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        from transformers import GenerationConfig

        self.module = settle(model, device, dtype)
        self.tokenizer = tokenizer
        self.device = device
        stored, config = model.generation_config, model.config

        def token(name: str) -> Any:
            for source in (stored, config, tokenizer):
                value = getattr(source, name, None)
                if value is not None:
                    return value
            return None

        ends = token("eos_token_id")
        if ends is None:
            raise UserError(
                f"The model {type(model).__name__} has no end token, so it cannot be told when "
                "an output is complete: set eos_token_id in its config.json."
            )
        self._ends = tuple(ends) if isinstance(ends, list | tuple) else (ends,)
        own_end = tokenizer.eos_token_id
        self.end_id: int = own_end if own_end in self._ends else self._ends[0]
        # The padding is masked everywhere, so without a usable pad token any other will do.
        pad = token("pad_token_id")
        rows = model.get_input_embeddings().weight.shape[0]
        self.pad_id: int = pad if isinstance(pad, int) and 0 <= pad < rows else self.end_id
        self.start_id: int | None = token("decoder_start_token_id")
        self._forced_first: int | None = token("forced_bos_token_id")
        # A fresh configuration: sampling, beams and penalties that a model ships with are not
        # greedy decoding, and the log-probabilities would not be the model's own.
        model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            use_cache=True,
            eos_token_id=list(self._ends),
            pad_token_id=self.pad_id,
            bos_token_id=token("bos_token_id"),
            decoder_start_token_id=self.start_id,
        )
        # Routers' logits are for training; some versions cannot generate with them.
        if getattr(config, "output_router_logits", False):
            config.output_router_logits = False

    def encode_prompts(
        self, prompts: Sequence[str], *, with_offsets: bool = False
    ) -> list[EncodedPrompt]:
        """See :meth:`GeneratorBackend.encode_prompts`."""
        return encode(self.tokenizer, prompts, with_offsets=with_offsets)

    def decode(self, prompts: Sequence[str], outputs: Sequence[list[int]]) -> list[str]:
        """See :meth:`GeneratorBackend.decode`."""
        if not outputs:  # transformers 5 makes one empty text of none
            return []
        texts: list[str] = self.tokenizer.batch_decode(list(outputs), skip_special_tokens=True)
        return texts

    def score(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """See :meth:`GeneratorBackend.score`."""
        import torch

        with torch.inference_mode():
            return self.log_probs(prompt_ids, output_ids)

    def gradient(
        self,
        prompt_ids: Sequence[list[int]],
        output_ids: Sequence[list[int]],
        shifts: Sequence[FloatArray] = (),
    ) -> list[InputGradient]:
        """See :meth:`GeneratorBackend.gradient`."""
        return output_gradients(
            self.input_layer,
            lambda: self.log_probs(prompt_ids, output_ids),
            prompt_ids,
            output_ids,
            shifts,
        )

    @property
    def ends(self) -> tuple[int, ...]:
        """See :meth:`GeneratorBackend.ends`."""
        return self._ends

    def next_choice(
        self, logits: torch.Tensor, output_ids: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Logits of the next token (batch, vocabulary) as float32 log-probabilities.

        Where a model's first token is forced, it is certain.
        """
        import torch

        log_probs = logits.float().log_softmax(dim=-1)
        if self._forced_first is not None:
            forced = torch.full_like(log_probs[0], -torch.inf)
            forced[self._forced_first] = 0.0
            begins = [not row for row in output_ids]
            log_probs[torch.tensor(begins, device=log_probs.device)] = forced
        return log_probs

    @property
    @abstractmethod
    def input_layer(self) -> torch.nn.Embedding:
        """The token embedding layer that reads the prompt."""

    @abstractmethod
    def log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Teacher-forced log-probabilities of outputs and end tokens, float32 (batch,)."""

    def greedy(
        self, ids: torch.Tensor, mask: torch.Tensor, skip: int, max_new_tokens: int
    ) -> list[Generated]:
        """Generate after a padded batch; ``skip`` tokens of each sequence are not output."""
        import torch
        from transformers import LogitsProcessorList

        recorder = GreedyRecorder(self._forced_first)
        with torch.inference_mode():
            sequences = self.module.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                logits_processor=LogitsProcessorList([recorder]),
            )
        rows = sequences[:, skip:].tolist()
        results = []
        for row, steps, leads in zip(rows, recorder.log_probs(), recorder.leads(), strict=True):
            ended = next((i for i, token in enumerate(row) if token in self._ends), None)
            tokens = len(row) if ended is None else ended + 1
            log_prob, margin = float(steps[:tokens].sum()), float(leads[:tokens].min())
            results.append(Generated(row[:ended], log_prob, tokens, margin))
        return results


def output_log_probs(
    logits: torch.Tensor, targets: Sequence[Sequence[int]], starts: Sequence[int]
) -> torch.Tensor:
    """Summed log-probabilities of target tokens, float32 (batch,).

    ``logits``: (batch, positions, vocabulary); the first token of ``targets[i]`` is predicted at
    position ``starts[i]``, the others at the positions after it.
    """
    import torch

    lengths = np.array([len(target) for target in targets])
    rows = np.repeat(np.arange(len(targets)), lengths)
    steps = np.concatenate([np.arange(length) for length in lengths])
    flat = logits.flatten(0, 1)
    # Rows of one length that were cut to their targets have nothing else: spare them the copy.
    if len(rows) < len(flat):
        places = rows * logits.shape[1] + np.asarray(starts)[rows] + steps
        flat = flat[upload(places, logits.device)]
    tokens = upload(np.array([token for target in targets for token in target]), logits.device)
    log_probs = -torch.nn.functional.cross_entropy(flat.float(), tokens, reduction="none")
    # Summed as one rectangle: a sum for each row would be a kernel for each on a GPU.
    width = int(lengths.max())
    rectangle = log_probs.new_zeros(len(targets) * width)
    cells = upload(rows * width + steps, logits.device)
    return rectangle.index_copy(0, cells, log_probs).view(-1, width).sum(1)
