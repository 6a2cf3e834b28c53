"""Loading the int8 network of somebody else's run executes none of its code."""

import io
import re
import zipfile

import pytest
import torch
from support.attack import Attack
from torch import nn

from mnet.errors import ConfigError
from mnet.quantization import load
from mnet.quantization.stored import FORMAT, build_graph


def exported(path, attack):
    """A file as earlier versions of mnet wrote it, whose example input is not a tensor but an attack."""
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("sample_inputs/model.pt"):
                torch.save(attack, hostile := io.BytesIO())
                content = hostile.getvalue()
            target.writestr(name, content)


def pickled(path, attack):
    torch.save({"format": FORMAT, "tensors": attack}, path)


@pytest.mark.parametrize(
    ("write", "reason"), [(exported, "an earlier mnet wrote it.* run it again"), (pickled, "something else")]
)
def test_code_in_a_file_of_int8_weights_is_not_run(write, reason, tmp_path):
    marker, path = tmp_path / "code ran", tmp_path / "weights.pt"
    write(path, Attack(marker))
    with pytest.raises(ConfigError) as raised:
        load(path)
    assert not marker.exists()
    assert re.search(f"weights.pt is not the int8 network .*{reason}", str(raised.value))
    assert "weights_only" not in str(raised.value)


TENSORS = {"t": torch.zeros(1)}


@pytest.mark.parametrize(
    "content",
    [
        [1],
        {"calls": []},
        {"tensors": {}, "calls": [["aten.from_file.default", ["/etc/passwd", False, 8]]], "output": 1},
        {"tensors": {}, "calls": [["inductor.accumulate_grad_.default", []]], "output": 1},
        {"tensors": {"t;import os": torch.zeros(1)}, "calls": [], "output": 0},
        {"tensors": {"forward": torch.zeros(1)}, "calls": [], "output": 0},
        {"tensors": TENSORS, "calls": [["aten.relu.default", ["__import__('os')"]]], "output": 1},
        {"tensors": TENSORS, "calls": [["aten.relu.default", [{"call": 1}]]], "output": 1},
        {"tensors": TENSORS, "calls": [], "output": 7},
    ],
)
def test_a_description_with_anything_else_in_it_is_refused(content, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"format": FORMAT, **content} if isinstance(content, dict) else content, path)
    with pytest.raises(ConfigError, match=r"weights\.pt is not the int8 network"):
        load(path)


def test_what_is_built_computes_what_is_described():
    calls = [["aten.add.Tensor", [{"call": 0}, {"tensor": "t"}]], ["aten.relu.default", [{"call": 1}]]]
    graph = build_graph({"format": FORMAT, "tensors": {"t": torch.tensor([1.0, -9.0])}, "calls": calls, "output": 2})
    assert graph(torch.tensor([2.0, 3.0])).tolist() == [3.0, 0.0]
