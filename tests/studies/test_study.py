"""Sweep files and profiles: what they become, and how a mistake in one is reported."""

import importlib.metadata
import json
import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mnet import ConfigError, cost, list_models
from mnet.studies import Trial, load_study
from mnet.studies.engines.estimate import total_seconds
from mnet.studies.options import OPTIONS, field_docs
from mnet.studies.study import METRICS, check_sweep, lay_over, list_studies, load_profile
from mnet.tasks import TASKS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
PROFILES = EXPERIMENTS / "profiles.yaml"
SWEEPS = sorted((EXPERIMENTS / "sweeps").glob("*.yaml"))
THIRTEEN = {
    *("activation", "hswish-placement", "se", "bottleneck", "shortcut", "stem", "last-stage", "separable"),
    *("shallow", "width", "resolution", "versions", "cumulative"),
}
each_file = pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
GOOD = """\
program: experiments/train.py
method: grid
metric: {name: val/top1, goal: maximize}
parameters:
  model: {value: mobilenet_v3_small}
  activation:
    values: [paper, relu]
  seed: {values: [0, 1, 2]}
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def profiled(name: str, profile: str = "quick"):
    return load_study(EXPERIMENTS / f"sweeps/{name}.yaml", load_profile(PROFILES, profile, name))


def test_the_thirteen_studies_are_there():
    assert set(list_studies(EXPERIMENTS / "sweeps")) >= THIRTEEN


@each_file
@pytest.mark.parametrize("profile", ["file", "quick", "full"])
def test_every_study_has_three_seeds_a_question_its_command_and_cells_that_can_all_be_built(path, profile):
    study = load_study(path) if profile == "file" else profiled(path.stem, profile)
    assert len(study.cells) > 1
    assert not study.refused
    seeds = [0, 1, 2, 3] if study.name == "activation" else [0, 1, 2]  # the first study that people run has one more
    assert all([trial.seed for trial in cell.trials] == seeds for cell in study.cells)
    assert len({cell.name for cell in study.cells}) == len(study.cells)
    assert f"Command: make ablate-{study.name}\n" in study.description
    assert "?" in study.description
    content = check_sweep(path)
    assert content["name"] == study.name
    assert f"--study={study.name}" in content["command"]


@each_file
def test_the_cells_of_a_study_are_different_networks_at_the_scale_of_its_profile(path):
    known = {"hswish-placement": [("hswish_from=80", "hswish_from=64"), ("hswish_from=16", "activation=hswish")]}
    for profile in ("quick", "full"):
        names: dict[str, list[str]] = {}
        for cell in profiled(path.stem, profile).cells:
            names.setdefault(cell.trials[0].run_id, []).append(cell.name)
        assert [tuple(group) for group in names.values() if len(group) > 1] == known.get(path.stem, [])


def test_equal_cost_is_equal_within_one_percent():
    for profile, target in (("quick", 1.57), ("full", 23.6)):
        cells = [cell for cell in profiled("versions", profile).cells if f"target_madds={target}" in cell.name]
        assert [cell.trials[0].model for cell in cells] == list_models()[:5]  # V4-M would have a quarter of its width
        for cell in cells:
            assert cost(cell.trials[0].network(10, 1), 28).madds / 1e6 == pytest.approx(target, rel=0.012)


def test_all_quick_studies_take_an_hour_on_two_cores_and_share_their_runs():
    trials = [trial for name in THIRTEEN for _, trial in profiled(name).trials]
    unique = {trial.run_id for trial in trials}
    assert len(trials) > 150
    assert len(unique) <= 144
    assert total_seconds(trials) / 2 / 60 <= 63
    published = Trial(model="mobilenet_v3_small", seed=1).run_id
    sharing = [name for name in THIRTEEN if published in {trial.run_id for _, trial in profiled(name).trials}]
    assert set(sharing) >= {"activation", "hswish-placement", "se", "stem", "width", "resolution"}


@each_file
def test_the_description_counts_the_quick_runs_and_minutes(path):
    study = profiled(path.stem)
    written = " ".join(study.description.split())
    runs, minutes = map(int, re.search(r"Cost: (\d+) runs.* about (\d+) minutes on 2 cores", written).groups())
    trials = [trial for _, trial in study.trials]
    assert runs == len({trial.run_id for trial in trials})
    assert minutes == pytest.approx(total_seconds(trials) / 2 / 60, abs=1, rel=0.1)


def test_the_first_value_of_each_list_is_the_baseline_and_seeds_are_crossed(tmp_path):
    study = load_study(write(tmp_path, GOOD), {"se": ["paper", "false"], "seed": ["4", 5.0]})
    assert [cell.name for cell in study.cells] == [
        "activation=paper, se=paper",
        "activation=paper, se=false",
        "activation=relu, se=paper",
        "activation=relu, se=false",
    ]
    assert study.cells[3].trials[1] == Trial(activation="relu", se=False, seed=5)


def test_a_variant_is_a_cell_that_sets_several_things_and_is_named_as_it_is_written(tmp_path):
    text = GOOD.replace("activation:", "variant:").replace("[paper, relu]", '[paper, relu6=1, "se=true  kernel=5"]')
    path = write(tmp_path, text.replace("relu6=1", "activation=relu"))
    study = load_study(path)
    assert [cell.name for cell in study.cells] == ["paper", "activation=relu", "se=true kernel=5"]
    assert study.cells[2].trials[1] == Trial(se=True, kernel=5, seed=1)
    assert study.cells[0].trials[0].run_id == Trial().run_id
    crossed = load_study(path, {"resolution": ["28", "24"]})
    assert crossed.cells[3].name == "activation=relu, resolution=24"
    with pytest.raises(ConfigError, match="its variant 'se=true kernel=5' sets kernel, so kernel=3 cannot be set"):
        load_study(path, {"kernel": ["3"]})


def test_a_model_on_the_command_line_does_not_silently_lose_to_variants_that_choose_it():
    with pytest.raises(ConfigError, match=r"study cumulative: its variant .* sets model, so model=mobilenet_v1 cannot"):
        load_study(EXPERIMENTS / "sweeps/cumulative.yaml", {"model": ["mobilenet_v1"]})


def test_a_cell_that_cannot_be_built_is_left_out_with_its_reason_but_not_the_baseline(tmp_path):
    path = write(tmp_path, GOOD)
    study = load_study(path, {"model": ["mobilenet_v2", "mobilenet_v1"], "last_stage": ["full"]})
    assert len(study.cells) == 2
    assert len(study.refused) == 2
    assert "has no 1x1 convolution" in study.refused[0]
    with pytest.raises(ConfigError, match="baseline cell"):
        load_study(path, {"model": ["mobilenet_v1"], "last_stage": ["full"]})
    path = write(tmp_path, GOOD.replace("{value: mobilenet_v3_small}", "{value: mobilenet_v3_smal}"))
    with pytest.raises(ConfigError, match=r"mine.yaml, line 4: .* baseline cell .* Did you mean mobilenet_v3_small"):
        load_study(path)


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("  activation:", "  activaton:"), 6, "Did you mean activation"),
        (("relu]", "rleu]"), 7, "Did you mean relu"),
        (("relu]", "paper]"), 7, "activation lists paper twice"),
        (("relu]", "relu"), 8, "not valid YAML"),
        (("[paper, relu]", "relu"), 7, "must be a list"),
        (("[paper, relu]", "[]"), 7, "at least one value"),
        (("    values: [paper, relu]", "    values: [paper]\n    value: relu"), 6, "either `value:` or `values:`"),
        (("    values: [paper, relu]", "    {}"), 6, "either `value:` or `values:`"),
        (("  activation:", "  width: {min: 0.25, max: 1.0}\n  activation:"), 6, "key of width in a grid 'min'; one of"),
        (("  activation:", "  model: {value: x}\n  activation:"), 6, "duplicate key model, first in line 5"),
        (("val/top1", "val/to1"), 3, "Did you mean val/top1"),
        (("maximize", "maximise"), 3, "Did you mean maximize"),
        (("maximize", "minimize"), 3, "val/top1 needs `goal: maximize`"),
        (("metric: {name: val/top1, goal: maximize}\n", ""), 1, "no metric"),
        (("metric: {name: val/top1, goal: maximize}", "metric: val/top1"), 3, "no metric"),
        (("method: grid", "method: bayes"), 2, "a study takes `method: grid`, not bayes; to let W&B draw"),
        (("method: grid", "method: gird"), 2, "Did you mean grid"),
        (("method: grid", "metod: grid"), 2, "Did you mean method"),
        (("method: grid\n", ""), 1, "no method"),
        (("method: grid", "method: grid\nno: 1"), 3, "YAML does not read key no as a string"),
        (("method: grid", "method: grid\nrun_cap: 3"), 3, "run_cap works on W&B only"),
        (("method: grid", "method: grid\ncommand: ['${pogram}']"), 3, "Did you mean program"),
        (("{value: mobilenet_v3_small}", "{vlaue: mobilenet_v3_small}"), 5, "Did you mean value?"),
        (("{value: mobilenet_v3_small}", "{parameters: {a: {value: 1}}}"), 5, "key of model in a grid 'parameters'"),
        (("{value: mobilenet_v3_small}", "mobilenet_v3_small"), 5, "needs either `value:` or `values:`"),
        (("[0, 1, 2]", "[]"), 8, "at least one value"),
        (("[0, 1, 2]", "[0.5]"), 8, "seed must be a whole number"),
        (("[0, 1, 2]", "[0, 1, 1.0]"), 8, "seed lists 1 twice"),
        (("  seed: {values: [0, 1, 2]}\n", ""), 4, "no seed"),
        ((GOOD[GOOD.index("parameters") :], "parameters:\n"), 4, "no parameters"),
        ((GOOD[GOOD.index("parameters") :], ""), 1, "no parameters"),
        ((GOOD, ""), 1, "a sweep file is a mapping"),
        (("  activation:", "  variant: {values: [paper, activaton=relu]}\n  se:"), 6, "in variant 'activaton=relu'"),
        (("  activation:", "  variant:\n    values:\n      - paper\n      - se=ture\n  se:"), 9, "se must be"),
        (("  activation:", "  variant: {values: [paper, model=mobilenet_v2]}\n  activation:"), 6, "sets model"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_file_line_and_the_nearest_spelling(tmp_path, change, line, message):
    assert change[0] in GOOD
    path = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load_study(path)
    assert str(error.value).startswith(f"{path}, line {line}:")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"method: grid\n\xff", "is not valid YAML"),
        (b"a: &a [*a]", "contains itself"),
        (b"when: 2026-13-45", "is not valid YAML"),
        (b"--- 1\n--- 2", "not valid YAML"),
        (b"x: !!python/object:os.system {}", "line 1: not valid YAML"),
    ],
)
def test_what_is_not_a_sensible_file_at_all_is_still_one_clear_error(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_study(path)


def test_a_missing_study_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean activation"):
        load_study(SWEEPS[0].with_name("activaton.yaml"))


def test_a_sweep_of_another_method_is_left_to_wandb_and_is_not_a_study(tmp_path):
    drawn = GOOD.replace("grid", "bayes") + "  lr: {distribution: log_uniform_values, min: 0.01, max: 1}\n"
    path = write(tmp_path, drawn)
    assert check_sweep(path)["method"] == "bayes"
    with pytest.raises(ConfigError, match=f"{path}, line 2: a study takes `method: grid`, not bayes"):
        load_study(path)
    with pytest.raises(ConfigError, match=r"line 2: unknown method 'bayse'; one of grid, random, bayes\. Did"):
        check_sweep(write(tmp_path, drawn.replace("bayes", "bayse")))


def test_a_profile_is_its_entry_for_all_then_the_studys_own(tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/mine.yaml").write_text(GOOD)
    path = tmp_path / "profiles.yaml"
    text = "quick:\nslow:\n  all: {recipe: full, width: 0.5}\n  mine:\n    width: [0.25, 1]\n    se: null\n"
    path.write_text(text)
    assert load_profile(path, "slow", "mine") == {"recipe": ["full"], "width": [0.25, 1.0], "se": [None]}
    assert load_profile(path, "slow", "other") == {"recipe": ["full"], "width": [0.5]}
    assert load_profile(path, "quick", "mine") == {}
    with pytest.raises(ConfigError, match="unknown profile 'slwo'; one of quick, slow"):
        load_profile(path, "slwo", "mine")
    for change, line, message in [
        (("mine:", "mien:"), 4, "unknown study 'mien'; one of all, mine. Did you mean mine"),
        (("recipe:", "recipy:"), 3, "Did you mean recipe"),
        (("[0.25, 1]", "[0.25, wide]"), 5, "width must be a finite number, not 'wide'"),
        (("[0.25, 1]", "[]"), 5, "width needs at least one value"),
        (("[0.25, 1]", "[1, 1.0]"), 5, "width lists 1.0 twice"),
        (("{recipe: full, width: 0.5}", "full"), 3, "all must be a mapping"),
        (("    se: null", "    width: 1"), 6, "duplicate key width, first in line 5"),
    ]:
        path.write_text(text.replace(*change))
        with pytest.raises(ConfigError, match=re.escape(f"{path}, line {line}: ") + ".*" + re.escape(message)):
            load_profile(path, "slow", "mine")


@each_file
@pytest.mark.parametrize("profile", ["quick", "full"])
def test_a_sweep_registered_under_a_profile_is_the_study_that_runs_here(path, profile, tmp_path):
    overrides = load_profile(PROFILES, profile, path.stem)
    registered = tmp_path / path.name
    registered.write_text(yaml.safe_dump(lay_over(check_sweep(path), overrides)))
    here = {(cell.name, trial.run_id) for cell, trial in load_study(path, overrides).trials}
    assert {trial.run_id for _, trial in load_study(registered).trials} == {run_id for _, run_id in here}


def test_laying_a_setting_over_a_sweep_whose_variants_set_it_is_refused():
    content = check_sweep(EXPERIMENTS / "sweeps/cumulative.yaml")
    with pytest.raises(ConfigError, match="sets model, so model=mobilenet_v1 cannot be set too"):
        lay_over(content, {"model": ["mobilenet_v1"]})


def published_schema() -> dict:
    """W&B's own schema of a sweep file, from its package `sweeps`, which need not be importable."""
    try:
        package = importlib.metadata.distribution("sweeps")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("W&B's package `sweeps` holds the schema; it comes with mnet[dev]")
    return json.loads(Path(package.locate_file("sweeps/config/schema.json")).read_text())


@each_file
def test_every_sweep_file_satisfies_wandbs_published_schema(path):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: make setup")
    validator = jsonschema.Draft7Validator(published_schema())
    for profile in ("quick", "full"):
        content = lay_over(check_sweep(path), load_profile(PROFILES, profile, path.stem))
        assert [error.message for error in validator.iter_errors(content)] == []
    assert list(validator.iter_errors({**content, "baseline": "paper"}))


NUMBERS = st.sampled_from([1e-4, 3e-05, 0.5, 1, 12, 2.5e3])
DRAWN = st.fixed_dictionaries(
    {"lr": st.lists(NUMBERS, min_size=1, max_size=3, unique=True)},
    optional={
        "weight_decay": st.lists(NUMBERS, min_size=1, max_size=2, unique=True),
        "se": st.lists(st.booleans(), min_size=1, max_size=2, unique=True),
        "width": st.lists(st.sampled_from([None, 0.5, 1.0]), min_size=1, max_size=3, unique=True),
        "variant": st.just(["paper", "kernel=5 stem_activation=relu"]),
    },
)


@given(DRAWN, st.sampled_from(["{value:.0e}", "{value!r}", "{value:e}"]))
def test_what_is_accepted_passes_wandbs_schema_also_after_overrides(parameters, form):
    """Numbers stay numbers in any notation: YAML 1.1, which W&B reads, takes 1e-4 as text."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed: make setup")

    def written(value) -> str:
        return "null" if value is None else str(value).lower() if value in (True, False) else form.format(value=value)

    lines = [f"  {name}: {{values: [{', '.join(map(written, values))}]}}" for name, values in parameters.items()
             if name not in ("se", "width", "variant")]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "\n".join([GOOD.rstrip(), *lines]) + "\n")
        content = check_sweep(path)
        assert [float(value) for value in content["parameters"]["lr"]["values"]] == pytest.approx(
            [float(form.format(value=value)) for value in parameters["lr"]]
        )
        assert all(isinstance(value, int | float) for value in content["parameters"]["lr"]["values"])
    overrides = {name: values for name, values in parameters.items() if name in ("se", "width", "variant")}
    validator = jsonschema.Draft7Validator(published_schema())
    assert [error.message for error in validator.iter_errors(lay_over(content, overrides))] == []


def test_every_option_is_documented_and_every_metric_is_logged():
    assert all(field_docs().get(name) for name in OPTIONS)
    logged = {"val/loss"} | {f"val/{name}" for task in TASKS.values() for name in task.load().metric_names}
    assert set(METRICS) == logged
