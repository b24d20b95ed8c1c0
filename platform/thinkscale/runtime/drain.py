"""Draining a node that its cloud will take back: `python -m thinkscale.runtime.drain` on every worker, beside Ray.
Owns the reading of EC2's instance metadata (IMDSv2) and the request to drain. Knows nothing of what runs there: Ray
tells its scheduler, Ray Train and Ray Serve."""

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import click
from ray._private import services
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated import autoscaler_pb2

import ray

ENDPOINT = "http://169.254.169.254"
"""Of the metadata; AWS_EC2_METADATA_SERVICE_ENDPOINT goes before it, as in AWS's own clients."""
TOKEN_S = 21600
ANSWER_S, GCS_S = 5.0, 10.0
EVERY_S = 5.0  # as EC2 advises, which gives notice two minutes before

log = logging.getLogger("thinkscale.drain")

Notice = tuple[str, int]  # why a node is to go, and when in ms since 1970; 0: no time is set


class Metadata:
    """EC2's instance metadata, by tokens (IMDSv2) alone."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint, self._token = endpoint.rstrip("/"), ""
        self._opener = build_opener(ProxyHandler({}))  # of this machine: never through a proxy

    def get(self, path: str) -> Any:
        """The JSON at a path below `latest/meta-data`; None where there is none. Raises OSError, ValueError."""
        for _ in range(2):
            try:
                if not self._token:
                    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
                    self._token = self._read("PUT", "api/token", lifetime).decode()
                return json.loads(self._read("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": self._token}))
            except HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401:
                    raise
                self._token = ""  # it has run out
        raise PermissionError(f"{self._endpoint} does not take the token that it gave")

    def _read(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        request = Request(f"{self._endpoint}/latest/{path}", method=method, headers=headers)
        with self._opener.open(request, timeout=ANSWER_S) as reply:
            return bytes(reply.read())


def spot_notice(metadata: Metadata, *, rebalance: bool = True) -> Notice | None:
    """What EC2 says of this instance, if anything. Raises OSError, ValueError, KeyError or TypeError where it cannot be
    read. `rebalance`: whether a recommendation, which comes earlier and may come for nothing, counts too."""
    if action := metadata.get("spot/instance-action"):
        at = datetime.fromisoformat(action["time"])
        return f"spot: {action['action']} at {action['time']}", round(at.timestamp() * 1000)
    if rebalance and (advice := metadata.get("events/recommendations/rebalance")):
        return f"spot: rebalance recommendation of {advice['noticeTime']}", 0
    return None


def watch(gcs: Any, node_id: str, look: Callable[[], Notice | None], every_s: float, *, patient: bool = True) -> None:
    """Look until the node is gone; drain it at the first notice, and again where a later one says another time.
    `patient`: wait for a cluster that does not answer, whose head may come back."""
    told: Notice | None = None
    node = ray.NodeID.from_hex(node_id)
    while _is_alive(gcs, node, otherwise=patient):
        found = None
        try:
            found = look()
        except (OSError, ValueError, KeyError, TypeError) as error:  # it passes, or is said again at the next look
            log.warning("the instance metadata cannot be read: %s: %s", type(error).__name__, error)
        if found is not None and found != told and (told is None or found[1]) and drain(gcs, node_id, *found):
            told = found
        time.sleep(every_s)


def drain(gcs: Any, node_id: str, why: str, deadline_ms: int) -> bool:
    """Have Ray put nothing new on the node and tell what runs there; false where the cluster refuses or is silent."""
    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
    try:
        accepted, refusal = gcs.drain_node(node_id, reason, why, deadline_ms)
    except ray.exceptions.RpcError as error:
        accepted, refusal = False, str(error)
    log.warning("node %s: %s: %s", node_id[:12], why, "draining" if accepted else f"cannot be drained: {refusal}")
    return bool(accepted)


def _is_alive(gcs: Any, node: Any, *, otherwise: bool) -> bool:
    try:
        return bool(gcs.check_alive([node], timeout=GCS_S)[0])
    except ray.exceptions.RpcError as error:
        log.warning("the cluster does not answer: %s", error)
        return otherwise


@click.command()
@click.option("--address", default="auto", show_default=True, help="Of the cluster: HOST:PORT.")
@click.option("--node-id", help="Default: of Ray's one node on this machine.")
@click.option("--every", "every_s", default=EVERY_S, show_default=True, help="Seconds between looks.")
@click.option("--ignore-rebalance", is_flag=True, help="Heed the notice alone, no recommendation.")
@click.option("--now", "left_s", type=float, metavar="SECONDS", help="Ask nobody: this node goes in so many seconds.")
def main(address: str, node_id: str | None, every_s: float, ignore_rebalance: bool, left_s: float | None) -> None:
    """Drain this node when EC2 says that it will take the instance back; ends with the node."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    gcs = GcsClient(address=services.canonicalize_bootstrap_address_or_die(address))
    here = {node_id} if node_id else services.find_node_ids()
    if len(here) != 1:
        raise click.UsageError(f"{len(here)} nodes of Ray run on this machine: give --node-id")
    if left_s is not None:
        now: Notice = ("the node is being ended", round((time.time() + left_s) * 1000))
        watch(gcs, here.pop(), lambda: now, every_s, patient=False)
        return
    metadata = Metadata(os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT)
    try:
        spot_notice(metadata)
    except OSError as error:
        raise click.ClickException(
            f"there is no instance metadata (IMDSv2) here, this is no EC2 instance: {error}"
        ) from error
    watch(gcs, here.pop(), lambda: spot_notice(metadata, rebalance=not ignore_rebalance), every_s)


if __name__ == "__main__":
    main()
