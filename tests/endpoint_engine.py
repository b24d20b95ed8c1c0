"""A client of /v1/completions that speaks token ids: the service's answers against the engines' contract."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from thinkscale.domain.generation import Completion, EngineError, EngineInfo, OnTokens, Request
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.ending import Continuation, check_request

NEVER = -100  # the logit bias that OpenAI's interface has for an id that must not come


class EndpointEngine:
    """One model of one server. A request that fails for the moment is sent again, with jitter, a few times."""

    def __init__(self, client: Any, info: EngineInfo, padding_ids: range, key_variable: str) -> None:
        self._client = client
        self._padding_ids = padding_ids
        self._key_variable = key_variable
        self.info = info

    @classmethod
    async def connect(
        cls,
        base_url: str,
        model: str,
        directory: Path,
        *,
        context_tokens: int | None = None,
        key_variable: str = "THINKSCALE_TEACHER_API_KEY",
        attempts: int = 6,
        timeout_s: float = 3600.0,
    ) -> EndpointEngine:
        """Connect to a server. `base_url`: as `http://host:8000/v1`. `model`: a name that the server's /v1/models
        lists. `directory`: the model's tokenizer and config, in the Hugging Face layout. `context_tokens`: None: what
        the server says. `key_variable`: environment variable that holds the API key, where the server wants one.
        `attempts`: times that a request is sent before its failure is raised. `timeout_s`: the longest wait for one
        completion. Raises EngineError: no such server or model, or the key is refused."""
        import openai

        key = os.environ.get(key_variable) or "none"
        client = openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=attempts - 1, timeout=timeout_s)
        with _explained(base_url, key_variable):
            served = {each.id: each async for each in client.models.list()}
        if model not in served:
            raise EngineError(f"{base_url} does not serve {model!r}, but {', '.join(sorted(served)) or 'nothing'}")
        context_tokens = context_tokens or getattr(served[model], "max_model_len", None)
        if context_tokens is None:
            raise EngineError(f"{base_url} does not say the context of {model!r}: give context_tokens")
        tokenizer = ModelTokenizer(directory)
        info = EngineInfo(
            engine="endpoint",
            version=f"openai/{openai.__version__}",
            model=model,
            dtype="unknown",
            device=base_url,
            context_tokens=context_tokens,
            vocab_size=tokenizer.vocab_size,
            eos_ids=tokenizer.eos_ids,
            token_ids_hash=tokenizer.ids_hash,
        )
        rows = json.loads((directory / "config.json").read_text()).get("vocab_size", 0)
        return cls(client, info, range(tokenizer.vocab_size, rows), key_variable)

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        check_request(request, self.info)
        continuation = Continuation(request, self.info.eos_ids, on_tokens)
        if request.forbid_first:
            # OpenAI's bias holds for a whole request: the first token is one of its own.
            completion = await self._continue(continuation, replace(request, max_tokens=1), on_tokens)
            if completion is not None:
                return completion
            prefix = request.prompt_ids + tuple(continuation.ids)
            request = replace(request, prompt_ids=prefix, max_tokens=request.max_tokens - 1, forbid_first=())
        completion = await self._continue(continuation, request, on_tokens)
        if completion is None:
            raise EngineError(f"{self.info.device} ended a completion after {len(continuation.ids)} tokens, no stop")
        return completion

    def check(self) -> None:
        return

    async def close(self) -> None:
        await self._client.close()

    async def _continue(
        self, continuation: Continuation, request: Request, on_tokens: OnTokens | None
    ) -> Completion | None:
        """One HTTP request, which forbids `forbid_first` throughout; None where more tokens are needed."""
        tokens = self._tokens(request, stream=on_tokens is not None or request.needs_watching)
        with _explained(self.info.device, self._key_variable):
            # Leaving a stream before its end closes the connection, at which the server drops the request.
            async with contextlib.aclosing(tokens):
                async for token in tokens:
                    if (completion := continuation.add(token)) is not None:
                        return completion
        return None

    async def _tokens(self, request: Request, *, stream: bool) -> AsyncGenerator[int, None]:
        sampling = request.sampling
        stops = [*self.info.eos_ids, *(stop[0] for stop in request.stops if len(stop) == 1)]
        answer = await self._client.completions.create(
            model=self.info.model,
            prompt=list(request.prompt_ids),
            max_tokens=request.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            logit_bias={str(token): NEVER for token in (*self._padding_ids, *request.forbid_first)},
            stream=stream,
            extra_body={
                "top_k": sampling.top_k,
                "min_p": sampling.min_p,
                "repetition_penalty": 1.0,  # a server may have another default
                "stop_token_ids": stops,
                "ignore_eos": True,  # those are all there are
                "return_token_ids": True,
            },
        )
        if not stream:
            for token in _token_ids(answer, self.info.device):
                yield token
            return
        async with answer:
            async for part in answer:
                if part.choices:
                    for token in _token_ids(part, self.info.device):
                        yield token


def _token_ids(answer: Any, base_url: str) -> list[int]:
    ids = getattr(answer.choices[0], "token_ids", None)
    if ids is None:
        raise EngineError(
            f"{base_url} answers without token ids: it must understand return_token_ids, as vLLM from 0.10.2 and "
            "`thinkscale serve` do"
        )
    return list(ids)


@contextlib.contextmanager
def _explained(base_url: str, key_variable: str) -> Iterator[None]:
    import openai

    try:
        yield
    except openai.APIConnectionError as error:
        raise EngineError(f"no answer from {base_url}: is the server up? ({error.__cause__ or error})") from error
    except openai.APIError as error:
        key = os.environ.get(key_variable)
        words = str(error).replace(key, "***") if key else str(error)  # some servers repeat it
        told = EngineError(f"{base_url} failed: {words}")
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            told = EngineError(f"{base_url} refuses the API key: set {key_variable} ({words})")
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            raise ValueError(f"{base_url} refuses the request: {words}") from None
        raise told from None
