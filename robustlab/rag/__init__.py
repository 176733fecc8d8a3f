"""Retriever, prompt and generator as one target: the RAG pipeline."""

from __future__ import annotations

from robustlab.rag.context import Context, Generator, build_contexts
from robustlab.rag.pipeline import RagAnswer, RagHit, RagPipeline, load_rag
from robustlab.rag.places import find_answer
from robustlab.rag.prompt import PromptTemplate, default_prompt, load_prompt, prompt_names

__all__ = [
    "Context",
    "Generator",
    "PromptTemplate",
    "RagAnswer",
    "RagHit",
    "RagPipeline",
    "build_contexts",
    "default_prompt",
    "find_answer",
    "load_prompt",
    "load_rag",
    "prompt_names",
]
