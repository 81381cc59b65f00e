"""Validation on an external cohort: logged first, counted, refused on the model's own data, the test's statistics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import bhsearch
from bhsearch.cli import terminal
from bhsearch.config import load_settings
from bhsearch.data.open_data import open_data
from bhsearch.errors import DataError, SettingsError, StudyError
from bhsearch.evaluation.held_out_test import evaluate_test
from bhsearch.lifecycle.validation import summary
from bhsearch.lifecycle.validation import validate as validation
from bhsearch.lifecycle.validation.cohort import Cohort
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import keys
from bhsearch.validate import app
from tests.registered import DATA, NAME

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
OTHER = "phantom:cases=30,images=2,difficulty=0.3,seed=5"
MODEL = f"{NAME}/2"


@pytest.fixture(scope="module")
def external(history, tmp_path_factory):
    """Two validations of one model on one cohort, in a copy of the store."""
    from tests.studies import cache_of, working_in

    files = tmp_path_factory.mktemp("validated")
    with working_in(history.folder, cache_of(tmp_path_factory)):
        results = [
            bhsearch.validate_model(
                MODEL, data=OTHER, reason=reason, quiet=True, output=files / "v.json", report=files / "v.html"
            )
            for reason in ("a first look", "again")
        ]
    return results, files


def test_the_statistics_are_those_of_the_sealed_test(external):
    (result, _), _ = external
    tested = result.tested
    again = evaluate_test(tested.predictions, tested.uncalibrated.probability[0], result.threshold, tested.task)
    assert tested.values == again.values
    assert tested.intervals == again.intervals
    assert 0.5 < tested.values["auc"] <= 1
    assert tested.predictions.path.tolist() == open_data(OTHER).column("path").tolist()


def test_accesses_are_counted_with_date_and_reason_and_the_runs_are_of_their_own_kind(external, history):
    (first, second), _ = external
    assert [access.reason for access in first.accesses] == ["a first look"]
    assert [access.reason for access in second.accesses] == ["a first look", "again"]
    assert second.accesses[0].when < second.accesses[1].when
    run = history.client.get_run(second.run_id)
    assert run.data.tags[keys.KIND] == keys.VALIDATION
    assert run.data.tags[keys.VALIDATIONS] == "2"
    assert run.info.status == "FINISHED"
    assert run.info.experiment_id == history.client.get_run(history.good.version.run_id).info.experiment_id
    assert run.data.metrics[f"{keys.EXTERNAL}auc"] == pytest.approx(second.tested.values["auc"])
    assert keys.OPENED not in run.data.tags  # it is no opening of the sealed test


def test_an_access_is_counted_though_its_run_is_deleted(external, history):
    from bhsearch.tracking import validation_log

    (first, _), _ = external
    history.client.delete_run(first.run_id)
    found = validation_log.earlier_accesses(history.client, first.cohort.content).found
    assert [access.reason for access in found if access.shared == "the same images"] == ["a first look", "again"]
    history.client.restore_run(first.run_id)


def test_json_and_page_say_what_was_found(external):
    (_, result), files = external
    content = json.loads((files / "v.json").read_text(encoding="utf-8"))
    assert content["metrics"]["auc"]["value"] == pytest.approx(result.tested.values["auc"])
    assert content["metrics"]["auc"]["low"] == pytest.approx(result.tested.intervals["auc"].low)
    assert [access["reason"] for access in content["accesses"]] == ["a first look", "again"]
    assert content["cohort"]["n_images"] == len(result.cohort) == len(open_data(OTHER))
    page = (files / "v.html").read_text(encoding="utf-8")
    assert "a first look" in page
    assert page.count("data:image/svg+xml") == 4
    assert "Not for screening patients" in page


def test_images_of_the_models_own_data_are_refused_before_anything_is_logged(inside):
    before = len(list(inside.client.search_runs([exp.experiment_id for exp in inside.client.search_experiments()])))
    with pytest.raises(DataError, match="must have no image the model was developed on, but 96 images of 120"):
        bhsearch.validate_model(MODEL, data=DATA, quiet=True)
    after = len(list(inside.client.search_runs([exp.experiment_id for exp in inside.client.search_experiments()])))
    assert after == before


def manifest(folder: Path, rows: pd.DataFrame, source: Path) -> Path:
    """Copy images, and list them in a manifest."""
    folder.mkdir()
    for path in rows["path"]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, folder / path)
    rows.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def other_rows(**columns) -> tuple[pd.DataFrame, Path]:
    index = open_data(OTHER)
    return index.table[["path", "label", "case"]].assign(**columns), index.root


def test_sealed_images_of_the_model_are_no_external_cohort(inside, tmp_path):
    index = open_data(DATA)
    lineage = json.loads((_artifacts(inside) / keys.LINEAGE).read_text(encoding="utf-8"))
    sealed = index.table["pixels_digest"].isin(lineage["test"]["pixels_digest"])
    file = manifest(tmp_path / "sealed", index.table[sealed][["path", "label", "case"]], index.root)
    with pytest.raises(DataError, match="must have no image of the model's sealed test"):
        bhsearch.validate_model(MODEL, data=file, quiet=True)


def _artifacts(history) -> Path:
    return Path(history.client.get_run(history.good.version.run_id).info.artifact_uri.removeprefix("file://"))


def test_figures_per_site_and_a_note_on_equal_case_names(inside, tmp_path):
    rows, source = other_rows()
    own = sorted(open_data(DATA).column("case"))[0]
    rows["site"] = np.where(np.arange(len(rows)) % 4 < 2, "Ulm", "Bonn")
    rows["case"] = "X" + rows["case"]
    rows.loc[rows["case"] == rows["case"][0], "case"] = own
    result = bhsearch.validate_model(MODEL, data=manifest(tmp_path / "sites", rows, source), quiet=True)
    assert sorted(result.sites) == ["Bonn", "Ulm"]
    chosen = rows.sort_values("path")["site"].to_numpy() == "Ulm"
    assert len(result.sites["Ulm"].predictions) == chosen.sum()
    assert any(f"have 1 case name in common ({own})" in note for note in result.notes)
    logged = inside.client.get_run(result.run_id).data.metrics
    assert logged[f"{keys.EXTERNAL_SITE}Ulm/auc"] == pytest.approx(result.sites["Ulm"].values["auc"])


def test_a_magnification_is_selected_in_any_spelling(inside, tmp_path):
    rows, source = other_rows()
    rows["magnification"] = [("40x", "40X", "100", "100x")[at % 4] for at in range(len(rows))]
    file = manifest(tmp_path / "spelt", rows, source)
    result = bhsearch.validate_model(MODEL, data=file, magnification="40", quiet=True)
    assert len(result.tested.predictions) == sum(rows["magnification"].str.startswith("40"))


def test_with_one_class_only_what_can_be_computed_is_shown(inside, tmp_path):
    rows, source = other_rows()
    file = manifest(tmp_path / "one", rows[rows["label"] == 1], source)
    out = tmp_path / "one.json"
    result = bhsearch.validate_model(MODEL, data=file, output=out, report=tmp_path / "one.html", quiet=True)
    content = json.loads(out.read_text(encoding="utf-8"))
    assert content["metrics"]["auc"]["value"] is None
    assert content["metrics"]["specificity"]["value"] is None
    assert content["metrics"]["sensitivity"]["value"] == result.tested.values["sensitivity"]
    assert any("All images of the cohort are malignant" in note for note in result.notes)
    assert f"{keys.EXTERNAL}auc" not in inside.client.get_run(result.run_id).data.metrics


def test_without_malignant_images_there_is_no_f1_score(inside, tmp_path):
    """It would be 0, whatever the model predicts."""
    rows, source = other_rows()
    file = manifest(tmp_path / "benign", rows[rows["label"] == 0], source)
    result = bhsearch.validate_model(MODEL, data=file, quiet=True)
    assert np.isnan(result.tested.values["f1"])
    assert np.isnan(result.tested.intervals["f1"]).all()
    assert "F1" not in str(summary.rows(result))
    assert np.isfinite(result.tested.values["specificity"])


def test_a_failed_validation_counts(inside, monkeypatch):
    from bhsearch.tracking import validation_log

    cohort = "phantom:cases=12,images=1,seed=9"

    def broken(*args, **kwargs):
        raise RuntimeError("broken")

    monkeypatch.setattr(validation, "compare", broken)
    with pytest.raises(RuntimeError):
        bhsearch.validate_model(MODEL, data=cohort, quiet=True)
    (access,) = validation_log.earlier_accesses(inside.client, Cohort(open_data(cohort)).content).found
    assert inside.client.get_run(access.run_id).info.status == "FAILED"


def test_an_access_to_a_part_of_a_cohort_or_to_its_cases_counts(inside, tmp_path):
    index = open_data("phantom:cases=8,images=2,seed=77")
    rows = index.table[["path", "label", "case"]].assign(case="Z" + index.table["case"])
    whole = manifest(tmp_path / "whole", rows, index.root)
    few = rows[rows["case"].isin(rows["case"].unique()[:3])]
    part = manifest(tmp_path / "part", few.assign(label=np.arange(len(few)) % 2), index.root)
    others = open_data("phantom:cases=8,images=2,seed=78")
    same_cases = others.table[["path", "label"]].assign(case="z" + others.table["case"])
    cases = manifest(tmp_path / "cases", same_cases, others.root)
    unrelated = manifest(tmp_path / "unrelated", same_cases.assign(case="Y" + same_cases["case"]), others.root)
    results = {}
    for file in (whole, part, cases):
        results[file] = bhsearch.validate_model(MODEL, data=file, reason=file.parent.name, quiet=True)
    assert [access.reason for access in results[whole].accesses] == ["whole"]
    (of_whole, _) = results[part].accesses
    assert of_whole.shared == f"{len(few)} of {len(few)} images, 3 of 3 case names"
    (first, second, _) = results[cases].accesses
    n_images, n_cases = len(others), same_cases["case"].nunique()
    assert first.shared == f"0 of {n_images} images, {n_cases} of {n_cases} case names"
    assert second.shared == f"0 of {n_images} images, 3 of {n_cases} case names"
    assert inside.client.get_run(results[cases].run_id).data.tags[keys.VALIDATIONS] == "3"
    (heading, text) = summary.rows(results[part])[2]
    assert heading == "access"
    assert text.startswith("number 2 to images or cases of this cohort")
    assert f"whole ({of_whole.shared})" in text
    again = bhsearch.validate_model(MODEL, data=unrelated, quiet=True)  # the images of `cases`, with other case names
    assert [access.reason for access in again.accesses[:-1]] == ["cases"]


def test_an_access_whose_images_are_no_longer_recorded_is_said(inside, tmp_path):
    known = bhsearch.validate_model(MODEL, data="phantom:cases=6,images=1,seed=79", quiet=True)
    (_folder_of(inside, known) / keys.COHORT_CONTENT).unlink()
    same = bhsearch.validate_model(MODEL, data="phantom:cases=6,images=1,seed=79", quiet=True)
    assert [access.shared for access in same.accesses] == ["the same images", ""]
    shutil.copy(_folder_of(inside, same) / keys.COHORT_CONTENT, tmp_path)
    (_folder_of(inside, same) / keys.COHORT_CONTENT).unlink()
    other = bhsearch.validate_model(MODEL, data="phantom:cases=6,images=1,seed=80", quiet=True)
    assert any("The images of 2 earlier validations in this store are no longer recorded" in n for n in other.notes)
    for result in (known, same):
        shutil.copy(tmp_path / keys.COHORT_CONTENT, _folder_of(inside, result))


def _folder_of(history, result) -> Path:
    return Path(history.client.get_run(result.run_id).info.artifact_uri.removeprefix("file://"))


def test_images_need_a_logged_access_to_them(inside):
    from bhsearch.tracking import validation_log

    cohort = Cohort(open_data(OTHER))
    with pytest.raises(TypeError, match="need the access"):
        cohort.images("run")
    with pytest.raises(ValueError, match="must be logged for this cohort"):
        cohort.images(validation_log.LoggedCohortAccess(validation_log._TOKEN, "run", "other", []))
    with pytest.raises(TypeError, match="must come from log_cohort_access"):
        validation_log.LoggedCohortAccess(object(), "run", cohort.digest, [])


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"reason": " "}, SettingsError, "--reason"),
        ({"magnification": "400X"}, SettingsError, "--magnification"),
        ({"model": "nosuch"}, StudyError, "nosuch"),
        ({"data": "nosuch"}, DataError, "nosuch"),
    ],
)
def test_wrong_arguments_are_refused(inside, change, kind, said):
    with pytest.raises(kind, match=said):
        bhsearch.validate_model(**{"model": MODEL, "data": OTHER, "quiet": True} | change)


def test_a_model_with_other_classes_is_refused(inside):
    from dataclasses import replace

    from bhsearch.lifecycle import predict

    model = predict.open_model(MODEL, ProgressReporter())
    with pytest.raises(StudyError, match="must have the classes of the cohort"):
        validation._require_same_classes(replace(model, class_names=("a", "b", "c")))


def test_the_command_prints_the_same_numbers(inside, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["bhsearch.validate", MODEL, "--data", OTHER, "--output", str(out)])
    with pytest.raises(SystemExit) as caught:
        terminal.main(app, "python -m bhsearch.validate")
    shown = capsys.readouterr()
    assert caught.value.code == 0, shown.err
    values = json.loads(out.read_text(encoding="utf-8"))["metrics"]
    assert f"{values['auc']['value']:.3f} [{values['auc']['low']:.3f} {values['auc']['high']:.3f}]" in shown.out
    assert f"wrote {out}" in shown.out
    assert load_settings(None, {"data": OTHER}).data == OTHER


def test_a_cohort_of_another_size_is_evaluated_with_a_warning_and_strict_ends_with_one(
    inside, tmp_path, monkeypatch, capsys
):
    rows, source = other_rows()
    file = manifest(tmp_path / "small", rows, source)
    for path in rows["path"]:
        with Image.open(tmp_path / "small" / path) as image:
            half = image.resize((image.width // 2, image.height // 2))
        half.save(tmp_path / "small" / path)
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    words = ["bhsearch.validate", MODEL, "--data", str(file), "--strict", "--output", str(out), "--report", str(page)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as caught:
        terminal.main(app, "python -m bhsearch.validate")
    assert caught.value.code == 1
    assert "another size than the training images" in capsys.readouterr().err
    content = json.loads(out.read_text(encoding="utf-8"))
    assert any("another size" in warning for warning in content["warnings"])
    assert set(content["drift"]) == {"colour", "encoder", "texture"}
    assert content["metrics"]["auc"]["value"] is not None
    assert "another size" in page.read_text(encoding="utf-8")
