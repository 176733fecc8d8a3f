"""A decoder to measure with where none can be had: its speed is that of a real one."""

from __future__ import annotations

from pathlib import Path

from attack_bench.common import SEED

__all__ = ["random_decoder"]


def random_decoder(folder: Path, *, large: bool, positions: int = 512) -> Path:
    """Save a randomly initialised Llama with MiniLM's vocabulary: a small one, or of the 1B class.

    ``positions``: the longest input in tokens. Returns ``folder``.
    """
    import torch
    from tokenizers import Tokenizer, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from robustlab.resources import minilm_folder

    core = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    core.no_truncation()
    core.no_padding()
    begin, end, pad = (core.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", begin)]
    )
    special = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **special)
    config = LlamaConfig(
        vocab_size=core.get_vocab_size(),
        hidden_size=2048 if large else 384,
        num_hidden_layers=16 if large else 6,
        intermediate_size=8192 if large else 1536,
        num_attention_heads=32 if large else 12,
        num_key_value_heads=8 if large else 12,
        max_position_embeddings=positions,
        bos_token_id=begin,
        eos_token_id=end,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config)
    model.to(torch.bfloat16 if large else torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
