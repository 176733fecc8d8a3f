"""MiniLM's weights under a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["minilm_classifier"]


def minilm_classifier(folder: Path, label_names: Sequence[str]) -> Any:
    """A ``BertForSequenceClassification`` on the weights in ``folder``.

    all-MiniLM-L6-v2 is a sentence encoder: it has a pooler that nothing trained and no head.
    Both start at zero or at the file's values and come from our parameter file. Attention
    dropout is off, which keeps PyTorch on its fast attention when the model is trained.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig.from_pretrained(folder)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: number for number, name in enumerate(label_names)}
    config.attention_probs_dropout_prob = 0.0
    config.architectures = ["BertForSequenceClassification"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    weights = load_file(folder / "model.safetensors")
    own = {name: value for name, value in weights.items() if name != "embeddings.position_ids"}
    model.bert.load_state_dict(own)
    return model
