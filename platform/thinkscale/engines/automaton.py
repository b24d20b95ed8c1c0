"""Budget forcing as an automaton over sampled tokens, for many requests at once, on the device.

The same semantics as `thinking.forcing.think`, said token by token: what was sampled goes in, what the
request gets instead comes out. So it can stand inside an engine, behind its sampler, where forcing costs no
request of its own and sampling (top-k, top-p, seeds, penalties) is untouched. All state is in tensors and a
step is a fixed sequence of tensor operations: nothing waits for the host. Knows no engine.

Thinking must end at single tokens (`ForcingIds.end` of one id, and end-of-text ids): a delimiter of several
ordinary tokens cannot be taken back once they are in an engine's cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thinkscale.domain.budget import Budget, ThinkingEnd
from thinkscale.domain.generation import TokenIds
from thinkscale.domain.sample import Thought
from thinkscale.thinking.formats import ForcingIds

MAX_WAITS = 64
MAX_SCRIPT = 512
"""Tokens of all texts of one request together: wait, delimiter, newline, final answer."""
MAX_STOPS = 8

PASS, THINK, CLOSE, ANSWER, DONE = range(5)
"""Modes: not forced at all; thinking; the text that ends thinking is running; answering; ended."""

_NAMES = (
    "mode", "position", "script_end", "count", "cap", "waits", "waits_used", "fresh", "answered", "max_answer",
    "capped", "newline", "by_length", "wait_end", "close_start", "close_end", "newline_start", "cap_start",
    "cap_end", "eos_at",
)  # fmt: skip
_COLUMN = {name: i for i, name in enumerate(_NAMES)}


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

    def __post_init__(self) -> None:
        script = len(self.wait) + len(self.close) * 2 + len(self.newline) + len(self.final) + 1
        for name, value, most in (
            ("waits", self.waits, MAX_WAITS),
            ("tokens of the forced texts", script, MAX_SCRIPT),
            ("stop ids", len(self.stops), MAX_STOPS),
        ):
            if value > most:
                raise ValueError(f"{value} {name}: at most {most} can be forced inside the engine")


def forcing_spec(prompt_ids: TokenIds, budget: Budget, ids: ForcingIds, *, cap: int) -> ForcingSpec:
    """The spec of a budget. `cap`: the budget's, or what the context leaves.

    Raises ValueError where the end delimiter is not one token.
    """
    if len(ids.end) != 1:
        raise ValueError(f"the end of thinking is {len(ids.end)} tokens long: it cannot be forced inside the engine")
    return ForcingSpec(
        cap=cap,
        waits=budget.num_waits,
        max_answer=budget.max_answer_tokens,
        stops=[ids.end[0], *ids.eos],
        eos=list(ids.eos),
        wait=list(ids.wait),
        close=list(ids.close),
        newline=list(ids.newline),
        final=list(ids.final_answer),
        starts_on_newline=prompt_ids[-1] in ids.newline_ending,
    )


class ForcingAutomaton:
    """State of up to `slots` requests. Slot 0 is for requests without forcing and must not be assigned."""

    def __init__(self, slots: int, newline_ending: Sequence[int], vocab_size: int, device: Any = "cpu") -> None:
        """`newline_ending`: ids whose text ends in a newline."""
        self.device = torch.device(device)
        self.state = torch.zeros(slots, len(_NAMES), dtype=torch.int32, device=device)
        self.state[:, _COLUMN["position"]] = -1
        self.script = torch.zeros(slots, MAX_SCRIPT, dtype=torch.int64, device=device)
        self.stops = torch.full((slots, MAX_STOPS), -1, dtype=torch.int64, device=device)
        self.eos = torch.full((slots, MAX_STOPS), -1, dtype=torch.int64, device=device)
        self.waited_at = torch.zeros(slots, MAX_WAITS + 1, dtype=torch.int32, device=device)
        self.ends_line = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.ends_line[torch.as_tensor(list(newline_ending), dtype=torch.int64, device=device)] = True
        # On a GPU one fused kernel instead of some forty small ones.
        self._advance = torch.compile(_advance, dynamic=True) if self.device.type == "cuda" else _advance

    def assign(self, slot: int, spec: ForcingSpec) -> None:
        """Put a request into a slot."""
        script, at = _script(spec)
        row = dict.fromkeys(_NAMES, 0) | at
        row |= {"mode": THINK, "position": -1, "cap": spec.cap, "waits": spec.waits, "max_answer": spec.max_answer}
        if spec.cap == 0:
            start = at["cap_start"] if spec.starts_on_newline else at["newline_start"]
            row |= {"mode": CLOSE, "position": start, "script_end": at["cap_end"], "capped": 1}
            row["newline"] = int(not spec.starts_on_newline)
        self._put(slot, row, script, spec.stops, spec.eos)

    def forbid_first(self, slot: int, ids: Sequence[int]) -> None:
        """Put a request into a slot whose first token may not be one of `ids`, and which is not forced otherwise."""
        if len(ids) > MAX_STOPS:
            raise ValueError(f"{len(ids)} forbidden first ids: at most {MAX_STOPS}")
        self._put(slot, dict.fromkeys(_NAMES, 0) | {"mode": PASS, "position": -1, "fresh": 1}, [], list(ids), [])

    def mask(self, slots: torch.Tensor, logits: torch.Tensor) -> None:
        """Before sampling, in place: right after a Wait no stop may come. `slots` [B] int64, `logits` [B, V]."""
        fresh = (self.state[slots, _COLUMN["fresh"]] > 0).unsqueeze(1)
        stops = self.stops[slots]
        lowest = torch.where(fresh & (stops >= 0), float("-inf"), float("inf")).to(logits.dtype)
        logits.scatter_reduce_(1, stops.clamp(min=0), lowest, "amin")

    def step(self, slots: torch.Tensor, sampled: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        """After sampling: what each request gets, [B] int64.

        Args:
            slots: [B] int64.
            sampled: [B] int64, what the sampler drew.
            live: [B] bool, False where the engine will throw the token away (a prompt not yet read to its end).
        """
        return self._advance(
            self.state, self.script, self.stops, self.eos, self.waited_at, self.ends_line, slots, sampled, live
        )

    def _put(self, slot: int, row: dict[str, int], script: list[int], stops: list[int], eos: list[int]) -> None:
        def padded(ids: list[int], size: int, fill: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(ids + [fill] * (size - len(ids)), dtype=dtype)

        for target, value in (
            (self.state, torch.tensor([row[name] for name in _NAMES], dtype=torch.int32)),
            (self.script, padded(script, MAX_SCRIPT, 0, torch.int64)),
            (self.stops, padded(stops, MAX_STOPS, -1, torch.int64)),
            (self.eos, padded(eos, MAX_STOPS, -1, torch.int64)),
        ):
            target[slot].copy_(value.pin_memory() if self.device.type == "cuda" else value, non_blocking=True)


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
    state: torch.Tensor,
    script: torch.Tensor,
    stops: torch.Tensor,
    eos: torch.Tensor,
    waited_at: torch.Tensor,
    ends_line: torch.Tensor,
    slots: torch.Tensor,
    sampled: torch.Tensor,
    live: torch.Tensor,
) -> torch.Tensor:
    before = state[slots]
    at = dict(zip(_NAMES, before.unbind(1), strict=True))
    mode, position, script_end = at["mode"], at["position"], at["script_end"]

    # A stop that the model drew in its thinking: the Wait runs instead, or the text that ends thinking.
    free = position < 0
    stop = (mode == THINK) & free & (sampled.unsqueeze(1) == stops[slots]).any(1)
    wait = stop & (at["waits_used"] < at["waits"])
    close = stop & ~wait
    position = torch.where(wait, 0, torch.where(close, at["close_start"], position))
    script_end = torch.where(wait, at["wait_end"], torch.where(close, at["close_end"], script_end))
    mode = torch.where(close, CLOSE, mode)
    began = torch.where(wait & live, at["count"], waited_at[slots, at["waits_used"].long()])
    waited_at[slots, at["waits_used"].long()] = began
    waits_used = at["waits_used"] + wait.int()

    # One token: of the running text, or the sampled one.
    scripted = position >= 0
    token = torch.where(scripted, script[slots, position.clamp(min=0).long()], sampled)
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
    ended = answering & (token.unsqueeze(1) == eos[slots]).any(1)
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
    after = torch.stack([at[name].int() for name in _NAMES], dim=1)
    state[slots] = torch.where(live.unsqueeze(1), after, before)
    return token


def read_thought(
    row: Sequence[int], waited_at: Sequence[int], tokens: TokenIds, spec: ForcingSpec, prompt_tokens: int
) -> Thought:
    """The result of a request from its slot's state and the tokens it got.

    Args:
        row: the slot's row of `state`.
        waited_at: the slot's row of `waited_at`.
        tokens: all tokens of the request, forced ones included, end-of-text not.
    """
    at = dict(zip(_NAMES, row, strict=True))
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
        decoded_tokens=free + used + (end != "cap") + answer_decoded,
        answer_decoded_tokens=answer_decoded,
    )
