from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
from retrieval_corpus import PASSAGES, minilm, save_tiny
from tiny import TEXTS

from robustlab.errors import UserError
from robustlab.models.target import Direction, Embed, Gradient, Predict, Target
from robustlab.resources import minilm_folder
from robustlab.retrieval import SentenceEncoder

MIXED = [*(passage.contents for passage in PASSAGES), "", "fish", "word " * 400, "fish", " Fish "]


def tiny_encoder(folder) -> SentenceEncoder:
    return SentenceEncoder.load(str(folder), device="cpu", dtype="fp32")


def reference(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_same_vectors_as_sentence_transformers():
    theirs = reference(minilm_folder()).encode(MIXED, normalize_embeddings=True)
    ours = minilm().encode(MIXED)
    assert ours.dtype == np.float32
    assert ours.shape == (len(MIXED), 384)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_the_batch_does_not_matter_and_equal_texts_are_equal():
    together = minilm().encode(MIXED)
    alone = np.concatenate([minilm().encode([text]) for text in MIXED])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    places = [i for i, text in enumerate(MIXED) if text == "fish"]
    assert np.array_equal(together[places[0]], together[places[1]])


def test_nothing_to_encode():
    assert minilm().encode([]).shape == (0, 384)


def test_progress_ends_at_the_number_of_different_texts():
    seen = []
    minilm().encode(["one", "two", "one"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2, 2)


def test_it_is_a_target_that_embeds():
    encoder = minilm()
    assert isinstance(encoder, Target)
    assert (encoder.spec, encoder.kind, encoder.answers) == (
        "builtin:retriever", "retriever", frozenset({Embed, Gradient}),
    )  # fmt: skip
    vectors = encoder.answer(Embed(("a heron", "a cello"))).vectors
    np.testing.assert_array_equal(vectors, encoder.encode(["a heron", "a cello"]))
    with pytest.raises(TypeError, match="does not answer Predict"):
        encoder.answer(Predict(("x",)))
    about = encoder.describe()
    assert about["architecture"] == "BertModel"
    assert (about["width"], about["max_tokens"], about["dtype"]) == (384, 256, "fp32")
    assert about["parameters"] == 22_713_216


def test_encoding_leaves_the_weights_alone():
    before = minilm().fingerprint()
    minilm().encode(["anything"])
    assert minilm().fingerprint() == before


@pytest.mark.parametrize("pooling", ["cls", "max", "lasttoken"])
def test_other_poolings_and_a_dense_layer(tmp_path, pooling):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = save_tiny(tmp_path, Dense(32, 16), pooling=pooling)
    encoder = tiny_encoder(folder)
    theirs = reference(folder).encode(list(TEXTS), normalize_embeddings=True)
    assert encoder.width == 16
    np.testing.assert_allclose(encoder.encode(TEXTS), theirs, atol=1e-5)


def test_prompts_by_role(tmp_path):
    folder = save_tiny(
        tmp_path,
        prompts={"query": "what is ", "passage": "the name of "},
        include_prompt=False,
    )
    encoder, model = tiny_encoder(folder), reference(folder)
    texts = list(TEXTS)
    for ours, theirs in (
        (encoder.encode(texts, role="query"), model.encode_query(texts, normalize_embeddings=True)),
        (
            encoder.encode(texts, role="document"),
            model.encode_document(texts, normalize_embeddings=True),
        ),
        (encoder.encode(texts), model.encode(texts, normalize_embeddings=True)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert not np.allclose(encoder.encode(texts), encoder.encode(texts, role="query"), atol=1e-3)


def test_truncated_embeddings_and_the_default_prompt(tmp_path):
    folder = save_tiny(tmp_path, prompts={"all": "red "}, default_prompt_name="all", truncate_dim=8)
    encoder = tiny_encoder(folder)
    model = reference(folder)
    theirs = model.encode(list(TEXTS), truncate_dim=model.truncate_dim, normalize_embeddings=True)
    assert encoder.width == theirs.shape[1] == 8
    np.testing.assert_allclose(encoder.encode(TEXTS), theirs, atol=1e-5)


def test_static_embeddings_have_no_transformer(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tiny import bert_tokenizer

    words = StaticEmbedding(bert_tokenizer().backend_tokenizer, embedding_dim=12)
    SentenceTransformer(modules=[words], device="cpu").save(
        str(tmp_path / "m"), create_model_card=False
    )
    encoder = tiny_encoder(tmp_path / "m")
    theirs = reference(tmp_path / "m").encode(list(TEXTS), normalize_embeddings=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), theirs, atol=1e-6)


def test_a_plain_transformers_folder_gets_mean_pooling(tmp_path):
    save_tiny(tmp_path)
    plain, whole = tiny_encoder(tmp_path / "plain"), tiny_encoder(tmp_path / "model")
    np.testing.assert_allclose(plain.encode(TEXTS), whole.encode(TEXTS), atol=1e-6)


def test_bf16_is_close_and_reaches_every_layer(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = str(save_tiny(tmp_path, Dense(32, 16)))
    exact = SentenceEncoder.load(folder, device="cpu", dtype="fp32")
    rough = SentenceEncoder.load(folder, device="cpu", dtype="bf16")
    assert (rough.dtype, rough.describe()["dtype"]) == ("bf16", "bf16")
    assert rough.fingerprint() != exact.fingerprint()
    vectors = rough.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert ((vectors * exact.encode(TEXTS)).sum(axis=1) > 0.99).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_loading_is_quiet(capfd):
    SentenceEncoder.load("builtin:retriever", device="cpu")
    assert capfd.readouterr() == ("", "")


def test_settings_change_with_what_decides_an_embedding(tmp_path):
    folder = save_tiny(tmp_path)
    first, again = tiny_encoder(folder), tiny_encoder(folder)
    assert (first.settings, first.fingerprint()) == (again.settings, again.fingerprint())
    config = folder / "config_sentence_transformers.json"
    stored = json.loads(config.read_text())
    config.write_text(json.dumps({**stored, "prompts": {"query": "what "}}))
    changed = tiny_encoder(folder)
    assert changed.settings != first.settings
    assert changed.fingerprint() == first.fingerprint()


def test_pickled_weights_are_refused(tmp_path):
    folder = save_tiny(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"weights as a pickle .*pytorch_model\.bin"):
        tiny_encoder(folder)


def test_a_pickle_in_a_later_module_is_refused(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = save_tiny(tmp_path, Dense(32, 16))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"2_Dense/pytorch_model\.bin"):
        tiny_encoder(folder)


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    folder = save_tiny(tmp_path)
    (folder / "trap.py").write_text("raise SystemExit('ran')\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "trap.Trap"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"needs code of its own \(trap\.Trap\)"):
        tiny_encoder(folder)
    assert "trap" not in sys.modules


def test_folders_that_hold_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither modules\.json nor config\.json"):
        tiny_encoder(tmp_path / "empty")
    folder = save_tiny(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded as a sentence encoder"):
        tiny_encoder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="model folder without weights"):
        tiny_encoder(folder)
    (folder / "modules.json").write_text("[1]")
    with pytest.raises(UserError, match=r"modules\.json is not a list of modules"):
        tiny_encoder(folder)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("builtin:classifier", "the built-in one is builtin:retriever"),
        ("./absent", "no folder here and no hub id"),
        ("", "no folder here and no hub id"),
        ("nobody/nothing", "not in the local cache"),
        ("nothing", "not in the local cache"),
    ],
)
def test_specs_that_name_nothing(spec, reason, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=reason):
        SentenceEncoder.load(spec, device="cpu")


def test_a_copy_of_minilm_is_the_same_model(tmp_path):
    shutil.copytree(minilm_folder(), tmp_path / "copy")
    copy = tiny_encoder(tmp_path / "copy")
    assert (copy.fingerprint(), copy.settings) == (minilm().fingerprint(), minilm().settings)


def test_gradient_of_the_inner_product_with_a_direction():
    encoder = minilm()
    texts = ("A heron stood in the shallow water.", "cello")
    wanted = encoder.encode(["Which bird stands in rivers?"])[0]
    response = encoder.answer(Gradient(texts, (Direction(wanted),) * 2))
    losses = [item.loss for item in response.items]
    np.testing.assert_allclose(losses, -(encoder.encode(texts) @ wanted), atol=1e-6)
    heron, cello = response.items
    assert heron.gradient.shape == (len(heron.token_ids), 384)
    assert heron.offsets[:3] == ((0, 0), (0, 1), (2, 7))
    assert len(cello.token_ids) == len(cello.offsets)
    # The step that the gradient promises is the one that the model takes, to first order.
    rows = encoder.vocabulary().embeddings
    place = 2
    step = -1e-3 * heron.gradient[place] / np.linalg.norm(heron.gradient[place])
    layer = encoder._model.transformers_model.get_input_embeddings()
    token = int(heron.token_ids[place])
    before = layer.weight[token].clone()
    try:
        layer.weight[token] += layer.weight.new_tensor(step)
        after = -(encoder.encode(texts[:1]) @ wanted)[0]
    finally:
        layer.weight[token] = before
    assert np.array_equal(rows[token], before.numpy())
    expected = float(step @ heron.gradient[place])
    assert after - heron.loss == pytest.approx(expected, rel=0.05, abs=2e-7)


def test_gradient_wants_texts_and_directions():
    encoder = minilm()
    with pytest.raises(ValueError, match="single texts and directions"):
        encoder.answer(Gradient(("a heron",), ("a cello",)))
