"""What the drain watcher reads out of the instance metadata. tests/ray/test_drained_nodes.py has it drain a node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from metadata_server import ACTION, REBALANCE, MetadataServer, metadata_server
from thinkscale.runtime.drain import Metadata, spot_notice

AT = {"action": "terminate", "time": "2026-09-18T08:22:00Z"}
ADVICE = {"noticeTime": "2026-09-18T08:00:00Z"}
STOPS = {**AT, "action": "stop"}
ENDS = ("spot: terminate at 2026-09-18T08:22:00Z", 1_789_719_720_000)
STOP = ("spot: stop at 2026-09-18T08:22:00Z", ENDS[1])
ADVISED = ("spot: rebalance recommendation of 2026-09-18T08:00:00Z", 0)


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with metadata_server() as found:
        yield found


@pytest.mark.parametrize(
    ("said", "heeded", "alone"),
    [
        ({}, None, None),
        ({ACTION: AT}, ENDS, ENDS),
        ({ACTION: STOPS}, STOP, STOP),
        ({REBALANCE: ADVICE}, ADVISED, None),
        ({REBALANCE: ADVICE, ACTION: AT}, ENDS, ENDS),
    ],
)
def test_what_is_said(server: MetadataServer, said: dict[str, Any], heeded: object, alone: object) -> None:
    server.said = said
    assert spot_notice(Metadata(server.url)) == heeded
    assert spot_notice(Metadata(server.url), rebalance=False) == alone


@pytest.mark.parametrize("said", ["soon", {"action": "terminate"}, {**AT, "time": "soon"}, ["terminate"]])
def test_what_cannot_be_read_is_an_error_that_the_watcher_takes(server: MetadataServer, said: object) -> None:
    server.said = {ACTION: said}
    with pytest.raises((ValueError, KeyError, TypeError)):
        spot_notice(Metadata(server.url))


def test_one_token_for_all_looks_and_a_new_one_where_it_has_run_out(server: MetadataServer) -> None:
    metadata = Metadata(server.url + "/")
    assert [metadata.get(ACTION) for _ in range(3)] == [None] * 3
    assert server.given == 1
    server.tokens.clear()
    server.said = {ACTION: AT}
    assert metadata.get(ACTION) == AT
    assert server.given == 2


def test_it_never_goes_through_a_proxy(server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert spot_notice(Metadata(server.url)) is None
