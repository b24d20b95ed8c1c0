"""Budget forcing as an automaton over sampled tokens, for many requests at once, on the device: `forcing.program.think`
said token by token, so that it can stand behind an engine's sampler. A step is a fixed sequence of tensor operations,
so nothing waits for the host. Only for thinking that opens and ends at single tokens. Knows no engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from thinkscale.domain.generation import TokenIds
from thinkscale.domain.sample import Budget, ThinkingEnd, Thought
from thinkscale.forcing.formats import ForcingIds

MAX_WAITS = 16
MAX_SCRIPT = 512  # tokens of all texts of one request together: wait, delimiter, newline, final answer
MAX_STOPS = 8

PASS, THINK, CLOSE, ANSWER, DONE = range(5)  # CLOSE: the text that ends thinking is running

_NAMES = (
    "mode", "position", "script_end", "count", "cap", "waits", "waits_used", "fresh", "answered", "max_answer",
    "capped", "newline", "by_length", "wait_end", "close_start", "close_end", "newline_start", "cap_start",
    "cap_end", "eos_at",
)  # fmt: skip
"""Columns of the state; behind them stands where each Wait began."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForcingSpec:
    """One request's forcing in plain lists and numbers, so that it can travel to an engine's process."""

    cap: int  # thinking tokens at most; what the context leaves is already taken into account
    waits: int
    max_answer: int
    stops: list[int]  # ids that end thinking
    eos: list[int]
    wait: list[int]
    close: list[int]
    newline: list[int]
    final: list[int]
    starts_on_newline: bool  # whether the prompt ends in a newline
    first: list[int] = field(default_factory=list)  # ids that may not come first
    openings: list[int] = field(default_factory=list)  # ids that may not come in the answer

    def __post_init__(self) -> None:
        script = len(self.wait) + len(self.close) * 2 + len(self.newline) + len(self.final) + 1
        for name, value, most in (
            ("waits", self.waits, MAX_WAITS),
            ("tokens of the forced texts", script, MAX_SCRIPT),
            ("stop ids", max(len(self.stops), len(self.first), len(self.openings)), MAX_STOPS),
        ):
            if value > most:
                raise ValueError(f"{value} {name}: at most {most} can be forced inside the engine")

    @property
    def max_tokens(self) -> int:
        """The longest that the request may become, its end-of-text token included."""
        return self.cap + len(self.newline) + len(self.close) + len(self.final) + self.max_answer + 1


def forcing_spec(prompt_ids: TokenIds, budget: Budget, ids: ForcingIds, cap: int) -> ForcingSpec:
    """The spec of a budget. `cap`: of `forcing.program.thinking_cap`.
    Raises ValueError where thinking opens or ends with several tokens."""
    if not ids.fits_engine:
        raise ValueError("thinking opens or ends with several tokens: it cannot be forced inside the engine")
    return ForcingSpec(
        cap=cap,
        waits=budget.waits,
        max_answer=budget.max_answer_tokens,
        first=[i for i in ids.start if i != ids.end[0]],
        openings=list(ids.start),
        stops=[ids.end[0], *ids.eos],
        eos=list(ids.eos),
        wait=list(ids.wait),
        close=list(ids.close),
        newline=list(ids.newline),
        final=list(ids.final_answer),
        starts_on_newline=prompt_ids[-1] in ids.newline_ending,
    )


class ForcingAutomaton:
    """State of up to `slots` requests. Slot 0 is for requests without forcing and must not be assigned.
    Per step: `set_rows` where the batch changed, `mask` before sampling, `step` after it."""

    def __init__(
        self, slots: int, rows: int, newline_ending: Sequence[int], vocab_size: int, device: Any = "cpu"
    ) -> None:
        """`rows`: the largest batch. `newline_ending`: ids whose text ends in a newline."""
        self.device = torch.device(device)
        self._pinned = self.device.type == "cuda"

        def tensor(*shape: int, fill: float = 0, dtype: torch.dtype = torch.int64) -> Tensor:
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

    def assign(
        self, requests: Mapping[int, ForcingSpec | Sequence[int]], states: Mapping[int, list[int]] | None = None
    ) -> None:
        """Put requests into slots: their specs, or, for one that is not forced, ids that may not come first.
        `states`: rows of the state of those that had begun in another slot."""
        entries = [_forced(spec) if isinstance(spec, ForcingSpec) else _first(spec) for spec in requests.values()]
        for number, slot in enumerate(requests):
            if states and slot in states:
                entries[number] = (states[slot], *entries[number][1:])
        where = self._upload(list(requests), torch.int64)
        targets = (self.state, self._script, self._stops, self._eos, self._first, self._openings)
        for target, column in zip(targets, zip(*entries, strict=True), strict=True):
            target.index_copy_(0, where, self._upload(list(column), target.dtype))

    def set_rows(self, slots: Sequence[int]) -> None:
        """Which slot each row of the batch has from now on."""
        padded = [*slots, *[0] * (self._slots.shape[0] - len(slots))]
        self._slots.copy_(self._upload(padded, torch.int64))
        self._masks()

    def mask(self, logits: Tensor) -> None:
        """Before sampling, in place: right after a Wait no stop may come. `logits` [B, V]."""
        count = logits.shape[0]
        logits.scatter_reduce_(1, self._mask_ids[:count], self._mask_values[:count].to(logits.dtype), "amin")

    def step(self, sampled: Tensor, thrown_away: Tensor) -> Tensor:
        """After sampling: what each request gets, [B] int64, valid until the next step.
        `sampled`: [B], what the sampler drew. `thrown_away`: [B], non-zero where the engine will not use the token (a
        prompt not yet read to its end)."""
        count = sampled.shape[0]
        self._tokens[:count].copy_(sampled, non_blocking=True)
        self._thrown_away[:count].copy_(thrown_away, non_blocking=True)
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        return self._tokens[:count]

    def _step(self) -> None:
        state, script, stops, eos = (t[self._slots] for t in (self.state, self._script, self._stops, self._eos))
        rows, tokens = _advance(state, script, stops, eos, self._ends_line, self._tokens, ~self._thrown_away)
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

    def _upload(self, values: list[Any], dtype: torch.dtype) -> Tensor:
        tensor = torch.tensor(values, dtype=dtype, pin_memory=self._pinned)
        return tensor.to(self.device, non_blocking=True)


Entry = tuple[list[int], ...]  # a slot's rows of state, script, and stops, end-of-text, forbidden first and opening ids


def _forced(spec: ForcingSpec) -> Entry:
    script, row = _script(spec)
    row |= {"mode": THINK, "position": -1, "cap": spec.cap, "waits": spec.waits, "max_answer": spec.max_answer}
    if spec.cap == 0:
        start = row["cap_start"] if spec.starts_on_newline else row["newline_start"]
        row |= {"mode": CLOSE, "position": start, "script_end": row["cap_end"], "capped": 1}
        row["newline"] = int(not spec.starts_on_newline)
    return _entry(row, script, spec.stops, spec.eos, spec.first, spec.openings)


def _first(ids: Sequence[int]) -> Entry:
    return _entry({"mode": PASS, "position": -1, "fresh": 1}, [], ids, (), (), ())


def _entry(row: dict[str, int], script: list[int], *ids: Sequence[int]) -> Entry:
    return (
        [row.get(name, 0) for name in _NAMES] + [0] * (MAX_WAITS + 1),
        script + [0] * (MAX_SCRIPT - len(script)),
        *([*each, *[-1] * (MAX_STOPS - len(each))] for each in ids),
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
    before: Tensor, script: Tensor, stops: Tensor, eos: Tensor, ends_line: Tensor, sampled: Tensor, live: Tensor
) -> tuple[Tensor, Tensor]:
    """Rows of the state after one sampled token each, and the token that each gets. One row a request."""
    columns = len(_NAMES)
    at = dict(zip(_NAMES, before[:, :columns].unbind(1), strict=True))
    waited_at = before[:, columns:]
    mode, position, script_end = at["mode"], at["position"], at["script_end"]

    # A stop that the model drew in its thinking: the Wait runs instead, or the text that ends thinking.
    free = position < 0
    stop = (mode == THINK) & free & (sampled.unsqueeze(1) == stops).any(1)
    more_waits = at["waits_used"] < at["waits"]
    wait, close = stop & more_waits, stop & ~more_waits
    position = torch.where(wait, 0, torch.where(close, at["close_start"], position))
    script_end = torch.where(wait, at["wait_end"], torch.where(close, at["close_end"], script_end))
    mode = torch.where(close, CLOSE, mode)
    now = wait.unsqueeze(1) & (torch.arange(MAX_WAITS + 1, device=before.device) == at["waits_used"].unsqueeze(1))
    waited_at = torch.where(now, at["count"].unsqueeze(1), waited_at)
    waits_used = at["waits_used"] + wait.int()

    # One token: of the running text, or the sampled one.
    scripted = position >= 0
    place = position.clamp(min=0, max=MAX_SCRIPT - 1).long().unsqueeze(1)
    token = torch.where(scripted, script.gather(1, place).squeeze(1), sampled)
    thought = mode == THINK
    count = at["count"] + thought.int()
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
    }
    after = torch.cat([torch.stack([at[name].int() for name in _NAMES], dim=1), waited_at], dim=1)
    return torch.where(live.unsqueeze(1), after, before), token


def read_thought(row: Sequence[int], tokens: TokenIds, spec: ForcingSpec, prompt_tokens: int) -> Thought:
    """The result of a request from its slot's state and the tokens it got.
    `row`: the slot's row of `state`. `tokens`: all tokens of the request, forced ones included, end-of-text not."""
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
        decoded_tokens=free + used + (not at["capped"]) + answer_decoded,
        answer_decoded_tokens=answer_decoded,
    )
