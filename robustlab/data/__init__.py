"""Records, readers of data sets and corpora, splits and samples."""

from __future__ import annotations

from robustlab.data.corpus import load_corpus
from robustlab.data.labelled import load_labelled
from robustlab.data.records import Corpus, LabelledExample, LabelledSet, Passage, Question
from robustlab.data.splits import sample, select_split

__all__ = [
    "Corpus",
    "LabelledExample",
    "LabelledSet",
    "Passage",
    "Question",
    "load_corpus",
    "load_labelled",
    "sample",
    "select_split",
]
