"""Which samples the report carries: the first of them in its page, more in files beside it.
Both have a size limit. Owns the choice: whole questions, under every model and budget, picked by a hash of their ids so
that the choice is the same in every run and does not depend on the order of the parts."""

import base64
import heapq
import json
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa

from thinkscale.curate.normalise import hash_text as _hash

EMBEDDED_BYTES = 2_800_000  # of compressed samples in the page; base64 makes a third more of it
EMBEDDED_ROWS = 20_000
BESIDE_BYTES = 60_000_000  # of compressed samples in files beside the page
BESIDE_ROWS = 200_000
PAGE = (1_500_000, 10_000)  # bytes and rows of one such file
MOST_BYTES, MOST_ROWS = EMBEDDED_BYTES + BESIDE_BYTES, EMBEDDED_ROWS + BESIDE_ROWS
LONGEST_TEXT = 60_000  # characters of one thinking trace that the page shows

COLUMNS = [
    "question_id", "model", "benchmark", "sample", "max_thinking_tokens", "num_waits", "status", "error", "end",
    "thinking_tokens", "answer_tokens", "thinking", "answer", "forced_spans", "verdict", "extracted_answer",
]  # fmt: skip

Row = dict[str, Any]


class SampleBrowser:
    """Collects rows part by part; keeps the questions with the smallest hashes that fit the limits.
    `withheld`: ids of questions whose samples are shown without what they say."""

    def __init__(
        self, *, limit_bytes: int = MOST_BYTES, limit_rows: int = MOST_ROWS, withheld: Collection[str] = ()
    ) -> None:
        self._limit_bytes, self._limit_rows, self._withheld = limit_bytes, limit_rows, withheld
        self._rows: dict[str, list[bytes]] = {}
        self._largest: list[tuple[int, str]] = []
        self._beyond = 1 << 64
        self._kept_bytes = self._kept_rows = 0
        self.total_rows = 0

    def add(self, part: pa.Table) -> None:
        self.total_rows += part.num_rows
        part = part.select([name for name in COLUMNS if name in part.column_names])
        # Few rows at a time: most parts are larger than what is kept of all of them.
        for start in range(0, part.num_rows, 256):
            rows = part.slice(start, 256)
            wanted = [_hash(question) < self._beyond for question in rows["question_id"].to_pylist()]
            for row in rows.filter(pa.array(wanted, pa.bool_())).to_pylist():
                self._keep(row)

    def _keep(self, row: Row) -> None:
        question = row["question_id"]
        if (hashed := _hash(question)) >= self._beyond:
            return
        if question not in self._rows:
            self._rows[question] = []
            heapq.heappush(self._largest, (-hashed, question))
        if question in self._withheld:
            row |= {"thinking": None, "answer": None, "forced_spans": None, "error": None}
        text = row.get("thinking") or ""
        if len(text) > LONGEST_TEXT:
            row["thinking"] = f"{text[:LONGEST_TEXT]}\n[{len(text) - LONGEST_TEXT:,} characters more in the samples]"
        compressed = zlib.compress(_json(row).encode(), 1)  # its size is an upper bound: together they are smaller
        self._rows[question].append(compressed)
        self._kept_bytes += len(compressed)
        self._kept_rows += 1
        while len(self._rows) > 1 and (self._kept_bytes > self._limit_bytes or self._kept_rows > self._limit_rows):
            negative, dropped = heapq.heappop(self._largest)
            self._beyond = -negative
            rows = self._rows.pop(dropped)
            self._kept_rows -= len(rows)
            self._kept_bytes -= sum(map(len, rows))

    def pages(
        self, *, first: tuple[int, int] = (EMBEDDED_BYTES, EMBEDDED_ROWS), later: tuple[int, int] = PAGE
    ) -> Iterator[list[Row]]:
        """The kept rows in pages of at most so many (compressed bytes, rows), or one question; at least one page.
        The rows of a page are by benchmark, question, model, budget and sample."""
        page: list[bytes] = []
        room = first
        for question in sorted(self._rows, key=_hash):
            rows = self._rows[question]
            size = sum(map(len, rows))
            if page and (size > room[0] or len(rows) > room[1]):
                yield _unpacked(page)
                page, room = [], later
            page += rows
            room = (room[0] - size, room[1] - len(rows))
        yield _unpacked(page)


def _unpacked(page: Iterable[bytes]) -> list[Row]:
    def order(row: Row) -> tuple[Any, ...]:
        cell = row["benchmark"], row["question_id"], row["model"], row["max_thinking_tokens"] or 1 << 40
        return *cell, row["num_waits"], row["sample"]

    return sorted((json.loads(zlib.decompress(row)) for row in page), key=order)


def packed(value: Any, level: int = 9) -> str:
    """JSON, deflated, in base64: what the page's script unpacks. Holds no character that HTML reads."""
    return base64.b64encode(zlib.compress(_json(value).encode(), level)).decode()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
