"""Requests that fail, with a real MLflow server behind a proxy: none of them is ever an answer."""

from __future__ import annotations

import itertools
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from bhsearch.errors import MissingError, RunError, SettingsError, StudyError
from tests.evaluation.simulated import simulate
from tests.failing_proxy import CUT, HALF, LOST, FailingProxy, Failure, failing_proxy
from tests.faults.mlflow_server import mlflow_server
from tests.studies import import_mlflow

mlflow = import_mlflow()

from bhsearch.tracking import access_log, keys, model_files, reader, registry, requests  # noqa: E402
from bhsearch.tracking.connection import open_client  # noqa: E402
from bhsearch.tracking.upload import uploader, writer  # noqa: E402
from bhsearch.tracking.upload.client import UploaderProcess  # noqa: E402

NAME, SEALED, UID = "tissue", "0123456789abcdef", "abc123abc123"
AWAY = [500, 503, 429, CUT, HALF]
REFUSED = [401, 403, 404]
RARE_AWAY, RARE_REFUSED = [502, 504, 408, LOST], [400, 409, 410, 418, 451]


@dataclass(frozen=True)
class Served:
    """A store behind a proxy, with a study, an opening, and a champion."""

    proxy: FailingProxy
    client: Any
    study: reader.StoredStudy
    opening: str


@pytest.fixture(scope="module")
def _served(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as patch,
        mlflow_server(tmp_path_factory.mktemp("served") / "server") as server,
        failing_proxy(server.uri) as proxy,
    ):
        patch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        client = open_client()
        experiment = client.create_experiment("tissue", tags={keys.SCHEMA: "1"})
        tags = {writer.UID: UID, reader.STUDY: "mine", keys.SPLIT_FINGERPRINT: "f", keys.SCHEMA: "1"}
        parent = client.create_run(experiment, tags=tags | {writer.TRIAL: "none"}).info.run_id
        client.log_text(parent, '{"promotable": true}', keys.SPLIT)
        client.set_terminated(parent)
        trial_tags = {writer.TRIAL: "0", writer.STATE: "complete", "mlflow.parentRunId": parent}
        trial = client.create_run(experiment, tags=tags | trial_tags).info.run_id
        client.log_metric(trial, "auc", 0.9)
        client.log_text(trial, "picture", "pictures/roc.svg")
        file = tmp_path_factory.mktemp("predictions") / keys.PREDICTIONS
        simulate().to_csv(file)
        client.log_artifact(trial, str(file))
        client.set_terminated(trial)
        study = reader.find_study(client)
        opening = access_log.log_access(client, study, study.trials[0], SEALED, {"threshold": 0.5}, NAME).run_id
        client.log_text(opening, '{"development": {}}', keys.LINEAGE)
        access_log.end_test(client, opening)
        made = client.create_model_version(NAME, client.get_run(opening).info.artifact_uri, opening)
        client.set_registered_model_alias(NAME, "champion", made.version)
        yield Served(proxy, client, study, opening)


@pytest.fixture
def served(_served, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", _served.proxy.uri)
    monkeypatch.setenv("BHSEARCH_PATIENCE", "0")
    _served.proxy.heal()
    yield _served
    _served.proxy.heal()


# Everything that a command asks, and a part of the path of the request that is failed.
LOOK_UPS = {
    "version_with_alias": (
        "registered-models/alias",
        lambda s: registry.version_with_alias(s.client, NAME, "champion"),
    ),
    "version": ("model-versions/get", lambda s: registry.version_with_alias(s.client, NAME, "champion")),
    "openings in runs": ("runs/search", lambda s: access_log.accesses(s.client, SEALED)),
    "openings in experiments": ("experiments/search", lambda s: access_log.accesses(s.client, SEALED)),
    "openings in models": ("registered-models/search", lambda s: access_log.accesses(s.client, SEALED)),
    "champion": ("registered-models/search", lambda s: registry.resolve(s.client, None)),
    "named model": ("registered-models/alias", lambda s: registry.resolve(s.client, f"{NAME}@champion")),
    "history": ("registered-models/get", lambda s: registry.promotions(s.client, NAME)),
    "version of a run": ("model-versions/search", lambda s: registry.version_of_run(s.client, s.opening)),
    "lineage": ("mlflow-artifacts", lambda s: registry.lineage(s.client, registry.Version(NAME, "1", s.opening))),
    "lineage's run": ("runs/get", lambda s: registry.lineage(s.client, registry.Version(NAME, "1", s.opening))),
    "studies": ("runs/search", lambda s: reader.find_study(s.client, "mine")),
    "last study": ("experiments/search", lambda s: reader.latest_study(s.client)),
    "run": ("runs/get", lambda s: reader.study_of(s.client, s.study.trials[0].run_id)),
    "tests": ("runs/search", lambda s: reader.tests_of_study(s.client, s.study)),
    "read_record": ("mlflow-artifacts", lambda s: reader.read_record(s.study, keys.SPLIT)),
    "picture": ("mlflow-artifacts", lambda s: reader.picture(s.study.trials[0], "roc")),
    "predictions": ("mlflow-artifacts", lambda s: reader.predictions_of(s.study.trials[0])),
    "earlier predictions": ("mlflow-artifacts", lambda s: writer.stored_predictions(s.client, "tissue", UID)),
    "experiment": ("experiments/get-by-name", lambda s: writer.stored_predictions(s.client, "tissue", UID)),
    "model": ("model-versions/get", lambda s: model_files.download(f"models:/{NAME}/1")),
    "model's files": ("mlflow-artifacts", lambda s: model_files.download(f"models:/{NAME}/1")),
    "the store": ("experiments/search", lambda s: open_client(patient=True)),
}


@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_all_is_found_while_nothing_fails(served, look_up):
    word, ask = LOOK_UPS[look_up]
    assert ask(served) is not None
    assert any(word in path for _, _, path in served.proxy.asked)


@pytest.mark.parametrize("kind", AWAY)
@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_a_store_that_is_away_is_never_an_answer(served, look_up, kind):
    word, ask = LOOK_UPS[look_up]
    served.proxy.fail(Failure(kind, "later"), word)
    with pytest.raises((RunError, StudyError)) as caught:
        ask(served)
    if look_up != "the store":
        assert caught.value.exit_code == 1
        assert "MLflow has been unavailable" in str(caught.value)
    assert not isinstance(caught.value, MissingError)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_a_refusal_is_never_an_answer_and_gives_the_servers_sentence(served, look_up, kind):
    word, ask = LOOK_UPS[look_up]
    served.proxy.fail(Failure(kind, "ask the administrator"), word)
    with pytest.raises(StudyError, match="ask the administrator") as caught:
        ask(served)
    assert caught.value.exit_code == 2
    assert not isinstance(caught.value, MissingError)


@pytest.mark.parametrize(
    "body",
    [
        '{"message": "Forbidden"}',
        '{"detail": "Forbidden"}',
        '{"error_code": "PERMISSION_DENIED", "message": "Forbidden"}',
    ],
)
def test_the_answers_of_gateways_are_refusals_too(served, body):
    served.proxy.fail(Failure(403, body, {"Content-Type": "application/json"}), "registered-models/alias")
    with pytest.raises(StudyError, match="Forbidden"):
        registry.version_with_alias(served.client, NAME, "champion")


def test_what_does_not_exist_is_missing_by_the_servers_word(served):
    assert registry.version_with_alias(served.client, NAME, "nosuch") is None
    assert registry.version_with_alias(served.client, "nosuch", "champion") is None
    assert registry.version_of_run(served.client, "nosuch") is None
    assert access_log.accesses(served.client, "f" * 16) == []
    assert reader.picture(served.study.trials[0], "nosuch") == b""
    assert writer.stored_predictions(served.client, "nosuch", UID) == {}
    missing = (
        partial(reader.read_record, served.study, keys.AUDIT),
        partial(reader.read_record, served.study, keys.TRIALS),
        partial(reader.find_study, served.client, "nosuch"),
        partial(reader.study_of, served.client, "0" * 32),
        partial(registry.resolve, served.client, f"{NAME}@nosuch"),
        partial(registry.lineage, served.client, registry.Version(NAME, "1", served.study.run_id)),
        partial(registry.lineage, served.client, registry.Version(NAME, "1", "0" * 32)),
        partial(model_files.download, "models:/nosuch/1"),
        partial(registry.version_of, served.client, NAME, "77"),
    )
    for ask in missing:
        with pytest.raises(MissingError):
            ask()


def test_a_missing_alias_is_taken_from_the_model_itself(served):
    """A database says "invalid parameter" of it, as it does of much else."""
    body = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "not now"}'
    served.proxy.fail(Failure(400, body, {"Content-Type": "application/json"}), "registered-models/alias")
    with pytest.raises(StudyError, match="not now"):
        registry.version_with_alias(served.client, NAME, "champion")
    assert registry.version_with_alias(served.client, NAME, "nosuch") is None
    served.proxy.rule = lambda _, path: (
        Failure(400, body, {"Content-Type": "application/json"}) if "registered-models/alias" in path else
        Failure(503) if "registered-models/get" in path else None
    )  # fmt: skip
    with pytest.raises(RunError):
        registry.version_with_alias(served.client, NAME, "nosuch")


@pytest.mark.parametrize(
    ("kind", "code"),
    [*((kind, 1) for kind in (*AWAY, *RARE_AWAY)), *((kind, 2) for kind in (*REFUSED, *RARE_REFUSED))],
)
def test_nothing_is_promoted_while_requests_fail(served, kind, code):
    version = registry.version_with_alias(served.client, NAME, "champion")
    served.proxy.fail(Failure(kind), "registered-models/alias", "GET")
    with pytest.raises((RunError, StudyError)) as caught:
        registry.promote(served.client, version, "best", "gate", "", {}, None)
    assert caught.value.exit_code == code
    served.proxy.heal()
    assert registry.version_with_alias(served.client, NAME, "best") is None
    assert registry.promotions(served.client, NAME) == []


def test_a_champion_that_changed_since_it_was_compared_is_not_replaced(served):
    version = registry.version_with_alias(served.client, NAME, "champion")
    with pytest.raises(StudyError, match=r"champion of 'tissue' has changed .* It was no version and is now version 1"):
        registry.promote(served.client, version, "champion", "gate", "", {}, None)


def test_a_store_that_comes_back_is_waited_for(served, monkeypatch, caplog):
    monkeypatch.setenv("BHSEARCH_PATIENCE", "60")
    served.proxy.fail(Failure(503), "registered-models/alias", times=3)
    assert registry.version_with_alias(served.client, NAME, "champion").number == "1"
    assert "MLflow is unavailable" in caplog.text


def test_requests_come_no_sooner_than_the_server_asks(served, monkeypatch):
    monkeypatch.setenv("BHSEARCH_PATIENCE", "60")
    served.proxy.fail(Failure(429, headers={"Retry-After": "1"}), "registered-models/alias", times=3)
    assert registry.version_with_alias(served.client, NAME, "champion").number == "1"
    times = [time for time, _, path in served.proxy.asked if "registered-models/alias" in path]
    assert len(times) == 4
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.95


def test_an_answer_that_was_lost_makes_no_second_opening(served, monkeypatch):
    """The server carries the request out, and the connection is cut before its answer."""
    monkeypatch.setenv("BHSEARCH_PATIENCE", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = len(access_log.accesses(served.client, SEALED))
    served.proxy.fail(Failure(LOST), "runs/create", times=1)
    run_id = access_log.log_access(served.client, served.study, served.study.trials[0], SEALED, {}, NAME).run_id
    found = access_log.accesses(served.client, SEALED)
    assert len(found) == before + 1
    assert found[-1].run_id == run_id


def test_a_new_study_whose_run_cannot_be_made_is_not_waited_for_without_end(served, outbox):
    """The store answers, but not this request: the search waits for it, so somebody must give up."""
    served.proxy.fail(Failure(503, "ask the administrator"), "runs/create")
    process = UploaderProcess(outbox, print)
    with pytest.raises(RunError):
        process.wait_until_ready()
    process.abandon()
    assert outbox.waiting() == [0, 1, 2]


@pytest.mark.parametrize(("kind", "error"), [(CUT, RunError), (403, StudyError)])
def test_no_failed_request_of_a_new_study_is_waited_for_without_end(served, outbox, monkeypatch, kind, error):
    """What the process does, without the process, which would import the frameworks again."""
    monkeypatch.setattr(uploader, "_import", lambda: None)
    served.proxy.fail(Failure(kind, "ask the administrator"), "runs/create")
    with pytest.raises(error):
        uploader.upload(outbox)
    assert outbox.waiting() == [0, 1, 2]


def test_patience_must_be_a_number_of_seconds(monkeypatch):
    for text in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("BHSEARCH_PATIENCE", text)
        with pytest.raises(SettingsError, match="BHSEARCH_PATIENCE must be a non-negative number of seconds"):
            requests.patience_seconds()
    monkeypatch.delenv("BHSEARCH_PATIENCE")
    assert requests.patience_seconds() == 60.0


def test_a_server_that_is_down_is_waited_for_and_one_with_an_odd_address_is_not(monkeypatch):
    monkeypatch.setenv("BHSEARCH_PATIENCE", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="has been unavailable"):
        open_client(patient=True)
    with pytest.raises(StudyError, match="cannot be reached"):
        open_client()


def test_a_certificate_that_is_not_trusted_ends_at_once(served, tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_PATIENCE", "600")
    with failing_proxy("http://127.0.0.1:9", self_signed(tmp_path)) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
        with pytest.raises(StudyError, match=r"(?i)certificate"):
            open_client(patient=True)
        with pytest.raises(StudyError, match="certificate of the MLflow server is not trusted"):
            requests.call_with_retry(mlflow.MlflowClient().get_run, "0" * 32)


def self_signed(folder):
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
