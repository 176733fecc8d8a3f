"""Retriever, prompt and generator as one target: the RAG pipeline."""

from __future__ import annotations

from robustlab.models.prompt import PromptTemplate, default_prompt, load_prompt, prompt_names
from robustlab.rag.context import Context, Generator, build_contexts
from robustlab.rag.file import RagFile, load_rag_file
from robustlab.rag.pipeline import (
    POISON_ID,
    RagAnswer,
    RagHit,
    RagPipeline,
    as_retrieval,
    load_rag,
    poison_passages,
)
from robustlab.rag.places import find_answer

__all__ = [
    "POISON_ID",
    "Context",
    "Generator",
    "PromptTemplate",
    "RagAnswer",
    "RagFile",
    "RagHit",
    "RagPipeline",
    "as_retrieval",
    "build_contexts",
    "default_prompt",
    "find_answer",
    "load_prompt",
    "load_rag",
    "load_rag_file",
    "poison_passages",
    "prompt_names",
]
