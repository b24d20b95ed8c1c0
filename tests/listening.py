"""Where what this process started listens."""

from __future__ import annotations

import contextlib

import psutil


def addresses() -> dict[str, set[str]]:
    """Of this process's children and theirs: the addresses that each listens on, by its title."""
    found: dict[str, set[str]] = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it was idle, and ended
            title = " ".join(process.cmdline()).strip()
            ips = {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"}
            found.setdefault(title, set()).update(ip.removeprefix("::ffff:") for ip in ips)
    return found
