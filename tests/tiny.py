"""Tiny random models of many architectures, saved as folders that look like real ones.

The words are few, the weights random but spread wide enough that outputs differ between texts.
Nothing is downloaded: the tokenizers are written down here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WORDS = (
    "the a an of in on to and not very good bad film book town river king queen bridge old new "
    "red blue north south where what who when is was has had made built saw ran question answer "
    "context passage name first last long short green stone water light dark house tree road"
).split()

TEXTS = (
    "the film was very good",
    "a bad book",
    "where is the old stone bridge of the north town and who built it when the king was not in",
    "the queen saw the river",
    "red water",
)
"""Texts of different lengths, a few words each."""

CLASSIFIERS = ("bert", "roberta", "albert", "deberta-v2", "big_bird")
SEQ2SEQ = ("t5", "bart", "longt5", "longt5-global", "switch_transformers")
CAUSAL = ("gpt2", "llama", "qwen2", "mixtral")
GENERATORS = SEQ2SEQ + CAUSAL

_HIDDEN, _LAYERS, _HEADS, _INNER = 32, 2, 4, 64


def _word_tokenizer(special: Mapping[str, str], single: str, pair: str) -> Any:
    """Whole words, lower case; ``special`` maps roles to tokens, in the order of their ids."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = list(dict.fromkeys([*special.values(), *WORDS]))
    vocab = {token: number for number, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(vocab, unk_token=special["unk_token"]))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, vocab[token]) for token in dict.fromkeys(special.values())],
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def _piece_tokenizer(special: Mapping[str, str], single: str) -> Any:
    """Unigram pieces with a mark at the start of words, as SentencePiece makes them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [(token, 0.0) for token in dict.fromkeys(special.values())]
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens += [(f"▁{word}", -3.0) for word in WORDS]
    tokens += [(letter, -8.0) for letter in letters] + [("▁", -8.0)]
    unknown = [token for token, _ in tokens].index(special["unk_token"])
    # A one-letter word keeps a single entry, whichever list it came from.
    core = Tokenizer(models.Unigram(list(dict(tokens).items()), unk_id=unknown))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.post_processor = processors.TemplateProcessing(
        single=single,
        special_tokens=[
            (token, core.token_to_id(token)) for token in dict.fromkeys(special.values())
        ],
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def _byte_tokenizer(end: str) -> Any:
    """Byte-level BPE without any special token around a text, and without a pad token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([end, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        whole = f"Ġ{word}"
        for cut in range(1, len(whole)):
            left, right = whole[:cut], whole[cut]
            if (left, right) not in merges:
                merges.append((left, right))
            vocab.setdefault(left + right, len(vocab))
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, bos_token=end)


def bert_tokenizer() -> Any:
    """``[CLS] text [SEP]``; a pair's second text has type 1."""
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return _word_tokenizer(special, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")


def _roberta_tokenizer() -> Any:
    special = {
        "cls_token": "<s>",
        "pad_token": "<pad>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    return _word_tokenizer(special, "<s> $A </s>", "<s> $A </s> </s> $B </s>")


def _t5_tokenizer() -> Any:
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _piece_tokenizer(special, "$A </s>")


def _llama_tokenizer() -> Any:
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return _piece_tokenizer(special, "<s> $A")


_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "bert": bert_tokenizer,
    "roberta": _roberta_tokenizer,
    "albert": bert_tokenizer,
    "deberta-v2": bert_tokenizer,
    "big_bird": bert_tokenizer,
    "t5": _t5_tokenizer,
    "bart": _roberta_tokenizer,
    "longt5": _t5_tokenizer,
    "longt5-global": _t5_tokenizer,
    "switch_transformers": _t5_tokenizer,
    "gpt2": lambda: _byte_tokenizer("<|endoftext|>"),
    "llama": _llama_tokenizer,
    "qwen2": lambda: _byte_tokenizer("<|im_end|>"),
    "mixtral": _llama_tokenizer,
}


def tiny_tokenizer(name: str) -> Any:
    """The tokenizer of an architecture, with a limit of 64 tokens."""
    tokenizer = _TOKENIZERS[name]()
    tokenizer.model_max_length = 64
    return tokenizer


def _encoder(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "intermediate_size": _INNER,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "id2label": {0: "negative", 1: "neutral", 2: "positive"},
        "label2id": {"negative": 0, "neutral": 1, "positive": 2},
        **more,
    }


def _t5(**more: Any) -> dict[str, Any]:
    return {
        "d_model": _HIDDEN,
        "d_kv": 8,
        "d_ff": _INNER,
        "num_layers": _LAYERS,
        "num_decoder_layers": _LAYERS,
        "num_heads": _HEADS,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        **more,
    }


def _decoder(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": 2,
        "intermediate_size": _INNER,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def tiny_config(name: str, vocab_size: int) -> Any:
    """The configuration of an architecture at its smallest."""
    import transformers as t

    makers: dict[str, Callable[[], Any]] = {
        "bert": lambda: t.BertConfig(**_encoder(), vocab_size=vocab_size),
        "roberta": lambda: t.RobertaConfig(
            **_encoder(pad_token_id=1, max_position_embeddings=66, type_vocab_size=1),
            vocab_size=vocab_size,
        ),
        "albert": lambda: t.AlbertConfig(**_encoder(), embedding_size=16, vocab_size=vocab_size),
        "deberta-v2": lambda: t.DebertaV2Config(
            **_encoder(),
            vocab_size=vocab_size,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_biased_input=False,
        ),
        "big_bird": lambda: t.BigBirdConfig(
            **_encoder(max_position_embeddings=64),
            vocab_size=vocab_size,
            attention_type="block_sparse",
            block_size=2,
            num_random_blocks=1,
        ),
        "t5": lambda: t.T5Config(**_t5(), vocab_size=vocab_size),
        "bart": lambda: t.BartConfig(
            vocab_size=vocab_size,
            d_model=_HIDDEN,
            encoder_layers=_LAYERS,
            decoder_layers=_LAYERS,
            encoder_attention_heads=_HEADS,
            decoder_attention_heads=_HEADS,
            encoder_ffn_dim=_INNER,
            decoder_ffn_dim=_INNER,
            max_position_embeddings=64,
            scale_embedding=True,
            bos_token_id=0,
            pad_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        ),
        "longt5": lambda: t.LongT5Config(
            **_t5(), vocab_size=vocab_size, local_radius=3, encoder_attention_type="local"
        ),
        "longt5-global": lambda: t.LongT5Config(
            **_t5(),
            vocab_size=vocab_size,
            local_radius=3,
            global_block_size=4,
            encoder_attention_type="transient-global",
        ),
        "switch_transformers": lambda: t.SwitchTransformersConfig(
            **_t5(),
            vocab_size=vocab_size,
            num_experts=4,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
        ),
        "gpt2": lambda: t.GPT2Config(
            vocab_size=vocab_size,
            n_positions=64,
            n_embd=_HIDDEN,
            n_layer=_LAYERS,
            n_head=_HEADS,
            bos_token_id=0,
            eos_token_id=0,
        ),
        "llama": lambda: t.LlamaConfig(**_decoder(), vocab_size=vocab_size),
        "qwen2": lambda: t.Qwen2Config(
            **_decoder(bos_token_id=0, eos_token_id=0), vocab_size=vocab_size
        ),
        "mixtral": lambda: t.MixtralConfig(
            **_decoder(),
            vocab_size=vocab_size,
            num_local_experts=4,
            num_experts_per_tok=2,
            output_router_logits=True,
        ),
    }
    return makers[name]()


def tiny_model(name: str, vocab_size: int, *, head: str | None = None, seed: int = 0) -> Any:
    """A random model; ``head`` names another Auto class than that of its family."""
    import torch
    import transformers

    if head is None:
        head = "AutoModelForSeq2SeqLM" if name in SEQ2SEQ else "AutoModelForCausalLM"
        head = "AutoModelForSequenceClassification" if name in CLASSIFIERS else head
    torch.manual_seed(seed)
    model = getattr(transformers, head).from_config(tiny_config(name, vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.25)
    return model.eval()


def save_tiny(
    name: str,
    folder: Path,
    *,
    head: str | None = None,
    end_token: int | None = None,
    **config: Any,
) -> Path:
    """Save a tiny model with its tokenizer; ``config`` overrides values of its config.

    ``end_token`` makes another token the end of an output, so that a test can choose one which
    the random weights do produce.
    """
    tokenizer = tiny_tokenizer(name)
    model = tiny_model(name, len(tokenizer), head=head)
    for key, value in config.items():
        setattr(model.config, key, value)
    if end_token is not None:
        model.generation_config.eos_token_id = end_token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
