"""Budget forcing inside vLLM: a sampler that stands in front of the V1 runner's own. Runs in vLLM's workers.

Owns which request has which slot of the automaton, and the masks before sampling: ids beyond the
tokenizer's vocabulary, and stops right after a Wait or at the start of a continuation. The sampler itself
is vLLM's: what it drew is replaced afterwards where a text is forced, so that top-k, top-p, min-p, seeds and
penalties are those of a run without forcing, and nothing waits for the host.

A request's settings travel in `SamplingParams.extra_args` as flat values (`extra_args` below), its outcome
comes back by `ForcingWorker.thinkscale_outcomes`. Written against the V1 runner of vLLM 0.26 to 0.32.
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from thinkscale.forcing.automaton import MAX_STOPS, ForcingAutomaton, ForcingSpec

PREFIX = "thinking_"
SPARE_SLOTS = 256
"""Slots beyond those of running requests: for outcomes that were not fetched yet."""
KEPT_OUTCOMES = 1 << 17
"""Outcomes that wait for somebody to ask once their slots were needed; the oldest go first."""

SlotState = list[int]
"""A slot's row of the automaton's state."""


def extra_args(spec: ForcingSpec, key: str) -> dict[str, Any]:
    """The spec as flat values; `key` names the request when its outcome is asked for."""
    return {f"{PREFIX}key": key, **{PREFIX + name: value for name, value in asdict(spec).items()}}


def forbid_first(ids: Sequence[int], key: str) -> dict[str, Any]:
    """For a request that is not forced but whose first token may not be one of `ids`.

    Raises ValueError where they are too many; in the worker it would end the engine.
    """
    if len(ids) > MAX_STOPS:
        raise ValueError(f"{len(ids)} forbidden first ids: at most {MAX_STOPS}")
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

    def thinkscale_outcomes(self, keys: list[str]) -> dict[str, SlotState]:
        """Outcomes of ended requests by key; their slots are free afterwards."""
        sampler: ForcingSampler = self.model_runner.sampler
        return sampler.outcomes(keys)


class ForcingSampler:
    """Takes the place of the runner's sampler and has all that it has."""

    def __init__(self, runner: Any, newline_ending: list[int], vocab_size: int) -> None:
        self._runner, self._sampler = runner, runner.sampler
        self._vocab_size = vocab_size
        most = runner.input_batch.max_num_reqs
        slots = most + SPARE_SLOTS + 1
        self._automaton = ForcingAutomaton(slots, most, newline_ending, vocab_size, runner.device)
        self._free = list(range(slots - 1, 0, -1))  # slot 0 is everybody's who is not forced
        self._slots: dict[str, int] = {}
        """Slot by key, for requests that run and for ended ones whose outcome was not fetched."""
        self._requests: dict[str, str] = {}
        """vLLM's request id by key."""
        self._ended: dict[str, SlotState] = {}
        """Outcomes by key, of requests whose slot was needed by others before somebody asked."""
        self._batch: list[str] = []
        self._forced = False
        """Whether any row of the batch is forced."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def __call__(self, logits: torch.Tensor, sampling_metadata: Any, **options: Any) -> Any:
        self._follow_batch()
        if logits.shape[1] > self._vocab_size:
            logits[:, self._vocab_size :] = float("-inf")
        if not self._forced:
            return self._sampler(logits=logits, sampling_metadata=sampling_metadata, **options)
        self._automaton.mask(logits)
        output = self._sampler(logits=logits, sampling_metadata=sampling_metadata, **options)
        # The step copies the state to the host before the runner copies the tokens there: when a request's
        # last token is known, so is its outcome.
        sampled = output.sampled_token_ids[:, 0]
        thrown_away = self._runner.discard_request_mask.gpu[: sampled.shape[0]]
        sampled.copy_(self._automaton.step(sampled, thrown_away))
        return output

    def outcomes(self, keys: list[str]) -> dict[str, SlotState]:
        found = {}
        for key in keys:
            if key in self._slots:
                found[key] = self._release(key)
            elif key in self._ended:
                found[key] = self._ended.pop(key)
        return found

    def _release(self, key: str) -> SlotState:
        """Free an ended request's slot; returns its outcome."""
        slot = self._slots.pop(key)
        del self._requests[key]
        self._free.append(slot)
        self._batch = []  # rows may still name the slot
        return list(self._automaton.host_state[slot].tolist())

    def _follow_batch(self) -> None:
        """Assign slots to requests that are new, and tell the automaton which rows they have."""
        batch: list[str] = self._runner.input_batch.req_ids
        if batch == self._batch:
            return
        self._batch = list(batch)
        new: dict[int, ForcingSpec | list[int]] = {}
        slots = [self._slot_of(request, new) for request in batch]
        if new:
            self._automaton.assign(new)
        self._forced = any(slots)
        if self._forced:
            self._automaton.set_rows(slots)

    def _slot_of(self, request: str, new: dict[int, ForcingSpec | list[int]]) -> int:
        """The request's slot, taken when it is first seen: a preempted request comes back to its own."""
        extra = self._runner.requests[request].sampling_params.extra_args or {}
        key = extra.get(f"{PREFIX}key")
        if key is None:
            return 0
        if key not in self._slots:
            slot = self._slots[key] = self._take_slot()
            self._requests[key] = request
            if f"{PREFIX}forbid_first" in extra:
                new[slot] = list(extra[f"{PREFIX}forbid_first"])
            else:
                new[slot] = ForcingSpec(**{field.name: extra[PREFIX + field.name] for field in fields(ForcingSpec)})
        return self._slots[key]

    def _take_slot(self) -> int:
        if not self._free:
            # Ended ones that nobody asked for yet; those whose caller died are never asked for.
            for key in [key for key, request in self._requests.items() if request not in self._runner.requests]:
                self._ended[key] = self._release(key)
            while len(self._ended) > KEPT_OUTCOMES:
                self._ended.pop(next(iter(self._ended)))
        return self._free.pop()
