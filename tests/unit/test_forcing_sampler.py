"""The sampler inside vLLM: outcomes wait for whoever asks, however many requests ended before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from thinkscale.domain.sample import Budget
from thinkscale.engines.vllm_forcing import SPARE_SLOTS, ForcingSampler, ForcingSamplerV2, extra_args
from thinkscale.forcing.automaton import forcing_spec, read_thought
from thinkscale.forcing.formats import ForcingIds

VOCABULARY = 8
IDS = ForcingIds(
    end=(2,), close=(2,), wait=(5,), final_answer=(6,), newline=(7,), newline_ending=frozenset({7}), eos=(0,)
)


class Host:
    """As much of a model runner of vLLM as the sampler reads; its own sampler draws the id 3."""

    def __init__(self, requests: int) -> None:
        self.device = torch.device("cpu")
        self.install(requests)

    def install(self, requests: int) -> None:
        self.requests: dict[str, Any] = {}
        self.input_batch = SimpleNamespace(max_num_reqs=requests, req_ids=[])
        self.discard_request_mask = SimpleNamespace(gpu=torch.zeros(requests, dtype=torch.bool))
        self.sampler: Any = lambda logits, **_: drawn(logits)
        self.forcing: Any = ForcingSampler(self, [7], VOCABULARY)

    def add(self, name: str, params: Any) -> None:
        self.requests[name] = params

    def remove(self, name: str, *, preempted: bool) -> None:
        if not preempted:
            del self.requests[name]

    def draw(self, batch: list[str]) -> list[int]:
        self.input_batch.req_ids = batch
        return list(self.forcing(torch.zeros(len(batch), VOCABULARY), None).sampled_token_ids[:, 0].tolist())


class HostV2(Host):
    """The V2 runner: requests have an index, and a preempted one leaves as an ended one does."""

    def install(self, requests: int) -> None:
        self.req_states = SimpleNamespace(max_num_reqs=requests, req_id_to_index={})
        self.sampler = Sampler(drawn)
        self.forcing = ForcingSamplerV2(self, [7], VOCABULARY)

    def add(self, name: str, params: Any) -> None:
        taken = set(self.req_states.req_id_to_index.values())
        index = self.req_states.req_id_to_index[name] = next(i for i in range(10**6) if i not in taken)
        self.forcing.add_request(index, 1, params.sampling_params)

    def remove(self, name: str, *, preempted: bool) -> None:
        del self.req_states.req_id_to_index[name]

    def draw(self, batch: list[str]) -> list[int]:
        told = SimpleNamespace(req_ids=batch)
        return list(self.forcing(torch.zeros(len(batch), VOCABULARY), told).sampled_token_ids[:, 0].tolist())


class Sampler(SimpleNamespace):
    """vLLM's V2 sampler."""

    def __init__(self, call: Any) -> None:
        super().__init__(call=call, added=[])

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Any:
        return self.call(logits)

    def add_request(self, index: int, prompt_len: int, params: Any) -> None:
        self.added.append(index)


def drawn(logits: torch.Tensor) -> Any:
    rows = logits.shape[0]
    return SimpleNamespace(sampled_token_ids=torch.full((rows, 1), 3), num_sampled=torch.ones(rows, dtype=torch.int32))


HOSTS = pytest.mark.parametrize("host_type", [Host, HostV2])


def asked(key: str, cap: int = 1) -> Any:
    spec = forcing_spec((4,), Budget(max_thinking_tokens=cap, max_answer_tokens=2), IDS, cap)
    return SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra_args(spec, key)))


@HOSTS
def test_no_outcome_is_lost_while_more_requests_end_than_slots_are_spare(host_type: type[Host]) -> None:
    at_once, rounds = 4, SPARE_SLOTS // 2
    host = host_type(at_once)
    keys = []
    for number in range(rounds):
        batch = [f"{number}-{i}" for i in range(at_once)]
        for name in batch:
            host.add(name, asked(name))
        told = [host.draw(batch) for _ in range(6)]
        for name in batch:
            host.remove(name, preempted=False)
        keys += batch
    found = host.forcing.outcomes(keys)
    assert len(found) == len(keys) == at_once * rounds > SPARE_SLOTS
    came = tuple(step[0] for step in told)
    spec = forcing_spec((4,), Budget(max_thinking_tokens=1, max_answer_tokens=2), IDS, 1)
    thoughts = {read_thought(found[key], came, spec, 1).end for key in keys}
    assert thoughts == {"cap"}
    assert host.forcing.outcomes(keys) == {}


@HOSTS
def test_a_preempted_request_goes_on_where_it_was_though_its_slot_was_needed(host_type: type[Host]) -> None:
    alone, host = host_type(2), host_type(2)
    alone.add("x", asked("x", cap=9))
    undisturbed = [alone.draw(["x"])[0] for _ in range(14)]
    assert len(set(undisturbed)) > 2  # forced texts among them

    host.add("x", asked("x", cap=9))
    came = [host.draw(["x"])[0] for _ in range(4)]
    host.remove("x", preempted=True)
    for number in range(2 * SPARE_SLOTS):
        host.add(f"{number}", asked(f"{number}"))
        host.draw([f"{number}"])
        host.remove(f"{number}", preempted=False)
    if host_type is HostV2:
        host.add("other", asked("other"))  # takes the index that "x" had
        host.add("x", asked("x", cap=9))
        came += [host.draw(["other", "x"])[1] for _ in range(10)]
    else:
        came += [host.draw(["x"])[0] for _ in range(10)]
    assert came == undisturbed
