"""What people see of a study in Optuna's storage, and what they do not."""

from __future__ import annotations

import optuna
import pytest

from bhsearch.engines.base import TrialAlreadyEnded
from bhsearch.engines.optuna.engine import OptunaEngine, load_settings, metadata_of, open_study, save_settings
from bhsearch.engines.optuna.storages import attributes as attributes
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.errors import StudyError
from bhsearch.objectives.space import frozen_space

BACKBONES = ("staintex-s",)
FACTS = {"uid": "1", "backbones": dict.fromkeys(BACKBONES, "digest")}


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/optuna.db"


def engine(url: str) -> OptunaEngine:
    return OptunaEngine(open_study(connect(url), "study", FACTS), frozen_space(BACKBONES), "random", 0)


def seen(url: str) -> optuna.Study:
    """As another program opens it."""
    return optuna.load_study(study_name="study", storage=url)


def test_the_score_has_a_name_and_the_studys_own_facts_are_out_of_sight(url):
    save_settings(open_study(connect(url), "study", FACTS), {"data": "phantom"})
    study = seen(url)
    assert study.metric_names == ["auc"]
    assert study.user_attrs == {}
    assert metadata_of(study) == FACTS
    assert load_settings(study) == {"data": "phantom"}


def test_people_see_the_interval_and_the_run_of_a_trial_and_nothing_internal(url):
    made = engine(url)
    number = made.ask(notes={"started_ms": 5, "outbox": "/somewhere", "retry_of": 3, "attempt": 1}).number
    made.complete(number, 0.75, 1.23456, (0.61234567, 0.9))
    made.annotate(number, {"mlflow_run": "abc", "mlflow_url": "http://127.0.0.1:5000/#/"})
    (trial,) = seen(url).trials
    assert trial.user_attrs == {
        "retry_of": 3,
        "seconds": 1.2346,
        "auc_low": 0.612346,
        "auc_high": 0.9,
        "mlflow_run": "abc",
        "mlflow_url": "http://127.0.0.1:5000/#/",
    }


def test_the_notes_of_a_trial_come_back_whole(url):
    made = engine(url)
    asked = made.ask(notes={"started_ms": 5, "outbox": "/somewhere", "attempt": 1})
    assert {"owner", "started_ms", "outbox", "attempt"} <= set(asked.notes)
    made.fail(asked.number, "it diverged", dead=True)
    (trial,) = engine(url).trials()
    assert trial.notes == {**asked.notes, "reason": "it diverged", "dead": True}
    assert trial.owner == asked.owner


def test_what_is_added_to_an_ended_trial_again_takes_the_place_of_the_first(url):
    made = engine(url)
    number = made.ask().number
    made.complete(number, 0.75, 1.0)
    for run in ("first", "second"):
        made.annotate(number, {"mlflow_run": run})
    assert seen(url).trials[0].user_attrs["mlflow_run"] == "second"
    assert seen(url).trials[0].value == 0.75


def test_the_first_trial_of_an_engine_must_agree_with_the_choices_in_the_storage(url):
    made = engine(url)
    made.complete(made.ask().number, 0.75, 1.0)
    other = OptunaEngine(open_study(connect(url), "study", FACTS), frozen_space(("staintex-l",)), "random", 0)
    assert len(other.trials()) == 1
    with pytest.raises(ValueError, match="not support dynamic value space"):
        other.ask()


def test_a_trial_that_another_process_ended_gets_no_further_notes(url):
    made = engine(url)
    number = made.ask().number
    engine(url).fail(number, "its process died")
    with pytest.raises(TrialAlreadyEnded):
        made.complete(number, 0.75, 1.0)
    assert seen(url).trials[0].user_attrs == {"reason": "its process died"}


def test_notes_that_were_stored_before_the_connection_was_lost_are_replaced(url):
    made = engine(url)
    number = made.ask().number
    storage = connect(url)
    trial_id = seen(url).trials[number]._trial_id
    for seconds in (1.0, 2.0):
        attributes.keep_notes(storage, trial_id, {"seconds": seconds, "attempt": seconds})
    assert seen(url).trials[0].user_attrs == {"seconds": 2.0}
    assert attributes.notes_of(seen(url).trials[0])["attempt"] == 2.0


def test_nothing_is_added_where_the_storage_is_no_database():
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(value=0.5))
    attributes.add_to_ended(study._storage, study.trials[0]._trial_id, {"mlflow_run": "abc"})
    assert study.trials[0].user_attrs == {}


def test_a_study_of_the_first_version_is_refused_and_not_called_one_of_another_program(url):
    """It has everything in user attributes, and no schema number."""
    study = optuna.create_study(storage=connect(url), study_name="study", direction="maximize")
    study.set_user_attr("bhsearch.facts", FACTS)
    with pytest.raises(StudyError, match=r"has the schema 0 .* commit d6a9faa"):
        metadata_of(open_study(connect(url), "study", FACTS))
    assert study.user_attrs == {"bhsearch.facts": FACTS}
