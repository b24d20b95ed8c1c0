"""Building the engine that a setting names, for a model in a local directory."""

import json
from importlib import util
from pathlib import Path

from thinkscale.domain.generation import Engine, EngineError
from thinkscale.domain.models import Serve
from thinkscale.engines.precision import fast_dtype


async def build_engine(directory: Path, serve: Serve, *, threads: int = 1, json_mode: bool = False) -> Engine:
    """An engine that is ready to generate, for a model in the Hugging Face layout; its `info` says which it is.
    `threads`: CPU threads of an engine without a GPU. `json_mode`: a vLLM that can hold answers to a JSON schema.
    Raises EngineError where an extra is missing, or the model cannot be loaded or served so."""
    check_context(directory, serve.context_tokens)
    if serve.dtype == "auto":
        serve = serve.model_copy(update={"dtype": fast_dtype()})
    has_vllm = util.find_spec("vllm") is not None
    if serve.engine == "vllm" or (serve.engine == "auto" and has_vllm):
        if not has_vllm:
            raise EngineError("serve.engine is 'vllm', which is not installed: pip install 'thinkscale[vllm]'")
        from thinkscale.engines.vllm import VllmEngine

        return await VllmEngine.start(directory, serve, threads=threads, json_mode=json_mode)
    if serve.tensor_parallel > 1:
        raise EngineError(
            f"serve.tensor_parallel is {serve.tensor_parallel}, which the transformers engine does not do: "
            "pip install 'thinkscale[vllm]' and set serve.engine = 'vllm'"
        )
    from thinkscale.engines.transformers import TransformersEngine

    return TransformersEngine(directory, serve, threads=threads)


def model_context(directory: Path) -> int | None:
    """Positions that a model has, where its config says so. Raises EngineError where the directory holds no model."""
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
