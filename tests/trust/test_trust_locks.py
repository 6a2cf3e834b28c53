"""Names in folders that others can write are not followed, truncated or waited for."""

import os

import pytest
import torch

from mnet.errors import ConfigError
from mnet.latency.runtimes.torch_compile import compile_module
from mnet.resources import scratch_folder
from mnet.studies.engines.remote import local_folder
from mnet.studies.runs.store import lock
from mnet.training.arithmetic import compiled, keep_compiled_code


def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_what_it_names_stays_whole(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("content")
    locks = tmp_path / "results" / ".locks"
    locks.mkdir(parents=True)
    (locks / "symlink").symlink_to(precious)
    (locks / "dangling").symlink_to(tmp_path / "made")
    os.mkfifo(locks / "pipe")
    (locks / "folder").mkdir()
    for name in ("symlink", "dangling", "pipe", "folder"):
        refused = pytest.raises(ConfigError, match=rf"\.locks/{name} is not a file that mnet has made; remove it")
        with refused, lock(tmp_path / "results", name):
            pass
    os.link(precious, locks / "hard")
    with lock(tmp_path / "results", "hard"):
        pass
    assert precious.read_text() == "content"
    assert not (tmp_path / "made").exists()


def test_a_scratch_folder_that_another_user_has_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = scratch_folder()
    assert local_folder("s3://bucket").parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)  # others could not write there, so it is only closed
    assert scratch_folder().stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(
        ConfigError, match=f"{folder.name} must be a folder for this user only .* drwxrwxrwx; remove it"
    ):
        scratch_folder()
    folder.rmdir()
    (tmp_path / "target").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="must be a folder for this user only"):
        scratch_folder()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    (tmp_path / "mnet-12345").mkdir(mode=0o700)  # made by whoever runs the tests
    with pytest.raises(ConfigError, match=r"owner 12345, drwx------\), but has owner \d+ "):
        scratch_folder()


def test_compiled_code_is_run_from_a_folder_of_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen")
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    compiled(torch.relu, "default")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(scratch_folder() / "compiled")
    (tmp_path / f"mnet-{os.geteuid()}").chmod(0o777)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    with pytest.raises(ConfigError, match="must be a folder for this user only"):
        compile_module(torch.nn.Identity())
