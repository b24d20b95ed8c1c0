"""What a service tells of itself: figures for Prometheus, and a line for each request, without any text of it.
Owns names and meanings of both. Knows nothing of Ray: who gathers the figures of several replicas sums them here."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from thinkscale.server.choices import Outcome
from thinkscale.server.replies import usage

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
GONE = 499  # the status that is counted where the client has gone before its answer was complete


class Metrics:
    def __init__(self, log_file: str | None = None) -> None:
        """`log_file`: gains a line for each request; None: standard error."""
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "thinkscale_requests", "Requests answered, by path and status.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "thinkscale_request_seconds", "Seconds from a request to the end of its answer.", ["path"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            "thinkscale_tokens", "Tokens: of prompts, thinking and answers; forced ones are among the latter two.",
            ["kind"], registry=registry,
        )  # fmt: skip
        self.under_way = Gauge("thinkscale_requests_under_way", "Requests not yet answered.", registry=registry)
        self.log = logging.Logger("thinkscale.requests", logging.INFO)
        handler = logging.StreamHandler() if log_file is None else logging.FileHandler(log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.log.addHandler(handler)

    def text(self) -> str:
        return generate_latest(self._registry).decode()


class Exchange:
    def __init__(self, metrics: Metrics, path: str) -> None:
        self._metrics, self._path, self._began = metrics, path, time.monotonic()
        metrics.under_way.inc()

    def end(self, status: int, outcomes: Sequence[Outcome] = ()) -> None:
        metrics, seconds = self._metrics, time.monotonic() - self._began
        metrics.under_way.dec()
        metrics.requests.labels(self._path, status).inc()
        metrics.seconds.labels(self._path).observe(seconds)
        used = usage(outcomes)
        thinking, forced = used["completion_tokens_details"].values()
        answer = used["completion_tokens"] - thinking
        counts = {"prompt": used["prompt_tokens"], "thinking": thinking, "answer": answer, "forced": forced}
        for kind, count in counts.items():
            metrics.tokens.labels(kind).inc(count)
        told = " ".join(f"{kind}_tokens={count}" for kind, count in counts.items())
        metrics.log.info("%s %d %.3f s choices=%d %s", self._path, status, seconds, len(outcomes), told)


def summed(texts: Iterable[str]) -> bytes:
    """The figures of several replicas as those of one service."""

    class Sums(Collector):
        def collect(self) -> Iterator[Metric]:
            return iter(families.values())

    families: dict[str, Metric] = {}
    for family in (family for text in texts for family in text_string_to_metric_families(text)):
        known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        values = {(each.name, *sorted(each.labels.items())): each for each in known.samples}
        for sample in family.samples:
            before = values.get(key := (sample.name, *sorted(sample.labels.items())))
            values[key] = sample if before is None else before._replace(value=before.value + sample.value)
        known.samples = [sample for sample in values.values() if not sample.name.endswith("_created")]
    registry = CollectorRegistry()
    registry.register(Sums())
    return generate_latest(registry)
