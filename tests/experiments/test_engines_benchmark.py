"""The comparison of engines, in small: what is recorded, what answers for it, and what is made of the replays."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.grouping import units_of_groups
from bhsearch.errors import DataError
from bhsearch.models.augmentation.cached_views import views_of
from bhsearch.models.augmentation.policies import VIEW_POLICIES
from bhsearch.objectives.space import finetune_space, frozen_space
from experiments.benchmarks.engines import compare, record, rules, surrogate, table
from experiments.benchmarks.engines.contenders import CONTENDERS, SHIPPED, best_points
from experiments.benchmarks.engines.design import GRID, SOBOL, at_shares, frozen_design, grid_points, grid_space
from experiments.benchmarks.engines.journal import Journal, read_journal
from experiments.benchmarks.engines.judging import Best, at_seconds, band, cost_to_target, median_and_band, regrets
from experiments.benchmarks.engines.pruners import all_pruners
from experiments.benchmarks.engines.replay import Recorded, Trace, replay
from experiments.benchmarks.engines.runs import Runs, arena_of, grid_arena_of
from experiments.benchmarks.engines.surrogate import Answer, Surrogate, cross_validated, fitted_scales
from experiments.benchmarks.engines.table import Entry, Table
from experiments.benchmarks.engines.thirds import put_aside

BACKBONES = ("staintex-s", "staintex-l")
SPACE = frozen_space(BACKBONES)
FACTS = {"backbones": list(BACKBONES), "regime": "frozen", "searched": "8 cases", "held_out": "4 cases"}


def made_up_score(params) -> float:
    """A smooth score with one best learning rate, and a better backbone."""
    rate = math.log10(params["learning_rate"])
    return 0.85 - 0.1 * (rate + 2) ** 2 - 0.1 * params["dropout"] + 0.04 * (params["backbone"] == "staintex-l")


def entry(point, score: float | None = None) -> Entry:
    score = made_up_score(point.params) if score is None else score
    seconds = 0.01 * point.params["epochs"]
    return Entry(point.design, point.number, point.params, score, score - 0.02, [score] * 5, seconds, seconds)


@pytest.fixture(scope="module")
def made_up() -> Table:
    """A table of a smooth function."""
    entries = [entry(point) for point in frozen_design(SPACE, 120)]
    scales = fitted_scales(SPACE, entries, most=120)
    views = {view for policy in VIEW_POLICIES for view in views_of(policy, 4)}
    features = {name: dict.fromkeys(views, 2.0) for name in BACKBONES}
    return Table("made-up-frozen", FACTS, features, entries, scales)


# -- design and files -------------------------------------------------------------------------------------------------


def test_a_design_lies_in_the_space_and_its_grid_is_whole():
    points = list(frozen_design(SPACE, 64))
    assert all(row.holds(point.params[row.name]) for row in SPACE for point in points)
    assert len({(point.design, point.number) for point in points}) == len(points)
    grid = [point.params for point in points if point.design == GRID]
    sizes = [len(row.choices) for row in grid_space(SPACE)]
    assert len(grid) == math.prod(sizes) == len({str(params) for params in grid}) == 2 * 6 * 3 * 2 * 3
    again = [point for point in frozen_design(SPACE, 64) if point.design == SOBOL]
    assert again == [point for point in points if point.design == SOBOL]


def test_shares_go_through_all_values_of_a_parameter():
    ends = [at_shares(SPACE, [share] * len(SPACE)) for share in (0.0, 1 - 1e-12)]
    for row in SPACE:
        expected = (row.choices[0], row.choices[-1]) if row.choices else (row.low, row.high)
        assert [point[row.name] for point in ends] == pytest.approx(list(expected)) or not row.log
        if row.choices:
            assert [point[row.name] for point in ends] == list(expected)
    assert isinstance(ends[0]["epochs"], int)


def test_a_recording_goes_on_where_it_was_stopped_and_refuses_another(tmp_path):
    file, points = tmp_path / "some.jsonl", grid_points(SPACE)[:3]
    journal = Journal(file, "some-frozen", FACTS)
    journal.add_features("staintex-s", "identity", 1.5)
    journal.add(entry(points[0]))
    with file.open("a") as stream:
        stream.write('{"entry": {"design": "gr')  # killed here
    again = Journal(file, "some-frozen", FACTS)
    again.add(entry(points[1]))
    found = read_journal(file)
    assert [each.key for each in found.entries] == [(GRID, 0), (GRID, 1)]
    assert found.entries[0] == entry(points[0])
    assert found.features == {"staintex-s": {"identity": 1.5}}
    with pytest.raises(DataError, match="new file"):
        Journal(file, "some-frozen", FACTS | {"seed": 1})


def test_tables_come_back_from_their_file_and_a_damaged_file_is_said_to_be_one(tmp_path, made_up, capsys):
    file = tmp_path / "table.json.gz"
    table.write(file, [made_up])
    once = file.read_bytes()
    table.write(file, [made_up])
    assert file.read_bytes() == once
    assert table.read(file) == {made_up.name: made_up}
    file.write_bytes(once[:-9])
    with pytest.raises(SystemExit) as caught:
        compare.main(["--table", str(file)])
    assert caught.value.code == 2
    assert "record.py" in capsys.readouterr().err


# -- recording --------------------------------------------------------------------------------------------------------


def test_a_recorded_trial_is_that_of_a_study_and_its_last_third_was_never_seen(tmp_path, monkeypatch):
    """Recorded twice, the second time from where the first one stopped."""
    monkeypatch.setattr(record, "frozen_design", lambda space, n: list(frozen_design(space, n))[:n])
    given = ["--data", "phantom:cases=30,images=2", "--backbones", "staintex-s", "--image-size", "48"]
    file = tmp_path / "some.jsonl"
    record.main([*given, "--to", str(file), "--trials", "1"])
    first = file.read_bytes()
    record.main([*given, "--to", str(file), "--trials", "2"])
    assert file.read_bytes().startswith(first)
    found = read_journal(file)
    assert len(found.entries) == 2
    for each in found.entries:
        assert each.score == pytest.approx(np.mean(each.folds), abs=1e-4)
        assert 0.0 <= each.held_out <= 1.0
        assert len(each.auc) == each.params["epochs"]
        assert each.auc[-1] == pytest.approx(each.score, abs=1e-3) or each.params["tta"]
    assert set(found.features) == {"staintex-s"}
    assert len(found.features["staintex-s"]) == 13


def test_the_cases_put_aside_are_a_third_of_development_and_no_sealed_ones():
    options = record.parser().parse_args(["--data", "phantom:cases=30,images=2", "--backbones", "staintex-s"])
    whole = record.StudyContext.build(record.settings_of(options), record.ProgressReporter())
    inner, held_out = put_aside(whole)
    groups = whole.split.groups
    searched, sealed = set(groups[inner.split.development]), set(groups[whole.split.test])
    aside = set(held_out.groups)
    assert not aside & searched
    assert not aside & sealed
    assert aside | searched == set(groups[whole.split.development])
    assert len(aside) == pytest.approx(len(aside | searched) / 3, abs=1)
    assert set(inner.split.folds[0][inner.split.development]) == set(range(5))
    assert (inner.split.folds[0][~inner.split.development] == -1).all()
    assert len(units_of_groups(held_out.index).keys) == len(aside)


def test_a_recorded_finetune_trial_holds_what_pruners_hear(tmp_path):
    given = ["--data", "phantom:cases=24,images=2", "--finetune", "--backbones", "cnn", "--image-size", "32"]
    file = tmp_path / "some.jsonl"
    record.main([*given, "--to", str(file), "--trials", "1"])
    (found,) = read_journal(file).entries
    assert [step for step, _, _ in found.reports] == list(range(12))
    assert [fold for _, _, fold in found.reports if fold is not None] == pytest.approx(found.folds, abs=1e-5)
    assert found.score == pytest.approx(np.mean(found.folds), abs=1e-4)
    assert 0.0 <= found.held_out <= 1.0


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_surrogate_knows_the_function_that_it_was_fitted_to(made_up):
    errors = cross_validated(SPACE, made_up.entries, made_up.scales)
    assert errors["score"].rank > 0.9
    assert errors["score"].rmse < errors["score"].spread / 3
    assert errors["log seconds"].rmse < errors["log seconds"].spread / 3
    model = Surrogate(SPACE, made_up.entries, made_up.scales)
    for each in made_up.entries[::50]:
        answer = model(each.params)
        assert answer.score == pytest.approx(each.score, abs=0.02)
        assert answer.held_out == pytest.approx(each.held_out, abs=0.02)
        assert answer.seconds == pytest.approx(each.seconds, rel=0.3)


def test_without_augmentation_the_number_of_views_changes_no_answer(made_up):
    model, params = Surrogate(SPACE, made_up.entries, made_up.scales), made_up.entries[0].params | {"policy": "none"}
    assert model(params | {"views": 2, "tta": False}) == model(params | {"views": 4, "tta": True})


def test_a_space_recorded_in_full_is_answered_by_its_points_only(made_up):
    answers = Recorded([each for each in made_up.entries if each.design == GRID])
    known = grid_points(SPACE)[7].params
    assert answers(known).score == made_up_score(known)
    with pytest.raises(DataError, match=r"0\.0123"):
        answers(known | {"learning_rate": 0.0123})


# -- replays ----------------------------------------------------------------------------------------------------------


class Listed:
    """An engine that has its points in a list."""

    def __init__(self, points) -> None:
        self.points, self.heard = list(points), []

    def ask(self, point=None):
        from bhsearch.engines.base import SearchExhausted, Trial

        if point is None and not self.points:
            raise SearchExhausted("no more")
        return Trial(len(self.heard), "RUNNING", point or self.points.pop(0))

    def complete(self, number, score, seconds) -> None:
        self.heard.append((number, score))

    def fail(self, number, reason) -> None:
        self.heard.append((number, None))


def test_the_clock_counts_features_once_and_a_failed_trial_too():
    start = {row.name: row.start for row in SPACE} | {"backbone": "staintex-s", "policy": "stain", "views": 2}
    points = [start | {"epochs": epochs} for epochs in (5, 6, 7)]
    scores = {5: 0.7, 6: None, 7: 0.6}
    engine = Listed(points[1:])
    trace = replay(
        engine,
        lambda params: Answer(scores[params["epochs"]], 0.5 + params["epochs"] / 100, 10.0),
        9,
        {"staintex-s": {"identity": 2.0, "stain1": 3.0}},
        first=points[:1],
    )
    assert engine.heard == [(0, 0.7), (1, None), (2, 0.6)]
    assert trace.clock == pytest.approx([15.0, 25.0, 35.0], abs=0.5)
    assert np.isnan(trace.scores).tolist() == [False, True, False]
    assert trace.best().tolist() == [0.7, 0.7, 0.7]
    assert trace.best_held_out() == pytest.approx([0.55] * 3)
    assert [point["epochs"] for point in trace.points] == [5, 6, 7]


@pytest.mark.parametrize("name", [SHIPPED, "optuna random", "keras-tuner random"])
def test_every_engine_replays_alike_with_one_seed_and_stays_in_the_space(name, made_up, tmp_path):
    arena = grid_arena_of(made_up)
    runs = [Runs(None, lambda _: None).traces(arena, name, CONTENDERS[name], [3], 12) for _ in range(2)]
    (one,), (other,) = runs
    assert one.points == other.points
    assert all(row.holds(point[row.name]) for row in arena.space for point in one.points)
    assert one.scores.tolist() == [made_up_score(point) for point in one.points]


def test_replays_are_kept_and_more_seeds_are_added_to_them(made_up, tmp_path):
    said: list[str] = []
    arena, runs = grid_arena_of(made_up), Runs(tmp_path, said.append)
    first = runs.traces(arena, "optuna random", CONTENDERS["optuna random"], [0], 5)
    both = runs.traces(arena, "optuna random", CONTENDERS["optuna random"], [0, 1], 5)
    assert [text.split(", ")[-2] for text in said] == ["1 studies", "1 studies"]
    assert both[0].points == first[0].points
    assert both[0].clock.tolist() == first[0].clock.tolist()


def pruned_entry(number: int, folds: list[float], held_out: float = 0.5) -> Entry:
    reports = [
        (step, float(np.mean(folds[: step // 4 + 1])), folds[step // 4] if step % 4 == 3 else None)
        for step in range(4 * len(folds))
    ]
    params = {row.name: row.start for row in finetune_space(("cnn",), (48,))} | {"backbone": "cnn"}
    score = float(np.mean(folds))
    return Entry("random", number, params, score, held_out, folds, 8.0, 9.0, reports=reports)


def test_a_pruned_trial_costs_what_it_had_run_and_has_no_score():
    facts = {"backbones": ["cnn"], "image_size": 48, "regime": "finetune"}
    entries = [pruned_entry(number, [0.9, 0.9]) for number in range(8)] + [pruned_entry(8, [0.5, 0.5])] * 2
    traces = all_pruners(Table("some-finetune", facts, entries=entries), range(3))
    for trace in traces["none"]:
        assert not np.isnan(trace.scores).any()
        assert trace.clock[-1] == pytest.approx(80.0, abs=2.0)
    ended = [np.isnan(trace.scores).sum() for trace in traces["median"]]
    assert max(ended) == 2
    for trace, n_ended in zip(traces["median"], ended, strict=True):
        assert trace.clock[-1] == pytest.approx(80.0 - n_ended * 6.0, abs=2.0)  # ended at the half of the first fold
        assert trace.best()[-1] == pytest.approx(0.9)


# -- judging ----------------------------------------------------------------------------------------------------------


def trace(scores, held_out=None, seconds=1.0) -> Trace:
    values = np.array(scores, float)
    outside = values if held_out is None else np.array(held_out, float)
    return Trace(values, outside, seconds * np.arange(1, len(values) + 1), 0.0, [{"n": k} for k in range(len(values))])


def test_regret_on_other_cases_is_that_of_the_trial_that_leads():
    found = trace([0.6, 0.8, 0.7, 0.8], [0.9, 0.5, 0.95, 0.99])
    score, held_out = regrets([found], Best(0.9, 1.0), 6)
    assert score[0] == pytest.approx([0.3, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert held_out[0] == pytest.approx([0.1, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert at_seconds([found], score, np.array([0.5, 1.0, 2.5]))[0][1:] == pytest.approx([0.3, 0.1])
    assert np.isnan(at_seconds([found], score, np.array([0.5]))[0][0])


def test_cost_is_counted_up_to_the_first_trial_near_enough():
    traces = [trace([0.5, 0.896, 0.9], seconds=2.0), trace([0.5, 0.6, 0.7])]
    cost = cost_to_target(traces, Best(0.9, 0.9))
    assert cost.trials.tolist() == [2.0, math.inf]
    assert cost.seconds.tolist() == [4.0, math.inf]
    assert cost.share == 0.5
    assert median_and_band(np.array([1.0, 2.0, math.inf]))[0] == 2.0
    assert rules.shown((math.inf, 3.0, math.inf)) == "never (3 to never)"


def test_a_band_holds_its_mean_and_is_narrow_where_seeds_agree():
    found = band(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]))
    assert found.mean.tolist() == [1.0, 1.5]
    assert found.low[0] == found.high[0] == 1.0
    assert 0.0 < found.low[1] < 1.5 < found.high[1] < 3.0


def test_a_study_stops_after_so_many_trials_without_a_better_score():
    scores = [0.5, 0.6, 0.60005, 0.6, 0.7, 0.6, 0.6, 0.6]
    assert rules.stops_at(scores, 3) == 8
    assert rules.stops_at(scores, 2) == 4
    assert rules.stops_at(scores, 9) == 8
    assert rules.stops_at([0.5, math.nan, math.nan], 2) == 3


def test_predicted_gains_are_held_against_what_came():
    random = np.random.default_rng(0)
    traces = [trace(random.random(60)) for _ in range(40)]
    found = rules.calibrated(traces, 20, 40)
    assert found.realised == pytest.approx(np.mean([t.scores.max() - t.scores[:20].max() for t in traces]))
    assert found.predicted == pytest.approx(found.realised, abs=0.02)


def test_the_best_points_of_a_study_are_distinct():
    points = [{"x": 1}, {"x": 2}, {"x": 1}, {"x": 3}]
    assert best_points(list(zip([0.9, 0.7, 0.9, 0.8], points, strict=True)), 2) == [{"x": 1}, {"x": 3}]


# -- the whole command ------------------------------------------------------------------------------------------------


def test_the_command_prints_every_table_and_draws_the_figure(made_up, tmp_path, capsys):
    facts = {"backbones": ["cnn"], "image_size": 48, "regime": "finetune", "searched": "", "held_out": ""}
    finetuned = [pruned_entry(k, [0.6 + k / 100, 0.6], 0.5 + k / 100) for k in range(8)]
    other = replace(made_up, name="other-frozen")
    file, figure = tmp_path / "table.json.gz", tmp_path / "engines.png"
    table.write(file, [made_up, other, Table("some-finetune", facts, entries=finetuned)])
    small = ["--seeds", "2", "--trials", "26", "--contenders", f"{SHIPPED},optuna random"]
    compare.main(["--table", str(file), "--figure", str(figure), "--keep", str(tmp_path / "kept"), *small])
    printed = capsys.readouterr().out
    for name in (SHIPPED, "optuna random", "median", "made-up-frozen, grid", "Warm start", "The stop rule"):
        assert name in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("main", [record.main, compare.main, surrogate.main])
def test_each_command_answers_help_with_its_own_line(main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m experiments.benchmarks.engines." in capsys.readouterr().out


def test_the_recorded_tables_are_whole():
    """As the issue asks: 1,500 frozen trials on real tissue, 500 on synthetic, 100 finetune trials of ten seconds."""
    tables = table.read(table.FILE)
    assert [name.split("-")[0] + "-" + name.split("-")[-1] for name in tables] == [
        "idc-frozen",
        "phantom-frozen",
        "phantom-finetune",
    ]
    idc, phantom, finetuned = tables.values()
    assert len(idc.scored) >= 1500
    assert len(phantom.scored) >= 500
    assert len(finetuned.scored) == 100
    assert max(each.seconds for each in finetuned.entries) <= 10
    for found in (idc, phantom):
        space = surrogate.space_of(found)
        assert all(row.holds(each.params[row.name]) for each in found.entries for row in space)
        recorded = {str(each.params) for each in found.entries if each.design == GRID}
        assert recorded == {str(point.params) for point in grid_points(space)}
        answers = arena_of(found).answers
        some = found.scored[::200]
        off = [abs(answers(each.params).score - each.score) for each in some]
        assert np.median(off) < 0.01
    assert table.FILE.stat().st_size < 4_000_000
