"""Two small readers over MiniLM layers: encoder-decoder and decoder-only, both with a copy head.

A reader answers a question from passages. It is small enough to be trained on a processor in
about an hour because it does not have to learn to copy: a *copy head* mixes the vocabulary
distribution with a distribution over the tokens of the context (pointer-generator networks,
See et al. 2017, arXiv:1704.04368; pointer sentinel mixture, Merity et al. 2017,
arXiv:1609.07843).

Both read the same token layout::

    [CLS] question [SEP] passage 1 [SEP] passage 2 [SEP] … [MASK] answer [SEP]

(the encoder-decoder has no ``[MASK]``; its decoder starts with ``[CLS]``.) ``[SEP]`` begins a new
segment. A passage attends to the question and to itself, not to the other passages, and its
positions continue from the question's length, as if it were the only one (fusion in the decoder,
Izacard & Grave 2021, arXiv:2007.01282; parallel context windows, Ratner et al. 2023,
arXiv:2212.10947). So a model trained on few passages reads many, and the context may be longer
than the 512 positions of MiniLM. The decoder-only reader is a prefix language model (Raffel et
al. 2020, arXiv:1910.10683, section 3.2.1): one stack of layers, the prompt read in both directions
as above, the answer causally behind it, seeing everything to its left. A name at the head of a
sentence is not known to be the answer before the sentence ends, so that a prompt under a causal
mask is a poor one to copy from.

Shapes: B batch, S context tokens, T answer tokens, W width, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlab.models.blocks import Blocks, block_attention, lay_out, split_heads

__all__ = [
    "AnswerStates",
    "Answers",
    "CausalReader",
    "CopySource",
    "Reader",
    "ReaderConfig",
    "Seq2SeqReader",
    "config_from",
    "from_minilm",
    "new_reader",
    "next_log_probs",
    "read_config",
]


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """Sizes and special tokens; written as ``config.json`` beside the weights.

    ``model_type`` is ``robustlab-seq2seq`` or ``robustlab-causal``; ``decoder_init`` names the
    MiniLM layers that the decoder's layers were initialised from (encoder-decoder only).
    """

    model_type: str
    vocab_size: int = 30522
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    decoder_init: tuple[int, ...] = (4, 5)
    pad_token_id: int = 0
    cls_token_id: int = 101
    sep_token_id: int = 102
    mask_token_id: int = 103

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def config_from(values: Mapping[str, Any]) -> ReaderConfig:
    """A configuration from its JSON object."""
    return ReaderConfig(**{**values, "decoder_init": tuple(values["decoder_init"])})


def read_config(path: Path) -> ReaderConfig:
    """Read a configuration that :meth:`ReaderConfig.save` wrote."""
    return config_from(json.loads(path.read_text(encoding="utf-8")))


class Layout(NamedTuple):
    """What the positions of tokens mean; each a tensor of shape (B, S)."""

    positions: Tensor
    segments: Tensor
    """0 for the question, 1 … for the passages; padding has the number of its neighbour."""
    tail: Tensor
    """True from ``[MASK]`` on: the answer's side of the decoder-only layout."""
    real: Tensor
    """True except for padding."""
    copyable: Tensor
    """True for tokens that may stand in an answer: no padding, no special tokens."""


def read_layout(ids: Tensor, config: ReaderConfig) -> Layout:
    """Derive segments and positions from the tokens alone, left to right.

    Every value depends on tokens to its left only, so that a token's layout stays the same
    when an answer is appended.
    """
    real = ids != config.pad_token_id
    index = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    ends = ids == config.sep_token_id
    after_end = torch.zeros_like(ends)
    after_end[:, 1:] = ends[:, :-1]
    answer_mark = ids == config.mask_token_id
    segments = after_end.cumsum(1)
    starts = torch.where(after_end | answer_mark, index, 0).cummax(1).values
    first_end = torch.where(ends, index, ids.shape[1]).min(1, keepdim=True).values + 1
    positions = index - starts + torch.where(starts > 0, first_end, 0)
    special = ends | answer_mark | (ids == config.cls_token_id)
    return Layout(
        positions=positions.clamp(max=config.max_position_embeddings - 1),
        segments=segments,
        tail=answer_mark.cumsum(1) > 0,
        real=real,
        copyable=real & ~special,
    )


class Answers(NamedTuple):
    """Greedy answers of a batch; the closing ``[SEP]`` is part of all three."""

    tokens: Tensor
    """(B, T), padded."""
    log_probs: Tensor
    """(B,), summed over the answer's tokens."""
    margins: Tensor
    """(B,), the smallest lead in log-probability that one of them had over the second best."""


class CopySource(NamedTuple):
    """The tokens that an answer may copy, as the copy head reads them once for all its tokens."""

    keys: Tensor
    """(B, S, W), what the head's queries are compared with."""
    ids: Tensor
    """(B, S)."""
    before: Tensor
    """(B, S), the token in front of each, -1 for the first."""
    copyable: Tensor
    """(B, S), the tokens that may stand in an answer."""


class AnswerStates(NamedTuple):
    """What the copy head is given for every token of a batch of answers."""

    states: Tensor
    """(B, T, W), the answer's states, each from before its token."""
    last: Tensor
    """(B, T), the token before each."""
    source: CopySource
    """The context, which may be copied."""


Cache: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values of one attention, each (B, heads, S, W / heads)."""

Projected: TypeAlias = tuple[Tensor, Tensor]
"""The same before their heads are apart, each (…, W)."""


class Attention(nn.Module):
    """Multi-head attention with BERT's projections, residual and layer norm after it."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def project(self, context: Tensor) -> Projected:
        """Keys and values of what is attended to."""
        return self.key(context), self.value(context)

    def keys_values(self, context: Tensor) -> Cache:
        """The same of a batch (B, S, W), its heads apart."""
        return self.heads_of(self.project(context))

    def heads_of(self, projected: Projected) -> Cache:
        """Keys and values of a batch with their heads apart."""
        key, value = projected
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, states: Tensor, cache: Cache, mask: Tensor) -> Tensor:
        """Attend from ``states`` (B, T, W) where the boolean mask (B, T, S) allows it."""
        query = split_heads(self.query(states), self.heads)
        mixed = F.scaled_dot_product_attention(query, *cache, attn_mask=mask.unsqueeze(1))
        return self._added(states, mixed.transpose(1, 2).flatten(2))

    def within(self, states: Tensor, projected: Projected, blocks: Blocks) -> Tensor:
        """Attend within the blocks of prompts, everything (N, W)."""
        mixed = block_attention(self.query(states), *projected, blocks, self.heads)
        return self._added(states, mixed)

    def _added(self, states: Tensor, mixed: Tensor) -> Tensor:
        attended: Tensor = self.norm(states + self.output(mixed))
        return attended


class Layer(nn.Module):
    """One MiniLM layer: self-attention, then a feed-forward part."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def feed_forward(self, states: Tensor) -> Tensor:
        """The position-wise half of the layer."""
        result: Tensor = self.norm(states + self.down(F.gelu(self.up(states))))
        return result


class DecoderLayer(Layer):
    """A MiniLM layer that attends to the encoder's states as well."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__(config)
        self.cross = Attention(config)


def _encoder_layers(modules: nn.ModuleList) -> list[Layer]:
    return [cast("Layer", module) for module in modules]


def _decoder_layers(modules: nn.ModuleList) -> list[DecoderLayer]:
    return [cast("DecoderLayer", module) for module in modules]


class TokenEmbedding(nn.Module):
    """BERT's sum of word, position and (constant) token-type embeddings, normalised."""

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Parameter(torch.zeros(config.hidden_size))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, words: Tensor, positions: Tensor) -> Tensor:
        """Embed ``words`` (B, S, W), already looked up, at ``positions`` (B, S)."""
        embedded: Tensor = self.norm(words + self.position(positions) + self.token_type)
        return embedded


class CopyHead(nn.Module):
    """Mixture of the vocabulary and of copying a token of the context.

    p(y) = g · Σ_{j: x_j = y} a_j + (1 − g) · softmax(vocabulary)_y, with the gate g and the
    copy weights a computed from the answer's state. The copy score of context token j gets a
    learned bonus where token j − 1 is the token emitted last, so that copying goes on through
    a span once its first token is found.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.follow = nn.Parameter(torch.tensor(4.0))
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.pad_token_id = config.pad_token_id
        nn.init.constant_(self.gate.bias, 1.0)

    def source(self, context: Tensor, ids: Tensor, copyable: Tensor) -> CopySource:
        """Read a context (B, S, W) that consists of the tokens ``ids`` (B, S)."""
        before = F.pad(ids[:, :-1], (1, 0), value=-1)
        return CopySource(self.key(context), ids, before, copyable)

    def copy_log_weights(self, states: Tensor, last: Tensor, source: CopySource) -> Tensor:
        """Log copy weights (B, T, S) of answer ``states`` (B, T, W) over the context.

        ``last`` (B, T) holds the token before each answer position; a context without any
        copyable token yields uniform weights, which the gate has to ignore.
        """
        scores: Tensor = self.query(states) @ source.keys.transpose(1, 2)
        scores = scores / states.shape[-1] ** 0.5
        scores = scores + self.follow * (last.unsqueeze(2) == source.before.unsqueeze(1))
        scores = scores.float().masked_fill(~source.copyable.unsqueeze(1), -1e4)
        return scores.log_softmax(-1)

    def vocabulary_logits(self, states: Tensor, words: Tensor) -> Tensor:
        """Logits (…, V) for states (…, W) from the tied word embeddings ``words`` (V, W)."""
        hidden = self.norm(F.gelu(self.transform(states)))
        logits: Tensor = (hidden @ words.T + self.bias).float()
        return logits

    def token_log_probs(
        self, states: Tensor, last: Tensor, source: CopySource, words: Tensor, answer: Tensor
    ) -> Tensor:
        """Log-probability (B, T) of each token of ``answer`` (B, T), teacher-forced."""
        copy = self.copy_log_weights(states, last, source)
        same = answer.unsqueeze(2) == source.ids.unsqueeze(1)
        copied = copy.masked_fill(~(same & source.copyable.unsqueeze(1)), -1e4).logsumexp(-1)
        # Most of a padded batch of answers is padding, and V is large: only real tokens pay.
        kept = answer != self.pad_token_id
        logits = self.vocabulary_logits(states[kept], words)
        loss = F.cross_entropy(logits, answer[kept], reduction="none")
        said = copied.new_zeros(answer.shape).masked_scatter(kept, -loss)
        gate = self.gate(states).float().squeeze(2)
        return torch.logaddexp(F.logsigmoid(gate) + copied, F.logsigmoid(-gate) + said)

    def log_distribution(
        self, states: Tensor, last: Tensor, source: CopySource, words: Tensor
    ) -> Tensor:
        """Log-probabilities (B, V) of the next token for ``states`` (B, 1, W)."""
        copy = self.copy_log_weights(states, last, source)[:, 0].exp()
        gate = torch.sigmoid(self.gate(states).float())[:, 0]
        mixed = (1 - gate) * self.vocabulary_logits(states, words)[:, 0].softmax(-1)
        mixed = mixed.scatter_add(1, source.ids, gate * copy * source.copyable)
        return mixed.clamp_min(1e-30).log()


def _causal(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().unsqueeze(0)


def _flat_embedding(
    embedding: TokenEmbedding, ids: Tensor, layout: Layout
) -> tuple[Tensor, Blocks]:
    """Embedded tokens of prompts, (N, W), and how they attend to each other."""
    blocks = lay_out(layout.real, layout.segments, layout.tail)
    words, positions = blocks.flat(embedding.word(ids)), blocks.flat(layout.positions)
    return embedding(words, positions), blocks


def _read(
    embedding: TokenEmbedding, layers: Sequence[Layer], ids: Tensor, layout: Layout
) -> Tensor:
    """States (B, S, W) of prompts: each passage sees the question and itself."""
    states, blocks = _flat_embedding(embedding, ids, layout)
    for layer in layers:
        states = layer.attention.within(states, layer.attention.project(states), blocks)
        states = layer.feed_forward(states)
    return blocks.dense(states)


class Seq2SeqReader(nn.Module):
    """Encoder-decoder reader: a MiniLM encoder and a short decoder with cross-attention.

    All weights are shared where they can be: one word-embedding table serves encoder, decoder
    and output.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.encoder = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in config.decoder_init)
        self.head = CopyHead(config)

    def encode(self, ids: Tensor) -> tuple[Tensor, Layout]:
        """Context states (B, S, W), and what the tokens' positions mean."""
        layout = read_layout(ids, self.config)
        return _read(self.embedding, _encoder_layers(self.encoder), ids, layout), layout

    def _decode(self, start: Tensor, context: Tensor, real: Tensor) -> Tensor:
        positions = torch.arange(start.shape[1], device=start.device).expand_as(start)
        states: Tensor = self.embedding(self.embedding.word(start), positions)
        own = _causal(start.shape[1], start.device)
        across = real.unsqueeze(1)
        for layer in _decoder_layers(self.decoder):
            states = layer.attention(states, layer.attention.keys_values(states), own)
            states = layer.cross(states, layer.cross.keys_values(context), across)
            states = layer.feed_forward(states)
        return states

    def answer_states(self, ids: Tensor, answer: Tensor) -> AnswerStates:
        """What the copy head is given for each token of an answer, teacher-forced.

        ``answer`` holds the tokens with their closing ``[SEP]``, padded on the right.
        """
        context, layout = self.encode(ids)
        last = F.pad(answer[:, :-1], (1, 0), value=self.config.cls_token_id)
        states = self._decode(last, context, layout.real)
        source = self.head.source(context, ids, layout.copyable)
        return AnswerStates(states, last, source)

    def token_log_probs(self, ids: Tensor, answer: Tensor) -> Tensor:
        """Log-probability (B, T) of the answer's tokens; positions of padding are zero.

        ``answer`` as in :meth:`answer_states`.
        """
        states, last, source = self.answer_states(ids, answer)
        words = self.embedding.word.weight
        found = self.head.token_log_probs(states, last, source, words, answer)
        return found * (answer != self.config.pad_token_id)

    @torch.inference_mode()
    def generate(self, ids: Tensor, max_new_tokens: int) -> Answers:
        """Greedy answers of at most ``max_new_tokens`` tokens, the closing ``[SEP]`` included."""
        context, layout = self.encode(ids)
        words = self.embedding.word.weight
        source = self.head.source(context, ids, layout.copyable)
        across = [layer.cross.keys_values(context) for layer in _decoder_layers(self.decoder)]
        own: list[Cache | None] = [None] * len(self.decoder)
        real = layout.real.unsqueeze(1)
        last = ids.new_full((ids.shape[0], 1), self.config.cls_token_id)
        search = _Greedy(last, self.config)
        for step in range(max_new_tokens):
            positions = torch.full_like(last, step)
            states = self.embedding(self.embedding.word(last), positions)
            seen = real.new_ones((1, 1, step + 1))
            for number, layer in enumerate(_decoder_layers(self.decoder)):
                own[number] = _extend(own[number], layer.attention.keys_values(states))
                states = layer.attention(states, own[number], seen)
                states = layer.cross(states, across[number], real)
                states = layer.feed_forward(states)
            last = search.take(self.head.log_distribution(states, last, source, words))
            if search.finished:
                break
        return search.result()


class CausalReader(nn.Module):
    """Decoder-only reader: one stack of MiniLM layers over one sequence, tied embeddings.

    The prompt never sees the answer, so that its keys and values stay what they are when an
    answer is appended.
    """

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.encoder = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.head = CopyHead(config)

    def join(self, ids: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts with their answers, (B, S + T), and the place of each answer token, (B, T).

        The answer is put right behind each prompt's own last token, padding moves to the end.
        """
        lengths = (ids != self.config.pad_token_id).sum(1)
        total = torch.cat([ids, torch.zeros_like(answer)], 1)
        place = lengths.unsqueeze(1) + torch.arange(answer.shape[1], device=ids.device)
        return total.scatter(1, place, answer), place

    def answer_states(self, ids: Tensor, answer: Tensor) -> AnswerStates:
        """What the copy head is given for each token of an answer, teacher-forced.

        ``ids`` are prompts that end in ``[MASK]``, padded on the right; ``answer`` holds the
        tokens with their closing ``[SEP]``, padded on the right.
        """
        total, place = self.join(ids, answer)
        layout = read_layout(total, self.config)
        states = _read(self.embedding, _encoder_layers(self.encoder), total, layout)
        before = place - 1
        here = states.gather(1, before.unsqueeze(2).expand(-1, -1, states.shape[2]))
        context = states[:, : ids.shape[1]]
        copyable = read_layout(ids, self.config).copyable
        source = self.head.source(context, ids, copyable)
        return AnswerStates(here, total.gather(1, before), source)

    def token_log_probs(self, ids: Tensor, answer: Tensor) -> Tensor:
        """Log-probability (B, T) of the answer's tokens after the prompt; padding is zero.

        ``ids`` and ``answer`` as in :meth:`answer_states`.
        """
        states, last, source = self.answer_states(ids, answer)
        words = self.embedding.word.weight
        found = self.head.token_log_probs(states, last, source, words, answer)
        return found * (answer != self.config.pad_token_id)

    @torch.inference_mode()
    def generate(self, ids: Tensor, max_new_tokens: int) -> Answers:
        """Greedy answers of at most ``max_new_tokens`` tokens, the closing ``[SEP]`` included."""
        config = self.config
        layout = read_layout(ids, config)
        words = self.embedding.word.weight
        states, blocks = _flat_embedding(self.embedding, ids, layout)
        caches: list[Cache] = []
        for layer in _encoder_layers(self.encoder):
            key, value = layer.attention.project(states)
            caches.append(layer.attention.heads_of((blocks.dense(key), blocks.dense(value))))
            states = layer.feed_forward(layer.attention.within(states, (key, value), blocks))
        context = blocks.dense(states)
        source = self.head.source(context, ids, layout.copyable)
        end = layout.real.sum(1, keepdim=True) - 1
        here = context.gather(1, end.unsqueeze(2).expand(-1, -1, context.shape[2]))
        place = layout.positions.gather(1, end)
        last = ids.gather(1, end)
        real = layout.real
        search = _Greedy(last, config)
        for step in range(max_new_tokens):
            if step:
                real = F.pad(real, (0, 1), value=True)
                place = (place + 1).clamp(max=config.max_position_embeddings - 1)
                here = self.embedding(self.embedding.word(last), place)
                for number, layer in enumerate(_encoder_layers(self.encoder)):
                    caches[number] = _extend(caches[number], layer.attention.keys_values(here))
                    here = layer.attention(here, caches[number], real.unsqueeze(1))
                    here = layer.feed_forward(here)
            last = search.take(self.head.log_distribution(here, last, source, words))
            if search.finished:
                break
        return search.result()


Reader: TypeAlias = Seq2SeqReader | CausalReader


@torch.inference_mode()
def next_log_probs(reader: Reader, ids: Tensor, begun: Tensor) -> Tensor:
    """Log-probabilities (B, V) of the token behind a begun answer.

    ``ids``: prompts (B, S); ``begun`` (B, T): the first tokens of answers, padded on the right;
    T may be 0.
    """
    config = reader.config
    end = (begun != config.pad_token_id).sum(1, keepdim=True)
    # Any token will do in the place that is asked for: nothing before it depends on it.
    answer = F.pad(begun, (0, 1), value=config.pad_token_id)
    answer = answer.scatter(1, end, config.sep_token_id)
    states, last, source = reader.answer_states(ids, answer)
    here = states.gather(1, end.unsqueeze(2).expand(-1, -1, states.shape[2]))
    words = reader.embedding.word.weight
    return reader.head.log_distribution(here, last.gather(1, end), source, words)


def _extend(cache: Cache | None, new: Cache) -> Cache:
    if cache is None:
        return new
    return torch.cat([cache[0], new[0]], 2), torch.cat([cache[1], new[1]], 2)


class _Greedy:
    """Greedy search over a batch: takes distributions, remembers tokens, sums and margins."""

    def __init__(self, last: Tensor, config: ReaderConfig) -> None:
        self._config = config
        self._tokens: list[Tensor] = []
        self._total = torch.zeros(last.shape[0], device=last.device)
        self._margin = torch.full_like(self._total, torch.inf)
        self._open = torch.ones_like(last, dtype=torch.bool).squeeze(1)

    @property
    def finished(self) -> bool:
        """Whether every answer has met its ``[SEP]``."""
        return not bool(self._open.any())

    def take(self, log_probs: Tensor) -> Tensor:
        """Append the best token of each open answer; returns the tokens, shape (B, 1)."""
        log_prob, token = log_probs.max(-1)
        best, second = log_probs.topk(2).values.unbind(-1)
        self._total = self._total + log_prob * self._open
        lead = (best - second).masked_fill(~self._open, torch.inf)
        self._margin = torch.minimum(self._margin, lead)
        token = torch.where(self._open, token, self._config.pad_token_id)
        self._open = self._open & (token != self._config.sep_token_id)
        self._tokens.append(token)
        return token.unsqueeze(1)

    def result(self) -> Answers:
        """What was taken."""
        return Answers(torch.stack(self._tokens, 1), self._total, self._margin)


def new_reader(config: ReaderConfig) -> Reader:
    """A reader of the configured kind with random weights."""
    if config.model_type == "robustlab-seq2seq":
        return Seq2SeqReader(config)
    return CausalReader(config)


def from_minilm(config: ReaderConfig, bert: Mapping[str, Tensor], seed: int) -> Reader:
    """A reader initialised from the state dict of a BERT model (MiniLM's, unprefixed names).

    The decoder's layers and their cross-attention start as copies of the MiniLM layers that
    ``config.decoder_init`` names; the copy head starts at random from ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = new_reader(config)
    state = {
        "embedding.word.weight": bert["embeddings.word_embeddings.weight"],
        "embedding.position.weight": bert["embeddings.position_embeddings.weight"],
        "embedding.token_type": bert["embeddings.token_type_embeddings.weight"][0],
        "embedding.norm.weight": bert["embeddings.LayerNorm.weight"],
        "embedding.norm.bias": bert["embeddings.LayerNorm.bias"],
    }
    for number in range(config.num_hidden_layers):
        state |= _layer_state(bert, number, f"encoder.{number}", cross=False)
    if isinstance(reader, Seq2SeqReader):
        for number, source in enumerate(config.decoder_init):
            state |= _layer_state(bert, source, f"decoder.{number}", cross=True)
    head = {f"head.{name}": value for name, value in reader.head.state_dict().items()}
    reader.load_state_dict(state | head)
    return reader


_ATTENTION_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "norm": "attention.output.LayerNorm",
}
_FEED_FORWARD_NAMES = {
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def _layer_state(
    bert: Mapping[str, Tensor], source: int, place: str, *, cross: bool
) -> dict[str, Tensor]:
    """One MiniLM layer under our names; the cross-attention starts as the self-attention."""
    state: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        prefix = f"encoder.layer.{source}"
        for ours, theirs in _ATTENTION_NAMES.items():
            state[f"{place}.attention.{ours}.{part}"] = bert[f"{prefix}.{theirs}.{part}"]
            if cross:
                state[f"{place}.cross.{ours}.{part}"] = bert[f"{prefix}.{theirs}.{part}"]
        for ours, theirs in _FEED_FORWARD_NAMES.items():
            state[f"{place}.{ours}.{part}"] = bert[f"{prefix}.{theirs}.{part}"]
    return state
