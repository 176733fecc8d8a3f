"""What encoder-decoder and decoder-only targets share: one backend protocol, one target.

A :class:`GeneratorBackend` runs one packed batch of token ids through one model. Everything
around that is done here once for every backend: tokenising the request, refusing prompts that
do not fit, packing by length, putting results back in the order of the request, decoding, and
building the response.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np

from robustlab.errors import UserError
from robustlab.models._describe import describe_module
from robustlab.models._gradients import InputGradient, checked_shifts
from robustlab.models.batching import DEFAULT_BATCH_TOKENS, pack
from robustlab.models.fingerprint import fingerprint
from robustlab.models.prefixes import share_prefixes
from robustlab.models.target import (
    FloatArray,
    Generate,
    Generations,
    Gradient,
    Gradients,
    Next,
    NextTokens,
    Request,
    Response,
    Score,
    Scores,
    TokenGradient,
    Vocabulary,
)
from robustlab.models.vocabulary import read_vocabulary

if TYPE_CHECKING:
    import torch

__all__ = [
    "UNLIMITED",
    "EncodedPrompt",
    "Generated",
    "GeneratorBackend",
    "GeneratorTarget",
    "PrefixScorer",
    "ReadPrefix",
]

UNLIMITED = sys.maxsize
"""The limit of a model that states none (relative positions, no tokenizer limit)."""

# How many tokens of a shared prefix weigh as much in a batch as one that is computed: their keys
# and values take memory in every row.
_PREFIX_DISCOUNT = 8


class EncodedPrompt(NamedTuple):
    """One prompt as the model reads it: special tokens included, never truncated.

    ``offsets``: the character span of each token in the prompt, (0, 0) for tokens that the
    tokenizer added; empty unless asked for.
    """

    ids: list[int]
    offsets: tuple[tuple[int, int], ...] = ()


class Generated(NamedTuple):
    """One greedy output.

    ``ids``: its tokens without the end token. ``log_prob``: summed over these and, where the
    model ended by itself, its end token. ``tokens``: how many tokens that sum has: ``len(ids)``
    plus one if the end token was generated. ``margin``: the smallest lead in log-probability that
    one of these tokens had over the second best one; infinite where there was no choice.
    """

    ids: list[int]
    log_prob: float
    tokens: int
    margin: float


class PrefixScorer(Protocol):
    """Scores many outputs behind one beginning of a prompt, which was read once."""

    def score(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """As :meth:`GeneratorBackend.score`; ``prompt_ids`` are what follows the beginning."""


ReadPrefix: TypeAlias = Callable[[list[int]], PrefixScorer]
"""Reads the first tokens of prompts; each prompt must have at least one token more."""


class GeneratorBackend(Protocol):
    """One generator model: token ids in, numbers out, one packed batch at a time.

    What every method may rely on: ``prompt_ids`` come from :meth:`encode_prompts` and
    ``output_ids`` from :meth:`encode_outputs` (or from a :class:`Generated`), in the same order
    and number; there is at least one row; rows are of similar length, and no prompt is empty or
    over the limits below. What every method owes: the result of a row does not depend on the
    other rows (beyond float rounding), ``module`` is in eval mode, its weights take no gradient
    and are not changed.
    """

    @property
    def module(self) -> torch.nn.Module:
        """All weights: what the fingerprint, the device and the dtype are read from."""

    @property
    def max_input_tokens(self) -> int:
        """Longest prompt, special tokens included; :data:`UNLIMITED` if there is no limit."""

    @property
    def max_output_tokens(self) -> int:
        """Longest output, end token included; :data:`UNLIMITED` if there is no limit."""

    @property
    def shared_window(self) -> bool:
        """Whether prompt and output together must fit ``max_input_tokens`` (decoder-only)."""

    @property
    def tokenizer(self) -> Any:
        """The fast tokenizer of the prompts."""

    @property
    def input_layer(self) -> torch.nn.Embedding:
        """The token embedding layer that reads the prompts."""

    @property
    def read_prefix(self) -> ReadPrefix | None:
        """Reads a beginning that many prompts share; None if the model cannot go on from one.

        It can if what it computes for a token depends on the tokens before it only, and is kept
        in a cache of plain keys and values.
        """

    def encode_prompts(
        self, prompts: Sequence[str], *, with_offsets: bool = False
    ) -> list[EncodedPrompt]:
        """Tokenise prompts in one tokenizer call; special tokens added, nothing truncated."""

    def encode_outputs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[list[int]]:
        """Tokenise outputs as the model would have generated them after these prompts.

        Without the end token; with any token that the model puts at the start of an output.
        """

    def decode(self, prompts: Sequence[str], outputs: Sequence[list[int]]) -> list[str]:
        """Texts of generated ids without special tokens; surrounding space may remain.

        The prompts are there for backends that copy, which can spell as the prompt does.
        """

    def generate(self, prompt_ids: Sequence[list[int]], max_new_tokens: int) -> list[Generated]:
        """Greedy outputs of at most ``max_new_tokens`` tokens, end token included.

        Log-probabilities are those of the model itself (softmax over the raw logits).
        """

    def score(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Teacher-forced log-probabilities, float32 (batch,).

        Summed over the tokens of the output and the end token, which the backend appends.
        """

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end an output."""

    def next_log_probs(
        self, prompt_ids: Sequence[list[int]], output_ids: Sequence[list[int]]
    ) -> torch.Tensor:
        """Log-probabilities of the token that :meth:`generate` would choose next.

        Float32 (batch, vocabulary). ``output_ids`` are the tokens generated so far, no end token
        among them; they may be none.
        """

    def gradient(
        self,
        prompt_ids: Sequence[list[int]],
        output_ids: Sequence[list[int]],
        shifts: Sequence[FloatArray] = (),
    ) -> list[InputGradient]:
        """Loss and its gradient at the embeddings of the prompt's tokens, for each row.

        The loss of a row is ``-score / (len(output) + 1)``, the mean cross-entropy over the
        output's tokens and the end token. (T, width) has one row for each prompt token, taken
        at the output of the token embedding layer, before positions are added. ``shifts``, one
        of shape (T, width) for each prompt if any, are added there.
        """


class GeneratorTarget:
    """A :class:`~robustlab.models.target.Target` around any :class:`GeneratorBackend`.

    Prompts are given to the model as they are: a chat template, where the tokenizer has one, is
    not applied, and nothing is cut. A prompt that does not fit raises
    :class:`~robustlab.errors.UserError` before anything is computed.
    """

    kind: ClassVar[str]

    def __init__(
        self, spec: str, backend: GeneratorBackend, *, batch_tokens: int = DEFAULT_BATCH_TOKENS
    ) -> None:
        self._spec = spec
        self._backend = backend
        self._batch_tokens = batch_tokens
        self._vocabulary: Vocabulary | None = None

    @property
    def spec(self) -> str:
        """The text that named it."""
        return self._spec

    @property
    def backend(self) -> GeneratorBackend:
        """What runs the model; training takes it apart."""
        return self._backend

    @property
    def answers(self) -> frozenset[type[Request]]:
        """Generate, Score, Next and Gradient."""
        return frozenset({Generate, Score, Next, Gradient})

    @property
    def label_names(self) -> tuple[str, ...]:
        """Empty: a generator has no classes."""
        return ()

    def answer(self, request: Request) -> Response:
        """Answer a batch of any size.

        Raises:
            UserError: a prompt that is empty or does not fit the model, with the lengths.
            TypeError: a kind of request that is not in :attr:`answers`.
        """
        if isinstance(request, Generate):
            return self._generate(request)
        if isinstance(request, Score):
            return self._score(request)
        if isinstance(request, Next):
            return self._next(request)
        if isinstance(request, Gradient):
            return self._gradient(request)
        raise TypeError(f"{self._spec} ({self.kind}) does not answer {type(request).__name__}")

    def fingerprint(self) -> str:
        """SHA-256 over the weights as they are now."""
        return fingerprint(self._backend.module)

    def describe(self) -> Mapping[str, Any]:
        """What goes into the manifest."""
        return describe_module(self._spec, self.kind, self._backend.module)

    def vocabulary(self) -> Vocabulary:
        """Tokens of prompts and their embeddings, as they are at the first call."""
        if self._vocabulary is None:
            backend = self._backend
            self._vocabulary = read_vocabulary(backend.tokenizer, backend.input_layer)
        return self._vocabulary

    @property
    def max_input_tokens(self) -> int:
        """Longest prompt, special tokens included, for an output of the default length.

        That is :meth:`input_limit` of ``Generate``'s default ``max_new_tokens``.
        """
        return self.input_limit(Generate(()).max_new_tokens)

    def input_limit(self, max_new_tokens: int) -> int:
        """Longest prompt in tokens, special tokens included, with room for that long an output.

        The output takes its room from the prompt in decoder-only models only.
        :data:`UNLIMITED` where the model has no limit.
        """
        limit = self._backend.max_input_tokens
        if limit >= UNLIMITED or not self._backend.shared_window:
            return limit
        return max(0, limit - max_new_tokens)

    def count_tokens(self, text: str) -> int:
        """The length of a text as a prompt, special tokens included."""
        return self.count_tokens_many([text])[0]

    def count_tokens_many(self, texts: Sequence[str]) -> list[int]:
        """The length of each text as a prompt, in one tokenizer call."""
        return [len(prompt.ids) for prompt in self._backend.encode_prompts(texts)]

    def _generate(self, request: Generate) -> Generations:
        new = request.max_new_tokens
        if new < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {new}")
        prompts = [prompt.ids for prompt in self._backend.encode_prompts(request.prompts)]
        self._check_fit(prompts, [new] * len(prompts))
        results: dict[int, Generated] = {}
        # The cache grows by the output, so its room counts in the budget.
        for rows in pack([len(prompt) + new for prompt in prompts], self._batch_tokens):
            outputs = self._backend.generate([prompts[i] for i in rows], new)
            results.update(zip(rows, outputs, strict=True))
        ordered = [results[i] for i in range(len(prompts))]
        texts = self._backend.decode(request.prompts, [item.ids for item in ordered])
        return Generations(
            texts=tuple(text.strip() for text in texts),
            log_probs=np.array([item.log_prob for item in ordered], dtype=np.float32),
            tokens=np.array([item.tokens for item in ordered], dtype=np.int64),
            margins=np.array([item.margin for item in ordered], dtype=np.float32),
        )

    def _score(self, request: Score) -> Scores:
        import torch

        if len(request.prompts) != len(request.outputs):
            raise ValueError(
                f"{len(request.prompts)} prompts are paired with {len(request.outputs)} outputs"
            )
        prompts = [prompt.ids for prompt in self._backend.encode_prompts(request.prompts)]
        outputs = self._encode_outputs(request.prompts, request.outputs)
        lengths = self._pair_lengths(prompts, outputs)
        order: list[int] = []
        parts: list[torch.Tensor] = []
        alone = list(range(len(prompts)))
        read_prefix = self._backend.read_prefix
        if read_prefix is not None:
            groups, alone = share_prefixes(prompts, lengths)
            for group in groups:
                cut = group.length
                scorer = read_prefix(prompts[group.rows[0]][:cut])
                # A token of the prefix is kept and attended to by every row, but computed once.
                sizes = [lengths[i] - cut + -(-cut // _PREFIX_DISCOUNT) for i in group.rows]
                for batch in pack(sizes, self._batch_tokens):
                    rows = [group.rows[place] for place in batch]
                    parts.append(
                        scorer.score([prompts[i][cut:] for i in rows], [outputs[i] for i in rows])
                    )
                    order.extend(rows)
        for batch in pack([lengths[i] for i in alone], self._batch_tokens):
            rows = [alone[place] for place in batch]
            parts.append(
                self._backend.score([prompts[i] for i in rows], [outputs[i] for i in rows])
            )
            order.extend(rows)
        log_probs = np.zeros(len(prompts), dtype=np.float32)
        # One copy at the end: a copy after every batch would make a GPU wait for Python.
        if parts:
            log_probs[order] = torch.cat(parts).cpu().numpy()
        tokens = np.array([len(output) + 1 for output in outputs], dtype=np.int64)
        return Scores(log_probs=log_probs, tokens=tokens)

    def spell(self, prompts: Sequence[str], outputs: Sequence[Sequence[int]]) -> list[str]:
        """What :class:`Generations` would write for these output tokens, no end token among them.

        The prompts are there for generators that copy, which can spell as the prompt does.
        """
        texts = self._backend.decode(prompts, [list(ids) for ids in outputs])
        return [text.strip() for text in texts]

    def _next(self, request: Next) -> NextTokens:
        if len(request.prompts) != len(request.outputs):
            raise ValueError(
                f"{len(request.prompts)} prompts are paired with {len(request.outputs)} outputs"
            )
        prompts = [prompt.ids for prompt in self._backend.encode_prompts(request.prompts)]
        outputs = [list(output) for output in request.outputs]
        lengths = self._pair_lengths(prompts, outputs)
        found: FloatArray | None = None
        for rows in pack(lengths, self._batch_tokens):
            part = self._backend.next_log_probs(
                [prompts[i] for i in rows], [outputs[i] for i in rows]
            )
            if found is None:
                found = np.zeros((len(prompts), part.shape[1]), dtype=np.float32)
            found[rows] = part.cpu().numpy()
        if found is None:
            found = np.zeros((0, 0), dtype=np.float32)
        return NextTokens(found, self._backend.ends)

    def _gradient(self, request: Gradient) -> Gradients:
        if len(request.texts) != len(request.goals):
            raise ValueError(f"{len(request.texts)} texts have {len(request.goals)} goals")
        texts = [text for text in request.texts if isinstance(text, str)]
        goals = [goal for goal in request.goals if isinstance(goal, str)]
        if len(texts) != len(request.texts) or len(goals) != len(request.goals):
            raise ValueError("a generator's gradient takes single texts and texts as goals")
        encoded = self._backend.encode_prompts(texts, with_offsets=True)
        prompts = [prompt.ids for prompt in encoded]
        outputs = self._encode_outputs(texts, goals)
        lengths = self._pair_lengths(prompts, outputs)
        shifts = checked_shifts(request, [len(row) for row in prompts], self._backend.input_layer)
        items: dict[int, TokenGradient] = {}
        for rows in pack(lengths, self._batch_tokens):
            found = self._backend.gradient(
                [prompts[i] for i in rows],
                [outputs[i] for i in rows],
                [shifts[i] for i in rows] if shifts else (),
            )
            for i, item in zip(rows, found, strict=True):
                items[i] = TokenGradient(
                    loss=item.loss,
                    token_ids=np.array(prompts[i], dtype=np.int64),
                    offsets=encoded[i].offsets,
                    gradient=item.gradient,
                )
        return Gradients(tuple(items[i] for i in range(len(prompts))))

    def _encode_outputs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[list[int]]:
        return self._backend.encode_outputs(prompts, outputs) if outputs else []

    def _pair_lengths(
        self, prompts: Sequence[list[int]], outputs: Sequence[list[int]]
    ) -> list[int]:
        """Tokens of prompts with their outputs and end tokens, refused if they do not fit."""
        self._check_fit(prompts, [len(output) + 1 for output in outputs])
        return [len(p) + len(o) + 1 for p, o in zip(prompts, outputs, strict=True)]

    def _check_fit(self, prompts: Sequence[list[int]], output_tokens: Sequence[int]) -> None:
        """Refuse the request if any prompt, with its output, is beyond the model's limits."""
        backend = self._backend
        for number, (prompt, output) in enumerate(zip(prompts, output_tokens, strict=True), 1):
            if not prompt:
                raise UserError(
                    f"Prompt {number} is empty, and {self._spec} needs at least one token to read."
                )
            if len(prompt) > backend.max_input_tokens:
                raise UserError(
                    f"Prompt {number} has {len(prompt)} tokens, but {self._spec} reads at most "
                    f"{backend.max_input_tokens}: shorten it."
                )
            if backend.shared_window and len(prompt) + output > backend.max_input_tokens:
                raise UserError(
                    f"Prompt {number} has {len(prompt)} tokens and its output needs {output} more, "
                    f"but {self._spec} holds {backend.max_input_tokens} in all: shorten either."
                )
            if output > backend.max_output_tokens:
                raise UserError(
                    f"The output of prompt {number} needs {output} tokens, but {self._spec} writes "
                    f"at most {backend.max_output_tokens}: shorten it."
                )
