"""One driver works at a time on a campaign: `<campaign>/lease.json`, renewed by its holder, taken over from the dead.
It is only ever created or replaced conditionally, and its age is told by the store's clock alone. Every commit and
deletion of a store that carries a lease looks at it first. Knows nothing of what a driver does."""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thinkscale.store.filesystem import Store, StoreError

LEASE_S = 60.0  # after so long without renewal a holder counts as dead


class LeaseHeldError(StoreError):
    """Another driver works on the campaign; the message names it."""


class LeaseLostError(StoreError):
    """Another driver has taken the campaign over; the message names it."""


Say = Callable[[str], None]  # takes one line of text
Lost = Callable[[LeaseLostError], object]


def unsaid(_: object) -> None:
    """Tells nobody."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    host: str
    pid: int
    process: str  # tells the process from every other, of other machines, containers and times too
    id: str
    started: str
    renewals: int = 0
    released: bool = False
    cancelled: bool = False  # somebody asked its driver to end in order

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


@dataclass(frozen=True)
class Lease:
    uri: str
    campaign: str
    id: str

    @property
    def store(self) -> Store:
        """The root, for the holder alone to commit and delete in."""
        return Store(self.uri, self)

    @property
    def path(self) -> str:
        return f"{self.campaign}/lease.json"

    def check(self) -> None:
        """Raises LeaseLostError where this driver holds the lease no longer."""
        url = Store(self.uri).url(self.campaign)
        try:
            holder = self.read()[1]
        except FileNotFoundError:
            raise LeaseLostError(f"{url}/lease.json was deleted: nothing more is written to {url}") from None
        if holder.id != self.id or holder.released:
            raise LeaseLostError(
                f"campaign {url} was taken over by {holder}, for this driver did not renew its lease in time: it "
                "writes nothing more there"
            )

    def read(self) -> tuple[bytes, Holder]:
        """What lies there and who holds the lease. Raises FileNotFoundError where nobody ever did."""
        data = Store(self.uri).read_bytes(self.path)
        return data, Holder(**json.loads(data))

    def renew(self, **changes: Any) -> bool:
        """Write the lease anew; says whether it was this driver's still. Raises as `read`."""
        before, holder = self.read()
        after = replace(holder, renewals=holder.renewals + 1, **changes)
        return holder.id == self.id and Store(self.uri).replace(self.path, before, _written(after))


@contextmanager
def hold(
    store: Store, campaign: str, *, wait: bool = False, lease_s: float = LEASE_S, say: Say = unsaid,
    lost: Lost = unsaid, cancelled: Callable[[], object] = lambda: None,
) -> Iterator[Lease]:  # fmt: skip
    """Hold the lease of a campaign, renewed by a thread. `campaign`: its directory in the store. `wait`: until whoever
    holds it ends or dies. False: do not. `say`: takes one line before waiting. `lost`: called in that thread where
    another driver took the lease over: to end the work under way; `cancelled`: once, where somebody asked this driver
    to end in order. Raises LeaseHeldError: another driver holds it; LeaseLostError: on leaving, where another driver
    took it over meanwhile."""
    lease = Lease(store.uri, campaign, uuid.uuid4().hex)
    told = False
    while (held := _take(lease, lease_s)) is not None:
        sentence = f"campaign {store.url(campaign)} is worked on by {held}"
        if not wait:
            raise LeaseHeldError(f"{sentence}. Run again when it has ended, or wait for that with --wait")
        if not told:
            say(f"waiting: {sentence}")
        told = True
        time.sleep(lease_s / 20)
    over, losses = threading.Event(), list[LeaseLostError]()

    def note(error: LeaseLostError) -> None:
        losses.append(error)
        lost(error)

    renewing = threading.Thread(target=_renew, args=(lease, lease_s, over, note, cancelled), daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        over.set()
        renewing.join()
        with suppress(StoreError, FileNotFoundError):  # then it runs out
            lease.renew(released=True)
    if losses:
        raise losses[0]


def holder(store: Store, campaign: str, lease_s: float = LEASE_S) -> tuple[Holder, bool] | None:
    """Who works on a campaign, or did last, and whether it still does; None where nobody ever did."""
    try:
        found = Lease(store.uri, campaign, "").read()[1]
    except FileNotFoundError:
        return None
    gone = found.released or _is_dead(found) or store.age_s(f"{campaign}/lease.json") > lease_s
    return found, not gone


def cancel(store: Store, campaign: str) -> bool:
    """Ask the driver that works on a campaign to end in order, which it hears as it renews; False where none does."""
    lease = Lease(store.uri, campaign, "")
    while (found := holder(store, campaign)) is not None and found[1]:
        before, now = lease.read()
        if now.cancelled or store.replace(lease.path, before, _written(replace(now, cancelled=True))):
            return True
    return False


def _take(lease: Lease, lease_s: float) -> str | None:
    """Get the lease; returns in words who holds it instead, None where it was got."""
    store, pid = Store(lease.uri), os.getpid()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Holder(host=socket.gethostname(), pid=pid, process=_process(pid), id=lease.id, started=started)
    if store.create(lease.path, _written(mine)):
        return None
    before, holder = lease.read()
    left_s = lease_s
    if holder.released or _is_dead(holder) or (left_s := lease_s - store.age_s(lease.path)) < 0:
        if store.replace(lease.path, before, _written(mine)):
            return None
        holder, left_s = lease.read()[1], lease_s
    return f"{holder}, whose lease runs for another {left_s:.0f} s unless renewed"


def _renew(lease: Lease, lease_s: float, over: threading.Event, lost: Lost, cancelled: Callable[[], object]) -> None:
    heard = False
    while not over.wait(lease_s / 12):
        try:
            with suppress(FileNotFoundError):
                if lease.renew():
                    if not heard and lease.read()[1].cancelled:
                        heard = True
                        cancelled()
                    continue
            lease.check()
        except LeaseLostError as error:
            lost(error)
            return
        except StoreError:  # while the store cannot be reached, nothing can be committed either
            continue


def _written(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _is_dead(holder: Holder) -> bool:
    """Whether the holder ran where this process runs, and is no more."""
    here = _process(os.getpid()).rpartition(":")[0]
    if not here or holder.process.rpartition(":")[0] != here:
        return False
    try:
        os.kill(holder.pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)  # another user's process lives
    return _process(holder.pid) != holder.process


def _process(pid: int) -> str:
    """This boot of this machine, this container, and when a process started; empty where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return "" if state in "ZX" else f"{boot}:{os.readlink('/proc/self/ns/pid')}:{fields[18]}"
    except OSError:
        return ""
