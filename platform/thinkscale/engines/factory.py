"""Building the engine that a setting names, for a model in a local directory."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path
from typing import Literal

from thinkscale.domain.engine import Engine, EngineError


async def build_engine(
    engine: Literal["auto", "vllm", "transformers"],
    directory: Path,
    *,
    dtype: str = "auto",
    context_tokens: int,
    max_concurrent_sequences: int = 256,
    tensor_parallel: int = 1,
    gpu_memory_share: float = 0.9,
    threads: int = 1,
) -> Engine:
    """An engine that is ready to generate.

    Args:
        engine: `auto` takes vllm where it is installed, else transformers; `Engine.info.engine` says which.
        directory: model in the Hugging Face layout.
        dtype: `bfloat16` or `float32`; `auto` is bfloat16.
        context_tokens: the most tokens of prompt and completion together.
        max_concurrent_sequences: the most requests decoded at once; others wait.
        gpu_memory_share: share of a GPU's memory that vllm takes.
        threads: CPU threads of an engine without a GPU.

    Raises:
        EngineError: an extra is missing, or the model cannot be loaded or served so.
    """
    check_context(directory, context_tokens)
    dtype = "bfloat16" if dtype == "auto" else dtype
    has_vllm = util.find_spec("vllm") is not None
    if engine == "vllm" or (engine == "auto" and has_vllm):
        if not has_vllm:
            raise EngineError("serve.engine is 'vllm', which is not installed: pip install 'thinkscale[vllm]'")
        from thinkscale.engines.vllm import VllmEngine

        return await VllmEngine.start(
            directory,
            dtype=dtype,
            context_tokens=context_tokens,
            max_concurrent_sequences=max_concurrent_sequences,
            tensor_parallel=tensor_parallel,
            gpu_memory_share=gpu_memory_share,
            threads=threads,
        )
    if tensor_parallel > 1:
        raise EngineError(
            f"serve.tensor_parallel is {tensor_parallel}, which the transformers engine does not do: "
            "pip install 'thinkscale[vllm]' and set serve.engine = 'vllm'"
        )
    from thinkscale.engines.transformers import TransformersEngine

    return TransformersEngine(
        directory,
        dtype=dtype,
        context_tokens=context_tokens,
        max_concurrent_sequences=max_concurrent_sequences,
        threads=threads,
    )


def model_context(directory: Path) -> int | None:
    """Positions that a model has, where its config says so.

    Raises EngineError where the directory holds no model.
    """
    config = directory / "config.json"
    if not config.exists():
        raise EngineError(f"{directory} holds no config.json: is it a model in the Hugging Face layout?")
    most = json.loads(config.read_text()).get("max_position_embeddings")
    return None if most is None else int(most)


def check_context(directory: Path, context_tokens: int) -> None:
    """Raises EngineError where the model has fewer positions than that."""
    most = model_context(directory)
    if most is not None and context_tokens > most:
        raise EngineError(
            f"serve.context_tokens is {context_tokens}, the model in {directory} has positions for {most}: "
            f"set serve.context_tokens to {most} or less"
        )
