"""Arithmetic claims: counted parameters and multiply-adds against the printed ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mnet.errors import ConfigError
from mnet.models.cost import Cost, cost
from mnet.models.spec import Network
from mnet.models.toggles import describe
from mnet.studies.claims.claims import Claim, NetworkSetup, task_of_setup
from mnet.studies.claims.verdicts import ClaimVerdict, claim_verdict, margin_of

UNITS = {"millions": 1e6, "billions": 1e9}


def count_claim(claim: Claim) -> dict[str, object]:
    """The evidence for an arithmetic claim, counted at the paper's resolution."""
    printed, counted = _numbers(claim)
    network, resolution = _network(claim.pair[0] if claim.pair is not None else _single(claim))
    row: dict[str, object] = {"on": f"{resolution} px, {network.num_classes} classes", "command": "make claims"}
    row["ours"] = counted[0] if claim.pair is None else counted[-1] if len(counted) == 1 else counted[-1] - counted[0]
    if not printed:
        difference = counted[1] - counted[0]
        verdict = claim_verdict(difference, difference, difference, claim.direction, 0)
        return {**row, "verdict": verdict, "why": f"counted {_join(counted)}; the paper prints no number"}
    pairs = list(zip(printed, counted, strict=True))
    exact = all(round(count, _decimals(number)) == number for number, count in pairs)
    error = max(abs(count - number) / abs(number) for number, count in pairs)
    size = "exact to the printed digits" if exact else f"{'at most ' if len(pairs) > 1 else ''}{100 * error:.2g}% off"
    judged: ClaimVerdict = "reproduced" if exact or error <= margin_of(claim) else "contradicted"
    note = f"; {claim.note}" if judged == "contradicted" and claim.note else ""
    return {**row, "verdict": judged, "why": f"printed {_join(printed)}, counted {_join(counted)}: {size}{note}"}


def _numbers(claim: Claim) -> tuple[list[float], list[float]]:
    """The printed numbers of an arithmetic claim, and the counted ones."""
    absolute, series = claim.more.get("paper_absolute"), claim.more.get("series")
    if isinstance(series, dict):
        setups: list[NetworkSetup] = [{"model": claim.model, series["toggle"]: value} for value in series["values"]]
        return list(series[claim.metric]), [_count(setup, claim.metric) for setup in setups]
    if claim.metric == "share_percent" and "share" in claim.more:
        shares = [SHARES[str(claim.more["share"])](*_network(setup)) for setup in claim.pair or [_single(claim)]]
        return [] if claim.paper_value is None else [claim.paper_value], shares
    if claim.metric == "share_percent":
        return list(absolute) if isinstance(absolute, list) else [], _pointwise_shares(_cost(_single(claim)))
    if claim.pair is None:
        return [claim.paper_value or math.nan], [_count(_single(claim), claim.metric)]
    counted = [_count(setup, claim.metric) for setup in claim.pair]
    if isinstance(absolute, list):
        return list(absolute), counted
    return ([claim.paper_value], [counted[1] - counted[0]]) if claim.paper_value is not None else ([], counted)


def _single(claim: Claim) -> NetworkSetup:
    """The network of a claim about a single network."""
    return {"model": claim.model, **{name: claim.more[name] for name in ("width", "resolution") if name in claim.more}}


def _network(setup: NetworkSetup) -> tuple[Network, int]:
    """A network of a claim, and the size of its images in pixels: the task's if the claim does not name it."""
    task = task_of_setup(setup)
    toggles = {name: value for name, value in setup.items() if name not in ("model", "resolution")}
    network = describe(str(setup["model"]), num_classes=task.num_classes, **toggles)  # type: ignore[arg-type]
    return network, int(str(setup.get("resolution", task.resolution)))


def _cost(setup: NetworkSetup) -> Cost:
    return cost(*_network(setup))


def _count(setup: NetworkSetup, metric: str) -> float:
    """
    Raises:
        ConfigError: The metric does not name a count.
    """
    name, _, unit = metric.partition("_")
    if name not in ("madds", "params") or unit not in UNITS:
        raise ConfigError(f"{metric} is not a count of a network; expected one like madds_millions or params_millions")
    return float(getattr(_cost(setup), name)) / UNITS[unit]


def _pointwise_shares(counted: Cost) -> list[float]:
    """Percent of multiply-adds and of parameters in 1x1 convolutions."""
    layers = counted.layers
    pointwise = (layers["kernel"] == 1) & (layers["kind"] != "classifier")
    return [100 * float(layers.loc[pointwise, name].sum() / layers[name].sum()) for name in ("madds", "params")]


def _classifier_share(network: Network, resolution: int) -> float:
    """Percent of the parameters after the pooling."""
    layers = cost(network, resolution).layers
    return 100 * float(
        layers.loc[layers["kind"].isin(["hidden", "classifier"]), "params"].sum() / layers["params"].sum()
    )


def _early_share(network: Network, resolution: int) -> float:
    """Percent of the multiply-adds in layers whose output is at most eight times smaller than the image."""
    layers = cost(network, resolution).layers
    return 100 * float(layers.loc[layers["resolution"] >= resolution / 8, "madds"].sum() / layers["madds"].sum())


def _extra_dw_share(network: Network, resolution: int) -> float:
    """Of the strided rows that are not fused, the percentage with two depthwise convolutions."""
    forms = [row.form for row in network.blocks if row.stride > 1 and not row.fused]
    return 100 * forms.count("extra_dw") / len(forms)


SHARES: Mapping[str, Callable[[Network, int], float]] = {
    "classifier": _classifier_share,
    "early": _early_share,
    "extra_dw": _extra_dw_share,
}
"""Value of a claim's `share` -> what is counted, in percent; a claim without one is about 1x1 convolutions."""


def _decimals(printed: float) -> int:
    return len(repr(printed).partition(".")[2]) if isinstance(printed, float) else 0


def _join(values: Sequence[float]) -> str:
    return (" and " if len(values) < 3 else ", ").join(map("{:.5g}".format, values))
