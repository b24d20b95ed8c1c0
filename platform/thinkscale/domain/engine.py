"""The interface that every engine has: token ids in, token ids out, many requests at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from thinkscale.domain.generation import Completion, EngineInfo, Request, TokenIds

OnTokens = Callable[[TokenIds], None]
"""Told of ids as they are decoded, in order and each once; not of the id that completes a stop."""


class EngineError(RuntimeError):
    """An engine could not be built or failed on a request; the message says what to do."""


class EngineDiedError(EngineError):
    """No request will succeed on this engine any more: a new one is needed."""


class StopAskingError(EngineError):
    """Nothing more shall be asked: another request would meet the same; the message says why and what to do."""


class Engine(Protocol):
    """Turns token ids into token ids. Requests advance independently of each other."""

    info: EngineInfo

    async def generate(self, request: Request, on_tokens: OnTokens | None = None) -> Completion:
        """Continue `request.prompt_ids`; `on_tokens` is called in the event loop, before the call returns.

        The completion ends at the first complete occurrence of a stop sequence or an end-of-text id,
        or after `max_tokens` tokens. Cancelling the call drops the request from the engine.

        Raises:
            EngineError: the engine failed; the request may be tried again elsewhere.
            ValueError: the request itself is impossible (prompt and max_tokens exceed the context).
        """
        ...

    async def close(self) -> None:
        """Free the device. No request may be under way."""
        ...
