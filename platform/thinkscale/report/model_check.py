"""What is known of a model before anything is paid for it: tokenizer, template, thinking format, training.

Owns the checks and their order. Reads tokenizer and config alone; nothing of them needs the weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from thinkscale.domain.budget import Budget
from thinkscale.domain.campaign import Model
from thinkscale.domain.generation import Request, TokenIds
from thinkscale.domain.trace import Trace
from thinkscale.engines.factory import model_context
from thinkscale.engines.stopping import Continuation
from thinkscale.engines.tokenizer import PROBE, ModelTokenizer
from thinkscale.forcing.formats import ForcingIds, ThinkingFormat, behind, forcing_ids, resolve_format
from thinkscale.forcing.program import Trunk, continue_thinking
from thinkscale.learn.families import UnsupportedModelError, check_trainable
from thinkscale.learn.masking import answer_text, tokenize

QUESTION, THINKING, ANSWER = "What is 9 plus 6?", "We add 9 and 6.\n\nThat is 15.", "15"


def check_model(model: Model, directory: Path) -> dict[str, Any]:
    """What `thinkscale model check` prints of a model.

    Args:
        model: its reference and how it thinks.
        directory: its tokenizer and config.

    Raises:
        ValueError: no tokenizer, no chat template, or a format that must be named.
    """
    tokenizer = ModelTokenizer(directory, date=model.date, strict=False)
    thinking_format = resolve_format(model, tokenizer)
    ids = forcing_ids(tokenizer, thinking_format, Budget())
    prompt = tokenizer.prompt_ids(QUESTION, thinking_format, model.system_prompt)
    text = tokenizer.decode(prompt)
    turn, body = _trained_turn(tokenizer, thinking_format, model)
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        "model": model.base,
        "format": thinking_format.name,
        "delimiters": {
            "start": _piece(tokenizer, thinking_format.start),
            "end": _piece(tokenizer, thinking_format.end),
            "close": _piece(tokenizer, thinking_format.close),
            "end_is_one_token": ids.end_text is None,
        },
        "forced": f"inside vLLM{ids.engine_limits}" if ids.fits_engine else "by continuation",
        "ids_match_tokenizer_json": _matches_file(tokenizer, directory),
        "round_trip": tokenizer.survives,
        "ids_hash": tokenizer.ids_hash,
        "one_opening": _openings(text, thinking_format) == 1 and _ends_open(text, thinking_format),
        "end_found_after_trained_turn": all(
            _finds_end(turned, ids, body) for turned in (turn, _written(tokenizer, thinking_format))
        ),
        "close_is_trained_close": turn[len(body) : len(body) + len(ids.close)] == ids.close,
        "thinking_off": _thinking_off(tokenizer, thinking_format),
        "eos_ids": list(tokenizer.eos_ids),
        "eos": [tokenizer.decode([token]) for token in tokenizer.eos_ids],
        "context_tokens": model_context(directory) if config else None,
        "template": "the model's own" if tokenizer.has_own_template else "built in: the model comes without one",
        "template_hash": tokenizer.template_hash,
        "reasoning_effort": tokenizer.template.takes_effort,
        **_training(config, directory.name),
    }


def _trained_turn(
    tokenizer: ModelTokenizer, thinking_format: ThinkingFormat, model: Model
) -> tuple[TokenIds, TokenIds]:
    """What training puts behind the prompt, and the thinking within it."""
    prompt = tokenizer.prompt_ids(QUESTION, thinking_format, model.system_prompt)
    trace = Trace(question_id="q", question=QUESTION, thinking=THINKING, answer=ANSWER, teacher="")
    made = tokenize(
        [trace],
        tokenizer=tokenizer,
        prompt_ids=lambda question, given: prompt,
        thinking_format=thinking_format,
        context_tokens=1 << 20,
        overlong="cut",
    )
    turn = tuple(made.samples[0].ids.tolist()[len(prompt) :])
    size = 0
    while size < len(turn) and tokenizer.decode(turn[:size]) != THINKING + thinking_format.before_end:
        size += 1
    return turn, turn[:size]


def _written(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> TokenIds:
    """The same turn in one piece, as a model that was trained elsewhere writes it."""
    text = THINKING + thinking_format.before_end + thinking_format.close + answer_text(ANSWER)
    whole = tokenizer.encode(thinking_format.start + text)
    return (*whole[len(tokenizer.encode(thinking_format.start)) :], tokenizer.eos_ids[0])


def _finds_end(turn: TokenIds, ids: ForcingIds, body: TokenIds) -> bool:
    """Whether thinking ends where the turn ends it, with all of its thinking kept."""
    request: Request = continue_thinking(
        Trunk(prompt_ids=(0,)), len(turn), ids, Request(prompt_ids=(0,), max_tokens=1).sampling
    ).request
    continuation = Continuation(request, ids.eos)
    for token in turn:
        if (completion := continuation.add(token)) is not None:
            return completion.ids == body and completion.stop_ids[-1:] != ids.eos[:1]
    return False


def _matches_file(tokenizer: ModelTokenizer, directory: Path) -> bool:
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    own = Tokenizer.from_file(str(path)) if path.exists() else None
    texts = (PROBE, *tokenizer.template.probe().splitlines(keepends=True))
    return own is not None and all(
        tokenizer.encode(text) == own.encode(text, add_special_tokens=False).ids for text in texts
    )


def _piece(tokenizer: ModelTokenizer, text: str) -> dict[str, Any]:
    return {"text": text, "ids": behind(tokenizer, text)}


def _openings(text: str, thinking_format: ThinkingFormat) -> int:
    """Openings behind the question, where those of the model's turn stand."""
    return text.rpartition(QUESTION)[2].count(thinking_format.opening)


def _ends_open(text: str, thinking_format: ThinkingFormat) -> bool:
    return text.rstrip().endswith(thinking_format.opening)


def _thinking_off(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> str:
    """How thinking is left out; says so where it would not be."""
    text = tokenizer.decode(
        tokenizer.chat_ids([{"role": "user", "content": QUESTION}], thinking_format, thinking=False)
    )
    tail = text.rpartition(QUESTION)[2]
    if tail.count(thinking_format.opening) and thinking_format.end not in tail.rpartition(thinking_format.opening)[2]:
        return "not: the prompt still opens thinking"
    if tokenizer.template.has_switch:
        return "the template's switch (enable_thinking = false)"
    return "a closed empty block"


def _training(config: dict[str, Any], name: str) -> dict[str, Any]:
    if not config:
        return {"trainable": False, "why_not_trainable": f"{name} holds no config.json"}
    try:
        check_trainable(config, name)
    except UnsupportedModelError as error:
        return {"trainable": False, "why_not_trainable": str(error)}
    return {"trainable": True}


def lines(found: dict[str, Any]) -> list[str]:
    """The findings for a terminal."""
    return [
        f"{name:<30}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in found.items()
    ]
