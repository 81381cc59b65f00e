"""Opening a study of either engine: kept apart by engine, refused where it does not fit, and found by the other."""

from __future__ import annotations

import json

import pytest

from bhsearch.errors import MissingError, StudyError
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.resume.open import find_any_study, open_engine, settings_of
from tests.studies import settings

ENGINES = ("optuna", "keras-tuner")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def opened(**changes):
    return open_engine(StudyContext.build(settings(**changes), ProgressReporter()))


def one_trial(engine, score=0.5):
    trial = engine.ask()
    engine.complete(trial.number, score, 0.1)
    return trial.params


def test_studies_of_one_name_in_two_engines_are_two():
    (first, optuna), (second, tuner) = (opened(engine=engine, study="mine") for engine in ("optuna", "keras-tuner"))
    assert (type(optuna).__name__, type(tuner).__name__) == ("OptunaEngine", "KerasTunerEngine")
    assert (first["engine"], second["engine"]) == ("optuna", "keras-tuner")
    assert first["uid"] != second["uid"]
    one_trial(tuner)
    assert (len(optuna.trials()), len(tuner.trials())) == (0, 1)
    facts, again = opened(engine="keras-tuner", study="mine")
    assert facts == second
    assert again.trials() == tuner.trials()


def test_a_study_that_does_not_fit_is_refused_and_left_alone():
    facts, engine = opened(engine="keras-tuner")
    one_trial(engine)
    with pytest.raises(StudyError, match="--seed: was 0, is now 1"):
        opened(engine="keras-tuner", seed=1)
    assert opened(engine="keras-tuner")[0] == facts


def test_a_study_goes_on_with_another_sampler_of_its_engine():
    """Each oracle sees the others' trials as points that were given."""
    points = []
    for sampler in ("random", "grid", "bayesian", "grid", "random", "bayesian"):
        _, engine = opened(engine="keras-tuner", sampler=sampler)
        points += [one_trial(engine) for _ in range(3)]
    assert len({str(point) for point in points}) == len(points)
    _, alone = opened(engine="keras-tuner", sampler="grid", study="alone")
    assert [one_trial(alone) for _ in range(6)] == points[3:6] + points[9:12]


def test_more_backbones_are_let_in():
    _, engine = opened(engine="keras-tuner", sampler="random")
    one_trial(engine)
    wide, engine = opened(engine="keras-tuner", sampler="random", backbones=("staintex-s", "staintex-l"))
    assert list(wide["backbones"]) == ["staintex-s", "staintex-l"]
    assert "staintex-l" in {one_trial(engine)["backbone"] for _ in range(8)}
    with pytest.raises(StudyError, match="fewer backbones: staintex-l"):
        opened(engine="keras-tuner", sampler="random")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_study_to_start_from_is_found_in_either_engine(engine):
    facts, made = opened(engine=engine, study="first", sampler="random")
    params = one_trial(made, 0.75)
    for asked in ENGINES:
        assert find_any_study(settings(engine=asked), "first") == (facts, [(0.75, params)])
        with pytest.raises(StudyError, match="no study 'nosuch'"):
            find_any_study(settings(engine=asked), "nosuch")


@pytest.mark.parametrize("engine", ENGINES)
def test_looking_for_a_study_makes_no_database(engine, tmp_path):
    with pytest.raises(StudyError, match=r"no study 'first' in .*(Existing studies: none|does not exist)"):
        find_any_study(settings(engine=engine), "first")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_no_study_is_told_which_file_is_lacking_and_makes_none(tmp_path):
    with pytest.raises(
        MissingError, match=rf"no study 'first' in the storage: {tmp_path}/elsewhere\.db does not exist"
    ):
        settings_of("sqlite:///elsewhere.db", "first")
    assert list(tmp_path.iterdir()) == []


def test_a_study_of_optuna_carries_the_schema_number_also_with_more_backbones():
    import optuna

    for backbones in (("staintex-s",), ("staintex-s", "staintex-l")):
        opened(study="mine", backbones=backbones)
        study = optuna.load_study(study_name="mine", storage=settings().storage)
        assert study._storage.get_study_system_attrs(study._study_id)["bhsearch.schema"] == 1


@pytest.mark.parametrize("number", [None, 0])
def test_a_study_of_optuna_with_an_earlier_schema_is_refused_and_left_alone(number):
    import optuna

    opened(study="mine")
    study = optuna.load_study(study_name="mine", storage=settings().storage)
    study._storage.set_study_system_attr(study._study_id, "bhsearch.schema", number)
    before = study._storage.get_study_system_attrs(study._study_id)
    for refused in (lambda: opened(study="mine"), lambda: find_any_study(settings(), "mine")):
        with pytest.raises(StudyError, match=r"'mine' has the schema 0 .* commit d6a9faa"):
            refused()
    assert study._storage.get_study_system_attrs(study._study_id) == before


def test_a_study_of_keras_tuner_with_an_earlier_schema_is_refused_and_left_alone(tmp_path):
    _, engine = opened(engine="keras-tuner", study="mine")
    one_trial(engine)
    file = tmp_path / "keras_tuner" / "mine" / "facts.json"
    held = json.loads(file.read_text())
    assert held.pop("schema") == 1
    file.write_text(json.dumps(held))
    with pytest.raises(StudyError, match=r"'mine' has the schema 0 .* commit d6a9faa"):
        opened(engine="keras-tuner", study="mine")
    assert json.loads(file.read_text()) == held
