"""What is known of a model before anything is paid for it: tokenizer, template, thinking format, training.
Owns the checks. Reads tokenizer and config alone; nothing of them needs the weights."""

from pathlib import Path
from typing import Any

from thinkscale.domain.generation import Sampling, TokenIds
from thinkscale.domain.models import Model
from thinkscale.domain.question import Trace
from thinkscale.domain.sample import Budget
from thinkscale.engines.template import read_json
from thinkscale.engines.tokenizer import PROBE, ModelTokenizer
from thinkscale.forcing.ending import Continuation
from thinkscale.forcing.formats import ForcingIds, ThinkingFormat, behind, forcing_ids, literal, resolve_format
from thinkscale.forcing.program import Trunk, continue_thinking
from thinkscale.learn.families import UnsupportedModelError, check_trainable
from thinkscale.learn.masking import answer_text, tokenize

QUESTION, THINKING, ANSWER = "What is 9 plus 6?", "We add 9 and 6.\n\nThat is 15.", "15"


def check_model(model: Model, directory: Path) -> dict[str, Any]:
    """What `thinkscale model check` prints of a model whose tokenizer and config are in the directory.
    Raises ValueError where there is no tokenizer or chat template, or the format must be named."""
    tokenizer = ModelTokenizer(directory, date=model.date, strict=False)
    thinking_format = resolve_format(model, tokenizer)
    ids = forcing_ids(tokenizer, thinking_format, Budget())
    prompt = tokenizer.prompt_ids(QUESTION, thinking_format, model.system_prompt)
    opened = tokenizer.decode(prompt).rpartition(QUESTION)[2]
    body = tuple(literal(tokenizer, THINKING + thinking_format.before_end))
    trained = _trained_turn(tokenizer, thinking_format, prompt)
    config = read_json(directory / "config.json")
    ends = (thinking_format.start, thinking_format.end, thinking_format.close)
    return {
        "model": model.base,
        "format": thinking_format.name,
        "delimiters": [{"text": text, "ids": behind(tokenizer, text)} for text in ends],
        "forced": "inside vLLM" if ids.fits_engine else "by continuation",
        "ids_match_tokenizer_json": _matches_file(tokenizer, directory / "tokenizer.json"),
        "round_trip": tokenizer.survives,
        "ids_hash": tokenizer.ids_hash,
        "one_opening": opened.count(thinking_format.opening) == 1 and opened.rstrip().endswith(thinking_format.opening),
        "end_found_after_trained_turn": all(
            _finds_end(turn, ids, body) for turn in (trained, _written(tokenizer, thinking_format))
        ),
        "close_is_trained_close": trained[: len(body) + len(ids.close)] == body + ids.close,
        "thinking_off": _thinking_off(tokenizer, thinking_format, named=model.format != "auto"),
        "eos_ids": list(tokenizer.eos_ids),
        "eos": [tokenizer.decode([token]) for token in tokenizer.eos_ids],
        "context_tokens": config.get("max_position_embeddings"),
        "template": "the model's own" if tokenizer.has_own_template else "built in: the model comes without one",
        "template_hash": tokenizer.template_hash,
        "reasoning_effort": tokenizer.template.takes_effort,
        **_training(config, directory.name),
    }


def _trained_turn(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat, prompt: TokenIds) -> TokenIds:
    trace = Trace(question_id="", question=QUESTION, thinking=THINKING, answer=ANSWER, teacher="")
    settings: dict[str, Any] = {"context_tokens": 1 << 20, "overlong": "drop", "prompt_ids": lambda *_: prompt}
    (sample,) = tokenize([trace], tokenizer=tokenizer, thinking_format=thinking_format, **settings).samples
    return tuple(sample.ids.tolist()[len(prompt) :])


def _written(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat) -> TokenIds:
    """The same turn encoded in one piece, as a model that was trained elsewhere writes it."""
    text = THINKING + thinking_format.before_end + thinking_format.close + answer_text(ANSWER)
    start = tokenizer.encode(thinking_format.start)
    return (*tokenizer.encode(thinking_format.start + text)[len(start) :], tokenizer.eos_ids[0])


def _finds_end(turn: TokenIds, ids: ForcingIds, body: TokenIds) -> bool:
    """Whether thinking ends where the turn ends it, with all of its thinking kept."""
    step = continue_thinking(Trunk(prompt_ids=(0,)), len(turn), ids, Sampling())
    continuation = Continuation(step.request, ids.eos)
    completion = next((found for token in turn if (found := continuation.add(token)) is not None), None)
    return completion is not None and completion.ids == body and completion.stop_ids[-1:] != ids.eos[:1]


def _matches_file(tokenizer: ModelTokenizer, path: Path) -> bool:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(path)) if path.exists() else None
    texts = (PROBE, tokenizer.template.probe())
    return own is not None and all(own.encode(t, add_special_tokens=False).ids == tokenizer.encode(t) for t in texts)


def _thinking_off(tokenizer: ModelTokenizer, thinking_format: ThinkingFormat, *, named: bool) -> str:
    asked = [{"role": "user", "content": QUESTION}]
    text = tokenizer.decode(tokenizer.chat_ids(asked, thinking_format, thinking=False)).rpartition(QUESTION)[2]
    _, opening, block = text.rpartition(thinking_format.opening)
    if opening and thinking_format.end not in block:
        return "not at all: the prompt still opens thinking"
    if tokenizer.template.has_switch:
        return "the template's switch (enable_thinking = false)"
    known = named or tokenizer.native_format is not None
    return "a closed empty block" + ("" if known else ", once the format is named; else the template, which opens none")


def _training(config: dict[str, Any], name: str) -> dict[str, Any]:
    try:
        check_trainable(config, name)
    except UnsupportedModelError as error:
        return {"trainable": False, "why_not_trainable": str(error) if config else f"{name} holds no config.json"}
    return {"trainable": True}
