"""The saved views of an experiment, as tags; `test_page` looks at them in a browser."""

from __future__ import annotations

import base64
import json
import random
import zlib

import pytest

from tests.studies import Store, import_mlflow

import_mlflow()
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH  # noqa: E402

from bhsearch.tracking import saved_views  # noqa: E402
from bhsearch.tracking.upload.writer import RunWriter  # noqa: E402

TABLE, PARALLEL = f"{saved_views.TAG}bhsearch-trials", f"{saved_views.TAG}bhsearch-parallel"
SPACE = [
    {"name": "backbone", "choices": ["only"]},
    {"name": "views", "choices": [2, 4]},
    {"name": "ρυθμός 學習率", "choices": []},
]


@pytest.fixture
def experiment(client) -> str:
    return client.create_experiment("組織 μελέτη")


def tags(client, experiment) -> dict[str, str]:
    return client.get_experiment(experiment).tags


def state(value: str) -> dict:
    """As MLflow's page reads a view."""
    view = json.loads(value)
    assert view["state"].startswith("deflate;")
    return json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))


def test_the_table_shows_score_interval_seconds_and_parameters_best_first(client, experiment):
    saved_views.write_views(client, experiment, "uid", SPACE)
    view = json.loads(tags(client, experiment)[TABLE])
    assert view["name"] == "Trials, best first"
    assert view["createdAt"] == view["updatedAt"] > 0
    found = state(tags(client, experiment)[TABLE])
    assert (found["orderByKey"], found["orderByAsc"]) == ("metrics.`auc`", False)
    wanted = ["metrics.`auc`", "metrics.`auc_low`", "metrics.`auc_high`", "metrics.`seconds`"]
    wanted += ["params.`backbone`", "params.`views`", "params.`ρυθμός 學習率`"]
    assert found["selectedColumns"][: len(wanted)] == wanted
    assert found["searchFilter"] == "tags.`bhsearch.trial` != 'none'"


def test_parallel_coordinates_are_of_the_study_and_of_what_varies(client, experiment):
    saved_views.write_views(client, experiment, "uid", SPACE)
    found = state(tags(client, experiment)[PARALLEL])
    (chart,) = found["compareRunCharts"]
    assert (chart["type"], chart["selectedMetrics"]) == ("PARALLEL", ["auc"])
    assert chart["selectedParams"] == ["views", "ρυθμός 學習率"]
    assert [section["uuid"] for section in found["compareRunSections"]] == [chart["metricSectionId"]]
    assert "tags.`bhsearch.study_uid` = 'uid'" in found["searchFilter"]


def test_everything_is_ascii(client, experiment):
    saved_views.write_views(client, experiment, "uid", SPACE)
    for key in (TABLE, PARALLEL):
        value = tags(client, experiment)[key]
        assert value.isascii()
        packed = json.loads(value)["state"].removeprefix("deflate;")
        assert zlib.decompress(base64.b64decode(packed)).isascii()


def test_columns_are_dropped_from_the_end_where_the_tag_would_be_too_long(client, experiment):
    draw = random.Random(0)
    names = ["".join(draw.choices("αβγδεζηθ學習率層", k=200)) for _ in range(300)]
    saved_views.write_views(client, experiment, "uid", [{"name": name, "choices": []} for name in names])
    found = tags(client, experiment)
    for key, kept in (
        (TABLE, [c for c in state(found[TABLE])["selectedColumns"] if c.startswith("params.")]),
        (PARALLEL, state(found[PARALLEL])["compareRunCharts"][0]["selectedParams"]),
    ):
        assert 0.9 * MAX_EXPERIMENT_TAG_VAL_LENGTH < len(found[key]) <= MAX_EXPERIMENT_TAG_VAL_LENGTH
        assert 10 < len(kept) < len(names)
        assert [name in column for name, column in zip(names, kept, strict=False)] == [True] * len(kept)


def test_the_same_view_is_not_written_again(client, experiment):
    saved_views.write_views(client, experiment, "uid", SPACE)
    before = tags(client, experiment)
    saved_views.write_views(client, experiment, "uid", SPACE)
    assert tags(client, experiment) == before


def test_a_later_study_keeps_the_columns_of_an_earlier_one_behind_its_own(client, experiment):
    saved_views.write_views(client, experiment, "first", SPACE)
    created = json.loads(tags(client, experiment)[TABLE])["createdAt"]
    saved_views.write_views(client, experiment, "second", [{"name": "depth", "choices": ["all", "top"]}, *SPACE[:1]])
    found = state(tags(client, experiment)[TABLE])["selectedColumns"]
    params = [column for column in found if column.startswith("params.")]
    assert params == ["params.`depth`", "params.`backbone`", "params.`views`", "params.`ρυθμός 學習率`"]
    assert json.loads(tags(client, experiment)[TABLE])["createdAt"] == created
    assert "'second'" in state(tags(client, experiment)[PARALLEL])["searchFilter"]


@pytest.mark.parametrize("change", ["name", "state", "saved by the page", "no JSON"])
def test_a_view_that_a_person_changed_is_left_alone(client, experiment, change):
    saved_views.write_views(client, experiment, "uid", SPACE)
    view = json.loads(tags(client, experiment)[TABLE])
    if change == "name":
        view["name"] = "Mine"
    elif change == "state":
        view["state"] = "deflate;" + base64.b64encode(zlib.compress(b'{"orderByAsc": true}')).decode()
    else:
        del view["digest"]
    value = "Mine" if change == "no JSON" else json.dumps(view)
    client.set_experiment_tag(experiment, TABLE, value)
    saved_views.write_views(client, experiment, "uid", [*SPACE, {"name": "new", "choices": []}])
    assert tags(client, experiment)[TABLE] == value
    assert "new" in state(tags(client, experiment)[PARALLEL])["compareRunCharts"][0]["selectedParams"]


def test_the_experiment_has_a_description_with_links_unless_a_person_wrote_one(client, experiment):
    saved_views.write_views(client, experiment, "uid", SPACE)
    note = tags(client, experiment)["mlflow.note.content"]
    assert f"(#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=bhsearch-trials)" in note
    assert "Not for screening patients" in note
    client.set_experiment_tag(experiment, "mlflow.note.content", "Mine")
    saved_views.write_views(client, experiment, "uid", SPACE)
    assert tags(client, experiment)["mlflow.note.content"] == "Mine"


def test_a_study_whose_view_cannot_be_written_is_logged_with_a_note(client, outbox, tmp_path):
    """The space that it names has rows of another kind."""
    message, end = outbox.study(), outbox.end()
    message.record["files"]["space.json"] = ["grown"]
    outbox.put_study(message.record, message.arrays)
    said = []
    runs = RunWriter(client, outbox.study(), said.append)
    runs.log_end(end)
    assert len(said) == 1
    assert "views of the trials" in said[0]
    assert Store(tmp_path).parent().info.status == "FINISHED"
