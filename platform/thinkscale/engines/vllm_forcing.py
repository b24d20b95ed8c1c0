"""Budget forcing inside vLLM: a sampler that stands in front of the runner's own, in vLLM's workers. The sampler itself
is vLLM's: what it drew is replaced afterwards where a text is forced, so that top-k, top-p, min-p, seeds and penalties
are those of a run without forcing, and nothing waits for the host. A request's settings travel in
`SamplingParams.extra_args` as flat values, its outcome comes back by `ForcingWorker.thinkscale_outcomes`. For both
model runners of vLLM 0.26 to 0.32."""

from collections.abc import Container, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch

from thinkscale.forcing.automaton import MAX_STOPS, ForcingAutomaton, ForcingSpec

PREFIX = "thinking_"
SPARE_SLOTS = 256  # slots beyond those of running requests: for outcomes that were not fetched yet
KEPT_OUTCOMES = 1 << 17  # outcomes that wait for somebody to ask once their slots were needed; the oldest go first

SlotState = list[int]  # a slot's row of the automaton's state


def extra_args(spec: ForcingSpec, key: str) -> dict[str, Any]:
    """The spec as flat values; `key` names the request when its outcome is asked for."""
    return {f"{PREFIX}key": key, **{PREFIX + name: value for name, value in asdict(spec).items()}}


def forbid_first(ids: Sequence[int], key: str) -> dict[str, Any]:
    """For a request that is not forced but whose first token may not be one of `ids`.
    Raises ValueError where they are too many; in the worker it would end the engine."""
    if len(ids) > MAX_STOPS:
        raise ValueError(f"{len(ids)} forbidden first ids: at most {MAX_STOPS}")
    return {f"{PREFIX}key": key, f"{PREFIX}forbid_first": list(ids)}


class ForcingWorker:
    """Methods that vLLM adds to its worker (`worker_extension_cls`), called by `collective_rpc`."""

    model_runner: Any

    def thinkscale_install(self, newline_ending: list[int], vocab_size: int) -> None:
        """Put the forcing sampler in place. Raises RuntimeError where the runner is not the one expected."""
        runner = self.model_runner
        sampler = ForcingSamplerV2 if hasattr(runner, "req_states") else ForcingSampler
        missing = [name for name in sampler.NEEDS if not hasattr(runner, name)]
        if missing:
            raise RuntimeError(
                f"this vLLM's model runner has no {', '.join(missing)}: forcing knows the runners of vLLM 0.26 to 0.32"
            )
        runner.sampler = sampler(runner, newline_ending, vocab_size)

    def thinkscale_outcomes(self, keys: list[str]) -> dict[str, SlotState]:
        """Outcomes of ended requests by key; their slots are free afterwards."""
        sampler: ForcingSampler = self.model_runner.sampler
        return sampler.outcomes(keys)


class ForcingSampler:
    """Takes the place of a V1 runner's sampler and has all that it has."""

    NEEDS: tuple[str, ...] = ("sampler", "input_batch", "requests", "discard_request_mask", "device")

    def __init__(self, runner: Any, newline_ending: list[int], vocab_size: int) -> None:
        self._runner, self._sampler = runner, runner.sampler
        self._vocab_size = vocab_size
        most = self._most_requests()
        slots = most + SPARE_SLOTS + 1
        self._automaton = ForcingAutomaton(slots, most, newline_ending, vocab_size, runner.device)
        self._free = list(range(slots - 1, 0, -1))  # slot 0 is everybody's who is not forced
        self._slots: dict[str, int] = {}
        """Slot by key, for requests that run and for ended ones whose outcome was not fetched."""
        self._requests: dict[str, str] = {}  # vLLM's request id by key
        self._ended: dict[str, SlotState] = {}
        """Outcomes by key, of requests whose slot was needed by others before somebody asked."""
        self._batch: list[str] = []
        self._forced = False  # whether any row of the batch is forced

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def __call__(self, logits: torch.Tensor, sampling_metadata: Any, **options: Any) -> Any:
        self._before(logits, self._runner.input_batch.req_ids)
        output = self._sampler(logits=logits, sampling_metadata=sampling_metadata, **options)
        if self._forced:
            self._after(output, self._runner.discard_request_mask.gpu[: logits.shape[0]])
        return output

    def _most_requests(self) -> int:
        return int(self._runner.input_batch.max_num_reqs)

    def _alive(self) -> Container[str]:
        return self._runner.requests  # type: ignore[no-any-return]

    def _extra(self, request: str) -> dict[str, Any]:
        return self._runner.requests[request].sampling_params.extra_args or {}

    def outcomes(self, keys: list[str]) -> dict[str, SlotState]:
        found = {}
        for key in keys:
            if key in self._slots:
                found[key] = self._release(key)
            elif key in self._ended:
                found[key] = self._ended.pop(key)
        return found

    def _before(self, logits: torch.Tensor, batch: list[str]) -> None:
        if batch != self._batch:
            self._follow(batch)
        if logits.shape[1] > self._vocab_size:
            logits[:, self._vocab_size :] = float("-inf")
        if self._forced:
            self._automaton.mask(logits)

    def _after(self, output: Any, thrown_away: torch.Tensor) -> None:
        """Put what is forced in the place of what was sampled. The step copies the state to the host before the runner
        copies the tokens there: when a request's last token is known, so is its outcome."""
        sampled = output.sampled_token_ids[:, 0]
        sampled.copy_(self._automaton.step(sampled, thrown_away))

    def _release(self, key: str) -> SlotState:
        """Free an ended request's slot; returns its outcome."""
        slot = self._slots.pop(key)
        del self._requests[key]
        self._free.append(slot)
        self._batch = []  # rows may still name the slot
        return list(self._automaton.host_state[slot].tolist())

    def _follow(self, batch: list[str]) -> None:
        """Assign slots to requests that are new, and tell the automaton which rows they have."""
        self._batch = list(batch)
        new: dict[int, ForcingSpec | list[int]] = {}
        states: dict[int, SlotState] = {}
        slots = [self._slot_of(request, new, states) for request in batch]
        if new:
            self._automaton.assign(new, states)
        self._forced = any(slots)
        if self._forced:
            self._automaton.set_rows(slots)

    def _slot_of(self, request: str, new: dict[int, ForcingSpec | list[int]], states: dict[int, SlotState]) -> int:
        """The request's slot, taken when it is first seen: a preempted request comes back to its own."""
        extra = self._extra(request)
        key = extra.get(f"{PREFIX}key")
        if key is None:
            return 0
        if key not in self._slots:
            slot = self._take_slot()
            self._slots[key], self._requests[key] = slot, request
            if key in self._ended:  # it had not ended: it was preempted while its slot was needed
                states[slot] = self._ended.pop(key)
            if f"{PREFIX}forbid_first" in extra:
                new[slot] = list(extra[f"{PREFIX}forbid_first"])
            else:
                new[slot] = ForcingSpec(**{field.name: extra[PREFIX + field.name] for field in fields(ForcingSpec)})
        return self._slots[key]

    def _take_slot(self) -> int:
        if not self._free:
            if self._automaton.device.type == "cuda":
                torch.cuda.synchronize()  # the states on the host are those of the last step
            # Ended ones that nobody asked for yet; those whose caller died are never asked for.
            alive = self._alive()
            for key in [key for key, request in self._requests.items() if request not in alive]:
                self._ended[key] = self._release(key)
            while len(self._ended) > KEPT_OUTCOMES:
                self._ended.pop(next(iter(self._ended)))
        return self._free.pop()


class ForcingSamplerV2(ForcingSampler):
    """The same for the V2 runner, which tells its sampler of each request and hands it the batch.
    A preempted request leaves that runner and comes back as a new one."""

    NEEDS = ("sampler", "req_states", "device")

    def __init__(self, runner: Any, newline_ending: list[int], vocab_size: int) -> None:
        super().__init__(runner, newline_ending, vocab_size)
        self._extras: dict[int, dict[str, Any]] = {}
        """A request's extra arguments by its index among the runner's requests."""

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:  # type: ignore[override]
        self._before(logits, input_batch.req_ids)
        output = self._sampler(logits, input_batch)
        if self._forced:
            self._after(output, output.num_sampled == 0)
        return output

    def add_request(self, index: int, *arguments: Any) -> None:
        """`arguments`: the last is the request's SamplingParams."""
        self._sampler.add_request(index, *arguments)
        self._extras[index] = arguments[-1].extra_args or {}
        self._batch = []  # a request may come back under its old id

    def _most_requests(self) -> int:
        return int(self._runner.req_states.max_num_reqs)

    def _alive(self) -> Container[str]:
        return self._runner.req_states.req_id_to_index  # type: ignore[no-any-return]

    def _extra(self, request: str) -> dict[str, Any]:
        return self._extras.get(self._runner.req_states.req_id_to_index.get(request, -1), {})
