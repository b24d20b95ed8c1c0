"""Budget forcing as a recorded graph on a CUDA device against the same steps on the CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

from thinkscale.forcing.automaton import ForcingAutomaton, ForcingSpec  # noqa: E402

IDS, ROWS = 32, 8


def spec(slot: int) -> ForcingSpec:
    return ForcingSpec(
        cap=slot * 5 % 23, waits=slot % 3, max_answer=4, stops=[5, 1], eos=[1], wait=[7, 8], close=[5, 6], newline=[3],
        final=[9, 10], starts_on_newline=slot % 2 == 0,
    )  # fmt: skip


def test_a_recorded_graph_does_what_single_steps_do() -> None:
    draw = torch.Generator().manual_seed(0)
    automata = [ForcingAutomaton(ROWS + 1, ROWS, [3], IDS, device) for device in ("cpu", "cuda")]
    with torch.inference_mode():  # as in the engine's worker
        for automaton in automata:
            automaton.assign({slot: spec(slot) for slot in range(1, ROWS + 1)})
        for step in range(60):
            if step % 10 == 0:  # the batch moves, and shrinks
                rows = (torch.randperm(ROWS, generator=draw)[: ROWS - step // 10] + 1).tolist()
                for automaton in automata:
                    automaton.set_rows(rows)
            logits = torch.rand(len(rows), IDS, generator=draw)
            sampled = torch.randint(IDS, (len(rows),), generator=draw, dtype=torch.int32)
            thrown_away = torch.rand(len(rows), generator=draw) < 0.1
            told = []
            for automaton in automata:
                masked = logits.to(automaton.device, copy=True)
                automaton.mask(masked)
                tokens = automaton.step(sampled.to(automaton.device), thrown_away.to(automaton.device))
                told.append((masked.tolist(), tokens.tolist()))
            torch.cuda.synchronize()
            assert told[0] == told[1]
            assert torch.equal(automata[0].host_state, automata[1].host_state)
    assert automata[0].host_state.unique().numel() > 10  # it went somewhere
