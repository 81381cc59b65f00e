"""Which trials keep their model, whatever the order of their ends and whoever logs them."""

from __future__ import annotations

import logging
from pathlib import Path

import mlflow.store.artifact.local_artifact_repo as local
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.errors import StudyError
from bhsearch.evaluation.selection.proposal import proposed
from tests.studies import Store, import_mlflow, killed_at

mlflow = import_mlflow()
from bhsearch.tracking import reader  # noqa: E402
from bhsearch.tracking.upload import model_retention  # noqa: E402
from bhsearch.tracking.upload.model_retention import MODEL, ModelRetention, TrialModel, kept_trials  # noqa: E402
from bhsearch.tracking.upload.writer import RunWriter  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def opened(client, outbox, keep) -> RunWriter:
    """As a sitting with this option opens the study."""
    message = outbox.study()
    message.record["settings"]["keep_models"] = keep
    return RunWriter(client, message)


@pytest.fixture
def log(outbox):
    """Log a trial of the outbox."""

    def log(runs: RunWriter, number: int) -> None:
        runs.log_trial(outbox.trial(number))

    return log


def best_first(outbox) -> list[int]:
    return sorted(outbox.waiting(), key=lambda number: (-outbox.trial(number).record["score"], number))


def with_model(client) -> list[int]:
    """Trials whose model can be loaded, by what the study read back says; their files, and no others, are there."""
    study = reader.find_study(client)
    numbers, folders = [], []
    for trial in study.records:
        if trial.model_uri:
            numbers.append(trial.number)
            folders.append(reader.model_folder(study, trial))
            assert (folders[-1] / "MLmodel").is_file()
        else:
            with pytest.raises(
                StudyError, match=rf"of trial {trial.number} of .*the model was not kept \(--keep-models\)"
            ):
                reader.model_folder(study, trial)
    there = sorted(file.parent for file in Path("mlruns").resolve().rglob("MLmodel"))
    assert there == sorted(folders)
    listed = client.search_logged_models([study.experiment_id])
    assert {model.source_run_id for model in listed} == {t.run_id for t in study.records if t.number in numbers}
    return numbers


def test_with_none_a_trial_has_everything_but_a_model(client, outbox, log, tmp_path):
    log(opened(client, outbox, "none"), 0)
    assert with_model(client) == []
    (run,) = Store(tmp_path).children().values()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["auc"] == outbox.trial(0).record["score"]
    assert "pictures/roc.svg" in Store(tmp_path).files(run)
    assert run.data.tags[MODEL] == "none"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_best_keep_their_models_in_whatever_order_they_end(client, outbox, log, order):
    """Worst first, each pushes out the one before; best first, the others are never written."""
    by_rank = best_first(outbox)
    runs = opened(client, outbox, "best:1")
    done = []
    for place in order:
        done.append(by_rank[place])
        log(runs, by_rank[place])
        assert with_model(client) == [min(done, key=by_rank.index)]


def test_what_is_to_be_kept_is_read_from_the_store(client, outbox, log):
    """A study that goes on in another process, or in two at once that know nothing of each other."""
    best, middle, worst = best_first(outbox)
    first, second = opened(client, outbox, "best:2"), opened(client, outbox, "best:2")
    log(first, worst)
    log(second, middle)
    log(first, best)
    assert with_model(client) == sorted([best, middle])
    opened(client, outbox, "best:1").log_end(outbox.end())
    assert with_model(client) == [best]


def test_none_takes_no_model_that_an_earlier_sitting_kept(client, outbox, log):
    log(opened(client, outbox, "all"), 0)
    runs = opened(client, outbox, "none")
    log(runs, 1)
    runs.log_end(outbox.end())
    assert with_model(client) == [0]


@pytest.mark.parametrize("step", ["set_tag", "delete_artifacts", "delete_logged_model", "_forget"])
def test_a_deletion_that_was_killed_is_finished_by_the_next(client, outbox, log, step):
    best, middle, _ = best_first(outbox)
    runs = opened(client, outbox, "best:1")
    log(runs, middle)
    owners = {"delete_artifacts": local.LocalArtifactRepository, "_forget": ModelRetention}
    with killed_at(owners.get(step, type(client)), step):
        log(runs, best)
    opened(client, outbox, "best:1").log_end(outbox.end())
    assert with_model(client) == [best]


def test_a_deletion_that_fails_is_said_once_and_tried_again(client, outbox, log, monkeypatch, caplog):
    # Earlier tests of this process may have changed the loggers that exist.
    logger = logging.Logger("retention", logging.WARNING)
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(model_retention, "_LOG", logger)
    best, middle, worst = best_first(outbox)
    runs = opened(client, outbox, "best:1")

    def refuse(self, artifact_path=None):
        raise PermissionError("not allowed here")

    with monkeypatch.context() as patch:
        patch.setattr(local.LocalArtifactRepository, "delete_artifacts", refuse)
        for number in (worst, middle, best):
            log(runs, number)
    said = [record.getMessage() for record in caplog.records if record.name == "retention"]
    assert len(said) == 1
    assert f"{worst:03d} staintex-s" in said[0]
    assert "not allowed here" in said[0]
    runs.log_end(outbox.end())
    assert with_model(client) == [best]


@pytest.mark.parametrize("by", ["models", "runs", "folder"])
def test_a_model_that_someone_registered_stays(client, outbox, log, by):
    best, middle, _ = best_first(outbox)
    runs = opened(client, outbox, "best:1")
    log(runs, middle)
    (model,) = client.search_logged_models([runs.experiment_id])
    client.create_registered_model("mine")
    if by == "folder":
        client.create_model_version("mine", model.artifact_location, model.source_run_id)
    else:
        uri = f"models:/{model.model_id}" if by == "models" else f"runs:/{model.source_run_id}/model"
        mlflow.register_model(uri, "mine")
    log(runs, best)
    assert with_model(client) == sorted([best, middle])
    assert mlflow.artifacts.list_artifacts("models:/mine/1")


def test_of_equal_scores_the_first_are_the_best(client, outbox):
    runs = opened(client, outbox, "best:2")
    uid = outbox.study().record["uid"]
    for number, score in ((0, 0.7), (4, 0.9), (2, 0.9)):
        tags = {"bhsearch.study_uid": uid, "bhsearch.trial": str(number), MODEL: "kept"}
        run = client.create_run(runs.experiment_id, None, tags)
        client.log_metric(run.info.run_id, "auc", score)
        client.set_terminated(run.info.run_id)
    keeper = ModelRetention(client, runs.experiment_id, uid, 2)
    wanted = {
        (score, number): keeper.wants(score, number, float("inf")) for score in (0.8, 0.9, 0.95) for number in (1, 3, 5)
    }
    assert wanted == {key: key > (0.85, 0) and key != (0.9, 5) for key in wanted}
    keeper.tidy()
    kept = client.search_runs([runs.experiment_id], f"tags.`{MODEL}` = 'kept'")
    assert sorted(run.data.tags["bhsearch.trial"] for run in kept) == ["2", "4"]


@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_model_of_a_trial_that_the_study_may_propose_is_kept_in_any_order(seed, most):
    """Trials end one after another, and each may push out models; where all trials are tied, the cheapest is kept."""
    rng = np.random.default_rng(seed)
    scores = 0.8 + rng.choice([0.0, 0.0005, 0.001, 0.0019, 0.0021, 0.004], 8)
    cost = rng.choice([1.0, 2.0, 4.0, np.inf], 8)
    models: list[TrialModel] = []
    for number in rng.permutation(8):
        models.append(TrialModel(-scores[number], int(number), cost[number]))
        kept = kept_trials(models, most)
        models = [model for model in models if model.number in kept]
    (chosen, *_) = np.flatnonzero(proposed(scores[:, None], lambda _: np.ones(8), cost)[:, 0])
    best = sorted(range(8), key=lambda number: (-scores[number], number))[:most]
    assert {int(chosen), *best} <= kept


def test_a_trial_beyond_the_margin_or_dearer_than_a_better_one_is_not_kept():
    models = [TrialModel(-0.9, 0, 4.0), TrialModel(-0.899, 1, 5.0), TrialModel(-0.8985, 2, 2.0)]
    assert kept_trials([*models, TrialModel(-0.897, 3, 0.1)], 1) == {0, 2}
