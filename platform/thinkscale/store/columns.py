"""A column of a committed artifact by the row's place over all its parts, read a part at a time.

Owns nothing but the reading: for decisions over a whole artifact that look at few rows' texts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from thinkscale.store.artifact import Artifact, ArtifactError

POOL = "part-pool="
"""Of embeddings, the parts that hold the pool's."""


class Column:
    """One column of a committed artifact by the row's place, read a part at a time: for few rows, in order."""

    def __init__(self, artifact: Artifact, name: str, prefix: str = "part-") -> None:
        """`prefix`: of the parts that count."""
        self._artifact, self._name = artifact, name
        self._parts = [part for part in artifact.parts() if part.path.startswith(prefix)]
        self._starts = [0, *accumulate(part.rows or 0 for part in self._parts)]
        self.part = lru_cache(maxsize=4)(self._read)

    def __getitem__(self, place: int) -> Any:
        number = bisect_right(self._starts, place) - 1
        return self.part(number)[place - self._starts[number]].as_py()

    def blocks(self) -> Iterator[tuple[int, pa.Array]]:
        """Each part's first place and values."""
        for number in range(len(self._parts)):
            yield self._starts[number], self._read(number)

    def _read(self, number: int) -> pa.Array:
        return self._artifact.read_part(self._parts[number], [self._name]).column(self._name).combine_chunks()


def stored_vectors(embeddings: Artifact, ids: Sequence[str], prefix: str = POOL) -> npt.NDArray[np.float32]:
    """The embeddings of questions, in the order of `ids`, shape [len(ids), dimension]: 4 bytes a number.

    `prefix`: of the parts that hold them.
    """
    result = np.zeros((0, 0), dtype=np.float32)
    for places, vectors in vector_blocks(embeddings, ids, prefix):
        if not len(result):
            result = np.zeros((len(ids), vectors.shape[1]), dtype=np.float32)
        result[places] = vectors
    if not len(result):
        raise ArtifactError(f"{embeddings.url} holds no embeddings of these questions")
    return result


def vector_blocks(
    embeddings: Artifact, ids: Sequence[str], prefix: str = POOL
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """The same a part at a time: places in `ids`, and the vectors of those rows."""
    place = {row_id: i for i, row_id in enumerate(ids)}
    for part in embeddings.parts():
        if not part.path.startswith(prefix):
            continue
        rows = embeddings.read_part(part)
        places = np.array([place.get(row_id, -1) for row_id in rows.column("id").to_pylist()], dtype=np.int64)
        if (places >= 0).any():
            vectors = rows.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(places), -1)
            yield places[places >= 0], vectors[places >= 0]
