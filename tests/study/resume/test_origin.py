"""A finetune study that starts from a frozen one: from its best point, on the same split, and none other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest

from bhsearch.engines.base import INTERRUPTED, Trial
from bhsearch.engines.optuna.engine import OptunaEngine, completed_trials, find_study, metadata_of, open_study
from bhsearch.errors import SettingsError, StudyError
from bhsearch.objectives.space import frozen_space
from bhsearch.states import COMPLETE, FAILED, RUNNING
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.study.outcome.ranking import correct
from bhsearch.study.resume.warm_start import next_warm, origin_of
from bhsearch.study.runner import optimize
from tests.evaluation.simulated import simulate
from tests.models.finetuning import own_backbone
from tests.studies import settings
from tests.tasks.samples import BINARY

# Keras writes its weights with TensorFlow's arrays, which are a version of NumPy behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
BACKBONES = ("one", "other")
SPACE = frozen_space(BACKBONES)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Files of networks that can be frozen and trained."""
    folder = tmp_path_factory.mktemp("own")
    file = own_backbone(folder).file
    return str(file)


@pytest.fixture
def prepared(own):
    """Of a finetune study that starts from `first`."""

    def make(**changes):
        fixed = {"regime": "finetune", "init_from": "first", "backbones": (own,), "tracking": False}
        return StudyContext.build(settings(**{**fixed, **changes}), ProgressReporter())

    return make


def frozen_study(storage, facts, scores=(), name="first"):
    """A study with these scores by backbone, in the order of its trials."""
    study = open_study(storage, name, facts | {"uid": "uid of the first", "backbones": dict.fromkeys(BACKBONES, "")})
    for backbone, score in scores:
        engine = OptunaEngine(study, SPACE, "random", 0)
        choices = tuple(engine._distributions.items())
        fixed = {name: getattr(d, "choices", (getattr(d, "low", None),))[0] for name, d in choices}
        trial = engine.ask(
            fixed | {"backbone": backbone, "log10_penalty": 0.0 if score is None else round(10 * score) - 7.0}
        )
        if score is None:
            engine.fail(trial.number, "it failed")
        else:
            engine.complete(trial.number, score, 1.0)
    return study


@pytest.fixture
def storage():
    return optuna.storages.InMemoryStorage()


def among(storage):
    """Finds studies there."""

    def look_up(name):
        study = find_study(storage, name)
        return metadata_of(study), completed_trials(study)

    return look_up


def frozen_facts(prepared, **changes):
    return prepared.metadata() | {"regime": "frozen"} | changes


def test_each_backbone_starts_from_its_own_best_point(prepared, storage):
    made = prepared()
    scores = [("one", 0.7), ("other", 0.6), ("one", 0.9), ("other", 0.8), ("one", 0.8)]
    frozen_study(storage, frozen_facts(made), scores)
    found = origin_of(made, among(storage))
    assert (found["study"], found["uid"], found["complete"]) == ("first", "uid of the first", 5)
    assert set(found["heads"]) == set(BACKBONES)
    assert found["heads"]["one"]["log10_penalty"] == 2.0
    assert found["heads"]["other"]["log10_penalty"] == 1.0
    assert set(found["heads"]["one"]) == {row.name for row in SPACE}


def test_without_from_it_starts_from_nothing(prepared, storage):
    assert origin_of(prepared(init_from=None), among(storage)) == {}


def test_a_study_that_is_not_there_is_refused_with_those_that_are(prepared, storage):
    with pytest.raises(StudyError, match=r"no study 'first' in .*Existing studies: none"):
        origin_of(prepared(), among(storage))
    made = prepared()
    frozen_study(storage, frozen_facts(made), [("one", 0.7)], name="second")
    with pytest.raises(StudyError, match=r"no study 'first' in .*Existing studies: second"):
        origin_of(made, among(storage))


def test_a_finetune_study_is_refused(prepared, storage):
    made = prepared()
    frozen_study(storage, made.metadata(), [("one", 0.7)])
    with pytest.raises(
        StudyError, match="must name a study with --regime frozen, but the regime of 'first' is finetune"
    ):
        origin_of(made, among(storage))


def test_a_study_whose_score_counts_shifts_is_refused(prepared, storage):
    made = prepared()
    frozen_study(storage, frozen_facts(made, score_weight_shift=0.5), [("one", 0.7)])
    with pytest.raises(StudyError) as caught:
        origin_of(made, among(storage))
    assert str(caught.value) == (
        "--init-from must name a study whose score is the AUC of unchanged images, but 'first' has "
        "--score-weight-shift 0.5, which fine-tuned networks cannot have."
    )


def test_a_study_of_an_earlier_version_scores_the_auc(prepared, storage):
    made = prepared()
    facts = frozen_facts(made)
    del facts["score_weight_shift"]
    frozen_study(storage, facts, [("one", 0.7)])
    assert origin_of(made, among(storage))["study"] == "first"


def test_another_split_is_refused_since_its_heads_have_seen_other_images(prepared, storage):
    frozen_study(storage, frozen_facts(prepared()), [("one", 0.7)])
    made = prepared(folds=2)
    with pytest.raises(StudyError, match=f"same data and split, but .* {made.split.fingerprint}"):
        origin_of(made, among(storage))


def test_a_study_without_a_complete_trial_is_refused(prepared, storage):
    made = prepared()
    frozen_study(storage, frozen_facts(made))
    with pytest.raises(StudyError, match="'first' in --init-from has no complete trial"):
        origin_of(made, among(storage))


@pytest.mark.parametrize("regime", ["frozen", "auto"])
def test_from_is_for_finetuning_only(prepared, regime):
    with pytest.raises(SettingsError, match=f"--init-from requires --regime finetune, but got --regime {regime}"):
        prepared(regime=regime, backbones=("staintex-s",))


def test_the_correction_competes_with_the_trials_that_were_started_from():
    """And there is none where one of them is lost: a part of a search would be corrected too little."""
    from bhsearch.engines.base import Trial
    from bhsearch.states import COMPLETE

    first = simulate()
    random = np.random.default_rng(0)
    noise = [random.uniform(-0.2, 0.2, first.probability.shape) for _ in range(4)]
    predictions = {k: replace(first, probability=np.clip(first.probability + noise[k], 0, 1)) for k in range(4)}
    records = [Trial(k, COMPLETE, {}, 0.8) for k in range(2)]
    alone, _ = correct(records, predictions, BINARY)
    both, reason = correct(records, predictions, BINARY, [predictions[2], predictions[3]], 2)
    assert (alone.n_trials, both.n_trials, reason) == (2, 4, "")
    assert both.raw >= alone.raw
    lost, reason = correct(records, predictions, BINARY, [predictions[2]], 2)
    assert lost is None
    assert reason == "the predictions of 1 of the 2 trials that it was started from are not available"


def test_a_study_that_goes_on_keeps_the_heads_that_it_began_with(own, here):
    """Two real studies: more trials of the first, and the second still starts where it did."""
    first = {"backbones": (own,), "regime": "frozen", "study": "first", "image_size": 32, "feature_backend": "keras"}
    second = first | {"regime": "finetune", "study": "second", "init_from": "first"}

    def run(**changes):
        return optimize(settings(**{"tracking": False, "folds": 2, **changes}), ProgressReporter())

    def held():
        return metadata_of(find_study(optuna.storages.RDBStorage("sqlite:///optuna.db"), "second"))["started_from"]

    run(**first, trials=1)
    before = run(**second, trials=1)
    heads = held()
    assert heads["heads"]["small"]["backbone"] == "small"
    assert before.corrected is None
    assert "1 of the 1 trials that it was started from" in before.uncorrected  # untracked, they are nowhere
    run(**first, trials=3)
    after = run(**second, trials=2)
    assert held() == heads
    assert len(after.records) == 2
    with pytest.raises(StudyError, match="--init-from: was"):
        run(**(second | {"init_from": None}), trials=3)


def test_each_warm_point_is_used_once_and_again_where_its_trial_never_had_it():
    points = [{"backbone": "one"}, {"backbone": "other"}]
    used = Trial(0, COMPLETE, points[0], notes={"warm": 0})
    interrupted = Trial(1, FAILED, points[1], notes={"warm": 1, "reason": INTERRUPTED})
    unsampled = Trial(1, FAILED, {}, notes={"warm": 1, "reason": "its process died", "dead": True})
    starting = Trial(1, RUNNING, {}, notes={"warm": 1})
    assert next_warm(points, []) == 0
    assert [next_warm(points, [used, second]) for second in (interrupted, unsampled)] == [1, 1]
    assert next_warm(points, [used, starting]) is None
