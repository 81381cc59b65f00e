"""A trial whose model was not kept is registered all the same: its network is made again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.images.decode import decode
from bhsearch.lifecycle.register import register
from bhsearch.lifecycle.registration import RegistrationRequest
from bhsearch.lifecycle.reproduce import deployed_network
from bhsearch.lifecycle.restore import restore_study
from bhsearch.models.calibrated import predict_images
from bhsearch.study.events import ProgressReporter
from tests.registered import FEW
from tests.studies import cache_of, tracked_search, working_in

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Listening(ProgressReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("number", range(4))
def test_a_frozen_network_made_again_answers_as_the_one_that_was_kept(finished, tmp_path_factory, number):
    from bhsearch.tracking import reader

    reporter = Listening()
    with working_in(finished.folder, cache_of(tmp_path_factory)):
        study = reader.find_study(finished.store.client)
        trial = next(trial for trial in study.trials if trial.number == number)
        opened = restore_study(study, reporter)
        kept, then = deployed_network(study, trial, opened, reporter)
        assert reporter.said == []
        made, now = deployed_network(study, replace(trial, model_uri=""), opened, reporter)
    images = [decode(path) for path in opened.development.paths()[::9]]
    answers = [list(predict_images(network, images)) for network in (kept, made)]
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)
    assert np.ptp(answers[0]) > 1e-3  # also of a head with a strong penalty
    assert now.probability == pytest.approx(then.probability, abs=1e-5)
    assert (now.path == then.path).all()
    assert len(reporter.said) == 2
    assert f"Trial {number} has no model in MLflow (--keep-models)" in reporter.said[0]


def test_a_finetuned_trial_without_a_model_is_tested_and_registered(here):
    changes = {"regime": "finetune", "backbones": ("cnn",), "image_size": 32, "folds": 2, "study": "tuned"}
    tracked_search(data=FEW, trials=1, keep_models="none", **changes)
    reporter = Listening()
    result = register(RegistrationRequest("tuned"), reporter)
    assert result.version.number == "1"
    assert "auc" in result.tested.values
    assert any("trained again" in sentence for sentence in reporter.said)
    assert "differs by at most" in reporter.said[1]
