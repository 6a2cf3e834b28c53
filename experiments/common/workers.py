"""The server that forks worker processes, started before the program's own imports, so that both import at once."""

from __future__ import annotations

from multiprocessing import forkserver, set_forkserver_preload

from common.startup import hold_collection


def start_worker_server() -> None:
    """Start the fork server, which imports torch and Lightning while this process does the same."""
    hold_collection()
    set_forkserver_preload(["mnet.studies.engines.preload"])
    forkserver.ensure_running()
