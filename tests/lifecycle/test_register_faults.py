"""Registering on a server that fails: no version is promoted, and no sealed test is opened for nothing."""

from __future__ import annotations

import logging

import pytest

from bhsearch import register as register_command
from bhsearch.errors import RunError, StudyError
from bhsearch.lifecycle.register import register
from bhsearch.lifecycle.registration import RegistrationRequest
from bhsearch.study.events import ProgressReporter
from tests.failing_proxy import CUT, Failure, failing_proxy
from tests.faults.mlflow_server import mlflow_server
from tests.registered import FEW_FRESH
from tests.studies import command_here

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def server(history, tmp_path_factory):
    """A server of the store with the history of versions."""
    folder = tmp_path_factory.mktemp("served") / "server"
    with mlflow_server(folder, f"sqlite:///{history.folder}/mlflow.db") as running:
        yield running


@pytest.fixture
def proxy(inside, server, monkeypatch):
    """The server behind a proxy."""
    with failing_proxy(server.uri) as between:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", between.uri)
        monkeypatch.setenv("BHSEARCH_PATIENCE", "0")
        yield between


def state(history):
    from bhsearch.tracking import access_log

    digest = history.client.get_run(history.few.openings[0].run_id).data.tags["bhsearch.sealed"]
    models = {model.name: (model.aliases, model.tags) for model in history.client.search_registered_models()}
    versions = len(history.client.search_model_versions())
    return models, versions, access_log.accesses(history.client, digest)


@pytest.mark.slow
def test_no_request_that_fails_opens_or_promotes_anything(inside, proxy):
    """The champion, the earlier openings, the study: each of them must have been told by the server."""
    before = state(inside)
    request = RegistrationRequest("few", FEW_FRESH)
    cases = [(word, Failure(kind), RunError) for word in
             ("registered-models/alias", "registered-models/search", "model-versions/search", "runs/search")
             for kind in (503, CUT)]  # fmt: skip
    cases += [("registered-models/alias", Failure(429), RunError)]
    cases += [("registered-models/alias", Failure(kind, "go away"), StudyError) for kind in (401, 403)]
    for word, failure, error in cases:
        proxy.fail(failure, word)
        with pytest.raises(error) as caught:
            register(request, ProgressReporter())
        assert caught.value.exit_code == (1 if error is RunError else 2), (word, failure)
        assert state(inside) == before, (word, failure)


def test_the_command_ends_with_one_and_a_sentence(inside, proxy, monkeypatch):
    proxy.fail(Failure(503), "registered-models/alias")
    monkeypatch.setenv("BHSEARCH_PATIENCE", "1")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process that pytest does not listen to
    done = command_here(register_command, "--study", "few", "--trial", str(FEW_FRESH))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "MLflow has been unavailable" in done.stderr
    assert "MLflow is unavailable" in done.stderr
    assert "Traceback" not in done.stderr
