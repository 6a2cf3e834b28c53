"""Report pages: one for all studies, or one for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from common.sweeps import CLAIMS_FILE, SWEEPS, sweep_file
from mnet.errors import ConfigError, leave_out
from mnet.files import load_yaml
from mnet.studies.claims.papers import published_detectors, published_points
from mnet.studies.claims.verdicts import RULE
from mnet.studies.report.page import studies_with_results, write_report
from mnet.studies.results.archive import find_table, read_claims
from mnet.studies.runs.store import REPORT
from mnet.studies.study import list_studies, load_study


def write_pages(root: Path, studies: Sequence[str] | None = None) -> Iterator[Path]:
    """Write OUT/report.html with all studies, or OUT/STUDY/report.html for each of `studies`.

    Raises:
        ConfigError: There are no results, or a table was not written by mnet.
    """
    claims = read_claims(root)
    published = pd.concat([published_points(CLAIMS_FILE), published_detectors(CLAIMS_FILE)], ignore_index=True)
    if studies is None:
        write_report(root / REPORT, root, _descriptions(root), claims=claims, published=published, rule=RULE)
        yield root / REPORT
    for study in studies or ():
        own_claims = None if claims is None else claims[claims["study"] == study]
        path, descriptions = root / study / REPORT, {study: _description(root, study)}
        write_report(path, root, descriptions, claims=own_claims, published=published, rule=RULE)
        yield path


def _descriptions(root: Path) -> dict[str, str]:
    """Study -> description, for all studies with results: first those of experiments/sweeps, in their order."""
    with_results = studies_with_results(root)
    declared = [name for name in list_studies(SWEEPS) if name in with_results]
    return {name: _description(root, name) for name in dict.fromkeys([*declared, *with_results])}


def _description(root: Path, study: str) -> str:
    """The description in the sweep file that a search wrote, or in that of experiments/sweeps; "" without either."""
    if (path := find_table(root, study, f"{study}.yaml")) is not None:
        try:
            content = load_yaml(path)
        except ConfigError as error:
            leave_out(path, error)
            return ""
        return str(content.get("description", "")) if isinstance(content, dict) else ""
    path = sweep_file(study)
    return load_study(path).description if path.is_file() else ""
