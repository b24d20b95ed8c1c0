"""Artifacts: directories of Parquet whose manifest, written last, is the commit. A segment's rows lie in
`part-*.parquet` and `dropped/part-*.parquet`, and count once `segments/<key>.json` exists, which is created
conditionally: of two writers one wins. No file that a manifest lists is ever written twice. Knows nothing of what the
rows mean."""

from __future__ import annotations

import hashlib
import io
import json
import re
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from thinkscale import __version__
from thinkscale.store.filesystem import Store

Stats = Mapping[str, float] | None
Facts = Mapping[str, Any] | None
READERS = 16
READ_AHEAD = 4
_ATTEMPT = re.compile(r"(?!segments/|checkpoints/).*(?:-[0-9a-f]{8}(?:[./]|$)|(?:^|/)part-)")
"""Files of one attempt. Those that the manifest does not list are of an attempt that lost or died."""
CARD = ("README.md", "curve.png")  # of an export: written after the commit, again with results, in no manifest


class ArtifactError(RuntimeError):
    """An artifact is missing, incomplete or damaged; the message says which and what to do."""


class ConfigDriftError(ArtifactError):
    """An artifact was begun with another config or other inputs; the message lists the differing keys."""


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    path: str  # relative to the artifact
    size: int
    sha256: str
    rows: int | None = None
    name: str | None = None  # what readers ask for, where the path carries an attempt
    at: str | None = None  # the artifact below the same root where it lies, if it was taken over from one


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a committed artifact holds and where it came from."""

    artifact: str
    schema: str  # schema name and version, as `questions/1`
    rows: int
    files: list[StoredFile]
    inputs: dict[str, str]  # fingerprints of the artifacts read, by name
    config: dict[str, Any]  # the resolved part of the campaign that this stage's rows depend on
    config_fingerprint: str
    dropped: dict[str, int] = field(default_factory=dict)  # rows dropped, by reason
    stats: dict[str, float] = field(default_factory=dict)  # sums over the segments: seconds, tokens, dollars
    extra: dict[str, Any] = field(default_factory=dict)  # a stage's own: engine, teacher's terms, ...
    code_version: str = __version__
    began_at: str = ""
    created_at: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes when the rows or what they depend on change; not with timings."""
        return fingerprint({"files": [f.sha256 for f in self.files], "config": self.config_fingerprint})

    @property
    def engines(self) -> list[dict[str, Any]]:
        """Every engine that made some of the rows, as EngineInfo's fields; empty where none is recorded."""
        return list(self.extra.get("engines") or ([self.extra["engine"]] if self.extra.get("engine") else []))

    @staticmethod
    def from_json(data: bytes) -> Manifest:
        raw = json.loads(data)
        return Manifest(**{**raw, "files": [StoredFile(**f) for f in raw["files"]]})


def distinct(values: Iterable[Any]) -> list[Any]:
    """The values without repetitions, as they come; they need not be hashable."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def fingerprint(value: Any) -> str:
    """16 hex digits over a JSON value, independent of key order."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """`<root>/<path>/`. Picklable."""

    store: Store
    path: str
    twin: str | None = field(default=None, compare=False)  # of another campaign of the root: may be taken over
    partial: bool = field(default=False, compare=False)
    """Where it is not complete, what is committed of it is read; extra["segments"] then says how many, of how many."""

    @property
    def url(self) -> str:
        return self.store.url(self.path)

    def manifest(self) -> Manifest | None:
        """The manifest, or None where the artifact is not committed."""
        try:
            return Manifest.from_json(self.store.read_bytes(f"{self.path}/manifest.json"))
        except FileNotFoundError:
            if not self.partial or not (records := self.segment_records()):
                return None
        spec = self.store.read_json(f"{self.path}/stage.json")
        of = max(spec.get("plan", {}).get("segments", 0), len(records))
        return self._manifest_over(records, "partial/1", spec, extra={"segments": [len(records), of]})

    def require(self) -> Manifest:
        """The manifest. Raises ArtifactError where the artifact is not committed."""
        if (manifest := self.manifest()) is not None:
            return manifest
        raise ArtifactError(
            f"{self.url} is not complete: it has no manifest.json. Run the stage that writes it first "
            "(rerunning a stage resumes it)."
        )

    def begin(
        self, config: Mapping[str, Any], inputs: Mapping[str, str], plan: Mapping[str, Any] | None = None
    ) -> set[str]:
        """Start or resume writing; returns the keys of the segments that are already committed.
        `plan`: what tells the segments' keys, and what each holds, from those of another plan. Raises ConfigDriftError
        where the artifact was begun with another config, other inputs or another plan."""
        self.store.check()
        spec = _as_json({"config": config, "inputs": inputs, **({} if plan is None else {"plan": plan})})
        marker = f"{self.path}/stage.json"
        if not self.store.create(marker, json.dumps({**spec, "began_at": _now()}, indent=1, sort_keys=True).encode()):
            self._check_same({**self.store.read_json(marker), "began_at": ""}, {**spec, "began_at": ""})
        return {name.removesuffix(".json") for name in self.store.files(f"{self.path}/segments")}

    def is_complete(self, config: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
        """Whether the artifact is committed; what the twin made with this config of these inputs is, from now on, by
        reference to its files. Raises ConfigDriftError where it is of another config or other inputs."""
        now = _as_json({"config": config, "inputs": inputs})
        if (manifest := self.manifest()) is not None:
            self._check_same({"config": manifest.config, "inputs": manifest.inputs}, now)
            return True
        made = Artifact(self.store, self.twin).manifest() if self.twin else None
        if made is None or {"config": made.config, "inputs": made.inputs} != now:
            return False
        files = [replace(file, at=file.at or self.twin) for file in made.files]
        extra = {**made.extra, "taken_from": self.twin}
        self._write_manifest(replace(made, artifact=self.path, files=files, extra=extra))
        return True

    def _write_manifest(self, manifest: Manifest) -> bool:
        body = json.dumps(asdict(manifest), indent=1, ensure_ascii=False).encode()
        self.store.check()
        return self.store.create(f"{self.path}/manifest.json", body)

    def _check_same(self, began: Any, now: Any) -> None:
        if began != now:
            raise ConfigDriftError(
                f"{self.url} was made with another configuration: {'; '.join(_differences(began, now))}. "
                "Restore the value, delete that directory, or give the campaign another name, which takes over what is "
                f"the same: --set name=NEW --from-campaign {self.path.partition('/')[0]}"
            )

    def commit_segment(
        self, key: str, table: pa.Table, *, dropped: pa.Table | None = None, stats: Stats = None, extra: Facts = None
    ) -> bool:
        """Write a segment's rows and commit them; says whether this call's rows are the ones that count."""
        self.store.check()
        attempt = new_attempt()
        record: dict[str, Any] = {"key": key, "stats": dict(stats or {}), "extra": dict(extra or {})}
        record["file"] = asdict(self._write_part(f"part-{key}-{attempt}.parquet", table))
        if dropped is not None and dropped.num_rows:
            record["dropped_file"] = asdict(self._write_part(f"dropped/part-{key}-{attempt}.parquet", dropped))
            record["dropped"] = dict(Counter(dropped.column("reason").to_pylist()))
        return self.store.create(f"{self.path}/segments/{key}.json", json.dumps(record).encode())

    def add_file(self, source: Path, name: str, attempt: str | None = None) -> StoredFile:
        """Copy a local file into the artifact, in a place of this attempt's own. It counts once `commit` lists it.
        `name`: what readers ask for: `metrics.jsonl` lies at `metrics-<attempt>.jsonl`, `export/config.json` at
        `export-<attempt>/config.json`. `attempt`: of `new_attempt`, for files that lie together; None: the file has one
        of its own."""
        self.store.check()
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        path = re.sub(r"(?=[./])|$", f"-{attempt or new_attempt()}", name, count=1)
        self.store.upload(source, f"{self.path}/{path}")
        return StoredFile(path=path, size=source.stat().st_size, sha256=sha256, name=name)

    def write_file(self, name: str, data: bytes) -> StoredFile:
        """Write a small file under its very name; what an earlier attempt wrote there stays and is taken."""
        self.store.check()
        if not self.store.create(f"{self.path}/{name}", data):
            data = self.store.read_bytes(f"{self.path}/{name}")
        return StoredFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())

    def commit(
        self,
        schema: pa.Schema | str,
        *,
        extra: Facts = None,
        files: list[StoredFile] | None = None,
        stats: Stats = None,
        expected_segments: set[str] | None = None,
    ) -> Manifest:
        """Write the manifest over all committed segments and `files`; the artifact is then complete.
        `stats` and `extra` are added to those of the segments. A second commit of the same artifact returns the first
        one's manifest."""
        spec = self.store.read_json(f"{self.path}/stage.json")
        records = self.segment_records()
        if expected_segments is not None and (keys := {r["key"] for r in records}) != expected_segments:
            missing = sorted(expected_segments - keys)
            raise ArtifactError(f"{self.url}: segments {missing[:5]} are not committed; rerun the stage")
        manifest = self._manifest_over(records, schema, spec, files=files, stats=stats, extra=extra)
        if not self._write_manifest(manifest):
            return self.require()
        self.sweep()
        return manifest

    def _manifest_over(
        self,
        records: Sequence[Mapping[str, Any]],
        schema: pa.Schema | str,
        spec: Mapping[str, Any],
        *,
        files: Sequence[StoredFile] | None = None,
        stats: Stats = None,
        extra: Facts = None,
    ) -> Manifest:
        parts = [StoredFile(**r["file"]) for r in records]
        drops = [StoredFile(**r["dropped_file"]) for r in records if "dropped_file" in r]
        reasons, sums, merged = Counter[str](), Counter[str](stats or {}), dict[str, Any]()
        for record in records:
            reasons.update(record.get("dropped", {}))
            sums.update(record["stats"])
            merged.update(record["extra"])
        engines = distinct(record["extra"]["engine"] for record in records if "engine" in record["extra"])
        if len(engines) > 1:  # which is which stands in the segments' records
            merged["engines"] = engines
        return Manifest(
            artifact=self.path,
            schema=schema if isinstance(schema, str) else schema.metadata[b"thinkscale.schema"].decode(),
            rows=sum(part.rows or 0 for part in parts),
            files=[*parts, *drops, *(files or [])],
            inputs=spec["inputs"],
            config=spec["config"],
            config_fingerprint=fingerprint(spec["config"]),
            dropped=dict(sorted(reasons.items())),
            stats={name: round(value, 6) for name, value in sorted(sums.items())},
            extra={**merged, **(extra or {})},
            began_at=spec.get("began_at", ""),
            created_at=_now(),
        )

    def segment_records(self) -> list[dict[str, Any]]:
        names = [f"{self.path}/segments/{name}" for name in self.store.files(f"{self.path}/segments")]
        with ThreadPoolExecutor(READERS) as pool:
            return [json.loads(data) for data in pool.map(self.store.read_bytes, names)]

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows, in the order of the segments' keys. Raises ArtifactError where not committed or damaged."""
        tables = list(self.iter_tables(columns))
        return pa.concat_tables(tables) if tables else pa.table({})

    def iter_tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows one part at a time, for bounded memory; the next few are read meanwhile."""
        files = iter(self.parts())
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            waiting = deque(pool.submit(self.read_part, file, columns) for file in islice(files, READ_AHEAD))
            while waiting:
                rows = waiting.popleft().result()
                waiting.extend(pool.submit(self.read_part, file, columns) for file in islice(files, 1))
                yield rows

    def parts(self) -> list[StoredFile]:
        """The committed parts, dropped rows apart."""
        return [f for f in self.require().files if f.rows is not None and f.path.startswith("part-")]

    def read_dropped(self) -> pa.Table | None:
        files = [f for f in self.require().files if f.path.startswith("dropped/")]
        return pa.concat_tables([self.read_part(f, None) for f in files]) if files else None

    def read_part(self, file: StoredFile, columns: list[str] | None = None) -> pa.Table:
        """One file of rows that the manifest lists. Raises ArtifactError where it is missing or damaged."""
        return pq.read_table(io.BytesIO(self._verified(file)), columns=columns)

    def read_file(self, name: str) -> bytes:
        """A file that the manifest lists, by its name. Raises ArtifactError as `read_part`, or where it lists none."""
        found = [file for file in self.require().files if (file.name or file.path) == name]
        if not found:
            raise ArtifactError(f"{self.url} holds no {name}: delete {self.url} and run the stage again")
        return self._verified(found[0])

    def _verified(self, file: StoredFile) -> bytes:
        path, remedy = f"{file.at or self.path}/{file.path}", f"delete {self.url} and run the stage again"
        url = self.store.url(path)
        try:
            data = self.store.read_bytes(path)
        except FileNotFoundError as error:
            raise ArtifactError(f"{url} is in the manifest but not there; {remedy}") from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ArtifactError(f"{url} is damaged: its checksum differs from the manifest's; {remedy}")
        return data

    def _write_part(self, name: str, table: pa.Table) -> StoredFile:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
        self.store.write_bytes(f"{self.path}/{name}", data)
        return StoredFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), rows=table.num_rows)

    def sweep(self) -> None:
        """Once committed, remove what attempts left that lost or died: `part-*.parquet` gives each row once."""
        if (manifest := self.manifest()) is None:
            return
        keep = {file.path for file in manifest.files}
        keep |= {f"{path.partition('/')[0]}/{name}" for path in keep if path.startswith("export-") for name in CARD}
        for name in self.store.files(self.path, recursive=True):
            if name not in keep and _ATTEMPT.match(name):
                self.store.delete(f"{self.path}/{name}")


def new_attempt() -> str:
    return uuid.uuid4().hex[:8]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _differences(before: Any, now: Any, prefix: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(before.keys() | now.keys())
            for line in _differences(before.get(key), now.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if before == now else [f"{prefix.removeprefix('config.')} was {before!r}, is {now!r}"]
