"""Retriever, prompt and generator as one target: the RAG pipeline."""

from __future__ import annotations

from robustlab.models.prompt import PromptTemplate, default_prompt, load_prompt, prompt_names
from robustlab.rag.context import Context, Generator, build_contexts
from robustlab.rag.pipeline import RagAnswer, RagHit, RagPipeline, load_rag
from robustlab.rag.places import find_answer

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
