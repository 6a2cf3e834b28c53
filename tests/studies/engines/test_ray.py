"""What the Ray engine refuses, and how soon, without a cluster."""

import socket
import sys

import pytest

from mnet.errors import ConfigError
from mnet.studies import Trial
from mnet.studies.engines.ray import RayEngine
from mnet.studies.runs.job import Job


@pytest.fixture
def jobs(tmp_path) -> list[Job]:
    return [Job(Trial(), tmp_path, "tiny")]


@pytest.mark.parametrize("settings", [{"gpus": 1.5}, {"gpus": -1}, {"cpus": 0}, {"retries": -1}], ids=str)
def test_resources_that_ray_cannot_give_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RayEngine(**settings)


def test_an_address_where_nothing_listens_is_named(jobs):
    pytest.importorskip("ray", reason="Ray is not installed: make EXTRAS=ray setup")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers at {address}: .*refused"):
            RayEngine(address).run(jobs, print)
    with pytest.raises(ConfigError, match=r"is host:port or ray://host:port, not 'http://head:8265/'"):
        RayEngine("http://head:8265/").run(jobs, print)


def test_an_address_where_something_else_listens_is_named_after_a_time(jobs, monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: make EXTRAS=ray setup")
    monkeypatch.setattr("mnet.studies.engines.ray_cluster.CONNECT_SECONDS", 1.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers at 127.0.0.1:{port}: the port is open, but"):
            RayEngine(f"127.0.0.1:{port}").run(jobs, print)


def test_without_ray_the_error_says_how_to_install_it(jobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'mnet\[ray\]'"):
        RayEngine().run(jobs, print)
