"""What a disturbed campaign's artifacts lack, hold twice or hold differently, against an undisturbed run's."""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store

IDS = ("sample_id", "id", "question_id")
SAME_IN_MANIFESTS = ("schema", "rows", "config", "dropped")
WEIGHT_TOLERANCE = 1e-4  # between weights trained at one go and with resumptions
ATTEMPT = re.compile(r"(?<=[-.])[0-9a-f]{8,32}(?=[./]|$)|(?<=\.probe-)[0-9a-f]+")  # what two runs name differently


def compare(name: str, undisturbed: Store, disturbed: Store) -> dict[str, Counter[str]]:
    """Compare the campaigns of this name below two roots, artifact by artifact.
    Returns rows (dropped ones apart) and files of weights that are `lost`, `doubled` and `different`, by where; and the
    files that are `left` below the root and that the undisturbed run has not."""
    found: dict[str, Counter[str]] = {what: Counter() for what in ("lost", "doubled", "different")}
    paths = [path.removesuffix("/manifest.json") for path in undisturbed.files(name, recursive=True)
             if path.endswith("/manifest.json")]  # fmt: skip
    for path in paths:
        artifacts = [Artifact(store, f"{name}/{path}") for store in (undisturbed, disturbed)]
        before, now = [artifact.manifest() for artifact in artifacts]
        if before is None or now is None:
            found["lost"][path] += 1
            continue
        if before.schema != "report/1":  # whose configuration holds the root
            differ = [key for key in SAME_IN_MANIFESTS if getattr(before, key) != getattr(now, key)]
            found["different"] += Counter(f"{path}, manifest: {key}" for key in differ)
        for where, read in ((path, Artifact.iter_tables), (f"{path}/dropped", _dropped)):
            rows = [_by_id(read(artifact)) for artifact in artifacts]
            for key in rows[0].keys() | rows[1].keys():
                first, second = (each.get(key, Counter()) for each in rows)
                missing = first.total() - second.total()
                found["lost"][where] += max(0, missing)
                found["doubled"][where] += max(0, -missing)
                differing = (sorted((first - second).elements()), sorted((second - first).elements()))
                for texts in zip(*differing, strict=False):
                    found["different"][f"{where}: {_differing(*map(json.loads, texts))}"] += 1
        weights = [_weights(artifact) for artifact in artifacts]
        differ = [key for key in weights[0].keys() | weights[1].keys() if not _alike(*(w.get(key) for w in weights))]
        found["different"] += Counter(f"{path}, weights: {key}" for key in differ)
    return {what: +counts for what, counts in found.items()} | {"left": _files(disturbed) - _files(undisturbed)}


def _dropped(artifact: Artifact) -> Iterable[pa.Table]:
    table = artifact.read_dropped()
    return () if table is None else (table,)


def _by_id(tables: Iterable[pa.Table]) -> dict[str, Counter[str]]:
    rows: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in (row for table in tables for row in table.to_pylist()):
        text = json.dumps(row, sort_keys=True, default=str)
        rows[next((row[key] for key in IDS if row.get(key)), text)][text] += 1
    return rows


def _differing(one: dict[str, Any], other: dict[str, Any]) -> str:
    pairs = {key: (one.get(key), other.get(key)) for key in sorted(one.keys() | other.keys())}
    return ", ".join(f"{key} {str(a)[:60]!r} -> {str(b)[:60]!r}" for key, (a, b) in pairs.items() if a != b)


def _weights(artifact: Artifact) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for file in artifact.require().files:
        if file.path.endswith(".safetensors"):
            from safetensors.torch import load_file

            with tempfile.TemporaryDirectory(prefix="thinkscale-weights-") as scratch:
                artifact.store.download(f"{artifact.path}/{file.path}", local := Path(scratch) / "weights")
                tensors |= load_file(local)
    return tensors


def _alike(one: Any, other: Any) -> bool:
    same = one is not None and other is not None and one.shape == other.shape
    return same and float((one.float() - other.float()).abs().max()) <= WEIGHT_TOLERANCE


def _files(store: Store) -> Counter[str]:
    found = store.files("", recursive=True)  # of no bytes: SeaweedFS's marks of directories
    return Counter(ATTEMPT.sub("*", path) for path, size in found.items() if size)
