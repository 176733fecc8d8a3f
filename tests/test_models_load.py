"""From a spec to a target: which family, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny import save_tiny, tiny_model

from robustlab.errors import UserError
from robustlab.models.load import load_target

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


def load(spec: object, **options: Any) -> Any:
    return load_target(str(spec), device="cpu", dtype="fp32", **options)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **values}
    kept = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "architecture", "kind"),
    [
        ("bert", "BertForSequenceClassification", "classifier"),
        ("t5", "T5ForConditionalGeneration", "seq2seq"),
        ("t5", "T5WithLMHeadModel", "seq2seq"),
        ("t5", "T5Model", "seq2seq"),
        ("t5", None, "seq2seq"),
        ("gpt2", "GPT2LMHeadModel", "causal"),
        ("gpt2", None, "causal"),
        ("gpt2", "GPT2Model", "causal"),
        ("llama", "LlamaForCausalLM", "causal"),
    ],
)
def test_the_family_comes_from_the_config(
    tmp_path: Path, name: str, architecture: str | None, kind: str
) -> None:
    save_tiny(name, tmp_path)
    edit_config(tmp_path, architectures=architecture and [architecture])
    assert load(tmp_path).kind == kind


def test_an_undecidable_family_asks_for_kind(folder: Path) -> None:
    for architectures, shown in ((["BertModel"], "BertModel"), (None, "model type bert")):
        edit_config(folder, architectures=architectures)
        with pytest.raises(UserError, match=rf"{shown}.*say so with --kind"):
            load(folder)
    assert load(folder, kind="classifier").kind == "classifier"


def test_kind_overrides_the_config(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path, head="AutoModelForCausalLM", is_decoder=True, eos_token_id=3)
    assert load(tmp_path).kind == "causal"
    with pytest.raises(UserError, match=r"no finished classifier: .*e\.g\. "):
        load(tmp_path, kind="classifier")
    with pytest.raises(UserError, match="Unknown kind 'encoder': use --kind classifier, seq2seq"):
        load(tmp_path, kind="encoder")


def test_a_classifier_without_a_trained_head_is_refused(folder: Path) -> None:
    tiny_model("bert", 60, head="AutoModel").save_pretrained(folder)
    with pytest.raises(UserError, match=r"no finished classifier: 2 .*classifier\.bias"):
        load(folder, kind="classifier")


def test_loading_is_quiet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(folder)
    assert capfd.readouterr() == ("", "")
    tiny_model("bert", 60, head="AutoModel").save_pretrained(folder)
    capfd.readouterr()  # what saving said
    with pytest.raises(UserError):
        load(folder, kind="classifier")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def remove(*names: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink(missing_ok=True)

    return spoil


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"")
    (folder / "pytorch_model.bin").write_bytes(b"")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def write(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return spoil


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **values)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("model.safetensors"), r"has no weights: there is no model\.safetensors in it"),
        (pickled, r"only as a pickle \(pytorch_model\.bin\).*convert it to safetensors"),
        (truncated, r"model as a classifier of .* cannot be loaded"),
        (remove("config.json"), r"has no config\.json"),
        (write("config.json", "{"), r"config\.json of .* is not readable JSON"),
        (write("config.json", "[]"), r"config\.json of .* is not a JSON object"),
        (config(model_type="no-such-type"), r"config\.json of .* cannot be loaded"),
        (remove("tokenizer.json"), r"has no tokenizer: save it there"),
        (write("tokenizer.json", "{}"), r"tokenizer of .* cannot be loaded"),
        (config(hidden_size=16), r"model as a classifier of .* cannot be loaded"),
        (
            config(id2label={"0": "only"}, label2id={"only": 0}),
            r"(1 label, which is a regression head|cannot be loaded)",
        ),
    ],
)
def test_a_spoilt_folder_is_refused_in_one_sentence(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_regression_head_is_refused(tmp_path: Path) -> None:
    from tiny import tiny_config, tiny_tokenizer
    from transformers import BertForSequenceClassification

    tokenizer = tiny_tokenizer("bert")
    settings = tiny_config("bert", len(tokenizer))
    settings.num_labels = 1
    BertForSequenceClassification(settings).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="1 label, which is a regression head"):
        load(tmp_path)


def test_weights_in_shards_are_weights(folder: Path) -> None:
    whole = load(folder).fingerprint()
    (folder / "model.safetensors").unlink()
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification(tiny_config_of(folder))
    model.save_pretrained(folder, max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").is_file()
    assert load(folder).fingerprint() != whole
    next(folder.glob("model-00001*")).unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)


def tiny_config_of(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder)


def test_specs_that_name_nothing(tmp_path: Path, folder: Path) -> None:
    for spec in (tmp_path / "absent", "./absent", "~/absent-model", "a/b/c"):
        with pytest.raises(UserError, match="There is no folder"):
            load(spec)
    with pytest.raises(UserError, match="is a file: give the model's folder"):
        load(folder / "config.json")


def test_a_hub_id_that_is_not_in_the_cache_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    original = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, **more: original(*args, cache_dir=tmp_path, **more),
    )
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set: run `hf download owner/name`"):
        load("owner/name")


def test_a_hub_id_in_the_cache_is_read_as_a_folder(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    import huggingface_hub

    asked: list[str] = []

    def snapshot(repo_id: str, **options: Any) -> str:
        asked.append(repo_id)
        assert "*.bin" not in options["allow_patterns"]
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    target = load("owner/name")
    assert (target.spec, target.kind, asked) == ("owner/name", "classifier", ["owner/name"])


def test_a_hub_model_that_is_not_there_or_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def snapshot(repo_id: str, **options: Any) -> str:
        error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
        Exception.__init__(error, f"404 for {repo_id}")
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match="nor a model that you may read on the Hugging Face hub"):
        load("owner/name")


class _Built:
    def __init__(self, kind: str, *call: Any) -> None:
        self.kind = kind
        self.call = call


def test_builtins_and_reader_folders_go_to_their_own_loader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ModuleType("robustlab.models.builtin")
    module.load_builtin = lambda *call: _Built("classifier", *call)  # type: ignore[attr-defined]
    module.load_reader_folder = lambda *call: _Built("causal", *call)  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "robustlab.models.builtin", module)
    built = load("builtin:classifier", batch_tokens=100)
    assert built.call == ("classifier", CPU, torch.float32, 100)
    with pytest.raises(UserError, match="is a classifier, not a causal: leave --kind out"):
        load("builtin:classifier", kind="causal")
    (tmp_path / "config.json").write_text('{"model_type": "robustlab-causal"}', encoding="utf-8")
    assert load(tmp_path).call == (tmp_path, CPU, torch.float32, 4096)


def test_device_and_dtype_are_checked_before_anything_is_loaded(folder: Path) -> None:
    with pytest.raises(UserError, match="Unknown device"):
        load_target(str(folder), device="gpu")
    with pytest.raises(UserError, match="Unknown dtype"):
        load_target(str(folder), device="cpu", dtype="fp8")
