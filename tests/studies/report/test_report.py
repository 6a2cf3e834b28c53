"""The report: complete, escaped, and working in a browser that has no network."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnet.errors import ConfigError
from mnet.studies.claims.papers import published_points
from mnet.studies.options import trial_from
from mnet.studies.report.commands import ResultsFolder, run_command, trial_of
from mnet.studies.report.page import write_report
from mnet.studies.results.archive import read_table, studies_with, study_table
from mnet.studies.runs.store import RUNS, SUMMARY

REPOSITORY = Path(__file__).parents[3]
RESULTS = REPOSITORY / "results"
HOSTILE = "<img src=x onerror=alert(1)></script><!--\u2028{{7*7}}"
MARK = '[role="graphics-symbol"][aria-label]:not([aria-roledescription="axis"])'
GUARD_MS = 300_000
"""Milliseconds after which a test stops waiting for the browser; this ends one that hangs, and is no test of speed."""
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-component-update",)


def claims_frame(statement="swish is slower") -> pd.DataFrame:
    """Two claims, the first with two rows of evidence; one was not tested."""
    common = {
        "paper": "v3",
        "source": "table 5",
        "low": 0.8,
        "high": 0.9,
        "n": 3.0,
        "margin": 0.05,
        "study": "activation",
    }
    common |= {"baseline": "model=a", "variant": "model=b", "on": "litert", "command": "make latency-activation"}
    rows = [
        {"id": "one", "ours": 0.85, "paper_value": 0.89, "verdict": "reproduced", "metric": "latency_ratio"},
        {"id": "one", "ours": 1.2, "paper_value": 0.89, "verdict": "contradicted", "metric": "latency_ratio"},
        {"id": "two", "ours": np.nan, "paper_value": -2.0, "verdict": "not tested here", "metric": "top1_points"},
    ]
    kinds = ("latency", "latency", "accuracy")
    columns = {"statement": statement, "why": f"because {statement}", "direction": "down"}
    return pd.DataFrame([{**common, **columns, **row, "kind": kind} for row, kind in zip(rows, kinds, strict=True)])


def hostile_results(root: Path) -> Path:
    """A study whose cell, settings and hardware are markup."""
    for name in (RUNS, SUMMARY):
        table = study_table(RESULTS / "published", "activation", name).replace({"relu": HOSTILE})
        if name == RUNS:
            table["device"], table["revision"] = HOSTILE, HOSTILE
        (root / "activation").mkdir(parents=True, exist_ok=True)
        table.to_csv(root / "activation" / name, index=False)
    block = {"kind": HOSTILE, "resolution": 14, "in_channels": 3, "out_channels": 8, "params": 10, "madds": 100}
    timed = {"ms": 0.2, "low": 0.1, "high": 0.3, "variant": HOSTILE, "runtime": "eager", "threads": 1}
    blocks = pd.DataFrame([{"block": name, **block, **timed} for name in ("stem", "blocks.0", "head")])
    blocks.to_csv(root / "activation" / "blocks-eager.csv", index=False)
    return root


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    points = published_points(REPOSITORY / "experiments" / "claims.yaml")
    studies = {
        name: f"What about {name}? More.\nCommand: make ablate-{name}" for name in ("activation", "quantization")
    }
    whole, hostile = folder / "report.html", folder / "hostile.html"
    write_report(whole, RESULTS / "published", studies, claims=claims_frame(), published=points, rule="One.\n\nTwo.")
    root = hostile_results(folder / "results")
    write_report(hostile, root, {"activation": HOSTILE}, claims=claims_frame(HOSTILE), rule=HOSTILE)
    return {"whole": whole, "hostile": hostile}


def own_part(page: Path) -> str:
    """A page without the drawing libraries."""
    return re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_a_report_is_one_small_file_that_names_no_address(pages) -> None:
    assert pages["whole"].stat().st_size < 5e6
    content = own_part(pages["whole"])
    assert not re.findall(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", content)
    assert "default-src 'none'" in content
    assert str(REPOSITORY) not in content


def test_a_report_has_the_verdicts_commands_hardware_and_limits(pages) -> None:
    content = own_part(pages["whole"])
    for part in (
        "reproduced",
        ">0.850<",
        "not ImageNet",
        "AMD EPYC",
        "2.14.1",
        "make latency-activation RUNTIME=litert",
    ):
        assert part in content


def test_text_from_data_stays_text(pages) -> None:
    content = own_part(pages["hostile"])
    assert "<img" not in content
    assert content.count("</script>") == content.count("<script type=")  # those of the charts' specifications
    assert "<!--" not in content and "{{7*7}}" in content
    assert "\u2028" not in re.search(r'id="specs">(.*?)</script>', content, re.DOTALL)[1]
    assert "\\u003cimg" in content and "&lt;img" in content


def test_blocks_that_were_timed_stand_beside_their_counts(pages) -> None:
    content = own_part(pages["hostile"])
    assert "make latency-activation RUNTIME=eager THREADS=1 BLOCKS=true" in content
    assert '"domain":["latency","multiply-adds","parameters"]' in content and "Layers of mobilenet_v3_small" in content


def test_nothing_to_report_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match="study with results"):
        write_report(tmp_path / "page.html", tmp_path, {"activation": ""})


def test_the_command_of_every_published_run_gives_that_run() -> None:
    for study in studies_with(RESULTS / "published"):
        runs = read_table(RESULTS / "published" / study / RUNS)
        rates = list(dict.fromkeys(runs["lr"]))
        for row in runs.drop_duplicates("cell").to_dict("records"):
            trial = trial_of(row, rates)
            assert trial is not None and trial.run_id == row["run_id"]
            words = shlex.split(run_command(ResultsFolder(Path("nowhere")), row, rates))
            given = dict(word.removeprefix("--").split("=", 1) for word in words[2:])
            assert trial_from(given).run_id == row["run_id"]


def test_a_run_that_left_its_config_is_trained_from_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = Path("results/se/runs/abc/config.yaml")
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    command = run_command(ResultsFolder(Path("results")), {"study": "se", "run_id": "abc"})
    assert command == f".venv/bin/python experiments/train.py --config={config} --out=again"


def test_the_program_names_a_study_that_it_does_not_know(capsys) -> None:
    import report

    assert report.main(["activatoin", f"--out={RESULTS / 'published'}"]) == 2
    assert "Did you mean activation?" in capsys.readouterr().err


def test_nothing_else_imports_the_charting_library() -> None:
    assert "altair" in sys.modules  # imported by this file
    report = REPOSITORY / "mnet/studies/report"
    for path in (REPOSITORY / "mnet").rglob("*.py"):
        if not path.is_relative_to(report):
            assert "studies.report" not in path.read_text(), path


# In a browser.


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=list(FLAGS), timeout=GUARD_MS)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Opens a page and waits for its charts; by the end of the test it must not have logged or requested anything."""
    contexts, texts = [], []

    def go(path: Path, *, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        context.set_default_timeout(GUARD_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: texts.append(message.text))
        page.on("pageerror", lambda error: texts.append(str(error)))
        page.on("dialog", lambda dialog: (texts.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: request.url != path.as_uri() and texts.append(request.url[:200]))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert texts == []


def column(page, table: str, index: int) -> list[str]:
    return page.eval_on_selector_all(
        f"#{table} tbody tr:first-child > :nth-child({index})", "all => all.map(one => one.innerText)"
    )


def test_every_chart_is_drawn_and_says_its_marks(visit, pages) -> None:
    page = visit(pages["whole"])
    count = f"all => all.map(one => one.querySelectorAll(`svg {MARK}`).length)"
    marks = page.eval_on_selector_all(".chart", count)
    assert len(marks) >= 15 and min(marks) > 0
    chart = page.locator("#activation .chart").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    line = page.locator("#activation .said").first
    first = line.inner_text()
    assert re.search(r"seed 0: \d+\.\d+%", first) and "run c6cd2d9cae27" in first and "AMD EPYC" in first
    page.keyboard.press("ArrowRight")
    assert line.inner_text() not in ("", first)
    page.keyboard.press("Escape")
    assert line.inner_text() == ""
    chart.locator(MARK).first.hover()
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert page.locator("#vg-tooltip-element").inner_text() == first


def test_tables_sort_by_mouse_and_key_and_show_commands(visit, pages) -> None:
    page = visit(pages["whole"])
    head = page.locator("#activation-cells-table th:has-text('top-1 %')")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    summary = study_table(RESULTS / "published", "activation", SUMMARY).sort_values("top1_mean")
    assert column(page, "activation-cells-table", 4) == [f"{mean:.2f}" for mean in summary["top1_mean"]]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, "activation-cells-table", 1) == summary["cell"].tolist()[::-1]
    page.locator("#activation-cells-table .open").first.click()
    assert (
        page.locator("#activation-cells-table pre").first.inner_text().count("experiments/train.py")
        == summary["n"].max()
    )


def test_claims_filter_and_unfold_their_evidence(visit, pages) -> None:
    page = visit(pages["whole"])
    rows = page.locator("#claims-table tbody:visible")
    assert rows.count() == 2 and "1 reproduced" in page.locator(".counts").inner_text()
    assert not page.locator("#claims-table .evidence").first.is_visible()
    page.locator("#claims-table .more").click()
    assert "contradicted" in page.locator("#claims-table .evidence").first.inner_text()
    page.select_option("[data-filter=verdict]", "not tested here")
    assert rows.count() == 1 and page.locator("#claims output").inner_text() == "1 claims"


def test_a_phone_never_scrolls_sideways_and_darkness_is_followed(visit, pages) -> None:
    page = visit(pages["whole"], width=360, scheme="dark")
    page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    page.eval_on_selector_all(".open, .more", "all => all.forEach(one => one.click())")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (
        page.eval_on_selector_all(".chart svg", "all => Math.max(...all.map(one => one.getBoundingClientRect().right))")
        <= 361
    )
    colour = "['body', '.chart svg text'].map(one => getComputedStyle(document.querySelector(one)))"
    colour += ".map(style => style.backgroundColor + style.fill).join()"
    dark = page.evaluate(colour)
    page.locator("#theme").click()
    assert page.evaluate(colour) != dark


def test_hostile_text_is_only_read(visit, pages) -> None:
    page = visit(pages["hostile"])
    assert page.locator("img").count() == 0
    chart = page.locator(".chart").first
    for mark in chart.locator(MARK).all()[3:5]:
        mark.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "<img src=x" in page.locator("#vg-tooltip-element").inner_text()
    assert page.locator("#vg-tooltip-element img").count() == 0
