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
from bhsearch.objectives.costs import computed_pairs
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.space import LOG10_PENALTY, finetune_space, frozen_space
from bhsearch.tasks.binary import BinaryTask
from experiments.benchmarks.engines import compare, record, rules, table
from experiments.benchmarks.engines.contenders import CONTENDERS, PLAIN_FIRST, SHIPPED, best_points, plain_heads
from experiments.benchmarks.engines.journal import Journal, read_journal
from experiments.benchmarks.engines.judging import (
    Best,
    at_seconds,
    band,
    best_of,
    cost_to_target,
    median_and_band,
    regrets,
)
from experiments.benchmarks.engines.points import frozen_points, levelled
from experiments.benchmarks.engines.pruners import all_pruners
from experiments.benchmarks.engines.recorders import FrozenRecorder
from experiments.benchmarks.engines.replay import Answer, Recorded, Trace, replay
from experiments.benchmarks.engines.runs import Runs, arena_of
from experiments.benchmarks.engines.table import Entry, Table
from experiments.benchmarks.engines.tables import costs_table, kinds_table, seconds_table
from experiments.benchmarks.engines.thirds import put_aside

BACKBONES = ("staintex-s", "staintex-l")
SPACE = frozen_space(BACKBONES)
FACTS = {"backbones": list(BACKBONES), "regime": "frozen", "searched": "8 cases", "held_out": "4 cases"}


def made_up_score(params) -> float:
    """A smooth score with one best penalty, and a better backbone."""
    rate = params["log10_penalty"] - 1
    return 0.85 - 0.01 * rate**2 - 0.001 * params["hidden_units"] + 0.04 * (params["backbone"] == "staintex-l")


def entry(point) -> Entry:
    score = made_up_score(point.params)
    is_first = not point.params["hidden_units"] and not point.params["tta"]
    return Entry(point.number, point.params, score, score - 0.02, [score] * 5, 0.1, 0.25 * is_first)


@pytest.fixture(scope="module")
def made_up() -> Table:
    """A table of a smooth function."""
    entries = [entry(point) for point in frozen_points(SPACE)]
    views = {view for policy in VIEW_POLICIES for view in views_of(policy, 4)}
    features = {name: dict.fromkeys(views, 2.0) for name in BACKBONES}
    return Table("made-up-frozen", FACTS, features, entries)


# -- points and files -------------------------------------------------------------------------------------------------


def test_every_distinct_point_of_a_frozen_space_is_recorded_once():
    points = [point.params for point in frozen_points(SPACE)]
    assert all(row.holds(point[row.name]) for row in SPACE for point in points)
    assert len({str(point) for point in points}) == len(points) == 2 * (1 + 5 * 2 * 2) * 3 * 10
    assert all(levelled(point) == point for point in points)
    assert levelled(points[0] | {"views": 4, "tta": True}) == points[0]
    assert levelled(points[-1]) == points[-1] != points[-2]


def test_a_path_is_recorded_from_the_strongest_penalty_and_heads_that_are_shared_together():
    points = [point.params for point in frozen_points(SPACE)]
    path = [p for p in points if (p["backbone"], p["policy"], p["views"]) == ("staintex-s", "stain", 4)]
    linear = [point for point in path if not point["hidden_units"]]
    assert [point["log10_penalty"] for point in linear[::2]] == sorted(LOG10_PENALTY.values, reverse=True)
    for one, other in zip(path[::2], path[1::2], strict=True):
        assert one | {"tta": True} == other


def test_a_recording_goes_on_where_it_was_stopped_and_refuses_another(tmp_path):
    file, points = tmp_path / "some.jsonl", frozen_points(SPACE)[:3]
    journal = Journal(file, "some-frozen", FACTS)
    journal.add_features("staintex-s", "identity", 1.5)
    journal.add(entry(points[0]))
    with file.open("a") as stream:
        stream.write('{"entry": {"numb')  # killed here
    again = Journal(file, "some-frozen", FACTS)
    again.add(entry(points[1]))
    found = read_journal(file)
    assert [each.number for each in found.entries] == [0, 1]
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


@pytest.mark.slow
def test_a_recorded_trial_is_that_of_a_study_and_its_last_third_was_never_seen(tmp_path, monkeypatch):
    """Recorded twice, the second time from where the first one stopped."""
    some = {"backbone": "staintex-s", "policy": "stain", "views": 2}
    penalties = [p for p in LOG10_PENALTY.values[::-1] if p >= 1.0]
    chosen = [
        some | {"hidden_units": hidden, "log10_penalty": penalty, "tta": tta}
        for hidden in (0, 16)
        for penalty in penalties
        for tta in (False, True)
    ]
    points = [point for point in frozen_points(frozen_space(("staintex-s",))) if point.params in chosen]
    given = ["--data", "phantom:cases=30,images=2", "--backbones", "staintex-s", "--image-size", "48"]
    file = tmp_path / "some.jsonl"
    monkeypatch.setattr(record, "frozen_points", lambda _: points[:5])
    record.main([*given, "--to", str(file)])
    first = file.read_bytes()
    monkeypatch.setattr(record, "frozen_points", lambda _: points)
    record.main([*given, "--to", str(file)])
    assert file.read_bytes().startswith(first)
    found = read_journal(file)
    assert [each.params for each in found.entries] == [point.params for point in points]
    for each in found.entries:
        assert each.score == pytest.approx(np.mean(each.folds), abs=1e-4)
        assert 0.0 <= each.held_out <= 1.0
        assert each.step == 0.0 or not each.params["hidden_units"]
    assert set(found.features) == {"staintex-s"}
    assert len(found.features["staintex-s"]) == 13

    options = record.parser().parse_args(given)
    inner, held_out = put_aside(record.StudyContext.build(record.settings_of(options), record.ProgressReporter()))
    recorder, rows = FrozenRecorder(inner, held_out), inner.images
    objective = FrozenObjective(
        recorder._features, inner.backbones, rows.label, rows.fold, rows.group, inner.settings.seed, task=BinaryTask()
    )
    for each in found.entries:
        assert objective(each.params).score == pytest.approx(each.score, abs=1e-6)


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


@pytest.mark.slow
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


def test_without_augmentation_the_number_of_views_changes_no_answer(made_up):
    answers, params = Recorded(made_up), plain_heads(SPACE)[0]
    assert answers(params | {"views": 4, "tta": True}) == answers(params)


def test_answers_are_recorded_trials_and_nothing_else(made_up):
    answers, known = Recorded(made_up), frozen_points(SPACE)[77].params
    assert answers(known).score == made_up_score(known)
    with pytest.raises(DataError, match=r"0\.0123"):
        answers(known | {"log10_penalty": 0.0123})


def test_a_linear_head_costs_the_steps_of_its_path_and_any_head_costs_its_views(made_up):
    answers = Recorded(made_up)
    point = {"backbone": "staintex-s", "policy": "stain", "views": 2, "hidden_units": 0, "log10_penalty": 2.5}
    views = {("staintex-s", "identity"): 2.0, ("staintex-s", "stain1"): 2.0}
    steps = {("staintex-s", ("identity", "stain1"), penalty): 0.25 for penalty in (2.5, 3.0, 3.5)}
    for tta in (False, True):
        assert answers(point | {"tta": tta}).shared == views | steps
    assert answers(point | {"tta": False, "hidden_units": 16}).shared == views


# -- replays ----------------------------------------------------------------------------------------------------------


class Listed:
    """An engine that has its points in a list."""

    def __init__(self, points) -> None:
        self.points, self.heard = list(points), []

    def ask(self, point=None, notes=None, seconds_left=math.inf):
        from bhsearch.engines.base import SearchExhausted, Trial

        if point is None and not self.points:
            raise SearchExhausted("no more")
        return Trial(len(self.heard), "RUNNING", point or self.points.pop(0))

    def complete(self, number, score, seconds) -> None:
        self.heard.append((number, score))

    def fail(self, number, reason) -> None:
        self.heard.append((number, None))


def test_the_clock_counts_shared_parts_once_and_a_failed_trial_too():
    start = {row.name: row.start for row in SPACE} | {"backbone": "staintex-s"}
    points = [start | {"log10_penalty": penalty} for penalty in (2.5, 3.0, 3.5)]
    scores = {2.5: 0.7, 3.0: None, 3.5: 0.6}
    shared = {2.5: {("a",): 2.0, ("b",): 3.0}, 3.0: {("a",): 2.0}, 3.5: {("c",): 7.0}}
    engine = Listed(points[1:])

    def answers(params) -> Answer:
        penalty = params["log10_penalty"]
        return Answer(scores[penalty], 0.5 + penalty / 100, 10.0, shared[penalty])

    trace = replay(engine, answers, 9, first=points[:1])
    assert engine.heard == [(0, 0.7), (1, None), (2, 0.6)]
    assert trace.clock == pytest.approx([15.0, 25.0, 42.0], abs=0.5)
    assert np.isnan(trace.scores).tolist() == [False, True, False]
    assert trace.best().tolist() == [0.7, 0.7, 0.7]
    assert trace.best_held_out() == pytest.approx([0.525] * 3)
    assert [point["log10_penalty"] for point in trace.points] == [2.5, 3.0, 3.5]


def test_every_contender_works_without_epochs():
    assert "keras-tuner hyperband" not in CONTENDERS
    assert len(CONTENDERS) == 7


@pytest.mark.parametrize("name", [SHIPPED, "optuna random", "keras-tuner random", "keras-tuner bayesian"])
def test_every_engine_replays_alike_with_one_seed_and_stays_in_the_space(name, made_up, tmp_path):
    arena = arena_of(made_up)
    runs = [Runs(None, lambda _: None).traces(arena, name, CONTENDERS[name], [3], 12) for _ in range(2)]
    (one,), (other,) = runs
    assert one.points == other.points
    assert all(row.holds(point[row.name]) for row in arena.space for point in one.points)
    assert one.scores.tolist() == [made_up_score(levelled(point)) for point in one.points]


def test_a_budget_ends_a_replay_and_an_ample_one_changes_nothing(made_up):
    arena, runs = arena_of(made_up), Runs(None, lambda _: None)
    plain, ample, small = (
        runs.traces(arena, SHIPPED, CONTENDERS[SHIPPED], [0], 24, budget_seconds=seconds)[0]
        for seconds in (None, 1e6, 20.0)
    )
    assert ample.points == plain.points
    assert len(small.points) < len(plain.points)
    assert small.clock[-2] <= 20.0
    assert len(computed_pairs(small.points)) < len(computed_pairs(plain.points))


def test_replays_are_kept_and_more_seeds_are_added_to_them(made_up, tmp_path):
    said: list[str] = []
    arena, runs = arena_of(made_up), Runs(tmp_path, said.append)
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
    return Entry(number, params, score, held_out, folds, 8.0, reports=reports)


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


def test_costs_are_those_of_features_paths_and_hidden_layers(made_up):
    row = costs_table([made_up]).splitlines()[2]
    # 13 views of 2 s; a path of 10 steps of 0.25 s and trials of 0.1 s, with and without test-time augmentation.
    assert row == "| made-up-frozen | staintex-s | 2.0 | 26.0 | 3.5 | 48.5 | 42.0 |"


def test_the_best_of_each_kind_is_found(made_up):
    rows = kinds_table([made_up]).splitlines()[2:]
    assert [row.split(" | ")[1:4] for row in rows] == [
        ["linear", "the image itself", "0.8900"],
        ["linear", "augmented", "0.8900"],
        ["hidden layer", "the image itself", "0.8740"],
        ["hidden layer", "augmented", "0.8740"],
    ]
    assert rows[0].endswith("| staintex-l, none, 2, 0, 1.0, False |")


def test_regret_at_equal_seconds_says_where_no_trial_is_done():
    traces = {"slow": [trace([0.6, 0.8], seconds=20.0)], "fast": [trace([0.5, 0.7], seconds=4.0)]}
    rows = seconds_table("made-up", traces, Best(0.9, 0.9)).splitlines()[2:]
    assert [cell.split(" (")[0] for cell in rows[0].split(" | ")[1:5]] == ["no trial yet"] * 2 + ["0.3000", "0.1000"]
    assert [cell.split(" (")[0] for cell in rows[1].split(" | ")[1:3]] == ["0.4000", "0.2000"]


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
    for name in (SHIPPED, PLAIN_FIRST, "optuna random", "median", "Searches on made-up-frozen", "Warm start"):
        assert name in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("main", [record.main, compare.main])
def test_each_command_answers_help_with_its_own_line(main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "python -m experiments.benchmarks.engines." in capsys.readouterr().out


def test_the_recorded_tables_are_whole():
    """Every distinct trial of both frozen spaces, and 100 finetune trials of ten seconds."""
    tables = table.read(table.FILE)
    breakhis, idc, finetuned = tables.values()
    assert [each.facts["regime"] for each in tables.values()] == ["frozen", "frozen", "finetune"]
    assert (breakhis.name, idc.name) == ("breakhis-frozen", "idc-frozen")
    assert len(finetuned.scored) == 100
    assert max(each.seconds for each in finetuned.entries) <= 10
    for found in (breakhis, idc):
        space = arena_of(found).space
        assert [each.params for each in found.entries] == [point.params for point in frozen_points(space)]
        assert best_of(found.scored).score > 0.8
        n_views = len({view for policy in VIEW_POLICIES for view in views_of(policy, 4)})
        assert [len(views) for views in found.features.values()] == [n_views] * len(found.facts["backbones"])
    assert table.FILE.stat().st_size < 4_000_000
