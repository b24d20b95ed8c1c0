"""vLLM's asynchronous V1 engine, on GPUs and on CPUs, from vLLM 0.26 to 0.32.

Owns how vLLM is configured, and exact stops of several tokens. Knows no tokenizer text: prompts go in and
completions come out as ids, and vLLM itself loads no tokenizer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import uuid
from pathlib import Path
from typing import Any

from thinkscale.domain.generation import Completion, EngineInfo, Request
from thinkscale.engines.base import EngineDiedError, EngineError, OnTokens
from thinkscale.engines.stopping import Continuation, check_request
from thinkscale.engines.tokenizer import ModelTokenizer

LOGITS_PROCESSORS = ("thinkscale.engines.vllm_mask:IdMask",)
"""Class paths: every worker imports them for itself."""

CPU_KV_CACHE_GIB = 2
"""Memory for keys and values where there is no GPU; the environment's VLLM_CPU_KVCACHE_SPACE goes before it."""

CPU_STEP_TOKENS = 4096
"""Prompt tokens of one step where there is no GPU, at least."""


class VllmEngine:
    """One AsyncLLM; its engine core runs in a process of its own. Bound to the event loop it was started in."""

    def __init__(self, llm: Any, info: EngineInfo) -> None:
        self._llm = llm
        self.info = info

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        dtype: str,
        context_tokens: int,
        max_concurrent_sequences: int = 256,
        tensor_parallel: int = 1,
        gpu_memory_share: float = 0.9,
        threads: int = 1,
    ) -> VllmEngine:
        """Start an engine; arguments as in `factory.build_engine`.

        Raises:
            EngineError: vLLM cannot load the model or does not find the memory.
        """
        _set_environment()
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        tokenizer = ModelTokenizer(directory)
        options: dict[str, Any] = {"dtype": dtype}
        if current_platform.is_cpu():
            _set_cpu_environment(threads)
            options["enforce_eager"] = True  # compiling costs minutes and gains little on a CPU
            # A prompt prefilled in parts rewinds the request's random generator, which on a CPU raises and kills
            # the engine (0.32). So no parts: a step must then hold the longest prompt whole.
            options["enable_chunked_prefill"] = False
            options["max_num_batched_tokens"] = max(context_tokens, CPU_STEP_TOKENS)
        else:
            options["gpu_memory_utilization"] = gpu_memory_share
            options["tensor_parallel_size"] = tensor_parallel
        arguments = AsyncEngineArgs(
            model=str(directory),
            max_model_len=context_tokens,
            max_num_seqs=max_concurrent_sequences,
            skip_tokenizer_init=True,
            # No sampling defaults and no end-of-text ids from the model's files: a request says all of it.
            generation_config="vllm",
            enable_prefix_caching=True,
            logits_processors=list(LOGITS_PROCESSORS),
            additional_config={"thinkscale_vocab_size": tokenizer.vocab_size},
            disable_log_stats=True,
            **options,
        )
        started: list[Any] = []  # not the thread's result: its future would outlive the engine
        try:
            await asyncio.to_thread(lambda: started.append(AsyncLLM.from_engine_args(arguments)))
        except Exception as error:
            raise EngineError(
                f"vLLM {vllm.__version__} cannot serve {directory} as {dtype} with a context of {context_tokens}: "
                f"{error}. The engine's own log above says more."
            ) from error
        info = EngineInfo(
            engine="vllm",
            version=vllm.__version__,
            model=str(directory),
            dtype=dtype,
            device=current_platform.get_device_name(),
            context_tokens=context_tokens,
            vocab_size=tokenizer.vocab_size,
            eos_ids=tokenizer.eos_ids,
            tensor_parallel=tensor_parallel,
        )
        return cls(started.pop(), info)

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        check_request(request, self.info)
        from vllm import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        continuation = Continuation(request, self.info.eos_ids, on_tokens)
        watched = on_tokens is not None or any(len(stop) > 1 for stop in request.stops)
        stream = self._llm.generate(
            TokensPrompt(prompt_token_ids=list(request.prompt_ids)),
            _sampling_params(request, self.info.eos_ids, every_token=watched),
            uuid.uuid4().hex,
        )
        try:
            # Closing the stream before its end (a stop of several tokens, a cancelled call) aborts the request.
            async with contextlib.aclosing(stream):
                async for output in stream:
                    for token in output.outputs[0].token_ids:
                        completion = continuation.add(token)
                        if completion is not None:
                            return completion
        except EngineDeadError as error:
            raise EngineDiedError("vLLM's engine process has died (out of memory?): start a new engine") from error
        except EngineGenerateError as error:
            raise EngineError(f"vLLM failed on a request: {error.__cause__ or error}") from error
        raise EngineError(f"vLLM ended a request after {len(continuation.ids)} tokens without a stop or its length")

    async def close(self) -> None:
        self._llm.shutdown()
        del self._llm
        gc.collect()  # it shuts down once more when it is deleted, which fails if that is at the interpreter's end


def _sampling_params(request: Request, eos_ids: tuple[int, ...], *, every_token: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        max_tokens=request.max_tokens,
        stop_token_ids=[*eos_ids, *(stop[0] for stop in request.stops if len(stop) == 1)],
        ignore_eos=True,  # those above are all there are
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if every_token else RequestOutputKind.FINAL_ONLY,
        extra_args={"forbid_first": list(request.forbid_first)} if request.forbid_first else None,
    )


def _set_environment() -> None:
    """Before vLLM is imported; what the user has set stays, but for the runner."""
    # Logits processors by class path have two interfaces; from 0.31 on GPUs take the V2 runner and its own by
    # default, and refuse V1 classes. All of 0.26 to 0.32 run V1 classes on the V1 runner.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # models are local directories: vLLM would still ask the hub about them
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles at first use, which needs a compiler on the node
        "VLLM_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)


def _set_cpu_environment(threads: int) -> None:
    """For the engine's process, which inherits it."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # Ray sets 1 in its workers
    # Threads that spin at barriers, the default, slow each other tenfold once cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # vLLM would bind its threads to the machine's first cores: two replicas would share one core.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # One process for the engine core and its only worker instead of two: half the start.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
