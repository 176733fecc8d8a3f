"""One door to a model: requests go in, responses come out, always as batches.

A classifier, a seq2seq or causal generator, a sentence encoder and a whole RAG pipeline are
all a :class:`Target`; each says in ``Target.answers`` which kinds of request it takes. Nothing
outside ``models``, ``retrieval`` and ``rag`` touches a torch module for inference.

Requests are plain values without tensors, so that the attack engine can merge, deduplicate and
cache them item by item; responses are NumPy arrays and strings in the order of the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Ask",
    "Direction",
    "Embed",
    "Embeddings",
    "Generate",
    "Generations",
    "Gradient",
    "Gradients",
    "Next",
    "NextTokens",
    "Predict",
    "Predictions",
    "Replies",
    "Reply",
    "Request",
    "Response",
    "Retrieval",
    "Retrievals",
    "Retrieve",
    "Score",
    "Scores",
    "Target",
    "TextInput",
    "TokenGradient",
    "Vocabulary",
    "WhiteBox",
]

TextInput: TypeAlias = str | tuple[str, str]
"""One text, or a pair of texts for tasks such as entailment."""

FloatArray: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Predict:
    """Class probabilities of texts."""

    texts: tuple[TextInput, ...]


@dataclass(frozen=True, slots=True)
class Predictions:
    """``probabilities``: float32, shape (texts, classes), rows sum to one."""

    probabilities: FloatArray

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each text, shape (texts,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Generate:
    """Continuations of prompts (causal) or outputs for inputs (seq2seq), greedy."""

    prompts: tuple[str, ...]
    max_new_tokens: int = 32


@dataclass(frozen=True, slots=True)
class Generations:
    """Generated texts without special tokens or surrounding space.

    ``log_probs``: float32, shape (prompts,): the summed log-probability of the generated
    tokens, the end token included; ``tokens``: int64, shape (prompts,), how many they are;
    ``margins``: float32, shape (prompts,): the smallest lead, in log-probability, that a chosen
    token had over the second best one: what noise would have to exceed to change the text.
    """

    texts: tuple[str, ...]
    log_probs: FloatArray
    tokens: NDArray[np.int64]
    margins: FloatArray


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probability of given outputs after given prompts (same length, paired).

    The prompts of a pipeline are questions, unless ``inside``: then its generator is asked, and
    they are whole prompts, as they are for any other target.
    """

    prompts: tuple[str, ...]
    outputs: tuple[str, ...]
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """``log_probs``: float32, shape (prompts,): summed over the output's tokens and its end
    token; ``tokens``: int64, shape (prompts,), the number of tokens scored."""

    log_probs: FloatArray
    tokens: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Next:
    """What would be generated next, behind prompts and the first tokens of their outputs.

    ``outputs[i]``: token ids as the generator itself emits them; () at the beginning.
    """

    prompts: tuple[str, ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class NextTokens:
    """``log_probs``: float32, shape (prompts, V), of each of the generator's V tokens; ``ends``:
    the tokens that end an output."""

    log_probs: FloatArray
    ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Embed:
    """Sentence embeddings.

    Some retrievers read a question otherwise than a passage: ``questions`` says that the texts are
    questions, as they are searched for. A plain encoder makes no difference.
    """

    texts: tuple[str, ...]
    questions: bool = False


@dataclass(frozen=True, slots=True)
class Embeddings:
    """``vectors``: float32, shape (texts, width), of unit length."""

    vectors: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Direction:
    """Where an adversary wants the embedding of a text to point; float32 (width,).

    Like itself only: comparing would cost more than it spares.
    """

    vector: FloatArray


@dataclass(frozen=True, slots=True)
class Gradient:
    """Gradient of the loss with respect to input token embeddings; white-box only.

    The loss of item i is the cross-entropy of ``goals[i]`` given ``texts[i]``: the class index
    for a classifier, the output text for a generator (mean over its tokens). For a sentence
    encoder ``goals[i]`` is a :class:`Direction` and the loss is minus its inner product with the
    text's embedding (of unit length); the mean over many directions is the direction of their
    mean.

    ``shifts``, if given, holds for each text an array (T, width) that is added to the embeddings
    of its T input tokens before anything else happens: a perturbation that no text realises.
    """

    texts: tuple[TextInput, ...]
    goals: tuple[int | str | Direction, ...]
    shifts: tuple[FloatArray, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenGradient:
    """One text's gradient, over its T input tokens, special tokens included.

    ``token_ids``: int64 (T,); ``offsets``: (T,) character spans in the text, (0, 0) for tokens
    that the tokenizer added; ``gradient``: float32 (T, width), d loss / d embedding;
    ``probabilities``: float32 (classes,), what a classifier says there; None for generators.
    """

    loss: float
    token_ids: NDArray[np.int64]
    offsets: tuple[tuple[int, int], ...]
    gradient: FloatArray
    probabilities: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Gradients:
    """One :class:`TokenGradient` for each text of the request."""

    items: tuple[TokenGradient, ...]


@dataclass(frozen=True, slots=True)
class Retrieve:
    """The best ``k`` passages for questions, each over a corpus with poison of its own.

    ``poisons[i]`` are passages that stand in the corpus for question i alone; the p-th of them
    has the id ``poison:p`` and no title. Without any ``poisons`` every corpus is clean.
    """

    questions: tuple[str, ...]
    poisons: tuple[tuple[str, ...], ...] = ()
    k: int = 5


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What one question retrieved: ids and scores, best first."""

    ids: tuple[str, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Retrievals:
    """One :class:`Retrieval` for each question."""

    items: tuple[Retrieval, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions to a whole pipeline, defences included, each over a corpus with its own poison.

    ``poisons`` as in :class:`Retrieve`.
    """

    questions: tuple[str, ...]
    poisons: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A pipeline's answer to one question.

    ``log_prob``, ``tokens`` and ``margin`` as in :class:`Generations`. ``retrieved`` is what the
    retriever found; ``read`` the ids of the passages that reached the generator, in the order of
    the prompt.
    """

    text: str
    log_prob: float
    tokens: int
    margin: float
    retrieved: Retrieval
    read: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replies:
    """One :class:`Reply` for each question."""

    items: tuple[Reply, ...]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Vocabulary:
    """The tokens of a target and their embeddings: what a white-box adversary chooses from.

    V tokens; a token's number is its row. Two are the same only if they are one object, so that
    what is worked out of one can be kept with it.
    """

    embeddings: FloatArray
    """Float32 (V, width): the rows of the input embedding layer."""
    spellings: tuple[str, ...]
    """What each token adds to a text when it stands behind another word: ``" word"`` for one
    that begins a word, ``"ing"`` for one that continues it, ``""`` for special tokens."""
    usable: NDArray[np.bool_]
    """(V,): not special, visible, and read again as this one token where it stands alone."""

    @property
    def begins_word(self) -> NDArray[np.bool_]:
        """(V,): usable tokens that are whole words or begin one."""
        starts = np.fromiter(
            (spelling.startswith(" ") for spelling in self.spellings), bool, len(self.spellings)
        )
        return np.asarray(self.usable & starts)


@runtime_checkable
class WhiteBox(Protocol):
    """A target whose inside an adversary may see: it answers Gradient, and tells its tokens."""

    def vocabulary(self) -> Vocabulary:
        """Tokens and embeddings as they are; made once and kept."""


Request: TypeAlias = Predict | Generate | Score | Next | Embed | Gradient | Retrieve | Ask
Response: TypeAlias = (
    Predictions | Generations | Scores | NextTokens | Embeddings | Gradients | Retrievals | Replies
)


@runtime_checkable
class Target(Protocol):
    """What an attack or an evaluation sees of a model."""

    @property
    def spec(self) -> str:
        """The text that named it, e.g. ``builtin:classifier``."""

    @property
    def kind(self) -> str:
        """``classifier``, ``seq2seq``, ``causal``, ``retriever`` or ``rag``."""

    @property
    def answers(self) -> frozenset[type[Request]]:
        """The kinds of request it takes; any other raises :class:`TypeError`."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names of a classifier; empty for every other kind."""

    def answer(self, request: Request) -> Response:
        """Answer a batch of any size; packing into forward passes is the target's own work."""

    def fingerprint(self) -> str:
        """SHA-256 over the names, shapes and bytes of the weights as they are now."""

    def describe(self) -> Mapping[str, Any]:
        """What goes into the manifest: spec, kind, architecture, device, dtype, parameters."""
