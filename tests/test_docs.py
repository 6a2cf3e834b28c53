"""README and docs: tables follow from the published results, links resolve, commands are parsed, code runs."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import publish
import pytest
from common.evaluation import evaluate_claims
from common.readme_tables import TABLES, fill
from support.clock import clock  # noqa: F401 - a fixture

import mnet
from mnet import ConfigError
from mnet.studies import decide, study_table
from mnet.studies.claims.claims import load_claims
from mnet.studies.plan import read_plans
from mnet.studies.results.archive import read_table, studies_with
from mnet.studies.results.effects import ALL
from mnet.studies.results.looks import classify
from mnet.studies.results.tables import MARGIN
from mnet.studies.runs.store import CLAIMS as PUBLISHED_CLAIMS
from mnet.studies.runs.store import SUMMARY
from mnet.studies.study import list_studies
from mnet.tasks import metric_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/published/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
PUBLISHED = ROOT / "results/published"
EFFECTS = sorted(path.parent.name for path in PUBLISHED.glob("*/effects.csv"))
CLAIMS = {claim.id: claim for claim in load_claims(ROOT / "experiments/claims.yaml")}
SUMMARISED = set(studies_with(PUBLISHED, SUMMARY)).difference(EFFECTS)
STUDIES = [study for study in list_studies(ROOT / "experiments/sweeps") if study in SUMMARISED]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_the_tables_of_the_documents_are_those_of_the_published_results():
    for path in publish.DOCUMENTS:
        assert fill(path.read_text(), PUBLISHED) == path.read_text(), path
    used = {name for path in publish.DOCUMENTS for name in re.findall("<!-- begin (.*?) -->", path.read_text())}
    assert used == set(TABLES)
    with pytest.raises(ConfigError, match="wants the table 'claimz'"):
        fill("<!-- begin claimz -->\n<!-- end claimz -->", PUBLISHED)


def test_the_published_claims_follow_from_the_published_runs_and_times():
    found, kept = evaluate_claims(PUBLISHED), read_table(PUBLISHED / PUBLISHED_CLAIMS)
    assert list(found) == list(kept)
    assert len(found["id"].unique()) == len(CLAIMS)
    for name in ("id", "verdict", "why", "command"):
        assert found[name].fillna("").tolist() == kept[name].fillna("").tolist()
    for name in ("ours", "low", "high"):
        assert found[name].tolist() == pytest.approx(kept[name].tolist(), nan_ok=True)
    for row in found.to_dict("records"):
        claim = CLAIMS[str(row["id"])]
        assert pd.isna(row["paper_value"]) or (claim.verified and row["paper_value"] == claim.printed)


@pytest.mark.parametrize("study", STUDIES)
def test_every_published_comparison_follows_from_the_runs(study):
    summary, runs = study_table(PUBLISHED, study, SUMMARY), study_table(PUBLISHED, study)
    assert set(runs["seed"]) >= set(range(3))
    plan = next(iter(read_plans(PUBLISHED / study)), None)
    looks = None if plan is None else plan.looks
    deltas = decide(runs, summary["cell"].iloc[0], metric_of(summary).name, looks=looks).set_index("cell")
    for cell in summary.iloc[1:].to_dict("records"):
        found = deltas.loc[cell["cell"]]
        for name in ("delta", "low", "high", "p"):
            assert cell[name] == pytest.approx(found[name]), name
        assert (cell["verdict"], cell["look"]) == (found["verdict"], found["look"])


@pytest.mark.parametrize("study", EFFECTS)
def test_every_published_effect_follows_from_the_runs(study):
    runs = study_table(PUBLISHED, study)
    variant = runs["cell"].str.partition(", ")[2]
    tops = runs.assign(variant=variant).pivot(index=["variant", "seed"], columns="precision", values="top1")
    for _, row in pd.read_csv(PUBLISHED / study / "effects.csv").iterrows():
        deltas = tops[row["value"]] - tops[row["against"]]
        deltas_of_variant = deltas.groupby("seed").mean() if row["variant"] == ALL else deltas[row["variant"]]
        assert (row["n"], row["delta"]) == (len(deltas_of_variant), pytest.approx(deltas_of_variant.mean()))
        assert row["low"] < row["delta"] < row["high"]
        assert row["verdict"] == classify(row["low"], row["high"], MARGIN)


def test_every_link_of_the_documents_resolves():
    pattern = r"\]\(([^)#\s]+)|(?:src|srcset)=\"([^\"]+)\""
    links = [(path, "".join(found)) for path in PAGES for found in re.findall(pattern, path.read_text())]
    assert len(links) > 60
    assert not [(path.name, link) for path, link in links if "://" not in link and not (path.parent / link).exists()]


def test_the_first_screen_of_the_readme_has_figure_scores_commands_and_links():
    screen = (ROOT / "README.md").read_text().splitlines()[:30]
    for part in ("claims-dark.svg", "| all |", "make test ", "# hswish ", "docs/claims.md", "docs/extending.md"):
        assert any(part in line for line in screen), part


def shell_commands() -> list[str]:
    """Every command in the shell blocks, without its comment, and in the inline code of the documents and notebooks."""
    lines = [line for path in PAGES for block in blocks(path, "sh") for line in block.splitlines()]
    texts = [path.read_text() for path in PAGES]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        texts += [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown"]
    for text in texts:
        prose = re.sub("^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
        lines += re.findall(r"`((?:make|python) [^`]+)`", prose)
    commands = {" ".join(line.partition("#")[0].split()).replace("<study>", "activation") for line in lines}
    return sorted(commands - {""})


@pytest.mark.parametrize("command", shell_commands())
def test_every_command_of_the_documents_is_parsed_by_its_program(command, tmp_path, monkeypatch):
    """`make -n` expands it to the call of a program, whose parser then reads every option and value."""
    words = shlex.split(command)
    if words[0] == "make":
        variables = set(re.findall("[A-Z_]+", (ROOT / "Makefile").read_text()))
        assert {word.partition("=")[0] for word in words if "=" in word} <= variables
        done = subprocess.run([*words, "-n"], capture_output=True, text=True, cwd=ROOT, check=True)
        calls = [line for line in done.stdout.splitlines() if "experiments/" in line]
        if not calls:
            assert words[1:] in ([], ["test"], ["test-all"], ["test-kill"], ["setup"], ["lint"])
            return
        words = shlex.split(calls[-1])
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "results/activation/runs/RUN_ID/config.yaml"  # of a run that a reader has and we do not
    config.parent.mkdir(parents=True)
    config.write_text("activation: relu")
    start = next(i for i, word in enumerate(words) if word.startswith("experiments/"))
    read_arguments = importlib.import_module(Path(words[start]).stem).read_arguments
    if words[-1] == "--help":
        with pytest.raises(SystemExit, match="0"):
            read_arguments(words[start + 1 :])
    else:
        read_arguments(words[start + 1 :])


PYTHON = [(path, code) for path in PAGES for code in blocks(path, "python")]
CHEAPER = {
    'create_model("mobilenet_v3_large"': 'create_model("mobilenet_v3_small"',
    'runtime="executorch", resolution=224': 'runtime="eager", resolution=32',
    "budget_s=30": "budget_s=0.5",
}


@pytest.mark.parametrize(("path", "code"), PYTHON, ids=[path.stem for path, _ in PYTHON])
@pytest.mark.usefixtures("clock")
def test_the_python_of_the_documents_runs(path, code, monkeypatch):
    monkeypatch.chdir(ROOT)
    for slow, quick in CHEAPER.items():
        code = code.replace(slow, quick)
    lines, scope = code.splitlines(), {}
    exec("\n".join(line for line in lines if "# ConfigError: ..." not in line), scope)
    for line in lines:
        call, raises, message = line.partition("# ConfigError: ... ")
        if raises:
            with pytest.raises(ConfigError, match=re.escape(message)):
                exec(call, scope)


def test_a_search_is_published_with_its_network_which_its_tables_name_by_where_it_is_then(tmp_path, monkeypatch):
    name = "netadapt-mine"
    before, network = f"results/{name}/network.yaml", mnet.describe("mobilenet_v3_small", num_classes=10)
    folder = tmp_path / "results" / name
    mnet.write_network(network, folder / "network.yaml")
    runs = pd.DataFrame({"cell": [f"model={before}"], "model": [before], "run_id": ["a"]})
    for table in ("runs.csv", "trace.csv"):
        runs.to_csv(folder / table, index=False)
    (folder / f"{name}.yaml").write_text(f"parameters: [model={before}]")
    (folder / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "results/published"
    copied = {path.name for path in publish.copy(tmp_path / "results", target)}
    assert copied == {"runs.csv", "trace.csv", "network.yaml", f"{name}.yaml"}
    published = pd.read_csv(target / name / "runs.csv")["model"][0]
    assert published == f"results/published/{name}/network.yaml"
    assert mnet.describe(published) == network
    assert published in (target / name / f"{name}.yaml").read_text()
