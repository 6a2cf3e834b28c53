"""The runs that test a claim: pairs of its two networks, trained alike in everything else."""

from __future__ import annotations


CONTEXT = (
    "dataset", "data_dir", "pretrained", "recipe", "epochs", "epoch_steps", "batch_size", "lr", "weight_decay",
    "decay_depthwise", "resolution",
)  # fmt: skip
"""What a pair of runs must share: what they are tried on."""
SCALE = ("width", "stem_stride", "total_stride", "width_rule", "lowest_boxes")
"""And the toggles that may be set in both without asking another question: how large the network is."""
Commands = dict[str, dict[str, str]]
"""Run id with seed 0 -> each command that trains it -> its study; the cheapest first."""


class RunIndex:
    """Runs, by what they computed."""

    def __init__(self, runs: pd.DataFrame) -> None:
        runs = runs.drop_duplicates("run_id")  # one trained again elsewhere rounds otherwise, and is not paired there
        compared = [one.headline.name for one in TASKS.values() if one.headline.name in runs]
        values = runs[compared].astype(float).bfill(axis=1).iloc[:, 0]  # a run has that of its task alone
        self.values = dict(zip(runs["run_id"], values, strict=True))
        dead = runs.dropna(subset=["dead_kernels"]) if "dead_kernels" in runs else runs.iloc[:0]
        self.dead = dict(zip(dead["run_id"], dead.get("dead_kernels", ()), strict=True))
        self.seeds = sorted(map(int, runs["seed"].unique()))
        floats = runs[(runs["precision"] == "fp32") & (runs["target_madds"] == text(None))]
        self.contexts: dict[str, list[dict[str, object]]] = {}
        for task in TASKS.values():
            own = floats[floats["head"].isin([text(head) for head in task.heads])]
            rows = records(own[[name for name in (*CONTEXT, *SCALE) if name in own and name != "width"]])
            widths = [text(None), *(name for name in own["width"].unique() if name not in (text(None), "1.0"))]
            self.contexts[task.name] = [{**row, "width": width} for row in rows for width in widths]

    def by_seed(self, trial: Trial) -> dict[int, float]:
        """Seed -> what its task compares, of the finished runs of a trial."""
        return self.of_seeds(self.values, trial)

    def dead_by_seed(self, trial: Trial) -> dict[int, float]:
        """Seed -> the share of depthwise kernels that died, in percent."""
        return self.of_seeds(self.dead, trial)

    def of_seeds(self, values: Mapping[str, float], trial: Trial) -> dict[int, float]:
        found = {seed: values.get(trial.run_id_of(seed)) for seed in self.seeds}
        return {seed: value for seed, value in found.items() if value is not None}

    def deltas(self, baseline: Trial, variant: Trial) -> dict[int, float]:
        """Seed -> variant - baseline in points, of the seeds that both have."""
        before, after = self.by_seed(baseline), self.by_seed(variant)
        return {seed: after[seed] - before[seed] for seed in before if seed in after}


def in_context(setup: NetworkSetup, context: NetworkSetup, model: str | None) -> Trial:
    """The trial of a claim's network where other networks were tried: as much narrower, and on as much smaller
    images.

    Raises:
        ConfigError: It cannot be built there.
    """
    width = number(setup.get("width", 1)) * (1 if context["width"] == text(None) else number(context["width"]))
    papers = task_of_setup(setup).resolution
    pixels = number(context["resolution"]) * number(setup.get("resolution", papers)) / papers
    scaled = {"width": text(None) if width == 1 else round(width, 6), "resolution": round(pixels), "seed": 0}
    return trial_from({**context, **setup, "model": model or setup["model"], **scaled})


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """The different rows of a table, without what is empty."""
    rows = table.drop_duplicates().to_dict("records")
    return [{str(name): value for name, value in row.items() if not pd.isna(value)} for row in rows]


def number(value: object) -> float:
    return float(str(value))


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Differences by seed, of what the task compares, that test a claim."""

    deltas: np.ndarray
    context: Mapping[str, object]
    models: tuple[str, str]
    """That the claim is about, and that was trained."""
    trials: tuple[Trial, Trial]

    @property
    def rank(self) -> tuple[object, ...]:
        own, used = self.models
        return own != used, self.context["width"] != text(None), -number(self.context["epochs"]), -len(self.deltas)

    @property
    def on(self) -> str:
        return told_of(self.context, self.models)

    def commands(self, commands: Commands, study: str) -> list[str]:
        """What trains both networks: one command, of `study` if it can be, or two."""
        one, other = (commands.get(trial.run_id, {}) for trial in self.trials)
        both = sorted((command for command in one if command in other), key=lambda command: one[command] != study)
        return both[:1] or [next(iter(found)) for found in (one, other) if found]


def told_of(context: Mapping[str, object], models: tuple[str, str]) -> str:
    """Where a claim was tested, in words."""
    own, used = models
    told = [f"{context['dataset']} at {context['resolution']} px", f"{context['epochs']} epochs"]
    told += [f"from {start}"] if (start := context.get("pretrained", text(None))) != text(None) else []
    own_ways = ("epoch_steps", "weight_decay", "decay_depthwise")
    told += [f"{name}={context[name]}" for name in own_ways if context.get(name, text(None)) != text(None)]
    told += [f"{used} for {own}"] if own != used else []
    told += [f"{context['width']} of the width"] if context["width"] != text(None) else []
    told += [f"{name}={context[name]}" for name in SCALE[1:] if context[name] != text(None)]
    return ", ".join(told)


def search(claim: Claim, pool: RunIndex) -> list[Evidence]:
    """Every context in which both networks of a claim have runs, the best first."""
    found = {one.trials[0].run_id + one.trials[1].run_id: one for one in pairs(claim, pool)}
    return sorted(found.values(), key=lambda one: one.rank)


def pairs(claim: Claim, pool: RunIndex) -> Iterator[Evidence]:
    if claim.pair is None:
        return
    before, after = claim.pair
    own, contexts = str(before["model"]), pool.contexts[task_of_setup(before).name]
    for context, model in itertools.product(contexts, stand_ins(own, str(after["model"]))):
        try:
            baseline = in_context(before, context, model)
            if not pool.by_seed(baseline):
                continue
            trials = baseline, in_context(after, context, model)
            deltas = pool.deltas(*trials)
            if deltas and claim.beyond is not None:
                less = pool.deltas(*(in_context({**setup, **claim.beyond}, context, model) for setup in claim.pair))
                deltas = {seed: delta - less[seed] for seed, delta in deltas.items() if seed in less}
        except ConfigError:  # a toggle that the model which stands in does not have
            continue
        if deltas:
            values = np.array(list(deltas.values()))
            yield Evidence(deltas=values, context=context, models=(own, model or own), trials=trials)


def stand_ins(baseline: str, variant: str) -> list[str | None]:
    """Models that a claim may be tested on: its own (None) and, of a claim within one model, its paper's other."""
    if baseline != variant:
        return [None]
    paper = baseline.split("_")[1]
    return [None, *(name for name in list_models() if name != baseline and name.split("_")[1] == paper)]
