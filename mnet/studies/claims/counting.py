"""Arithmetic claims: counts of parameters and multiply-adds beside the printed ones."""

from __future__ import annotations


def counted(claim: Claim) -> Row:
    """An arithmetic claim, counted at the paper's resolution."""
    printed, ours = numbers(claim)
    task = task_of_setup(claim.pair[0] if claim.pair is not None else {})
    row: Row = {"on": f"{task.resolution} px, {task.num_classes} classes", "command": "make claims"}
    row["ours"] = ours[0] if claim.pair is None else ours[-1] if len(ours) == 1 else ours[-1] - ours[0]
    if not printed:
        found = claim_verdict(ours[1] - ours[0], ours[1] - ours[0], claim.direction, margin_of(claim))
        return {**row, "verdict": found, "why": f"counted {listed(ours)}, the paper prints no number"}
    both = list(zip(printed, ours, strict=True))
    exact = all(round(own, decimals(said)) == said for said, own in both)
    off = max(abs(own - said) / abs(said) for said, own in both)
    how = "exact to the printed digits" if exact else f"{'at most ' if len(both) > 1 else ''}{100 * off:.2g}% off"
    verdict: ClaimVerdict = "reproduced" if exact or off <= margin_of(claim) else "contradicted"
    return {**row, "verdict": verdict, "why": f"printed {listed(printed)}, counted {listed(ours)}: {how}"}


def numbers(claim: Claim) -> tuple[list[float], list[float]]:
    """The printed numbers of an arithmetic claim, and ours."""
    absolute, series = claim.more.get("paper_absolute"), claim.more.get("series")
    if isinstance(series, dict):
        setups: list[NetworkSetup] = [{"model": claim.model, series["toggle"]: value} for value in series["values"]]
        return list(series[claim.metric]), [count(setup, claim.metric) for setup in setups]
    if claim.metric == "share_percent":
        costs = counts({"model": claim.model})
        return list(absolute) if isinstance(absolute, list) else [], pointwise_shares(costs)
    if claim.pair is None:
        return [claim.paper_value or math.nan], [count({"model": claim.model}, claim.metric)]
    ours = [count(setup, claim.metric) for setup in claim.pair]
    if isinstance(absolute, list):
        return list(absolute), ours
    return ([claim.paper_value], [ours[1] - ours[0]]) if claim.paper_value is not None else ([], ours)


def counts(setup: NetworkSetup) -> Cost:
    toggles, task = {name: value for name, value in setup.items() if name != "model"}, task_of_setup(setup)
    return cost(describe(str(setup["model"]), num_classes=task.num_classes, **toggles), task.resolution)  # type: ignore[arg-type]


def task_of_setup(setup: NetworkSetup) -> Task:
    head = setup.get("head")
    return task_of(None if head is None else str(head))


def count(setup: NetworkSetup, metric: str) -> float:
    """
    Raises:
        ConfigError: A metric that is no count.
    """
    name, _, unit = metric.partition("_")
    if name not in ("madds", "params") or unit not in ("millions", "billions"):
        raise ConfigError(f"{metric} is no count of a network; madds_millions is one")
    return float(getattr(counts(setup), name)) / {"millions": 1e6, "billions": 1e9}[unit]


def pointwise_shares(found: Cost) -> list[float]:
    """Percent of multiply-adds and of parameters in 1x1 convolutions."""
    layers = found.layers
    own = (layers["kernel"] == 1) & (layers["kind"] != "classifier")
    return [100 * float(layers.loc[own, name].sum() / layers[name].sum()) for name in ("madds", "params")]


def decimals(printed: float) -> int:
    return len(repr(printed).partition(".")[2]) if isinstance(printed, float) else 0


def listed(values: Sequence[float]) -> str:
    return (
        " and ".join(f"{value:.5g}" for value in values) if len(values) < 3 else ", ".join(map("{:.5g}".format, values))
    )
