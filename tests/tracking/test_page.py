"""What MLflow's own page shows in a browser that has never seen it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.mlflow_server import mlflow_server
from tests.studies import import_mlflow

import_mlflow()
from bhsearch.tracking import links, saved_views  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]
STUDY, RATE, LAYERS = "μελέτη 組織學", "ρυθμός μάθησης", "層數"
SCORES = {"001 δίκτυο": 0.91234, "000 網路": 0.71234, "002 δίκτυο": 0.5}
_PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Iterator[str]:
    """The id of an experiment on a server: a study with three trials, and its views."""
    folder = tmp_path_factory.mktemp("page") / "server"
    with mlflow_server(folder) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        client = import_mlflow().MlflowClient(server.uri)
        made = client.create_experiment(STUDY, tags={"mlflow.experimentKind": "custom_model_development"})
        common = {"bhsearch.study": STUDY, "bhsearch.study_uid": "uid"}
        parent = client.create_run(made, tags=common | {"bhsearch.trial": "none"}, run_name=STUDY).info.run_id
        client.set_terminated(parent)
        for number, (name, score) in enumerate(SCORES.items()):
            tags = common | {"bhsearch.trial": str(number), "mlflow.parentRunId": parent}
            run = client.create_run(made, tags=tags, run_name=name).info.run_id
            for key, value in (("auc", score), ("auc_low", score - 0.1), ("auc_high", score + 0.05), ("seconds", 1.5)):
                client.log_metric(run, key, value)
            client.log_param(run, RATE, 0.01 * (number + 1))
            client.log_param(run, LAYERS, number + 1)
            client.set_terminated(run)
        saved_views.write_views(client, made, "uid", [{"name": RATE, "choices": []}, {"name": LAYERS, "choices": []}])
        yield made


@contextmanager
def browser() -> Iterator[Any]:
    """A page of a new profile, wide enough for every column."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = chromium.new_page(viewport={"width": 2400, "height": 1000})
            page.set_default_timeout(_PATIENCE_MS)
            yield page
        finally:
            chromium.close()


def in_order(page: Any, selector: str, axis: str) -> list[str]:
    """Texts as they stand on the page: the table puts its cells into the document in another order."""
    cells = [(cell.bounding_box()[axis], cell.inner_text()) for cell in page.locator(selector).all()]
    return [text for _, text in sorted(cells)]


def test_the_printed_link_opens_on_the_trials_best_first_with_scores_and_parameters(experiment):
    with browser() as page:
        page.goto(links.trials_url(experiment))
        page.get_by_role("link", name="001 δίκτυο").wait_for()
        page.locator(".ag-cell[col-id='metrics.`auc`']").nth(2).wait_for()
        columns = ("auc", "auc_low", "auc_high", "seconds", RATE, LAYERS)
        assert tuple(text for text in in_order(page, ".ag-header-cell", "x") if text in columns) == columns
        scores = [float(text) for text in in_order(page, ".ag-cell[col-id='metrics.`auc`']", "y")]
        assert scores == sorted(SCORES.values(), reverse=True)
        assert in_order(page, f".ag-cell[col-id='params.`{LAYERS}`']", "y") == ["1", "2", "3"]
        assert page.get_by_text("Trials, best first").count() >= 1
        cells = in_order(page, ".ag-cell[col-id='attributes.`Run Name`']", "y")
        names = [text.splitlines()[-1] for text in cells]  # a colour stands before
        assert names == ["001 δίκτυο", "000 網路", "002 δίκτυο"]  # no row of the study's own run


def test_the_second_view_is_a_drawing_of_every_parameter_against_the_score(experiment):
    with browser() as page:
        page.goto(links.parallel_url(experiment))
        card = page.get_by_test_id("experiment-view-compare-runs-card").first
        card.get_by_text(LAYERS).first.wait_for()
        assert "Parallel" in card.inner_text()
        for axis in (RATE, LAYERS, "auc"):
            assert card.get_by_text(axis, exact=True).count() == 1


def test_a_run_opens_among_the_runs_of_training(experiment):
    client = import_mlflow().MlflowClient()
    run = client.search_runs([experiment], "tags.`bhsearch.trial` = '0'")[0]
    with browser() as page:
        page.goto(links.run_url(experiment, run.info.run_id))
        page.get_by_text("auc_high").first.wait_for()
        assert page.get_by_text(RATE).count() >= 1
        assert page.get_by_text("Evaluation runs").count() == 0  # in the list of pages for language models
