"""An exported program is reused only if it has the hash that was stored with it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import mnet
from mnet.latency.runtimes import ExportingRuntime


class Written(ExportingRuntime):
    """Exports the first weights of a network."""

    suffix, version = "bin", "1"
    exports = 0

    def export(self, module, example):
        self.exports += 1
        return repr(module.stem.conv.weight).encode(), {"delegated": {"conv": 1}}

    def load(self, path, info):
        return SimpleNamespace(info=info, content=path.read_bytes())


@pytest.fixture
def runtime(tmp_path):
    return Written("onnxruntime", 1, tmp_path)


def test_a_program_that_another_file_has_replaced_is_exported_again(runtime):
    ours, theirs = (mnet.create_model("mobilenet_v1", num_classes=2, width=0.1) for _ in range(2))
    example = torch.zeros(1, 3, 32, 32)
    first, other = (runtime.prepare(net, example) for net in (ours, theirs))
    path = Path(first.info.file)
    assert runtime.prepare(ours, example).info == first.info
    assert runtime.exports == 2  # an unchanged file is not exported again
    path.write_bytes(other.content)  # it runs, but is another network
    again = runtime.prepare(ours, example)
    assert (again.content, again.info.sha256) == (first.content, first.info.sha256)
    assert runtime.exports == 3
    kept = json.loads(path.with_suffix(".json").read_text())
    for facts in ({**kept, "more": 1}, {**kept, "delegated": "all"}, [kept]):
        path.with_suffix(".json").write_text(json.dumps(facts))
        assert runtime.prepare(ours, example).info.sha256 == first.info.sha256
    assert runtime.exports == 6
