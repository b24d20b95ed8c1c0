"""How one model is served over HTTP: the arguments of `thinkscale serve` and of a Serve config file."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thinkscale.domain.campaign import Gpus, Share
from thinkscale.domain.models import Model, Serve
from thinkscale.domain.source import Count, Section

Effort = Literal["minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: dict[Effort, int] = {"minimal": 512, "low": 2048, "medium": 8192, "high": 24576}


class Service(Section):
    model: Model
    name: str | None = None
    """The name that requests give; default: the model's reference."""
    serve: Serve = Serve()
    """`serve.context_tokens` is the most that is offered: a model that has less offers what it has."""
    min_replicas: Annotated[int, Field(ge=0)] = 1
    """0: the last replica goes when nothing was asked for `idle_s`; the next request waits for a start."""
    max_replicas: Count = 1
    """Replicas at most, each with an engine of its own."""
    idle_s: Annotated[float, Field(ge=0)] = 600.0
    """How long fewer replicas must have sufficed before one goes."""
    drain_s: Annotated[float, Field(ge=0)] = 3600.0
    """How long a replica that goes may take for what it has under way: at least the longest generation."""
    gpus_per_replica: Gpus | None = None
    """Default: what tensor parallelism needs; on a cluster that `thinkscale serve` starts on a machine without
    GPUs, none."""
    cpus_per_replica: Annotated[float, Field(gt=0)] = 4
    """Logical CPUs that a replica holds."""
    threads: Count = 4
    """CPU threads of an engine without a GPU, where the machine has so many cores."""
    max_requests_per_replica: Count = 512
    """Requests that one replica admits at a time; its engine decodes serve.max_concurrent_sequences of them."""
    max_waiting_requests: Count = 256
    """Requests that each proxy lets wait for a free replica; beyond them the answer is 429 with Retry-After."""
    retry_after_s: Count = 5
    """What a 429 tells clients to wait."""
    max_body_bytes: Count = 8 << 20
    """A larger request is answered by 413."""
    max_choices: Count = 32
    """Completions that one request may ask for (n times prompts)."""
    answer_tokens: Count = 4096
    """Tokens that are kept for the answer where a request does not limit its thinking."""
    answer_share: Share = 0.25
    """The most of a completion's length that is kept so. What the thinking leaves goes to the answer too."""
    reasoning_efforts: dict[Effort, Annotated[int, Field(ge=0)]] = EFFORTS
    """Thinking tokens at most for a request's `reasoning_effort`; others than these are refused."""
    request_log: str | None = None
    """A file on each replica's machine that gains a line for each request: path, status, seconds and tokens, no texts.
    Default: the replica's standard error, among the cluster's logs."""
    require_key: bool = False
    """Refuse to start without API keys in the replica's environment."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        fewest, most = self.min_replicas, self.max_replicas
        if most < fewest:
            raise ValueError(f"max_replicas is {most}: must be at least min_replicas, which is {fewest}")
        self.serve.check_gpus("gpus_per_replica", self.gpus_per_replica or 0)
        return self

    @property
    def served_name(self) -> str:
        return self.name or self.model.base
