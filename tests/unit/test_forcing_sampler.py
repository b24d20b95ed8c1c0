"""The sampler inside vLLM: outcomes wait for whoever asks, however many requests ended before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from thinkscale.domain.sample import Budget
from thinkscale.engines.vllm_forcing import SPARE_SLOTS, ForcingSampler, extra_args
from thinkscale.forcing.automaton import forcing_spec, read_thought
from thinkscale.forcing.formats import ForcingIds

VOCABULARY = 8
IDS = ForcingIds(
    end=(2,), close=(2,), wait=(5,), final_answer=(6,), newline=(7,), newline_ending=frozenset({7}), eos=(0,)
)


def runner(requests: int) -> Any:
    """As much of vLLM's model runner as the sampler reads; it samples the id 3."""
    return SimpleNamespace(
        sampler=lambda logits, **_: SimpleNamespace(sampled_token_ids=torch.full((logits.shape[0], 1), 3)),
        input_batch=SimpleNamespace(max_num_reqs=requests, req_ids=[]),
        requests={},
        discard_request_mask=SimpleNamespace(gpu=torch.zeros(requests, dtype=torch.bool)),
        device=torch.device("cpu"),
    )


def test_no_outcome_is_lost_while_more_requests_end_than_slots_are_spare() -> None:
    at_once, rounds = 4, SPARE_SLOTS // 2
    host = runner(at_once)
    sampler = ForcingSampler(host, [7], VOCABULARY)
    spec = forcing_spec((4,), Budget(max_thinking_tokens=1, max_answer_tokens=2), IDS, 1)
    keys = []
    for number in range(rounds):
        batch = [f"{number}-{i}" for i in range(at_once)]
        host.requests = {
            name: SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra_args(spec, name))) for name in batch
        }
        host.input_batch.req_ids = batch
        told = [sampler(torch.zeros(at_once, VOCABULARY), None).sampled_token_ids[:, 0].tolist() for _ in range(6)]
        keys += batch
    host.requests, host.input_batch.req_ids = {}, []
    found = sampler.outcomes(keys)
    assert len(found) == len(keys) == at_once * rounds > SPARE_SLOTS
    came = tuple(step[0] for step in told)
    thoughts = {read_thought(found[key], came, spec, 1).end for key in keys}
    assert thoughts == {"cap"}
    assert sampler.outcomes(keys) == {}
