"""One private local Ray cluster for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from thinkscale.runtime.session import connect, disconnect

    connect("local", cpus=4)
    yield
    disconnect()
