"""Joining a Ray cluster, or starting a private local one; hearing when it is lost."""

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, cast

from ray._private import auto_init_hook, ray_constants, services
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient  # type: ignore[attr-defined]

import ray
from thinkscale.runtime import ending, scratch
from thinkscale.runtime.failure import ClusterError, ClusterLostError

OBJECT_STORE_BYTES = 1 << 30  # of a private cluster; what does not fit is spilled to disk
START_BYTES = 256 << 20  # free disk that a private cluster wants for its sockets, logs and spilled objects
START_S = 120.0  # time that a private cluster's node may take to start; Ray's own 30 are too few beside other work
START_TRIES = 2
JOIN_S = 4.0  # time that each step of asking a cluster whether it is one may take
WATCH_EVERY_S = 1.0
SILENT_S = 20.0  # after so long without an answer a joined cluster is lost
ENDING_S = 8.0
ENDING_TRIES = 3  # the time, and the signals in it, that the main thread has to end after a loss

LastWords = Callable[[BaseException], object]

_session: ExitStack | None = None
_directory: Path | None = None  # of this process, while it is connected
_private = False

SERVE_FLAGS = {
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
}  # what Ray Serve's own throughput mode sets, without its other doors for HTTP; for a cluster's environment


def connect(
    address: str | None = None,
    *,
    cpus: int | None = None,
    last_words: LastWords = lambda error: print(error, file=sys.stderr, flush=True),
) -> None:
    """Join the cluster at `address`, or the one this process is a job of; start a local one where there is none.
    Until `disconnect`, SIGTERM and the loss of the cluster end what the main thread is at (`runtime.ending`), and what
    Ray and native code write to this process's standard error goes to a file among `logs`. `address`: `auto`,
    `host:port`, or `local` for a private cluster in any case. `cpus`: logical CPUs of a cluster that is started here;
    default: the machine's, but at least 4, so that small stages (which hold whole logical CPUs) do not wait for each
    other on a laptop. `last_words`: told of a loss where the main thread does not get out of what it is at; the process
    then exits. Raises ClusterError: there is no such cluster, or none can be started."""
    if ray.is_initialized():
        return
    scratch.sweep()
    # Threads of Serve go on after `disconnect`; asking Ray for something, they would start a cluster of their own.
    auto_init_hook.enable_auto_connect = False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own default is one thread a worker too; tokenizers and BLAS in workers follow it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    global _session, _directory, _private
    _session = session = ExitStack()
    try:
        session.enter_context(ending.listening())  # leaves the handlers as they were, for Ray sets its own
        # A short path of our own: Unix sockets allow 107 bytes, and a stale /tmp/ray slows every start.
        _directory = session.enter_context(scratch.directory("ts-", scratch.SHORT))
        session.enter_context(_native_errors_in(_directory / "driver.err"))
        # Loggers that are made later would speak on the terminal: of settings, and of errors that are told once more.
        for name in ("ray.data._internal", "ray.data.exceptions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        _private = address == "local"
        if _private:
            _start(_directory, cpus, session)
        else:
            ray.init(address=_found(address), log_to_driver=False)
        if threading.current_thread() is threading.main_thread():
            session.enter_context(ending.listening())
            session.enter_context(_watched(last_words))
        else:
            session.callback(_leave)
    except BaseException:
        disconnect()
        raise


def owns_cluster() -> bool:
    """Whether the cluster is a private one that this process started: it ends with it, and nobody else is on it."""
    return _private


def logs() -> dict[str, Path]:
    """This process's log files, and those of a private cluster, by name."""
    if _directory is None:
        return {}
    session = _directory / "session_latest" / "logs"
    files = [_directory / "driver.err", *(path for path in session.rglob("*") if not path.is_symlink())]
    return {
        str(path.relative_to(session if session in path.parents else _directory)): path
        for path in files
        if path.is_file() and path.stat().st_size
    }


def disconnect() -> None:
    """Leave the cluster; a private one ends, with its logs."""
    global _session, _directory, _private
    session, _session = _session, None
    if session is not None:
        session.close()
    _directory, _private = None, False


@contextmanager
def _patient() -> Iterator[None]:
    """Where Ray looks for the node that it has started, each look waits; it gives up by itself after 30 s of them."""
    find, until = services.get_node, time.monotonic() + START_S

    def find_in_time(address: str, node: str) -> Any:
        while True:
            try:
                return find(address, node)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
            time.sleep(0.5)

    services.get_node = find_in_time
    try:
        yield
    finally:
        services.get_node = find


def _start(directory: Path, cpus: int | None, session: ExitStack) -> None:
    if (free := os.statvfs(directory)).f_bavail * free.f_frsize < START_BYTES:
        raise ClusterError(
            f"a local Ray cluster needs {START_BYTES >> 20} MiB of free disk in {scratch.SHORT}, which is full: "
            f"make room there ({free.f_bavail * free.f_frsize >> 20} MiB are free)"
        )
    # On one machine memory is dear: freed tensors go back at once instead of staying in malloc's arenas.
    large = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "1048576")
    for name, value in {"MALLOC_ARENA_MAX": "2", **large, **SERVE_FLAGS}.items():
        os.environ.setdefault(name, value)
    # Without a dashboard Ray still registers a port as if it had one (8265 unless told), and Ray Train's
    # PlacementGroupCleaner asks whoever listens there, or at these addresses, about its own actors.
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    session.enter_context(_token_of_its_own())
    nobody = session.enter_context(socket.socket())
    nobody.bind(("127.0.0.1", 0))  # and never listens
    # Where Ray takes clusters of several machines for impossible, a node has the loopback address and listens there
    # alone. This process read that as it imported Ray, those that are started read it anew. Other clusters and their
    # drivers, here or in processes that inherit this environment, are not told so.
    switch = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
    for left in reversed(range(START_TRIES)):
        try:
            with (
                _meanwhile(vars(ray_constants), ENABLE_RAY_CLUSTER=False),
                _meanwhile(os.environ, **switch),
                _patient(),
            ):
                ray.init(
                    "local",
                    num_cpus=cpus or max(4, os.cpu_count() or 1),
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    dashboard_port=nobody.getsockname()[1],
                    log_to_driver=False,
                    _temp_dir=str(directory),
                    # Idle workers keep what they have imported, half a GB with torch: on one machine that is dear.
                    _system_config={"num_workers_soft_limit": 0, "idle_worker_killing_time_threshold_ms": 5000},
                )
            return
        except Exception as error:
            if not left or "timed out" not in str(error):  # else another one that started took its port, perhaps
                raise ClusterError(f"a local Ray cluster cannot be started in {directory}: {error}") from error


@contextmanager
def _meanwhile(where: MutableMapping[str, Any], **given: Any) -> Iterator[None]:
    """These values stand there during the block, and what stood there before comes back."""
    before = {name: where.get(name) for name in given}
    where.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                where.pop(name, None)
            else:
                where[name] = value


@contextmanager
def _token_of_its_own() -> Iterator[None]:
    """What is started demands a token that nobody else has, unless RAY_AUTH_MODE says otherwise."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        yield
        return

    def read_anew() -> None:  # Ray keeps what it read in this process
        AuthenticationTokenLoader.instance().reset_cache()
        Config.initialize("")

    try:
        with _meanwhile(os.environ, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32)):
            read_anew()
            yield
    finally:
        read_anew()


def reach(host: str, port: int, what: str) -> None:
    """Raises ClusterError where nobody listens."""
    try:
        socket.create_connection((host, port), timeout=JOIN_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"{what} cannot be reached: {error}") from error


def _found(address: str) -> str:
    """The `host:port` of a cluster that answers and has a node here. Ray itself would try for minutes."""
    what = f"the Ray cluster at --address {address}"
    if "://" in address:
        raise ClusterError(
            f"{what} cannot be joined: give auto or host:port. To run on a cluster from outside: "
            "thinkscale submit --address http://HEAD:8265"
        )
    try:
        found = services.canonicalize_bootstrap_address(address) or ""
        host, _, port = found.rpartition(":")
        number = int(port)
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"{what} cannot be found: {str(error).partition(chr(10))[0]}") from error
    reach(host, number, what)
    nodes: list[Any] = []
    asking = threading.Thread(
        target=lambda: nodes.extend(GcsClient(address=found).get_all_node_info(timeout=JOIN_S)), daemon=True
    )
    asking.start()
    asking.join(JOIN_S)
    if not nodes:
        raise ClusterError(f"{what} does not answer: is this Ray's port (6379 unless told), with this client's token?")
    if not services.find_node_ids() & {node.hex() for node in nodes}:
        raise ClusterError(
            f"{what} has no node on this machine: run there, or thinkscale submit --address http://HEAD:8265"
        )
    return found


@contextmanager
def _native_errors_in(path: Path) -> Iterator[None]:
    """`sys.stderr` stays where it is; what Ray's loggers and native code write to descriptor 2 goes to a file."""
    before = sys.stderr
    try:
        redirectable = before.fileno() == 2
    except (OSError, ValueError, AttributeError):
        redirectable = False
    if not redirectable:
        yield
        return
    kept = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    sys.stderr = os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(kept, 2)  # `kept` stays open for whoever still holds that stream


def _leave() -> None:
    with redirect_stdout(sys.__stderr__):  # news of processes that end, or have ended
        ray.shutdown()


@contextmanager
def _watched(last_words: LastWords) -> Iterator[None]:
    leaving, over = threading.Event(), threading.Event()
    lost: list[ClusterLostError] = []
    watch = threading.Thread(target=_watch, args=(leaving, over, lost, last_words), daemon=True)
    watch.start()
    try:
        yield
    finally:
        leaving.set()
        if lost:  # Ray's own shutdown may wait for what is not there any more
            cast(Any, ray_worker._global_node).kill_all_processes(check_alive=False, allow_graceful=False)
        else:
            _leave()
        over.set()
        watch.join()


def _watch(
    leaving: threading.Event, over: threading.Event, lost: list[ClusterLostError], last_words: LastWords
) -> None:
    context, node, directory = ray.get_runtime_context(), cast(Any, ray_worker._global_node), cast(Path, _directory)
    processes = [(kind, each.process) for kind in ("gcs_server", "raylet") for each in node.all_processes.get(kind, [])]
    me = ray.NodeID.from_hex(context.get_node_id())
    address = context.gcs_address
    gcs = None if processes else GcsClient(address=address)
    heard = time.monotonic()
    while not lost and not leaving.wait(WATCH_EVERY_S):
        why = next((f"its {kind} died" for kind, process in processes if process.poll() is not None), "")
        if gcs is not None:  # not our processes
            try:
                why = "" if gcs.check_alive([me], timeout=JOIN_S)[0] else "it counts this node as dead"
                heard = time.monotonic()
            except ray.exceptions.RpcError:
                why = f"no answer for {SILENT_S:.0f} s" if time.monotonic() - heard > SILENT_S else ""
        if why and not leaving.is_set():
            lost.append(ClusterLostError(f"the Ray cluster at {address} is lost: {why}"))
    for _ in range(ENDING_TRIES if lost else 0):  # again, where the first one is held up in ending
        ending.interrupt(lost[0])
        if over.wait(ENDING_S / ENDING_TRIES):
            return
    if lost:  # the main thread waits in native code that hears no signal
        last_words(lost[0])
        node.kill_all_processes(check_alive=False, allow_graceful=False)
        scratch.remove(directory)
        os._exit(1)
