"""Sources to questions: the pool that curation starts from, on Ray Data. Owns the artifacts `ingested` and `pool`. How
files are read is the store's, which rows are good is decided in `curate`."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from thinkscale.curate.duplicates import exact_key
from thinkscale.curate.fingerprints import groups
from thinkscale.curate.normalise import normalise_question
from thinkscale.curate.quality import first_fault
from thinkscale.domain.campaign import Campaign
from thinkscale.runtime.progress import Progress
from thinkscale.runtime.segments import Drop, Result, drop_rows, itself, run_segments
from thinkscale.stages.artifacts import campaign_artifact, fingerprints
from thinkscale.store.artifact import Artifact
from thinkscale.store.filesystem import Store
from thinkscale.store.ingest import Piece, Unreadable, read, source_fingerprints
from thinkscale.store.ingest import plan as pieces_of
from thinkscale.store.locations import IngestError
from thinkscale.store.schemas import DROPPED, QUESTIONS, dropped_row, question_row, table
from thinkscale.store.stage import Column, Segment, begin_stage

INGESTED = QUESTIONS.append(pa.field("exact_key", pa.binary(16))).with_metadata({"thinkscale.schema": "ingested/2"})
"""The pool before exact duplicates are dropped, each row with the key of its canonical text and answer."""


def ingest(campaign: Campaign, store: Store) -> bool:
    """`pool`: every source read, normalised and checked for quality, exact duplicates (of text and answer) dropped.
    Raises IngestError where a file cannot be opened or read on, a column is unknown, the selection names a source that
    no row has, or no row is left."""
    ingested, output = (campaign_artifact(campaign, store, name) for name in ("ingested", "pool"))
    did = _read_sources(campaign, ingested)
    if campaign.select.always_sources or campaign.select.long_sources:
        parts = [pc.unique(rows.column("source")) for rows in ingested.iter_tables(["source"])]
        try:
            campaign.select.check_sources({name for part in parts for name in part.to_pylist()})
        except ValueError as error:
            raise IngestError(str(error)) from None

    def repeated() -> dict[int, Drop]:
        keys = (key for rows in ingested.iter_tables(["exact_key"]) for key in rows.column("exact_key").to_pylist())
        halves = np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)  # 16 bytes as a pair of numbers
        drops: dict[int, Drop] = {}
        ids, places = Column(ingested, "id"), Column(ingested, "locator")
        for same in sorted(groups(halves[:, 0], halves[:, 1]), key=lambda same: int(same[0])):
            why = Drop("exact_duplicate", {"kept": ids[int(same[0])], "from": places[int(same[0])]})
            drops |= dict.fromkeys(same[1:].tolist(), why)
        if disputed := sum(len(set(halves[same, 1].tolist())) > 1 for same in groups(halves[:, 0])):
            progress = Progress("ingest", len(halves), done=len(halves))
            progress.note(f"{disputed:,} texts have several reference answers: all of them are kept")
        return drops

    inputs, rows = fingerprints(ingested=ingested), campaign.curate.segment_rows
    return drop_rows("ingest", ingested, output, {}, inputs, repeated, QUESTIONS, rows) or did


def _read_sources(campaign: Campaign, output: Artifact) -> bool:
    rules, rows = tuple(campaign.curate.quality_rules), campaign.curate.segment_rows

    def plan() -> Iterator[Segment]:
        pieces = (piece for source in campaign.pool for piece in pieces_of(source, rows))
        for i, piece in enumerate(pieces):
            yield Segment(key=f"{i:06d}", rows=piece.rows, work=piece)

    stage = begin_stage(
        output,
        {"pool": [source.model_dump() for source in campaign.pool], "quality_rules": list(rules), "segment_rows": rows},
        {path: digest for source in campaign.pool for path, digest in source_fingerprints(source).items()},
        plan,
    )
    if stage is None:
        return False
    run_segments("ingest", stage, read=itself, transform=partial(ingest_piece, rule_names=rules))
    records = output.segment_records()
    if not sum(record["file"]["rows"] for record in records):
        reasons = sum((Counter(record.get("dropped", {})) for record in records), Counter[str]())
        told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common()) or "the sources hold no rows"
        raise IngestError(f"the pool is empty: {told}. Look at {output.url}/dropped, or at curate.quality_rules")
    return stage.commit(INGESTED)


def ingest_piece(piece: Piece, rule_names: Sequence[str]) -> Result:
    kept, dropped = [], []
    for row in read(piece):
        if isinstance(row, Unreadable):
            detail = {"locator": row.locator, "error": row.error}
            dropped.append(dropped_row("ingest", None, "unreadable_line", detail, row.text))
            continue
        question = normalise_question(row)
        fault = first_fault(question, rule_names)
        if fault is None:
            kept.append({**question_row(question), "exact_key": exact_key(question.question, question.answer)})
        else:
            detail = {"evidence": fault[1], "locator": question.locator}
            dropped.append(dropped_row("ingest", question.id, fault[0], detail, question))
    return Result(kept=table(kept, INGESTED), dropped=table(dropped, DROPPED))
