"""The networks of a study, layer by layer: from its runs to table, summary and figure."""

import ablate
import diagnose
import pandas as pd
import pytest

from mnet.studies.results.diagnosis import deaths_summary, inside_summary

SETTINGS = {"dataset": "imagefolder", "resolution": 28, "width": 0.25, "batch_size": 20, "epochs": 1, "seeds": 2}


@pytest.fixture(scope="module")
def out(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    settings = {**SETTINGS, "data_dir": images, "activation": "paper,relu", "out": folder, "report": "false"}
    assert ablate.main(["activation", *(f"--{name}={value}" for name, value in settings.items())]) == 0
    return folder


def test_networks_are_tabulated_layer_by_layer(out, capsys):
    assert diagnose.main(["activation", f"--out={out}", "--pictures=20"]) == 0
    message = capsys.readouterr().out
    assert "dead depthwise kernels" in message
    assert "A spiral through ReLU and back" in message
    table = pd.read_csv(out / "activation/inside.csv")
    assert set(table["cell"]) == {"paper", "relu"}
    assert table.groupby(["cell", "seed"]).size().nunique() == 1
    assert (out / "activation/inside.png").stat().st_size > 10_000
    assert table["revision"].notna().all()
    assert "Dead depthwise kernels at the end" in message
    deaths = pd.read_csv(out / "activation/deaths.csv")
    assert set(deaths["cell"]) == {"paper", "relu"}
    kernels = table.dropna(subset=["dead"]).query("cell == 'relu' and seed == 0")
    assert set(deaths["layer"]) == {*kernels["layer"], "all"}
    assert (out / "activation/deaths.png").stat().st_size > 10_000
    relu = table[table["cell"] == "relu"]
    assert set(relu["activation"]) == {"relu"}
    assert (relu["low"] == 0).all()
    summary = inside_summary(table).set_index("cell")
    values = relu.dropna(subset=["dead"])
    by_seed = values.assign(dead=values["dead"] * values["channels"]).groupby("seed")[["dead", "channels"]].sum()
    assert summary.loc["relu", "dead"] == pytest.approx((100 * by_seed["dead"] / by_seed["channels"]).mean())


def test_deaths_are_compared_with_the_first_cell_of_the_same_model():
    shares = {"a": [0.0, 0.2, 0.1], "a decayed": [6.0, 5.9, 6.1], "b": [50.0, 50.1, 50.2], "b kept": [50.0, 50.2, 50.1]}
    rows = [
        {"cell": cell, "model": cell[0], "seed": seed, "dead_kernels": share, "top1": 80.0 + seed}
        for cell, values in shares.items()
        for seed, share in enumerate(values)
    ]
    result = deaths_summary(pd.DataFrame(rows)).set_index("cell")
    assert list(result.index) == list(shares)
    assert result.loc["a decayed", "delta"] == pytest.approx(5.9)
    assert result.loc["a decayed", "verdict"] == "up"
    assert result.loc["b kept", "verdict"] == "flat"
    assert pd.isna(result.loc["b", "delta"])
    assert result.loc["a", ["n", "dead", "top1"]].tolist() == pytest.approx([3, 0.1, 81.0])


def test_a_run_without_weights_is_an_error(tmp_path, capsys):
    for arguments, message in (
        ((), "no trained networks"),
        (("activation",), "make ablate-activation"),
        (("activation", "--pictures=1"), "pictures must be at least 2"),
    ):
        assert diagnose.main([*arguments, f"--out={tmp_path}"]) == 2
        assert message in capsys.readouterr().err
