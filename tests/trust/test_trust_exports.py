"""An exported program is reused only if it is the one whose hash the table has."""

import hashlib
from pathlib import Path

import torch
from support.tiny_network import tiny

from mnet.latency.runtimes import make_runtime


def test_a_program_that_another_file_has_replaced_is_exported_again(tmp_path, monkeypatch):
    runtime, example = make_runtime("onnxruntime", folder=tmp_path), torch.zeros(1, 3, 32, 32)
    first = runtime.prepare(tiny(), example).info
    path = Path(first.file)
    ours = path.read_bytes()
    other = runtime.prepare(tiny(seed=1), example).info
    path.write_bytes(Path(other.file).read_bytes())  # runs, and is another network

    exports = []
    monkeypatch.setattr(type(runtime), "export", lambda *_: exports.append(1) or (ours, {}))
    again = runtime.prepare(tiny(), example).info
    assert exports == [1]
    assert again.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() == first.sha256
    runtime.prepare(tiny(), example)
    assert exports == [1]  # what is as it was written is not exported anew
