"""Where questions come from: files with their columns mapped, procedural generators, benchmarks that were added.
Owns the settings of sources, and what every section of settings is. Knows nothing of how a source is read."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from thinkscale.domain.presets import PRESETS
from thinkscale.domain.question import AnswerKind

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


def _holds_question(prompt: str) -> str:
    if "{question}" not in prompt:
        raise ValueError("a prompt must hold {question}")
    return prompt


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Columns(Section):
    """Which of a source's own fields holds what. A dotted name reaches into nested objects."""

    question: str = "question"
    """What is asked."""
    answer: str = "answer"
    """The reference answer."""
    solution: str | None = None
    """A worked solution or a ready-made reasoning trace: what is learned with teacher.source = "solutions"."""
    options: str | list[str] | None = None
    """A list of options, or the columns that hold one each."""
    domain: str | None = None
    """The field of knowledge, as the selection spreads over it."""
    source: str | None = None
    """Where a row says which data set it came from; else the source's name holds for all."""
    licence: str | None = None
    """Each row's licence."""
    kind: str | None = None
    """How the answer is compared, where rows differ."""
    image: str | None = None
    """A picture that the question needs: rows that have one fail the rule absent_image."""
    metadata: dict[str, str] = {}
    """Column by name in the question's metadata; `level` and `difficulty` are broken down in the report."""


class FilesSource(Section):
    """Questions in files: JSONL, a JSON array, CSV or Parquet; local, s3:// or hf://datasets/..."""

    type: Literal["files"] = "files"
    name: Name
    """What the rows' ids begin with."""
    paths: list[str] = Field(min_length=1)
    """Files, patterns with `*` and `?`, or directories."""
    columns: Columns = Columns()
    preset: str | None = None
    """A ready-made mapping (domain.presets) for columns, kind and answer_pattern; what is given here goes before it."""
    kind: AnswerKind = "math"
    """How answers are compared where no column says it."""
    answer_pattern: str | None = None
    """A regular expression whose first group is the reference answer within the answer field."""
    prompt: Annotated[str, AfterValidator(_holds_question)] = "{question}"
    """What a model is asked, `{question}` and the options below it standing in it; by default nothing else."""
    shuffle_options: int | None = None
    """A seed: each question's options in an order of their own. None: as they stand."""
    withheld: bool = False
    """The questions may not be published: no terminal and no report page shows their texts."""
    traces_by: str | None = None
    """The model that wrote the traces in columns.solution: its terms count as a teacher's."""
    licence: str | None = None
    """Licence of all rows, where no column says it."""

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
    """What the rows' ids begin with."""
    families: list[str] = Field(min_length=1)
    """Names of reasoning-gym's data sets."""
    rows: Count
    """Questions over all families together."""
    seed: Seed = 0
    """Other seeds give other questions."""
    parameters: dict[str, dict[str, int | float | bool | str]] = {}
    """Generator parameters by family, as in `chain_sum = {max_terms = 3}`."""
    like: Name | None = None
    """In a benchmark: the pool source whose families and parameters it shares (with a seed of its own)."""
    licence: str | None = "Apache-2.0"
    """Licence of the questions."""


class AddedSource(Section):
    """The benchmark of the same name that `thinkscale benchmark add` put under the campaign's root."""

    type: Literal["added"] = "added"


Source = Annotated[FilesSource | ReasoningGymSource, Field(discriminator="type")]


class Benchmark(Section):
    """Questions that models are evaluated on."""

    name: Name
    """In the report, and below `<root>/<campaign>/benchmarks`."""
    source: Annotated[FilesSource | ReasoningGymSource | AddedSource, Field(discriminator="type")] = AddedSource()
    limit: Count | None = None
    """Take only the first so many questions."""
