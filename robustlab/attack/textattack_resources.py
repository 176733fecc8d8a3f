"""What TextAttack's attacks need beside their code, and TextAttack itself.

TextAttack downloads what a recipe needs when it is built or first used. Here it is looked for
before that, so that a lack is a sentence and not a failed download in the middle of a run.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from robustlab.attack.recipe import Component, Option, Recipe
from robustlab.errors import UserError

__all__ = [
    "explained",
    "first_line",
    "hyphened",
    "import_textattack",
    "masked_language_model",
    "missing",
    "needs_of",
    "needs_of_class",
    "require",
]

_NOT_INSTALLED = (
    "TextAttack, which this attack needs, is not installed; "
    "install it with: pip install 'robustlab[textattack]'"
)

# Resources by kind and name: a file of NLTK's, one in TextAttack's cache, a package to import, a
# model of flair's, a model on the Hugging Face hub.
_STOPWORDS = "nltk:corpora/stopwords"
_WORDNET = "nltk:corpora/wordnet"
_TAGGER = ("nltk:taggers/averaged_perceptron_tagger_eng", "nltk:taggers/universal_tagset")
_VECTORS = "cache:word_embeddings/paragramcf"
_GOOGLE_MODEL = "cache:constraints/semantics/language-models/alzantot-goog-lm"
_UNIVERSAL_ENCODER = "module:tensorflow_hub"
_FLAIR_POS = "flair:upos-english-fast"
_FLAIR_NAMES = "flair:ner-english"
_BERT = "bert-base-uncased"

_CLASSES: Mapping[str, tuple[str, ...]] = {
    "A2TYoo2021": (
        _STOPWORDS,
        _VECTORS,
        *_TAGGER,
        "hub:sentence-transformers/stsb-distilbert-base",
    ),
    "BAEGarg2019": (_STOPWORDS, _UNIVERSAL_ENCODER, *_TAGGER, f"hub:{_BERT}"),
    "BERTAttackLi2020": (_STOPWORDS, _UNIVERSAL_ENCODER, f"hub:{_BERT}"),
    "CheckList2020": (_FLAIR_NAMES,),
    "CLARE2020": (_STOPWORDS, _UNIVERSAL_ENCODER, "hub:distilroberta-base", _FLAIR_POS),
    "DeepWordBugGao2018": (_STOPWORDS,),
    "FasterGeneticAlgorithmJia2019": (_STOPWORDS, _VECTORS),
    "GeneticAlgorithmAlzantot2018": (_STOPWORDS, _VECTORS, "module:tensorflow", _GOOGLE_MODEL),
    "IGAWang2019": (_STOPWORDS, _VECTORS),
    "InputReductionFeng2018": (_STOPWORDS,),
    "Kuleshov2017": (_STOPWORDS, _VECTORS, "hub:gpt2"),
    "LEAP2023": (_STOPWORDS, _WORDNET),
    "MorpheusTan2020": ("module:lemminflect", _FLAIR_POS),
    "Pruthi2019": (_STOPWORDS,),
    "PSOZang2020": (_STOPWORDS, "cache:transformations/hownet", _FLAIR_POS),
    "PWWSRen2019": (_STOPWORDS, _WORDNET),
    "Seq2SickCheng2018BlackBox": (_STOPWORDS, _VECTORS),
    "TextBuggerLi2018": (_STOPWORDS, _VECTORS, _UNIVERSAL_ENCODER),
    "TextFoolerJin2019": (_STOPWORDS, _VECTORS, _UNIVERSAL_ENCODER, *_TAGGER),
}
"""What TextAttack would try to download for a recipe of its own."""


def _tagger(options: Mapping[str, Option]) -> tuple[str, ...]:
    kind = options.get("tagger_type", "nltk")
    return {"nltk": _TAGGER, "flair": (_FLAIR_POS,)}.get(str(kind), (f"module:{kind}",))


def _masked(options: Mapping[str, Option]) -> tuple[str, ...]:
    return (f"hub:{options.get('masked_language_model', _BERT)}",)


_PARTS: Mapping[str, Callable[[Mapping[str, Option]], tuple[str, ...]]] = {
    "multilingual-universal-sentence-encoder": lambda options: (
        _UNIVERSAL_ENCODER,
        "module:tensorflow_text",
    ),
    "part-of-speech": _tagger,
    "stopword-modification": lambda options: () if "stopwords" in options else (_STOPWORDS,),
    "universal-sentence-encoder": lambda options: (_UNIVERSAL_ENCODER,),
    "word-embedding-distance": lambda options: (_VECTORS,),
    "word-insertion-masked-lm": _masked,
    "word-merge-masked-lm": lambda options: (*_masked(options), _FLAIR_POS),
    "word-swap-change-location": lambda options: (_FLAIR_NAMES,),
    "word-swap-change-name": lambda options: (_FLAIR_NAMES,),
    "word-swap-embedding": lambda options: (_VECTORS,),
    "word-swap-how-net": lambda options: ("cache:transformations/hownet", _FLAIR_POS),
    "word-swap-inflections": lambda options: ("module:lemminflect", _FLAIR_POS),
    "word-swap-masked-lm": _masked,
    "word-swap-word-net": lambda options: (_WORDNET,),
}
"""The same for parts that a recipe spells out, which depends on their options."""

# TextAttack downloads NLTK data on its first import unless this file is in its cache.
_FIRST_IMPORT_DONE = "post_install_check_3"


def missing(recipe: Recipe) -> str | None:
    """What this machine lacks for a recipe of TextAttack's, in one sentence, or None.

    Nothing heavy is imported, so that many recipes can be listed at once. A class of the user's
    own is not opened: what it needs shows when it is built.
    """
    if recipe.search.kind != "textattack":
        return None
    if importlib.util.find_spec("textattack") is None:
        return _NOT_INSTALLED
    name = recipe.search.options.get("attack")
    if isinstance(name, str):
        module, colon, _ = name.partition(":")
        root = module.partition(".")[0]
        if colon and importlib.util.find_spec(root) is None:
            return f"{recipe.name} needs the module {root}, which is not on the import path"
    lacks = (_lack(resource, recipe.name) for resource in needs_of(recipe))
    return next((lack for lack in lacks if lack is not None), None)


def needs_of(recipe: Recipe) -> tuple[str, ...]:
    """The resources of a recipe of TextAttack's, in order, for :func:`require`."""
    name = recipe.search.options.get("attack")
    if isinstance(name, str):
        return needs_of_class(name.rpartition(":")[2])
    parts = (*recipe.transformations, *recipe.constraints)
    return tuple(dict.fromkeys(need for part in parts for need in _needs_of_part(part)))


def needs_of_class(name: str) -> tuple[str, ...]:
    """The resources of one of TextAttack's recipe classes, for :func:`require`."""
    return _CLASSES.get(name, ())


def require(needs: str | Component | tuple[str, ...], what: str) -> None:
    """Raise UserError if a resource, or what a part of a recipe needs, is not here."""
    if isinstance(needs, Component):
        needs = _needs_of_part(needs)
    for resource in (needs,) if isinstance(needs, str) else needs:
        lack = _lack(resource, what)
        if lack is not None:
            raise UserError(lack)


def masked_language_model(name: str) -> tuple[Any, Any]:
    """A masked language model of the adversary's own and its tokenizer, by folder or hub id.

    Raises:
        UserError: it is not here, or not as safetensors.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    try:
        model = AutoModelForMaskedLM.from_pretrained(
            name, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            name, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"the masked language model {name} cannot be loaded: {first_line(error)}"
        ) from error
    return model, tokenizer


def import_textattack() -> Any:
    """TextAttack, imported without a download, a print or a change to the environment.

    Raises:
        UserError: it is not installed, or its cache folder cannot be written.
    """
    if importlib.util.find_spec("textattack") is None:
        raise UserError(_NOT_INSTALLED)
    if "textattack" not in sys.modules:
        _prepare_cache()
        try:
            # Before TextAttack, which moves the hub's cache into its own.
            importlib.import_module("huggingface_hub.constants")
            with _same_environment(), _stopwords_for_import():
                importlib.import_module("textattack")
        except ImportError as error:
            raise UserError(
                f"TextAttack is installed but cannot be imported ({first_line(error)}); "
                "install versions that fit with: pip install 'robustlab[textattack]'"
            ) from error
    logger = logging.getLogger("textattack.shared.utils.install")
    if logger.level != logging.ERROR:  # setting it anew empties the caches of all loggers
        logger.setLevel(logging.ERROR)
    return sys.modules["textattack"]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn what TextAttack raises for a missing resource into a sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs the package {error.name}, which is not installed"
            if error.name
            else f"{what} needs a package that is not installed: {first_line(error)}"
        ) from error
    except LookupError as error:
        named = re.search(r"nltk\.download\('([^']+)'\)", str(error))
        if named is None:
            raise
        raise UserError(_nltk_lack(named[1], what)) from error


def first_line(error: Exception) -> str:
    """An exception in one line, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def hyphened(name: str) -> str:
    """A class by its name in recipes: ``GreedyWordSwapWIR`` as ``greedy-word-swap-wir``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", name).lower()


def _needs_of_part(part: Component) -> tuple[str, ...]:
    return _PARTS[part.kind](part.options) if part.kind in _PARTS else ()


def _lack(resource: str, what: str) -> str | None:
    """A sentence if a resource is not here, with the place where it belongs."""
    kind, _, name = resource.partition(":")
    if kind == "nltk":
        return None if _has_nltk(name) else _nltk_lack(name, what)
    if kind == "cache":
        place = _cache_folder() / name
        if place.exists():
            return None
        return (
            f"{what} needs TextAttack's {name}, which is not there: unpack "
            f"https://textattack.s3.amazonaws.com/{name} to {place}, or set TA_CACHE_DIR to a "
            "folder that has it"
        )
    if kind == "flair":
        place = Path(os.environ.get("FLAIR_CACHE_ROOT", "~/.flair")).expanduser() / "models" / name
        if any(place.rglob("pytorch_model.bin")):
            return None
        return (
            f"{what} needs flair's tagger {name}, which is not in {place}: fetch it with python -c "
            f"\"from flair.models import SequenceTagger; SequenceTagger.load('flair/{name}')\", or "
            "set FLAIR_CACHE_ROOT to a folder that has it"
        )
    if kind == "hub":
        if _has_model(name):
            return None
        return (
            f"{what} needs the model {name}, which is neither a folder here nor in the Hugging "
            f"Face cache: run `hf download {name}` where there is a network"
        )
    if importlib.util.find_spec(name) is not None:
        return None
    return (
        f"{what} needs the package {name}, which is not installed; install it with: "
        f"pip install {name}"
    )


def _nltk_lack(name: str, what: str) -> str:
    return (
        f"{what} needs NLTK's {name}, which is not installed: fetch it with "
        f"python -m nltk.downloader {name.rpartition('/')[2]}, or set NLTK_DATA to a folder that "
        "has it"
    )


def _has_nltk(name: str) -> bool:
    """Whether NLTK would find a resource, without the seconds that its import takes."""
    forms = (name, f"{name}.zip")
    return any((folder / form).exists() for folder in _nltk_folders() for form in forms)


def _nltk_folders() -> list[Path]:
    """Where NLTK looks, as it says once it is imported, and as it will say before."""
    if "nltk.data" in sys.modules:
        return [Path(str(folder)) for folder in sys.modules["nltk.data"].path]
    stated = [folder for folder in os.environ.get("NLTK_DATA", "").split(os.pathsep) if folder]
    prefix, roots = Path(sys.prefix), (Path("/usr"), Path("/usr/local"))
    return [
        *(Path(folder).expanduser() for folder in (*stated, "~/nltk_data")),
        *(prefix / part / "nltk_data" for part in ("", "share", "lib")),
        *(root / part / "nltk_data" for part in ("share", "lib") for root in roots),
    ]


def _has_model(name: str) -> bool:
    """Whether a model is a folder, or a snapshot with weights is in the hub's local cache."""
    if Path(name).is_dir():
        return True
    from huggingface_hub.constants import HF_HUB_CACHE

    place = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    return any(place.glob("*/model*.safetensors"))


def _cache_folder() -> Path:
    return Path(os.environ.get("TA_CACHE_DIR", "~/.cache/textattack")).expanduser()


def _prepare_cache() -> None:
    """Tell TextAttack that its first import, with its downloads, lies behind it."""
    mark = _cache_folder() / _FIRST_IMPORT_DONE
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        if not mark.exists():
            mark.write_text(
                "Written by robustlab, so that importing TextAttack downloads nothing.\n"
                "Delete this file to let TextAttack fetch its NLTK data on the next import.\n",
                encoding="utf-8",
            )
    except OSError as error:
        raise UserError(
            f"TextAttack needs a cache folder, and {mark.parent} cannot be written "
            f"({error.strerror}); name another in the environment variable TA_CACHE_DIR"
        ) from error


@contextmanager
def _same_environment() -> Iterator[None]:
    """Undo what an import does to the environment variables: TextAttack moves other caches."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _stopwords_for_import() -> Iterator[None]:
    """Let NLTK find a list of stopwords, which TextAttack reads while it is imported.

    Where NLTK's is not installed it finds an empty one, which is gone after the import: recipes
    either state their own list or are refused for want of NLTK's, and never run with this one.
    """
    import nltk

    if _has_nltk("corpora/stopwords"):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        stopwords = Path(folder, "corpora", "stopwords")
        stopwords.mkdir(parents=True)
        (stopwords / "english").touch()
        nltk.data.path.append(folder)
        try:
            yield
        finally:
            nltk.data.path.remove(folder)
