"""A study that fails, is interrupted or is killed: nothing is lost, nothing is left half-made, and it goes on."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from bhsearch.engines.base import INTERRUPTED
from bhsearch.engines.optuna.engine import OptunaEngine, metadata_of, open_study
from bhsearch.engines.optuna.storages.connection import connect
from bhsearch.errors import RunError
from bhsearch.objectives.space import frozen_space
from bhsearch.states import FAILED
from bhsearch.tracking.upload.outbox import Outbox
from tests.studies import (
    STUDY,
    Store,
    arguments,
    optuna_trials,
    search,
    started,
    tracked_search,
    trial_is_running,
    wait_for,
)

SLOW = {"repeats": 20}  # trials of half a second, so that one is running when the command is interrupted
DEAD = {"host": platform.node(), "pid": 1, "started": 1.0}


def points(trials) -> list[dict]:
    return [trial.params for trial in trials]


def complete(trials) -> list:
    return [trial for trial in trials if trial.state in (TrialState.COMPLETE,)]


# -- failing -----------------------------------------------------------------------------------------------------------


def make_backbone(file: Path) -> None:
    """A network of a user's own whose features are not numbers."""
    import keras

    from bhsearch.models import backend

    backend.import_backend()
    images = keras.Input((None, None, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    keras.Model(images, keras.ops.log(pooled - 1000.0)).save(file)


def test_five_failures_in_a_row_end_the_study_and_say_why(here):
    make_backbone(here / "broken.keras")
    with pytest.raises(RunError, match=r"The last 5 trials failed \(--max-failures 5\)") as caught:
        tracked_search(trials=50, backbones=("broken.keras",))
    reasons = str(caught.value).splitlines()[1:-1]
    assert sum(int(line.split(" x ")[0]) for line in reasons) == 5
    trials = optuna_trials(here)
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 5
    assert len({str(trial.params) for trial in trials}) == 5
    children = Store(here).children()
    assert {run_.info.status for run_ in children.values()} == {"FAILED"}
    assert [children[t.number].data.tags["bhsearch.reason"] for t in trials] == [t.user_attrs["reason"] for t in trials]
    assert Store(here).parent().info.status == "FAILED"
    assert not (here / "outbox").exists()


# -- being killed ------------------------------------------------------------------------------------------------------

# Runs the command, and kills it where a step would end or begin. What a real kill leaves, at a moment that is certain.
KILLED_AT = """
import os, runpy, signal, sys
from {module} import {owner}
def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
{owner}.{step} = killed
sys.argv = ["bhsearch.run", *{words!r}]
runpy.run_module("bhsearch.run", run_name="__main__")
"""


def killed_at(folder: Path, module: str, owner: str, step: str, **changes) -> None:
    """Start the command in a folder, and have it killed when it comes to a step."""
    code = KILLED_AT.format(module=module, owner=owner, step=step, words=arguments(**changes))
    with started(folder, "-c", code) as process:
        output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, output


@pytest.mark.slow
def test_a_study_that_is_interrupted_and_killed_loses_nothing_and_goes_on_as_if_it_had_not_been(here):
    # Ctrl-C, as a terminal sends it: to the whole group, while a trial runs.
    with started(here, "-m", "bhsearch.run", *arguments(trials=500, workers=1, **SLOW)) as process:
        assert any(line.startswith("trial   0") for line in process.stdout)
        wait_for(lambda: trial_is_running(here), process)
        os.killpg(process.pid, signal.SIGINT)
        output = process.stdout.read()
        assert process.wait() == 130, output
    assert "Interrupted." in output
    assert "trial  AUC" in output  # the result so far
    assert "Traceback" not in output
    trials = optuna_trials(here)
    assert [trial.state for trial in trials[:-1]] == [TrialState.COMPLETE] * (len(trials) - 1)
    assert trials[-1].state == TrialState.FAIL
    assert trials[-1].user_attrs["reason"] == "interrupted"
    store = Store(here)
    assert [run_.info.status for run_ in store.children().values()] == ["FINISHED"] * (len(trials) - 1) + ["FAILED"]
    assert store.parent().info.status == "KILLED"
    done = len(trials) - 1

    # kill -9 while a trial runs. What logs to MLflow lives on, and may still be at it when the next start comes.
    with started(here, "-m", "bhsearch.run", *arguments(trials=500, workers=0, **SLOW)) as process:
        assert any(line.startswith("trial   ") for line in process.stdout)
        wait_for(lambda: trial_is_running(here), process)
        process.kill()
        process.wait()
        done = len(complete(optuna_trials(here)))
        assert optuna_trials(here)[-1].state == TrialState.RUNNING

        # Killed with a trial put into the outbox, and the engine not told.
        killed_at(here, "bhsearch.engines.optuna.engine", "OptunaEngine", "complete", trials=500, workers=0, **SLOW)
    assert [trial.state for trial in optuna_trials(here)[-2:]] == [TrialState.FAIL, TrialState.RUNNING]
    done += 1

    # Killed with the engine told, and the trial not released.
    killed_at(here, "bhsearch.tracking.upload.outbox", "Outbox", "release", trials=500, workers=0, **SLOW)
    assert len(complete(optuna_trials(here))) in (done, done + 1)

    result = search(trials=done + 2, tracking=True, **SLOW)
    kept = complete(optuna_trials(here))
    assert len(kept) == result.n_finished == done + 2
    assert TrialState.RUNNING not in {trial.state for trial in optuna_trials(here)}
    children = store.children()
    assert sorted(children) == [trial.number for trial in optuna_trials(here)]
    statuses = {TrialState.COMPLETE: "FINISHED", TrialState.FAIL: "FAILED"}
    assert [children[t.number].info.status for t in optuna_trials(here)] == [
        statuses[t.state] for t in optuna_trials(here)
    ]
    assert store.parent().info.status == "FINISHED"
    assert not (here / "outbox").exists()

    whole = search(trials=done + 2, study="whole", **SLOW).records
    assert points(whole) == points(kept)
    assert [trial.value for trial in whole] == pytest.approx([trial.value for trial in kept], abs=1e-6)


def test_a_trial_that_failed_and_was_not_told_is_settled_at_the_next_start(here):
    """Killed between the outbox and the engine, as above, but over a failure: there is no score to tell."""
    search(trials=1)
    facts = metadata_of(optuna.load_study(study_name=STUDY, storage=f"sqlite:///{here}/optuna.db"))
    opened = open_study(connect(f"sqlite:///{here}/optuna.db"), STUDY, facts)
    trial = OptunaEngine(opened, frozen_space(("staintex-s",)), "tpe", 0).ask(notes={"owner": DEAD})
    record = {"number": trial.number, "state": FAILED, "params": trial.params, "started_ms": 1, "ended_ms": 2}
    box = Outbox.open(here / "outbox", facts["uid"])
    box.put(trial.number, record | {"reason": "it diverged"}, {})
    tracked_search(trials=1)
    settled = optuna_trials(here)[trial.number]
    assert settled.state == TrialState.FAIL
    assert settled.user_attrs["reason"] == "it diverged"
    assert Store(here).children()[trial.number].info.status == "FAILED"
    assert not (here / "outbox").exists()


def test_a_trial_that_was_started_unheard_is_a_failed_run(here, monkeypatch):
    """The storage went away before it could say that it had started one: the process asked again."""
    ask = OptunaEngine.ask

    def ask_twice(engine, *arguments):
        if not engine.trials():
            ask(engine, *arguments)
        return ask(engine, *arguments)

    monkeypatch.setattr(OptunaEngine, "ask", ask_twice)
    tracked_search(trials=1)
    unheard, heard = optuna_trials(here)
    assert (unheard.state, heard.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert unheard.user_attrs["reason"] == INTERRUPTED
    assert [run.info.status for run in Store(here).children().values()] == ["FAILED", "FINISHED"]


@pytest.mark.slow
def test_a_run_that_another_command_is_writing_is_left_alone(here, tmp_path_factory):
    """Its outbox lies in the folder that it was started in; what lies in no outbox will not be written to its end."""
    tracked_search(trials=1)
    box = Outbox(tmp_path_factory.mktemp("elsewhere") / "outbox" / "uid.1-1")
    box.put(1, {}, {})
    notes = {"owner": DEAD, "outbox": str(box.folder), "reason": "it diverged"}
    study = optuna.load_study(study_name=STUDY, storage=f"sqlite:///{here}/optuna.db")
    study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=notes))
    store = Store(here)
    (first,) = store.children().values()
    store.client.create_run(first.info.experiment_id, tags=first.data.tags | {"bhsearch.trial": "1"})
    tracked_search(trials=2)
    assert store.children()[1].info.status == "RUNNING"
    box.drop(1)
    tracked_search(trials=3)
    assert store.children()[1].info.status == "FAILED"
