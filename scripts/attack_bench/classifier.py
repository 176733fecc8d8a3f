"""The classifier that is attacked, as files and as a campaign."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attack_bench.common import SEED, Bench

__all__ = ["campaign_on", "classifier_folder", "classifier_target"]


def classifier_folder(bench: Bench) -> Path:
    """The built-in classifier, or a random one of BERT-base's size, in Hugging Face's layout.

    Ours and theirs load the same files.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from robustlab.models.builtin import merge_parameters
    from robustlab.models.minilm import minilm_classifier
    from robustlab.resources import minilm_folder, weights_folder

    folder = bench.place / "classifier"
    if folder.exists():
        return folder
    card = json.loads((weights_folder() / "classifier.json").read_text(encoding="utf-8"))
    if bench.options.large:
        names = dict(enumerate(card["label_names"]))
        config = BertConfig(id2label=names, label2id={name: i for i, name in names.items()})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = BertForSequenceClassification(config)
    else:
        model = minilm_classifier(minilm_folder(), card["label_names"])
        merge_parameters(model, load_file(weights_folder() / "classifier.safetensors"))
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def classifier_target(bench: Bench, dtype: str) -> Any:
    """The classifier as a target."""
    from robustlab.models.load import load_target

    return load_target(str(classifier_folder(bench)), device=bench.device, dtype=dtype)


def campaign_on(bench: Bench, target: Any, recipe: Any) -> Any:
    """The attack on the classifier, set up as ``robustlab attack`` does it."""
    from robustlab.attack.campaign import Campaign
    from robustlab.attack.examples import classification_set
    from robustlab.data import load_labelled
    from robustlab.retrieval.encoder import BUILTIN, SentenceEncoder

    options = bench.options
    judge = None
    if target.describe()["dtype"] != "fp32":
        judge = classifier_target(bench, "fp32")
    encoder = None
    if options.similarity:
        encoder = SentenceEncoder.load(BUILTIN, device=bench.device, dtype="fp32")
    labelled = load_labelled(options.data)
    examples = classification_set(
        target, labelled, recipe, data_spec=options.data, limit=options.examples, seed=SEED
    )
    return Campaign(target, examples, recipe, seed=SEED, judge=judge, encoder=encoder)
