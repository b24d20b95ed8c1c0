"""How much is recomputed: as little as keeps a row's activations within a full row's memory."""

from __future__ import annotations

import pytest
from transformers import Qwen2Config

from thinkscale.learn.recompute import Recompute, plan

# Widths kept by a layer per token: 2 * 64 + 128 + 4 * 64 + 2 * 512 = 1,408 in all, 384 without the
# feed-forward's, 64 (its input) when all is recomputed.
CONFIG = Qwen2Config(
    hidden_size=64, intermediate_size=512, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4
)
NOTHING, FEED_FORWARD, ALL = Recompute.NOTHING, Recompute.FEED_FORWARD, Recompute.ALL


def modes(tokens: int, share: float) -> list[Recompute]:
    return plan(CONFIG, tokens, full_row_tokens=1000, share=share)


def kept(tokens: int, share: float) -> int:
    widths = {NOTHING: 2 * 64 + 4 * 64 + 2 * 512, FEED_FORWARD: 2 * 64 + 4 * 64, ALL: 64}
    return tokens * sum(widths[mode] for mode in modes(tokens, share))


def test_a_row_within_the_memory_recomputes_nothing() -> None:
    assert modes(1000, 0.0) == [NOTHING] * 8
    assert modes(10, 0.5) == [NOTHING] * 8


def test_every_layer_is_recomputed_where_the_campaign_says_so() -> None:
    assert modes(1000, 1.0) == [ALL] * 8


def test_feed_forwards_come_first_and_are_spread_evenly() -> None:
    assert modes(1400, 0.0) == [NOTHING, FEED_FORWARD] * 4
    assert set(modes(5000, 0.0)) == {FEED_FORWARD, ALL}


@pytest.mark.parametrize("tokens", [300, 1000, 1300, 2000, 4000, 9000])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_no_row_needs_more_memory_than_a_full_one_at_the_campaigns_setting(tokens: int, share: float) -> None:
    limit = 1000 * 8 * (1408 - share * (1408 - 64))
    assert kept(tokens, share) <= limit or set(modes(tokens, share)) == {ALL}


def test_room_that_gradients_will_take_lets_a_steps_first_row_keep_more() -> None:
    room = 600 * 1408 * 8  # as much as 600 more tokens keep
    assert plan(CONFIG, 1400, full_row_tokens=1000, share=0.0, spare=room) == [NOTHING] * 8
    long = [plan(CONFIG, 2000, full_row_tokens=1000, share=0.0, spare=s).count(NOTHING) for s in (0.0, room)]
    assert 0 <= long[0] < long[1] < 8
