"""Budget forcing inside vLLM: a sampler that stands in front of the V1 runner's own. Runs in vLLM's workers.

Owns which request has which slot of the automaton, and the masks before sampling: ids beyond the
tokenizer's vocabulary, and stops right after a Wait or at the start of a continuation. The sampler itself
is vLLM's: what it drew is replaced afterwards where a text is forced, so that top-k, top-p, min-p, seeds and
penalties are those of a run without forcing, and nothing waits for the host.

A request's settings travel in `SamplingParams.extra_args` as flat values (`extra_args` below), its outcome
comes back by `ForcingWorker.thinkscale_outcomes`. Written against the V1 runner of vLLM 0.26 to 0.32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from thinkscale.engines.automaton import ForcingAutomaton, ForcingSpec

PREFIX = "thinking_"
SPARE_SLOTS = 256
"""Slots beyond those of running requests: for outcomes that were not fetched yet."""

Outcome = tuple[list[int], list[int]]
"""A slot's rows of the automaton's `state` and `waited_at`."""


def extra_args(spec: ForcingSpec, key: str) -> dict[str, Any]:
    """The spec as flat values; `key` names the request when its outcome is asked for."""
    return {f"{PREFIX}key": key, **{PREFIX + name: value for name, value in asdict(spec).items()}}


def forbid_first(ids: Sequence[int], key: str) -> dict[str, Any]:
    """For a request that is not forced but whose first token may not be one of `ids`."""
    return {f"{PREFIX}key": key, f"{PREFIX}forbid_first": list(ids)}


class ForcingWorker:
    """Methods that vLLM adds to its worker (`worker_extension_cls`), called by `collective_rpc`."""

    model_runner: Any

    def thinkscale_install(self, newline_ending: list[int], vocab_size: int) -> None:
        """Put the forcing sampler in place. Raises RuntimeError where the runner is not the one expected."""
        runner = self.model_runner
        missing = [name for name in ("sampler", "input_batch", "requests", "discard_request_mask", "device")
                   if not hasattr(runner, name)]  # fmt: skip
        if missing:
            raise RuntimeError(
                f"this vLLM's runner has no {', '.join(missing)}: forcing needs the V1 runner of vLLM 0.26 to 0.32 "
                "(VLLM_USE_V2_MODEL_RUNNER=0)"
            )
        runner.sampler = ForcingSampler(runner, newline_ending, vocab_size)

    def thinkscale_outcomes(self, keys: list[str]) -> dict[str, Outcome]:
        """Outcomes of ended requests by key; their slots are free afterwards."""
        sampler: ForcingSampler = self.model_runner.sampler
        return sampler.outcomes(keys)


class ForcingSampler:
    """Takes the place of the runner's sampler and has all that it has."""

    def __init__(self, runner: Any, newline_ending: list[int], vocab_size: int) -> None:
        self._runner, self._sampler = runner, runner.sampler
        self._vocab_size = vocab_size
        slots = runner.input_batch.max_num_reqs + SPARE_SLOTS + 1
        self._automaton = ForcingAutomaton(slots, newline_ending, vocab_size, runner.device)
        pinned = self._automaton.device.type == "cuda"
        self._state = torch.zeros_like(self._automaton.state, device="cpu", pin_memory=pinned)
        self._waited_at = torch.zeros_like(self._automaton.waited_at, device="cpu", pin_memory=pinned)
        self._free = list(range(slots - 1, 0, -1))  # slot 0 is everybody's who is not forced
        self._slots: dict[str, int] = {}
        """Slot by key, for requests that run and for ended ones whose outcome was not fetched."""
        self._requests: dict[str, str] = {}
        """vLLM's request id by key."""
        self._batch: list[str] = []
        self._rows: torch.Tensor | None = None
        """Slot by row of the batch; None where no row is forced."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def __call__(self, logits: torch.Tensor, sampling_metadata: Any, **options: Any) -> Any:
        rows = self._current_rows(logits.shape[0])
        if logits.shape[1] > self._vocab_size:
            logits[:, self._vocab_size :] = float("-inf")
        if rows is None:
            return self._sampler(logits=logits, sampling_metadata=sampling_metadata, **options)
        self._automaton.mask(rows, logits)
        output = self._sampler(logits=logits, sampling_metadata=sampling_metadata, **options)
        sampled = output.sampled_token_ids
        live = ~self._runner.discard_request_mask.gpu[: rows.shape[0]].bool()
        sampled[:, 0] = self._automaton.step(rows, sampled[:, 0].long(), live).to(sampled.dtype)
        # Behind the step and before the copy of the tokens: when a request's last token is known to the
        # host, its outcome is.
        self._state.copy_(self._automaton.state, non_blocking=True)
        self._waited_at.copy_(self._automaton.waited_at, non_blocking=True)
        return output

    def outcomes(self, keys: list[str]) -> dict[str, Outcome]:
        found = {}
        for key in keys:
            slot = self._slots.pop(key, None)
            if slot is None:
                continue
            found[key] = (self._state[slot].tolist(), self._waited_at[slot].tolist())
            del self._requests[key]
            self._free.append(slot)
            self._batch = []  # rows may still name the slot
        return found

    def _current_rows(self, count: int) -> torch.Tensor | None:
        batch: list[str] = self._runner.input_batch.req_ids
        if batch != self._batch:
            self._batch = list(batch)
            slots = [self._slot_of(request) for request in batch]
            rows = torch.tensor(slots, dtype=torch.int64)
            if self._automaton.device.type == "cuda":
                rows = rows.pin_memory()
            self._rows = rows.to(self._automaton.device, non_blocking=True) if any(slots) else None
        return None if self._rows is None else self._rows[:count]

    def _slot_of(self, request: str) -> int:
        """The request's slot, assigned when it is first seen: a preempted request comes back to its own."""
        extra = self._runner.requests[request].sampling_params.extra_args or {}
        key = extra.get(f"{PREFIX}key")
        if key is None:
            return 0
        if key not in self._slots:
            slot = self._take_slot()
            if f"{PREFIX}forbid_first" in extra:
                self._automaton.forbid_first(slot, extra[f"{PREFIX}forbid_first"])
            else:
                names = [field.name for field in fields(ForcingSpec)]
                self._automaton.assign(slot, ForcingSpec(**{name: extra[PREFIX + name] for name in names}))
            self._slots[key], self._requests[key] = slot, request
        return self._slots[key]

    def _take_slot(self) -> int:
        if not self._free:
            # Requests that were cancelled, or whose caller died, never ask for their outcome.
            for key in [key for key, request in self._requests.items() if request not in self._runner.requests]:
                self._free.append(self._slots.pop(key))
                del self._requests[key]
        return self._free.pop()
