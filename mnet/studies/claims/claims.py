"""The papers' claims, read from `experiments/claims.yaml`. A claim names the study that tests it, never the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from mnet.errors import ConfigError, shown, text, unknown
from mnet.settings import coerce, hints
from mnet.studies.sources import Place, Source, read_source
from mnet.tasks import Task, task_of

KINDS = ("arithmetic", "accuracy", "latency", "quantization", "detection", "segmentation")
DIRECTIONS = ("up", "down", "flat")
COPY, SECOND_HAND = "v4-copy", "†"
"""`seen_in` of a number that was read only in a third party's copy of the paper, and the mark printed with it."""

NetworkSetup = Mapping[str, object]
"""A network of a claim: `model` and the settings that differ from it."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of a paper, as numbers that can be tested."""

    id: str
    study: str
    paper: str
    source: str
    """Table, figure or section."""
    statement: str
    metric: str
    kind: str
    verified: bool
    """False = quoted from memory; its numbers are not shown as the paper's."""
    seen_in: str
    direction: str | None = None
    """The sign of variant - baseline that the claim states; flat = no difference beyond a margin."""
    paper_value: float | None = None
    """Variant - baseline, or variant / baseline if the metric is a ratio."""
    baseline: NetworkSetup | None = None
    variant: NetworkSetup | None = None
    model: str | None = None
    margin: float | None = None
    """Smallest difference of interest, in the metric's unit; None = the default of `verdicts.RULE`."""
    beyond: Mapping[str, object] | None = None
    """Settings for a second difference, which is subtracted: `precision: fp32` leaves only the effect of int8."""
    untestable: str | None = None
    """Why no study can test it."""
    note: str | None = None
    more: Mapping[str, object] = field(default_factory=dict)
    """The other keys of the entry: absolute numbers, a series."""

    @property
    def pair(self) -> tuple[NetworkSetup, NetworkSetup] | None:
        """The two networks that are compared, or the ends of a series; None if the claim does not name two."""
        if self.baseline is not None and self.variant is not None:
            return self.baseline, self.variant
        series = self.more.get("series")
        if not isinstance(series, dict) or self.model is None:
            return None
        first, *_, last = ({"model": self.model, series["toggle"]: value} for value in series["values"])
        return first, last

    @property
    def cited(self) -> str:
        """Table, figure or section, marked if the number was read only in a third party's copy."""
        return f"{self.source} {SECOND_HAND}" if self.seen_in.partition(";")[0] == COPY else self.source

    @property
    def printed(self) -> float | None:
        """The paper's number for variant - baseline, or variant / baseline; None if it prints none, if it was not
        verified, or if it is in milliseconds on a phone."""
        series = self.more.get("series")
        if not self.verified or (self.kind == "latency" and self.metric != "latency_ratio"):
            return None
        if self.paper_value is None and isinstance(series, dict):
            values = series[self.metric.removesuffix("_points")]
            return round(values[-1] - values[0], 2)
        return self.paper_value


def load_claims(path: Path) -> tuple[Claim, ...]:
    """The claims of a file, in file order.

    Raises:
        ConfigError: A claim is defined twice, lacks a key that every claim has, or has a value of the wrong type. The
            message names file and line.
    """
    source = read_source(path)
    entries = source.content.get("claims") if isinstance(source.content, dict) else None
    if not isinstance(entries, list):
        raise source.error((), "expected a mapping with a list `claims`")
    claims: dict[str, Claim] = {}
    for i, entry in enumerate(entries):
        claim = _read_claim(source, ("claims", i), entry)
        if claim.id in claims:
            raise source.error(("claims", i, "id"), f"claim {claim.id} is defined twice")
        claims[claim.id] = claim
    return tuple(claims.values())


def _read_claim(source: Source, at: Place, entry: object) -> Claim:
    if not isinstance(entry, dict):
        raise source.error(at, f"expected a claim as a mapping, not {shown(entry)}")
    types = hints(Claim)
    for name in (one.name for one in fields(Claim)[: list(types).index("seen_in") + 1]):
        if name not in entry:
            raise source.error(at, f"claim {entry.get('id', '?')} has no {name}")
    for name, allowed in (("kind", KINDS), ("direction", DIRECTIONS)):
        if entry.get(name, allowed[0]) not in allowed:
            raise source.error((*at, name), unknown(name, entry[name], allowed))
    values: dict[str, object] = {}
    for name, value in entry.items():
        if name in ("baseline", "variant"):
            if not isinstance(value, dict) or "model" not in value:
                raise source.error((*at, name), f"expected {name} as a mapping with a model, not {shown(value)}")
            values[name] = value
        elif name == "beyond":
            if not isinstance(value, dict):
                raise source.error((*at, name), f"expected {name} as a mapping of settings, not {shown(value)}")
            values[name] = value
        elif name in types and name != "more":
            try:
                values[name] = coerce(name, value, types[name])
            except ConfigError as error:
                raise source.error((*at, name), error) from None
    return Claim(**values, more={name: value for name, value in entry.items() if name not in values})  # type: ignore[arg-type]


def setup_name(setup: NetworkSetup) -> str:
    return " ".join(f"{name}={text(value)}" for name, value in setup.items())


def task_of_setup(setup: NetworkSetup) -> Task:
    head = setup.get("head")
    return task_of(None if head is None else str(head))
