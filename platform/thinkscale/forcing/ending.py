"""Texts that end a generation, found in its tokens however they cut the text.

A delimiter of ordinary tokens merges with what stands around it: `</think>` may come as `</`, `think` and `>` and a
newline in one token. So it is looked for in the text, as an automaton over ids that costs a look-up a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from thinkscale.domain.generation import TextStop, TokenIds


class Pieces(Protocol):
    """What is needed of a tokenizer."""

    vocab_size: int

    def __hash__(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that an id adds to a text."""
        ...


@lru_cache(maxsize=16)
def text_stop(tokenizer: Pieces, text: str) -> TextStop:
    """The automaton of a text over a tokenizer's ids."""
    wanted = text.encode()
    rests = tuple(wanted[state:] for state in range(len(wanted)))
    moves, heads = {}, {}
    for token in range(tokenizer.vocab_size):
        piece = tokenizer.token_bytes(token)
        if not piece or not (wanted[:1] in piece or piece in wanted or piece.startswith(rests)):
            continue
        row = tuple(_move(wanted, state, piece) for state in range(len(wanted)))
        if any(state for state, _ in row):
            moves[token] = row
        for lead in {lead for state, lead in row if state and lead > 0}:
            heads[token, lead] = tuple(tokenizer.encode(piece[:lead].decode(errors="ignore")))
    return TextStop(text=text, length=len(wanted), moves=moves, heads=heads)


def _move(wanted: bytes, state: int, piece: bytes) -> tuple[int, int]:
    """From `state` bytes of the text over a piece: the state after it, and where in the piece the match begins."""
    whole = wanted[:state] + piece
    if (begin := whole.find(wanted)) >= 0:
        return len(wanted), max(begin - state, -1)
    after = next(n for n in range(len(wanted) - 1, -1, -1) if whole.endswith(wanted[:n]))
    return after, max(len(whole) - after - state, -1)


class Match:
    """Looks for a text in ids that come one by one."""

    def __init__(self, stop: TextStop) -> None:
        self._stop, self._count, self._state, self._lead = stop, 0, 0, 0
        self.first = 0
        """Ids before the one in which the text, as far as it has come, begins."""

    def push(self, token: int) -> bool:
        """Whether this id completes the text."""
        row = self._stop.moves.get(token)
        self._state, lead = (0, 0) if row is None else row[self._state]
        if lead >= 0:
            self.first, self._lead = self._count + (self._state == 0), lead
        self._count += 1
        return self._state == self._stop.length

    def split(self, ids: Sequence[int]) -> tuple[TokenIds, TokenIds]:
        """The ids before the text, and those of the text.

        An id that holds both is the text's; what of it stands before the text is encoded anew, and stands in for it.
        """
        kept, rest = tuple(ids[: self.first]), tuple(ids[self.first :])
        head = self._stop.heads.get((rest[0], self._lead), ()) if self._lead else ()
        return (kept + head)[: len(ids)], rest[bool(head) :]
