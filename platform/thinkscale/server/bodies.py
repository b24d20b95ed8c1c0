"""Bodies of OpenAI's requests as this server understands them, and what they ask of an engine.
Owns which fields there are, their limits, and how `thinking` shares a completion's length out. A field that is unknown
or asks for what is not there is refused: an answer that silently ignored it would be wrong."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thinkscale.domain.generation import Sampling
from thinkscale.domain.sample import Budget


class ApiError(Exception):
    """An answer that is an error, in the form that OpenAI's clients read."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Text = Annotated[str, Field(max_length=4 << 20)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
ShortText = Annotated[str, Field(max_length=200)]


class Thinking(_Body):
    """How much to think before the answer."""

    enabled: bool = True
    max_tokens: Annotated[int, Field(ge=0)] | None = None  # default: what the completion's length leaves
    waits: Annotated[int, Field(ge=0, le=16)] = 0  # early ends replaced by `wait_text`; no engine forces more
    wait_text: Annotated[str, Field(min_length=1, max_length=200)] = "Wait"
    final_answer_text: ShortText = "Final Answer:"  # begins the answer where `max_tokens` cut the thinking


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class TemplateSwitches(_Body):
    """What vLLM's and SGLang's clients send to switch thinking."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class Reasoning(_Body):
    """OpenRouter's way to say how much to think."""

    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: bool = False


class JsonSchema(_Body):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None  # an answer keeps to the schema in any case


class ResponseFormat(_Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema goes with the type json_schema, and the other way round")
        return self

    @property
    def schema_text(self) -> str | None:
        """What answers must keep to."""
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.schema_
        return None if self.type == "text" else json.dumps(schema)


class _Common(_Body):
    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    thinking: Thinking | None = None
    thinking_token_budget: Annotated[int, Field(ge=-1)] | None = None  # vLLM's name of a cap; -1: none
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None

    def sampling(self, choice: int) -> Sampling:
        """What the choice of this number is drawn with; with a seed, choices differ and requests repeat."""
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            seed=None if self.seed is None else (self.seed + choice) % 2**63,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
        )

    def stop_texts(self) -> tuple[str, ...]:
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class TextPart(_Body):
    type: Literal["text"]
    text: Text


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = None
    name: str | None = None
    # What comes back in this server's and OpenAI's answers, so that they can be sent again as they are.
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a {self.role} message needs content")
        return self

    def for_template(self) -> dict[str, str]:
        content = self.content
        text = content if isinstance(content, str) else "".join(part.text for part in content or [])
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(_Common):
    """/v1/chat/completions. Without `thinking` the model thinks as long as it likes."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    chat_template_kwargs: TemplateSwitches | None = None
    reasoning_effort: Effort | None = None
    reasoning: Reasoning | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _asks_for_scores(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    def sampling(self, choice: int) -> Sampling:
        scores = (self.top_logprobs or 0) if self.logprobs else None
        schema = None if self.response_format is None else self.response_format.schema_text
        return replace(super().sampling(choice), scores=scores, json_schema=schema)

    @property
    def total_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def effort(self) -> Effort | None:
        return self.reasoning_effort or (self.reasoning.effort if self.reasoning else None)

    @property
    def thinks(self) -> bool:
        """Whether nothing in the request switches thinking off."""
        switches, reasoning = self.chat_template_kwargs or TemplateSwitches(), self.reasoning or Reasoning()
        said = (switches.enable_thinking, switches.thinking, reasoning.enabled, (self.thinking or Thinking()).enabled)
        return False not in said and self.effort != "none"

    def cap(self, efforts: Mapping[Any, int]) -> int | None:
        """The thinking tokens that the names of other servers allow at most. Raises ApiError for an unknown effort."""
        caps = [self.thinking_token_budget, self.reasoning.max_tokens if self.reasoning else None]
        if self.effort not in (None, "none"):
            if self.effort not in efforts:
                told = f"reasoning_effort {self.effort!r} is unknown: {', '.join(efforts)}"
                raise ApiError(told, param="reasoning_effort")
            caps.append(efforts[self.effort])
        return min((cap for cap in caps if cap is not None and cap >= 0), default=None)


class CompletionBody(_Common):
    """/v1/completions. The prompt is continued as it stands; with `thinking`, its start is appended first."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: None = None
    logit_bias: dict[str, float] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None

    def sampling(self, choice: int) -> Sampling:
        return replace(super().sampling(choice), scores=self.logprobs)

    def forbid_first(self, vocab_size: int) -> tuple[int, ...]:
        """Ids that a bias of -100 forbids. A bias can hold for a single token only; ids that the tokenizer does
        not know are never sampled anyway."""
        ids = [int(token) for token, bias in (self.logit_bias or {}).items() if token.isdecimal() and bias <= -100]
        known = tuple(i for i in ids if i < vocab_size)
        if len(ids) < len(self.logit_bias or {}) or (known and self.max_tokens != 1):
            raise ApiError("logit_bias can only be -100, and with max_tokens = 1", param="logit_bias")
        return known


_ABSENT = {
    "tools": "tool calls",
    "tool_choice": "tool calls: none and auto are taken",
}  # what clients ask for of other servers, and no engine here gives

BodyT = TypeVar("BodyT", ChatBody, CompletionBody)
AnyBody = ChatBody | CompletionBody


def parse(kind: type[BodyT], data: bytes) -> BodyT:
    """The body that the bytes hold. Raises ApiError: 400, naming the field, its value and what is allowed."""
    try:
        raw = json.loads(data.decode(), parse_constant=_refuse_constant)
        json.dumps(raw, ensure_ascii=False).encode()  # half a surrogate pair has no bytes
    except UnicodeError as error:
        raise ApiError(f"the body is not UTF-8 text: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ApiError(f"the body is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ApiError("the body must be a JSON object")
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part in _NAMES)
        if first["type"] == "extra_forbidden":
            name = ".".join(map(str, first["loc"]))
            raise ApiError(f"{name}: unknown field", param=name) from error
        if not first["loc"]:  # fields that do not go together
            raise ApiError(first["msg"].removeprefix("Value error, ")) from error
        if (asked := str(first["loc"][0])) in _ABSENT:
            raise ApiError(f"{asked}: this service has no {_ABSENT[asked]}", param=param) from error
        raise ApiError(f"{param}: {first['msg']} (it is {repr(first['input'])[:100]})", param=param) from error


_NAMES = {
    name
    for kind in (ChatBody, CompletionBody, Message, TextPart, Thinking, TemplateSwitches, Reasoning, StreamOptions,
                 ResponseFormat, JsonSchema)
    for name in kind.model_fields
}  # fmt: skip
"""Names of fields: pydantic puts the types of a union's members among them."""


def budget(
    thinking: Thinking,
    *,
    cap: int | None,
    total_tokens: int | None,
    room: int,
    final_answer_tokens: int,
    answer_tokens: int,
    answer_share: float,
) -> Budget:
    """A budget of at most `total_tokens` (None: what there is room for) for thinking, final-answer text and answer.
    `cap`: thinking tokens at most, where there is room for them; `thinking.max_tokens` must have room. `room`: tokens
    that the context leaves for thinking and answer, the final-answer text (`final_answer_tokens`) apart.
    `answer_tokens`, `answer_share`: what is kept for the answer where `thinking.max_tokens` says nothing of it. Raises
    ApiError: 400 where no token is left for an answer, with the figures."""
    if room < 1:
        told = f"the prompt fills the model's context: {1 - room} tokens too many for one token of answer"
        raise ApiError(told, code="context_length_exceeded")
    if total_tokens is not None and total_tokens > (most := room + final_answer_tokens):
        told = f"the completion may have {total_tokens} tokens, but the prompt leaves room for {most}"
        raise ApiError(told, code="context_length_exceeded")
    share = room if total_tokens is None else total_tokens - final_answer_tokens
    asked = thinking.max_tokens
    if total_tokens is not None and share - (asked or 0) < 1:
        raise ApiError(
            f"the completion may have {total_tokens} tokens: {asked or 0} of thinking and the {final_answer_tokens} of "
            "thinking.final_answer_text leave none for an answer",
            param="max_tokens" if asked is None else "thinking.max_tokens",
        )
    kept = max(1, min(answer_tokens, int(share * answer_share)))
    most = share - kept
    if asked is not None:
        most = asked if total_tokens is not None else min(asked, most)
    most = most if cap is None else min(cap, most)
    texts = thinking.model_dump(include={"waits", "wait_text", "final_answer_text"})
    return Budget(max_thinking_tokens=most, max_answer_tokens=share - most, **texts)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
