"""The W&B server is asked once, with a deadline, and a tracked run continues offline if it does not answer."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mnet.studies import Trial
from mnet.studies.runs import tracking
from mnet.studies.runs.job import Job
from mnet.studies.runs.wandb_server import ANSWER_SECONDS, Unreachable, check_reachable

TIMEOUT_S = 0.2


@pytest.fixture
def silent_server():
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def answering_server():
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # answers every request with an error
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_accepts_and_never_answers_is_unreachable(silent_server):
    with pytest.raises(Unreachable, match=rf"^{silent_server}: (no answer within 0\.2 s|.*timed out)"):
        check_reachable(silent_server, TIMEOUT_S)


def test_a_proxy_that_never_answers_makes_the_server_unreachable(silent_server, monkeypatch):
    monkeypatch.setenv("http_proxy", silent_server)
    monkeypatch.setenv("https_proxy", silent_server)
    for scheme in ("http", "https"):
        with pytest.raises(Unreachable, match=r"no answer within 0\.2 s|timed out"):
            check_reachable(f"{scheme}://wandb.invalid", TIMEOUT_S)


def test_a_port_where_nothing_listens_is_unreachable(silent_server):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(Unreachable, match="refused"):
        check_reachable(url, 30.0)


def test_any_answer_means_that_the_server_is_reachable():
    with answering_server() as url:
        check_reachable(url, 30.0)


def test_a_run_says_that_wandb_cannot_be_reached_and_is_logged_offline(silent_server, tmp_path, monkeypatch):
    modes, messages = [], []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(tracking, "has_account", lambda: True)
    monkeypatch.setattr(tracking, "check_reachable", lambda: check_reachable(silent_server, TIMEOUT_S))
    monkeypatch.setattr(tracking, "_init", lambda job, settings: modes.append(settings.mode))
    tracking._start(Job(Trial(), tmp_path, "activation"), messages.append)
    assert modes == ["offline"]
    (message,) = messages
    assert message.startswith(f"W&B cannot be reached ({silent_server}: ")
    assert "logging offline; `.venv/bin/wandb sync " in message


def test_a_run_is_offline_within_15_seconds():
    assert ANSWER_SECONDS + tracking.INIT_SECONDS < 15
