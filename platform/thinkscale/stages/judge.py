"""A model that grades stored answers, in place of the rule graders or after them.
Owns what it is asked about, and the verdicts that its replies make. Knows nothing of regradings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

import ray
from thinkscale.domain.generation import Request, Sampling, derived_seed
from thinkscale.domain.models import Judge
from thinkscale.domain.question import Question
from thinkscale.domain.sample import Verdict
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.grading.extraction import answer_part, extract
from thinkscale.grading.judge import PROMPT_VERSION, judge_prompt, read_reply
from thinkscale.runtime.asking import Failed
from thinkscale.runtime.asks import GradeAll, run_asks, thought
from thinkscale.runtime.engines import EngineSettings
from thinkscale.runtime.segments import Actors, Result
from thinkscale.runtime.teaching import EndpointSettings, EndpointTeacher
from thinkscale.store.schemas import VERDICTS, table
from thinkscale.store.stage import Stage


def judge_name(judge: Judge) -> str:
    """The judge as a grader: the version of its prompt, and the model."""
    return f"judge/{PROMPT_VERSION}:{judge.model}"


def run_judge(name: str, stage: Stage, judge: Judge, questions: Mapping[str, Question]) -> None:
    """Judge the samples of every segment that is not committed; a segment's table has the verdicts so far.
    Raises EngineError: no engine can be built, or so much fails that it is at fault; MixedEnginesError: committed
    segments are of another engine."""
    gpus = bool(ray.cluster_resources().get("GPU")) if judge.gpus is None else judge.gpus
    settings = EngineSettings(
        reference=judge.model,
        serve=judge.serve,
        threads=max(1, int(ray.cluster_resources()["CPU"]) // judge.actors),
        date=judge.date,
    )
    actors = Actors(most=judge.actors, gpus=judge.serve.tensor_parallel if gpus else 0)
    if judge.endpoint is not None:
        endpoint = EndpointSettings(teacher=judge.behind_endpoint, store=stage.output.store, campaign=name)
        settings, actors = replace(settings, teacher=endpoint), Actors(most=1)
    run_asks(name, stage, Judging(judge=judge, questions=questions), settings, actors, rows=equal_answers)


def equal_answers(samples: pa.Table) -> list[list[dict[str, Any]]]:
    """Samples grouped by what is judged, so that equal answers to a question are asked about once."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for position, row in enumerate(samples.to_pylist()):
        key = tuple(row[name] for name in ("question_id", "answer", "status", "verdict", "grader"))
        groups.setdefault(key, []).append({**row, "position": position})
    return list(groups.values())


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Verdicts on groups of equal answers; what is not the judge's to say stays as it is."""

    judge: Judge
    questions: Mapping[str, Question]

    def key(self, row: list[dict[str, Any]]) -> str:
        return str(row[0]["sample_id"])

    def expected(self, row: list[dict[str, Any]]) -> float:
        return float(len(row[0]["answer"] or "")) if self._is_asked(row[0]) else 0.0

    async def ask(self, engine: Any, tokenizer: ModelTokenizer, row: list[dict[str, Any]]) -> str | Failed | None:
        """The judge's reply, without its thinking; None where it is not asked."""
        first, judge = row[0], self.judge
        if not self._is_asked(first):
            return None
        text = judge_prompt(self.questions[first["question_id"]], first["answer"])
        if isinstance(engine, EndpointTeacher):
            attempt = await engine.attempt(text, 0)
            return attempt.answer or Failed(error=attempt.words or attempt.status)
        seed = derived_seed(judge.seed, first["sample_id"], 0)
        if judge.max_thinking_tokens:
            return tokenizer.decode((await thought(engine, tokenizer, text, judge, seed)).answer_ids)
        sampling = Sampling(temperature=judge.temperature, top_p=judge.top_p, seed=seed)
        ids = tokenizer.prompt_ids(text, None, judge.system_prompt)
        request = Request(prompt_ids=ids, max_tokens=judge.max_answer_tokens, sampling=sampling)
        return tokenizer.decode((await engine.generate(request)).ids)

    def collect(self, rows: Sequence[list[dict[str, Any]]], answers: Sequence[Any], grade_all: GradeAll) -> Result:
        verdicts: dict[int, dict[str, Any]] = {}
        changed = 0
        for group, reply in zip(rows, answers, strict=True):
            found = self._columns(group[0], reply)
            changed += len(group) * (found["verdict"] != group[0]["verdict"])
            verdicts |= {row["position"]: {"sample_id": row["sample_id"], **found} for row in group}
        judged = sum(isinstance(reply, str) for reply in answers)
        kept = table([verdicts[position] for position in sorted(verdicts)], VERDICTS)
        return Result(kept=kept, stats={"changed": changed, "judged": judged})

    def _is_open(self, row: dict[str, Any]) -> bool:
        return row["status"] == "ok" and (row["verdict"] == "ungradable" or not self.judge.ungradable_only)

    def _is_asked(self, row: dict[str, Any]) -> bool:
        return self._is_open(row) and bool(answer_part(row["answer"] or "").strip())

    def _columns(self, row: dict[str, Any], reply: Any) -> dict[str, Any]:
        """The verdict; ungradable where the reply names none, or there is none (the prompt has no room, say)."""
        if not self._is_open(row):
            return {name: row[name] for name in ("verdict", "extracted_answer", "grader")}
        name, question = judge_name(self.judge), self.questions[row["question_id"]]
        if reply is None:
            return asdict(Verdict(verdict="unanswered", extracted_answer=None, grader=name))
        extracted = extract(question.kind, row["answer"], question.options)
        said = "ungradable" if isinstance(reply, Failed) else read_reply(reply)
        return asdict(Verdict(verdict=said, extracted_answer=extracted, grader=name))
