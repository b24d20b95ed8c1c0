"""vLLM's asynchronous V1 engine, on GPUs and on CPUs, from vLLM 0.26 to 0.32.
Owns how vLLM is configured, and exact stops of several tokens. Knows no tokenizer text: prompts go in and completions
come out as ids, and vLLM itself loads a tokenizer only for JSON mode, whose grammars are over texts."""

import asyncio
import contextlib
import gc
import itertools
import os
import tempfile
import uuid
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Self

from thinkscale.domain.generation import (
    Completion,
    EngineDiedError,
    EngineError,
    EngineInfo,
    OnTokens,
    Request,
    Sampling,
    ScoredId,
    TokenIds,
)
from thinkscale.domain.models import Serve
from thinkscale.domain.sample import Budget, Thought
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.engines.vllm_forcing import SlotState, extra_args, forbid_first
from thinkscale.forcing.automaton import forcing_spec, read_thought
from thinkscale.forcing.ending import Continuation, check_request
from thinkscale.forcing.formats import ForcingIds, newline_ending
from thinkscale.forcing.program import overflow, thinking_cap

WORKER_EXTENSION = "thinkscale.engines.vllm_forcing.ForcingWorker"  # class path: every worker imports it for itself

OUTCOMES_EVERY_S = 0.01  # outcomes of forced requests that end within this time are asked for together

CPU_KV_CACHE_GIB = 1
"""Memory for keys and values where there is no GPU; the environment's VLLM_CPU_KVCACHE_SPACE goes before it."""

CPU_STEP_TOKENS = 4096  # prompt tokens of one step where there is no GPU, at least

TOKENS_A_MESSAGE = 8
"""Tokens that a GPU's engine tells of at once, where somebody watches: each message costs the event loop time."""

PING_EVERY_S = 5.0
HUNG_S = {"cpu": 120.0, "cuda": 20.0}
"""How long an engine may take to answer a ping, between two of its steps, before it counts as hung and is killed."""

DEAD = "vLLM's engine process has died (out of memory?) or hung: start a new engine"


class VllmEngine:
    """One AsyncLLM; its engine core runs in a process of its own. Bound to the event loop it was started in."""

    def __init__(self, llm: Any, info: EngineInfo) -> None:
        self._llm = llm
        self.info = info
        self._asked: dict[str, asyncio.Future[SlotState]] = {}
        """Ended forced requests whose outcome is not here yet, by key."""
        self._asking: asyncio.Task[None] | None = None
        self.hung_s = HUNG_S["cpu" if info.device == "cpu" else "cuda"]
        self._pinging = asyncio.create_task(self._ping())

    @classmethod
    async def start(
        cls,
        directory: Path,
        serve: Serve,
        *,
        threads: int = 1,
        json_mode: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Start an engine; arguments as in `factory.build_engine`, `options` for vLLM's AsyncEngineArgs.
        Raises EngineError where vLLM cannot load the model or does not find the memory."""
        _set_environment()
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        tokenizer = ModelTokenizer(directory)
        context_tokens = serve.context_tokens
        options = {"dtype": serve.dtype, "load_format": "safetensors", **(options or {})}
        if current_platform.is_cpu():
            _set_cpu_environment(threads)
            options["enforce_eager"] = True  # compiling costs minutes and gains little on a CPU
            # Only whole blocks are found again when a sweep forks, and vLLM's own on CPUs are longer (128) than many
            # a trace. 32 is the least that the kernels take; decoding is not slower.
            options.setdefault("block_size", 32)
            # A prompt prefilled in parts rewinds the request's random generator, which on a CPU raises and kills
            # the engine (0.32). So no parts: a step must then hold the longest prompt whole.
            options["enable_chunked_prefill"] = False
            options["max_num_batched_tokens"] = max(context_tokens, CPU_STEP_TOKENS)
        else:
            options["gpu_memory_utilization"] = serve.gpu_memory_share
            options["tensor_parallel_size"] = serve.tensor_parallel
            options.setdefault("stream_interval", TOKENS_A_MESSAGE)
        arguments = AsyncEngineArgs(
            model=str(directory),
            max_model_len=context_tokens,
            max_num_seqs=serve.max_concurrent_sequences,
            skip_tokenizer_init=not json_mode,
            # No sampling defaults and no end-of-text ids from the model's files: a request says all of it.
            generation_config="vllm",
            enable_prefix_caching=True,
            worker_extension_cls=WORKER_EXTENSION,
            **{"disable_log_stats": True, **options},
        )
        started: list[Any] = []  # not the thread's result: its future would outlive the engine
        try:
            with tempfile.TemporaryDirectory() as files:
                if json_mode:
                    tokenizer.save_plain(Path(files))
                    arguments.tokenizer = files
                await asyncio.to_thread(lambda: started.append(AsyncLLM.from_engine_args(arguments)))
        except Exception as error:
            raise EngineError(
                f"vLLM {vllm.__version__} cannot serve {directory} as {serve.dtype} with a context of "
                f"{context_tokens}: {error}. The engine's own log above says more."
            ) from error
        info = EngineInfo(
            engine="vllm",
            version=vllm.__version__,
            model=str(directory),
            dtype=serve.dtype,
            device=current_platform.get_device_name(),
            context_tokens=context_tokens,
            vocab_size=tokenizer.vocab_size,
            eos_ids=tokenizer.eos_ids,
            token_ids_hash=tokenizer.ids_hash,
            tensor_parallel=serve.tensor_parallel,
        )
        engine = cls(started.pop(), info)
        await engine._llm.collective_rpc(
            "thinkscale_install", args=(sorted(newline_ending(tokenizer)), tokenizer.vocab_size)
        )
        return engine

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        check_request(request, self.info)
        continuation = Continuation(request, self.info.eos_ids, on_tokens)
        watched = on_tokens is not None or request.needs_watching
        parameters = _sampling_params(request, self.info.eos_ids, every_token=watched)
        async with contextlib.aclosing(self._tokens(request.prompt_ids, parameters)) as tokens:
            async for come in tokens:
                completion = continuation.add(*come)
                if completion is not None:
                    return completion
        raise EngineError(f"vLLM ended a request after {len(continuation.ids)} tokens without a stop or its length")

    async def force(
        self,
        prompt_ids: TokenIds,
        budget: Budget,
        ids: ForcingIds,
        *,
        sampling: Sampling,
        on_tokens: OnTokens | None = None,
    ) -> Thought:
        """What `forcing.program.think` gives, in one request. `prompt_ids`: with the start of thinking. `on_tokens`:
        told of all tokens as they come, forced ones included. Raises ValueError: the delimiters, the texts or the waits
        do not fit the automaton; EngineError: as `generate`."""
        context = self.info.context_tokens
        cap = thinking_cap(len(prompt_ids), budget, ids, context)
        if cap < 0:
            return overflow(prompt_ids)
        spec = forcing_spec(prompt_ids, budget, ids, cap)
        longest = min(spec.max_tokens, context - len(prompt_ids))
        request = Request(prompt_ids=prompt_ids, max_tokens=longest, sampling=sampling)
        check_request(request, self.info)
        parameters = _sampling_params(request, self.info.eos_ids, every_token=on_tokens is not None)
        key = uuid.uuid4().hex
        parameters.extra_args = extra_args(spec, key)
        come: list[int] = []
        try:
            async with contextlib.aclosing(self._tokens(prompt_ids, parameters)) as tokens:
                async for new in tokens:
                    told = tuple(itertools.takewhile(lambda token: token not in self.info.eos_ids, new))
                    come += told
                    if on_tokens is not None and told:
                        on_tokens(told)
                    if len(told) < len(new):
                        break
        finally:
            outcome = self._outcome(key)  # also where the call was cancelled: it frees the slot
        return read_thought(await outcome, tuple(come), spec, len(prompt_ids))

    async def _tokens(self, prompt_ids: TokenIds, parameters: Any) -> AsyncGenerator[TokenIds, None]:
        """A request's tokens as vLLM tells of them, some at a time; closing it before its end aborts the request."""
        from vllm import TokensPrompt, exceptions
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt = TokensPrompt(prompt_token_ids=list(prompt_ids))
        refusal: type[Exception] = getattr(exceptions, "VLLMClientError", ValueError)  # 0.26 has no name for it
        try:
            async with contextlib.aclosing(self._llm.generate(prompt, parameters, uuid.uuid4().hex)) as stream:
                async for output in stream:
                    yield _ids(output.outputs[0], parameters.logprobs)
        except refusal as error:
            raise ValueError(f"vLLM refuses the request: {error}") from error
        except EngineDeadError as error:
            raise EngineDiedError(DEAD) from error
        except EngineGenerateError as error:
            raise EngineError(f"vLLM failed on a request: {error.__cause__ or error}") from error

    def _outcome(self, key: str) -> asyncio.Future[SlotState]:
        """The outcome of an ended request, asked for together with others': each question costs the engine time."""
        future = asyncio.get_running_loop().create_future()
        self._asked[key] = future
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_outcomes())
        return future

    async def _ask_for_outcomes(self) -> None:
        while self._asked:
            await asyncio.sleep(OUTCOMES_EVERY_S)
            asked, self._asked = self._asked, {}
            try:
                (found, *_) = await self._llm.collective_rpc("thinkscale_outcomes", args=(list(asked),))
            except Exception as error:
                found, problem = {}, error
            else:
                problem = EngineError("vLLM lost the outcome of a forced request: try it again")
            for key, future in asked.items():
                if future.cancelled():
                    continue
                if key in found:
                    future.set_result(found[key])
                else:
                    future.set_exception(EngineError(str(problem)))
                    future.exception()  # a cancelled call never reads it

    def check(self) -> None:
        if self._llm.errored:
            raise EngineDiedError(DEAD)

    async def _ping(self) -> None:
        """Kill an engine that hangs: whoever waits for it gets the error that its death is."""
        import psutil  # comes with vLLM

        while True:
            await asyncio.sleep(min(PING_EVERY_S, self.hung_s))
            try:
                async with asyncio.timeout(self.hung_s):
                    await self._llm.collective_rpc("thinkscale_outcomes", args=([],))
            except TimeoutError:
                for process in self._llm.engine_core.resources.engine_manager.processes:
                    parent = psutil.Process(process.pid)
                    for each in (*parent.children(recursive=True), parent):
                        each.kill()
                return
            except Exception:  # it has died, which vLLM itself tells whoever waits
                return

    async def close(self) -> None:
        self._pinging.cancel()
        self._llm.shutdown()
        del self._llm
        gc.collect()  # it shuts down once more when it is deleted, which fails if that is at the interpreter's end


def _ids(made: Any, alternatives: int | None) -> TokenIds:
    if alternatives is None:
        return tuple(made.token_ids)
    scored = []
    for token, found in zip(made.token_ids, made.logprobs, strict=True):
        top = sorted(((each, score.logprob) for each, score in found.items()), key=lambda pair: -pair[1])
        scored.append(ScoredId(token, found[token].logprob, tuple(top[:alternatives])))
    return tuple(scored)


def _sampling_params(request: Request, eos_ids: tuple[int, ...], *, every_token: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=request.max_tokens,
        stop_token_ids=[*eos_ids, *(stop[0] for stop in request.stops if len(stop) == 1)],
        ignore_eos=True,  # those above are all there are
        detokenize=False,
        output_kind=RequestOutputKind.DELTA if every_token else RequestOutputKind.FINAL_ONLY,
        logprobs=sampling.scores,
        structured_outputs=None if (schema := sampling.json_schema) is None else StructuredOutputsParams(json=schema),
        extra_args=forbid_first(request.forbid_first, uuid.uuid4().hex) if request.forbid_first else None,
    )


def _set_environment() -> None:
    """Before vLLM is imported; what the user has set stays."""
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
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the other needs Triton
    # vLLM would bind its threads to the machine's first cores: two replicas would share one core.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # One process for the engine core and its only worker instead of two: half the start.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
