"""OpenAI's HTTP interface over one engine, with budget forcing: an ASGI application.
Owns routes, keys, prompts, answers and streams. Knows nothing of Ray: what runs it admits requests, and cancels one
whose client has gone, at which the engine drops it."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from thinkscale.domain.generation import Engine, EngineError
from thinkscale.domain.service import Service
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.formats import ThinkingFormat
from thinkscale.server.bodies import ApiError, BodyT, ChatBody, CompletionBody, parse
from thinkscale.server.choices import Choice, Delta, Outcome, Served, chat_choices, completion_choices, run_choice
from thinkscale.server.metrics import GONE, Exchange, Metrics, summed
from thinkscale.server.replies import Reply

log = logging.getLogger(__name__)


class OpenAiApi:
    """The handlers. One instance for one engine."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: ModelTokenizer,
        thinking_format: ThinkingFormat,
        service: Service,
        *,
        keys: Sequence[str] = (),
        on_engine_error: Callable[[EngineError], None] = lambda error: None,
        all_figures: Callable[[], Awaitable[Sequence[str]]] | None = None,
    ) -> None:
        """`keys`: any of them opens the door; none: it stands open.
        `all_figures`: `metrics.text()` of every replica of the service; None: this is the only one."""
        self.metrics = Metrics(service.request_log)
        self._all_figures = all_figures
        self._engine, self._tokenizer, self._service = engine, tokenizer, service
        self._served = Served(info=engine.info, tokenizer=tokenizer, thinking_format=thinking_format, service=service)
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._on_engine_error = on_engine_error
        self._started = int(time.time())

    def app(self) -> Starlette:
        def route(path: str, handler: Callable[[HttpRequest], Awaitable[Response]], method: str) -> Route:
            async def guarded(request: HttpRequest) -> Response:
                return await self._guarded(path, handler, request)

            return Route(path, guarded, methods=[method])

        return Starlette(
            routes=[
                route("/v1/chat/completions", partial(self._complete, ChatBody, chat_choices), "POST"),
                route("/v1/completions", partial(self._complete, CompletionBody, completion_choices), "POST"),
                route("/v1/models", self._models, "GET"),
                route("/v1/models/{name:path}", self._model, "GET"),
                Route("/health", self._health, methods=["GET"]),
                Route("/metrics", self._figures, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _http_error},
        )

    async def _guarded(
        self, path: str, handler: Callable[[HttpRequest], Awaitable[Response]], request: HttpRequest
    ) -> Response:
        exchange = request.state.exchange = Exchange(self.metrics, path)
        outcomes: list[Outcome] = []
        request.state.outcomes = outcomes
        try:
            self._check_key(request)
            response = await handler(request)
        except asyncio.CancelledError:
            exchange.end(GONE)
            raise
        except Exception as error:
            problem = self._explained(error)
            headers = {"www-authenticate": "Bearer"} if problem.status == 401 else None
            response = JSONResponse(problem.body(), problem.status, headers)
        if not isinstance(response, StreamingResponse):  # which ends its exchange itself
            exchange.end(response.status_code, outcomes)
        return response

    async def _health(self, request: HttpRequest) -> Response:
        try:
            self._engine.check()
        except EngineError as error:
            problem = self._explained(error)
            return JSONResponse(problem.body(), problem.status)
        return Response()

    async def _figures(self, request: HttpRequest) -> Response:
        texts = [self.metrics.text()] if self._all_figures is None else await self._all_figures()
        return Response(summed(texts), media_type=CONTENT_TYPE_LATEST)

    def _check_key(self, request: HttpRequest) -> None:
        if not self._keys:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()  # headers are bytes, read as latin-1
        # All keys are compared, each in constant time: the answer's time tells nothing of them.
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            told = "missing or wrong API key: send it as 'Authorization: Bearer KEY'"
            raise ApiError(told, status=401, code="invalid_api_key")

    def _explained(self, error: Exception) -> ApiError:
        match error:
            case ApiError():
                return error
            case ExceptionGroup():  # of choices that were made together
                return self._explained(error.exceptions[0])
            case ValueError():
                return ApiError(str(error))
            case EngineError():
                self._on_engine_error(error)
                return ApiError(f"the engine failed on this request: {error}", status=503)
            case _:
                log.exception("request failed", exc_info=error)
                return ApiError("internal error; the server's log says more", status=500)

    async def _models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._model_card()]})

    async def _model(self, request: HttpRequest) -> Response:
        self._check_model(request.path_params["name"])
        return JSONResponse(self._model_card())

    def _model_card(self) -> dict[str, Any]:
        return {
            "id": self._service.served_name,
            "object": "model",
            "created": self._started,
            "owned_by": "thinkscale",
            "max_model_len": self._engine.info.context_tokens,
            "thinking": {"format": self._served.thinking_format.name, "forced": self._served.forced},
        }

    def _check_model(self, name: str) -> None:
        if name != self._service.served_name:
            told = f"no model {name!r} here, but {self._service.served_name!r}"
            raise ApiError(told, status=404, param="model", code="model_not_found")

    async def _complete(
        self, kind: type[BodyT], make: Callable[[BodyT, Served], list[Choice]], request: HttpRequest
    ) -> Response:
        body = parse(kind, await self._read(request))
        self._check_model(body.model)
        choices = await asyncio.to_thread(make, body, self._served)
        reply = Reply(body, self._service.served_name, self._tokenizer)
        if body.stream:
            events = self._stream(request.state.exchange, reply, choices)
            return StreamingResponse(events, media_type="text/event-stream")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run_choice(self._engine, self._tokenizer, choice, None)) for choice in choices]
        request.state.outcomes += (task.result() for task in tasks)
        return JSONResponse(reply.whole(request.state.outcomes))

    async def _read(self, request: HttpRequest) -> bytes:
        limit = self._service.max_body_bytes
        too_large = ApiError(f"the body is larger than {limit} bytes", status=413)
        if int(request.headers.get("content-length") or 0) > limit:
            raise too_large
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > limit:
                raise too_large
        return bytes(data)

    async def _stream(self, exchange: Exchange, reply: Reply, choices: list[Choice]) -> AsyncGenerator[bytes, None]:
        """Server-sent events. Closing the generator cancels what is under way."""
        queue: asyncio.Queue[tuple[int, Delta | Outcome | Exception]] = asyncio.Queue()

        async def work(index: int, choice: Choice) -> None:
            try:
                outcome = await run_choice(
                    self._engine, self._tokenizer, choice, lambda delta: queue.put_nowait((index, delta))
                )
                queue.put_nowait((index, outcome))
            except asyncio.CancelledError:  # the stream is closing, or the engine dropped the request
                queue.put_nowait((index, EngineError("the request was dropped")))
                raise
            except Exception as error:
                queue.put_nowait((index, error))

        tasks = [asyncio.create_task(work(index, choice)) for index, choice in enumerate(choices)]
        status, outcomes = GONE, dict[int, Outcome]()
        try:
            yield _events(reply.beginning(len(choices)))
            while len(outcomes) < len(choices):
                news = [await queue.get()]
                while not queue.empty():  # under load several come at once: they go as one message
                    news.append(queue.get_nowait())
                events = b""
                for index, come in news:
                    if isinstance(come, Exception):
                        problem = self._explained(come)
                        status = problem.status
                        yield events + _events([problem.body()])
                        return
                    if isinstance(come, Outcome):
                        outcomes[index] = come
                    events += _events(reply.part(index, come))
                yield events
            status = 200
            yield _events(reply.last_part(outcomes.values())) + b"data: [DONE]\n\n"
        finally:
            exchange.end(status, list(outcomes.values()))
            for task in tasks:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)


def _events(bodies: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n" for body in bodies)


async def _http_error(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = ApiError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
    return JSONResponse(problem.body(), problem.status, error.headers)
