"""Budget forcing as an automaton over sampled tokens, for many requests at once, on the device.

The same semantics as `forcing.program.think`, said token by token: what was sampled goes in, what the
request gets instead comes out. So it can stand inside an engine, behind its sampler, where forcing costs no
request of its own and sampling (top-k, top-p, seeds, penalties) is untouched. All state is in tensors and a
step is a fixed sequence of tensor operations: nothing waits for the host. Knows no engine.

Where thinking ends at a single token, all of it runs inside. A delimiter of ordinary tokens is looked for in the
text (`forcing.ending`), and cannot be taken back once it is in an engine's cache: where it has to be, because a Wait
takes its place or its tokens are not those of the close, the request ends there and is handed back (`forcing.inside`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from thinkscale.domain.budget import Budget, ThinkingEnd
from thinkscale.domain.generation import TextStop, TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.forcing.formats import MAX_TEXT_BYTES, ForcingIds

MAX_WAITS = 16
MAX_SCRIPT = 512
"""Tokens of all texts of one request together: wait, delimiter, newline, final answer."""
MAX_STOPS = 8

PASS, THINK, CLOSE, ANSWER, DONE = range(5)
"""Modes: not forced at all; thinking; the text that ends thinking is running; answering; ended."""

_NAMES = (
    "mode", "position", "script_end", "count", "cap", "waits", "waits_used", "fresh", "answered", "max_answer",
    "capped", "newline", "by_length", "wait_end", "close_start", "close_end", "newline_start", "cap_start",
    "cap_end", "eos_at", "end_bytes", "start_bytes", "state", "along", "stop_tokens", "handed_back",
)  # fmt: skip
"""Columns of the state; behind them stands where each Wait began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForcingSpec:
    """One request's forcing in plain lists and numbers, so that it can travel to an engine's process."""

    cap: int
    """Thinking tokens at most; what the context leaves is already taken into account."""
    waits: int
    max_answer: int
    stops: list[int]
    """Ids that end thinking."""
    eos: list[int]
    wait: list[int]
    close: list[int]
    newline: list[int]
    final: list[int]
    starts_on_newline: bool
    """Whether the prompt ends in a newline."""
    first: list[int] = field(default_factory=list)
    """Ids that may not come first."""
    openings: list[int] = field(default_factory=list)
    """Ids that may not come in the answer."""
    end_bytes: int = 0
    """Length of a delimiter that is looked for in the text, 0 where it is a single token."""
    start_bytes: int = 0
    """The same of an opening that may not come in the answer."""

    def __post_init__(self) -> None:
        script = len(self.wait) + len(self.close) * 2 + len(self.newline) + len(self.final) + 1
        for name, value, most in (
            ("waits", self.waits, MAX_WAITS),
            ("tokens of the forced texts", script, MAX_SCRIPT),
            ("stop ids", max(len(self.stops), len(self.first), len(self.openings)), MAX_STOPS),
            ("bytes of a delimiter", max(self.end_bytes, self.start_bytes), MAX_TEXT_BYTES),
        ):
            if value > most:
                raise ValueError(f"{value} {name}: at most {most} can be forced inside the engine")


def forcing_spec(
    prompt_ids: TokenIds, budget: Budget, ids: ForcingIds, *, cap: int, waits_used: int = 0, first: TokenIds = ()
) -> ForcingSpec:
    """The spec of a budget. `cap`: the budget's, or what the context leaves; `first`: what may not come first.

    Raises ValueError where the end delimiter is several tokens that are not looked for in the text.
    """
    if ids.end_text is None and len(ids.end) != 1:
        raise ValueError(f"the end of thinking is {len(ids.end)} tokens long: it cannot be forced inside the engine")
    return ForcingSpec(
        cap=cap,
        waits=budget.num_waits - waits_used,
        max_answer=budget.max_answer_tokens,
        first=list(first),
        openings=[] if ids.start_text else list(ids.start),
        end_bytes=ids.end_text.length if ids.end_text else 0,
        start_bytes=ids.start_text.length if ids.start_text else 0,
        stops=list(ids.eos) if ids.end_text else [ids.end[0], *ids.eos],
        eos=list(ids.eos),
        wait=list(ids.wait),
        close=list(ids.close),
        newline=list(ids.newline),
        final=list(ids.final_answer),
        starts_on_newline=prompt_ids[-1] in ids.newline_ending,
    )


def text_moves(text: TextStop | None) -> list[list[int]]:
    """A text's moves in plain lists, so that they can travel: an id and what it does in each state."""
    moves = text.moves.items() if text else ()
    return [[token, *(state + _KIND * min(lead + 1, 2) for state, lead in row)] for token, row in moves]


class ForcingAutomaton:
    """State of up to `slots` requests. Slot 0 is for requests without forcing and must not be assigned.

    Per step: `set_rows` where the batch changed, `mask` before sampling, `step` after it.
    """

    def __init__(
        self, slots: int, rows: int, newline_ending: Sequence[int], vocab_size: int, device: Any = "cpu"
    ) -> None:
        """`rows`: the largest batch. `newline_ending`: ids whose text ends in a newline."""
        self.device = torch.device(device)
        self._pinned = self.device.type == "cuda"

        def tensor(*shape: int, fill: float = 0, dtype: torch.dtype = torch.int64) -> torch.Tensor:
            return torch.full(shape, fill, dtype=dtype, device=device)

        self.state = tensor(slots, len(_NAMES) + MAX_WAITS + 1, dtype=torch.int32)
        self.state[:, _NAMES.index("position")] = -1
        self.host_state = torch.zeros(self.state.shape, dtype=torch.int32, pin_memory=self._pinned)
        """The state as of the last step, once that has run on the device."""
        self._script = tensor(slots, MAX_SCRIPT)
        self._stops = tensor(slots, MAX_STOPS, fill=-1)
        self._eos = tensor(slots, MAX_STOPS, fill=-1)
        self._first = tensor(slots, MAX_STOPS, fill=-1)
        self._openings = tensor(slots, MAX_STOPS, fill=-1)
        self._texts = tensor(2, MAX_TEXT_BYTES + 1, vocab_size, dtype=torch.int8)
        """Moves of the texts that end and open thinking: by state and id the next state, and `_KINDS` of the match."""
        self._ends_line = tensor(vocab_size, dtype=torch.bool)
        self._ends_line[torch.as_tensor(list(newline_ending), dtype=torch.int64, device=device)] = True
        # A batch's rows, in buffers that stay where they are: on a GPU a step is one recorded graph, because
        # launching its some fifty small kernels one by one would cost the host more than all else here.
        self._slots = tensor(rows)
        self._tokens = tensor(rows)
        self._thrown_away = tensor(rows, fill=True, dtype=torch.bool)
        self._mask_ids = tensor(rows, 3 * MAX_STOPS)
        self._mask_values = tensor(rows, 3 * MAX_STOPS, fill=float("inf"), dtype=torch.float32)
        self._graph = self._record() if self.device.type == "cuda" else None

    def assign(self, requests: Mapping[int, ForcingSpec | Sequence[int]]) -> None:
        """Put requests into slots: their specs, or, for one that is not forced, ids that may not come first."""
        entries = [_forced(spec) if isinstance(spec, ForcingSpec) else _first(spec) for spec in requests.values()]
        where = self._upload(list(requests), torch.int64)
        targets = (self.state, self._script, self._stops, self._eos, self._first, self._openings)
        for target, column in zip(targets, zip(*entries, strict=True), strict=True):
            target.index_copy_(0, where, self._upload(list(column), target.dtype))

    def set_texts(self, *moves: list[list[int]]) -> None:
        """`text_moves` of the texts that end and open thinking: one pair for all requests."""
        table = torch.zeros(self._texts.shape, dtype=torch.int8)
        for place, rows in enumerate(moves):
            for token, *row in rows:
                table[place, : len(row), token] = torch.tensor(row, dtype=torch.int8)
        self._texts.copy_(table)

    def set_rows(self, slots: Sequence[int]) -> None:
        """Which slot each row of the batch has from now on."""
        padded = [*slots, *[0] * (self._slots.shape[0] - len(slots))]
        self._slots.copy_(self._upload(padded, torch.int64))
        self._masks()

    def mask(self, logits: torch.Tensor) -> None:
        """Before sampling, in place: right after a Wait no stop may come. `logits` [B, V]."""
        count = logits.shape[0]
        logits.scatter_reduce_(1, self._mask_ids[:count], self._mask_values[:count].to(logits.dtype), "amin")

    def step(self, sampled: torch.Tensor, thrown_away: torch.Tensor) -> torch.Tensor:
        """After sampling: what each request gets, [B] int64, valid until the next step.

        Args:
            sampled: [B], what the sampler drew.
            thrown_away: [B], non-zero where the engine will not use the token (a prompt not yet read to its end).
        """
        count = sampled.shape[0]
        self._tokens[:count].copy_(sampled, non_blocking=True)
        self._thrown_away[:count].copy_(thrown_away, non_blocking=True)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        return self._tokens[:count]

    def _step(self) -> None:
        rows, tokens = _advance(
            self.state[self._slots],
            self._script[self._slots],
            self._stops[self._slots],
            self._eos[self._slots],
            self._ends_line,
            self._texts,
            self._tokens,
            ~self._thrown_away,
        )
        self.state[self._slots] = rows
        self._tokens.copy_(tokens)
        self._masks()
        self.host_state.copy_(self.state, non_blocking=True)

    def _masks(self) -> None:
        """What `mask` needs, from the state."""
        at = dict(zip(_NAMES, self.state[self._slots, : len(_NAMES)].unsqueeze(2).unbind(1), strict=True))
        free = at["position"] < 0
        groups = (
            (self._stops, at["fresh"] > 0),
            (self._first, free & (at["mode"] == THINK) & (at["count"] == 0)),
            (self._openings, free & (at["mode"] == ANSWER)),
        )
        ids = torch.cat([each[self._slots] for each, _ in groups], dim=1)
        now = torch.cat([each[self._slots].ge(0) & when for each, when in groups], dim=1)
        self._mask_ids.copy_(ids.clamp(min=0))
        self._mask_values.copy_(torch.where(now, float("-inf"), float("inf")))

    def _record(self) -> torch.cuda.CUDAGraph:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self._step()  # rows that are thrown away: it changes nothing
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph

    def _upload(self, values: list[Any], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.tensor(values, dtype=dtype, pin_memory=self._pinned)
        return tensor.to(self.device, non_blocking=True)


Entry = tuple[list[int], ...]
"""A slot's rows of state, script, and stops, end-of-text, forbidden first and opening ids."""
_KIND = 32
"""A move is its next state plus _KIND times where the match begins: 0 before the id, 1 with it, 2 within it."""


def _forced(spec: ForcingSpec) -> Entry:
    script, at = _script(spec)
    row = dict.fromkeys(_NAMES, 0) | at
    row |= {"mode": THINK, "position": -1, "cap": spec.cap, "waits": spec.waits, "max_answer": spec.max_answer}
    if spec.cap == 0:
        start = at["cap_start"] if spec.starts_on_newline else at["newline_start"]
        row |= {"mode": CLOSE, "position": start, "script_end": at["cap_end"], "capped": 1}
        row["newline"] = int(not spec.starts_on_newline)
    row |= {"end_bytes": spec.end_bytes, "start_bytes": spec.start_bytes}
    return _entry(row, script, spec.stops, spec.eos, spec.first, spec.openings)


def _first(ids: Sequence[int]) -> Entry:
    return _entry(dict.fromkeys(_NAMES, 0) | {"mode": PASS, "position": -1, "fresh": 1}, [], list(ids))


def _entry(
    row: dict[str, int],
    script: list[int],
    stops: list[int],
    eos: Sequence[int] = (),
    first: Sequence[int] = (),
    openings: Sequence[int] = (),
) -> Entry:
    return (
        [row[name] for name in _NAMES] + [0] * (MAX_WAITS + 1),
        script + [0] * (MAX_SCRIPT - len(script)),
        *([*ids, *[-1] * (MAX_STOPS - len(ids))] for ids in (stops, eos, first, openings)),
    )


def _script(spec: ForcingSpec) -> tuple[list[int], dict[str, int]]:
    """All texts of a request in one row, and where each begins: wait, close, newline + close + final, eos."""
    script, at = list(spec.wait), {"wait_end": len(spec.wait)}
    at["close_start"] = len(script)
    script += spec.close
    at["close_end"] = at["newline_start"] = len(script)
    script += spec.newline
    at["cap_start"] = len(script)
    script += [*spec.close, *spec.final]
    at["cap_end"] = at["eos_at"] = len(script)
    return [*script, spec.eos[0]], at


def _advance(
    before: torch.Tensor,
    script: torch.Tensor,
    stops: torch.Tensor,
    eos: torch.Tensor,
    ends_line: torch.Tensor,
    texts: torch.Tensor,
    sampled: torch.Tensor,
    live: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the state after one sampled token each, and the token that each gets. One row a request."""
    columns = len(_NAMES)
    at = dict(zip(_NAMES, before[:, :columns].unbind(1), strict=True))
    waited_at = before[:, columns:]
    mode, position, script_end = at["mode"], at["position"], at["script_end"]

    def scripted_at(place: torch.Tensor) -> torch.Tensor:
        return script.gather(1, place.clamp(min=0, max=MAX_SCRIPT - 1).long().unsqueeze(1)).squeeze(1)

    # A stop that the model drew in its thinking: the Wait runs instead, or the text that ends thinking.
    free = position < 0
    stop = (mode == THINK) & free & (sampled.unsqueeze(1) == stops).any(1)
    more_waits = at["waits_used"] < at["waits"]
    # A delimiter of ordinary tokens: `along` of them are in the text as the close has them, -1 where it has others.
    in_answer = mode == ANSWER
    length = torch.where(in_answer, at["start_bytes"], torch.where(mode == THINK, at["end_bytes"], 0))
    known = sampled.clamp(max=texts.shape[2] - 1)
    move = torch.where(free & (length > 0), texts[in_answer.long(), at["state"].long(), known].int(), 0)
    state, kind = move % _KIND, move // _KIND
    along = torch.where(kind == 0, at["along"], torch.where(kind == 1, 0, -1))
    complete = (length > 0) & (state == length)
    handed_back = complete & (in_answer | more_waits | (along < 0)) | stop & (at["end_bytes"] > 0) & more_waits
    ends = (sampled.unsqueeze(1) == eos).any(1)
    as_closed = (along >= 0) & (sampled == scripted_at(at["close_start"] + along))
    next_along = torch.where(state == 0, 0, torch.where(as_closed, along + 1, -1))
    mode = torch.where(handed_back, DONE, mode)
    wait = stop & ~handed_back & more_waits
    close = (stop | complete) & ~handed_back & ~wait
    taken_back = torch.where(close & complete, along, 0)
    position = torch.where(wait, 0, torch.where(close, at["close_start"] + taken_back, position))
    script_end = torch.where(wait, at["wait_end"], torch.where(close, at["close_end"], script_end))
    mode = torch.where(close, CLOSE, mode)
    now = wait.unsqueeze(1) & (torch.arange(MAX_WAITS + 1, device=before.device) == at["waits_used"].unsqueeze(1))
    waited_at = torch.where(now, at["count"].unsqueeze(1), waited_at)
    waits_used = at["waits_used"] + wait.int()

    # One token: of the running text, or the sampled one.
    scripted = position >= 0
    token = torch.where(scripted, scripted_at(position), sampled)
    thought = mode == THINK
    count = at["count"] + thought.int() - taken_back
    position = torch.where(scripted, position + 1, position)
    ran_out = scripted & (position >= script_end)
    position = torch.where(ran_out, -1, position)
    fresh = thought & ran_out
    answering = (mode == ANSWER) & ~scripted
    mode = torch.where(ran_out & (mode == CLOSE), ANSWER, mode)

    # The cap: newline where there is none, delimiter, final-answer text.
    capped = thought & (count >= at["cap"])
    on_line = ends_line[token.clamp(max=ends_line.shape[0] - 1)]
    position = torch.where(capped, torch.where(on_line, at["cap_start"], at["newline_start"]), position)
    script_end = torch.where(capped, at["cap_end"], script_end)
    mode = torch.where(capped, CLOSE, mode)

    # The answer ends by itself or at its limit, where an end-of-text token ends the request.
    ended = answering & (token.unsqueeze(1) == eos).any(1)
    answered = at["answered"] + (answering & ~ended).int()
    full = answering & ~ended & (answered >= at["max_answer"])
    position = torch.where(full, at["eos_at"], position)
    script_end = torch.where(full, at["eos_at"] + 1, script_end)
    position = torch.where(handed_back & ~ends, at["eos_at"], position)
    script_end = torch.where(handed_back & ~ends, at["eos_at"] + 1, script_end)
    mode = torch.where(ended | full, DONE, mode)

    at |= {
        "mode": mode,
        "position": position,
        "script_end": script_end,
        "count": count,
        "waits_used": waits_used,
        "fresh": (fresh & ~capped).int(),
        "answered": answered,
        "capped": torch.where(capped, 1, at["capped"]),
        "newline": torch.where(capped, (~on_line).int(), at["newline"]),
        "by_length": torch.where(full, 1, at["by_length"]),
        "state": torch.where(scripted | complete, 0, state),
        "along": torch.where(scripted | complete, 0, next_along),
        "stop_tokens": torch.where(close, taken_back + 1, at["stop_tokens"]),
        "handed_back": torch.where(handed_back, 1 + in_answer.int(), at["handed_back"]),
    }
    after = torch.cat([torch.stack([at[name].int() for name in _NAMES], dim=1), waited_at], dim=1)
    return torch.where(live.unsqueeze(1), after, before), token


def handed_back(row: Sequence[int]) -> str | None:
    """In which part of a request, from its slot's state, a text came at which it is handed back, if any."""
    return (None, "thinking", "answer")[row[_NAMES.index("handed_back")]]


def read_thought(row: Sequence[int], tokens: TokenIds, spec: ForcingSpec, prompt_tokens: int) -> Thought:
    """The result of a request from its slot's state and the tokens it got.

    Args:
        row: the slot's row of `state`.
        tokens: all tokens of the request, forced ones included, end-of-text not.
    """
    at, waited_at = dict(zip(_NAMES, row, strict=False)), row[len(_NAMES) :]
    count, used = at["count"], at["waits_used"]
    end: ThinkingEnd = "cap" if at["capped"] else "waits_used" if used else "natural"
    text = len(spec.close) + (at["newline"] * len(spec.newline) if at["capped"] else 0)
    forced = tuple((start, min(start + len(spec.wait), count)) for start in waited_at[:used])
    answer_ids = tokens[count + text :]
    given = len(spec.final) if at["capped"] else 0
    by_length = bool(at["by_length"])
    answer_decoded = len(answer_ids) - given + (not by_length)
    free = count - sum(stop - start for start, stop in forced)
    return Thought(
        thinking_ids=tokens[:count],
        answer_ids=answer_ids,
        end=end,
        waits_used=used,
        forced_positions=forced,
        answer_finish="length" if by_length else "stop",
        prompt_tokens=prompt_tokens,
        decoded_tokens=free + used + at["stop_tokens"] + answer_decoded,
        answer_decoded_tokens=answer_decoded,
    )
