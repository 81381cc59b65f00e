"""From a study to the registry: what is fixed before the opening, the opening itself, the gate and its history."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.open_data import open_data
from bhsearch.errors import RunError, SettingsError, StudyError
from bhsearch.evaluation.calibration import operating_point
from bhsearch.lifecycle import publish, registration_summary
from bhsearch.lifecycle import register as registering
from bhsearch.lifecycle.fitted_model import competitors
from bhsearch.lifecycle.register import preview, register
from bhsearch.lifecycle.registration import EarlierResult, RegistrationRequest
from bhsearch.lifecycle.restore import kept_sealed_images
from bhsearch.study.events import ProgressReporter
from tests.registered import DATA, FEW, FEW_FRESH, FEW_TESTED, GOOD, NAME, WEAK, WHY, History
from tests.studies import import_mlflow, tracked_search
from tests.tasks.samples import BINARY

# TensorFlow's variables answer NumPy 2 in the old way whenever Keras saves them.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# -- the gate: issue 4, B ----------------------------------------------------------------------------------------------


def test_a_clearly_better_model_is_promoted(history: History):
    numbers = history.good.verdict.numbers
    assert history.good.promoted == "gate"
    assert numbers["difference_low"] > 0
    assert numbers["n_groups"] == 24


def test_the_same_model_again_is_refused(history: History):
    numbers = history.again.verdict.numbers
    assert not history.again.promoted
    assert (numbers["difference_low"], numbers["difference"], numbers["difference_high"]) == (0, 0, 0)
    assert f"{numbers['smallest_gain']:.3f}" in history.again.verdict.reason
    assert "about half of the models with" in dict(registration_summary.rows(history.again))["gate"]


def test_a_worse_model_is_refused(history: History):
    assert not history.worse.promoted
    assert history.worse.verdict.numbers["difference"] < 0
    assert "must be above 0" in history.worse.verdict.reason


def test_three_and_four_cases_are_too_few(history: History):
    numbers = history.few.verdict.numbers
    assert (numbers["n_benign_groups"], numbers["n_malignant_groups"]) == (3, 4)
    assert not history.few.promoted
    assert "Too few cases to decide" in history.few.verdict.reason
    headings = [heading for heading, _ in registration_summary.rows(history.few)]
    assert headings.index("corrected") < headings.index("gate") < headings.index("few cases") < headings.index("test")
    assert "has 3 benign and 4 malignant cases" in dict(registration_summary.rows(history.few))["few cases"]
    headings = [heading for heading, _ in registration_summary.rows(history.good)]
    assert headings.index("corrected") < headings.index("test") < headings.index("gate")
    assert "few cases" not in headings


def test_force_promotes_against_the_gate_and_is_kept(history: History):
    assert history.weak.promoted == "force"
    assert not history.weak.verdict.promote
    first = json.loads(history.client.get_registered_model(NAME).tags["bhsearch.promotion.0001"])
    assert (first["how"], first["reason"], first["instead_of"]) == ("force", WHY, None)


def test_aliases_and_history_say_what_happened(history: History):
    model = history.client.get_registered_model(NAME)
    assert {alias: str(number) for alias, number in model.aliases.items()} == {
        "champion": history.good.version.number,
        "challenger": history.worse.version.number,
    }
    kept = [json.loads(model.tags[key]) for key in sorted(model.tags) if key.startswith("bhsearch.promotion.")]
    assert [(entry["version"], entry["instead_of"], entry["how"]) for entry in kept] == [
        (history.weak.version.number, None, "force"),
        (history.good.version.number, history.weak.version.number, "gate"),
    ]


# -- the opening -------------------------------------------------------------------------------------------------------


def test_openings_count_up_and_the_count_stands_beside_every_version(history: History):
    assert [len(r.openings) for r in (history.weak, history.good, history.again, history.worse)] == [1, 2, 3, 4]
    versions = history.client.search_model_versions(f"name = '{NAME}'")
    assert {version.tags["bhsearch.openings"] for version in versions} == {"4"}
    assert len(history.few.openings) == 1  # another set of sealed images


def test_an_opening_of_another_set_with_some_of_the_images_is_listed(history: History):
    """The few cases are some of the many, and so are their sealed cases."""
    few, many = (set(kept_sealed_images(result.study)) for result in (history.few, history.weak))
    assert 0 < len(few & many) < len(few)
    keys_of_many = [opening.key for opening in history.worse.openings]
    assert [opening.key for opening in history.few.overlapping] == keys_of_many
    assert {opening.shared for opening in history.few.overlapping} == {f"{len(few & many)} of {len(few)} images"}
    assert history.worse.overlapping == []


def test_an_opening_of_a_part_of_the_set_is_said(history: History):
    from dataclasses import replace

    other = replace(history.few.openings[0], shared="3 of 8 images")
    result = replace(history.weak, overlapping=[other])
    text = registration_summary.opened(result)
    assert text.startswith("for the first time. Images of this set were opened in another set: ")
    assert "(3 of 8 images)" in text


def test_an_opening_says_when_which_study_trial_and_split(history: History):
    assert registration_summary.opened(history.weak) == "for the first time"
    text = registration_summary.opened(history.good)
    first = history.weak.openings[0]
    assert all(part in text for part in (first.when, "good-and-weak", f"trial {WEAK}", first.split))


def test_deleting_a_run_undoes_no_opening(inside, tmp_path_factory):
    from bhsearch.tracking import access_log

    run_id = inside.worse.openings[0].run_id
    digest = inside.client.get_run(run_id).data.tags["bhsearch.sealed"]
    inside.client.delete_run(run_id)
    try:
        assert len(access_log.accesses(inside.client, digest)) == 4
    finally:
        inside.client.restore_run(run_id)


def test_what_fails_after_the_opening_is_still_an_opening(inside, monkeypatch):
    from bhsearch.tracking import access_log

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    digest = inside.client.get_run(inside.few.openings[0].run_id).data.tags["bhsearch.sealed"]
    before = len(access_log.accesses(inside.client, digest))
    monkeypatch.setattr(registering, "evaluate", fail)
    with pytest.raises(KeyboardInterrupt):
        register(RegistrationRequest("few", FEW_FRESH), ProgressReporter())
    found = access_log.accesses(inside.client, digest)
    assert len(found) == before + 1
    assert inside.client.get_run(found[-1].run_id).info.status == "FAILED"


def test_calibration_and_threshold_come_from_out_of_fold_predictions_alone(inside):
    from bhsearch.tracking import reader

    kept = reader.predictions_of(inside.good.trial)
    point = operating_point(kept, BINARY)
    params = inside.client.get_run(inside.good.openings[-1].run_id).data.params
    assert float(params["threshold"]) == point.threshold
    assert float(params["calibration_slope"]) == point.calibration.slope
    assert inside.good.point == point


def test_trials_of_the_study_it_was_started_from_count_for_the_correction(inside):
    study = inside.good.study
    started = replace(study, tags={**study.tags, "bhsearch.started_from": study.name})
    alone, cost = competitors(inside.client, study, ProgressReporter())
    together, prices = competitors(inside.client, started, ProgressReporter())
    assert len(together) == 2 * len(alone) == 4
    assert np.isfinite(cost).all()
    assert prices == [*cost, np.inf, np.inf]  # trials of the earlier study are not proposed for their cost
    assert inside.good.corrected.n_trials == 2
    nowhere = replace(study, tags={**study.tags, "bhsearch.started_from": "nosuch"})
    with pytest.raises(StudyError, match="No study matches"):
        competitors(inside.client, nowhere, ProgressReporter())


def test_the_test_is_of_the_sealed_images_and_no_others(inside):
    from bhsearch.data.splits import make_split

    index = open_data(DATA)
    sealed = index.column("path")[make_split(index, n_folds=3).test]
    assert inside.good.tested.predictions.path.tolist() == sealed.tolist()


def test_metrics_have_intervals_and_pictures_are_there(history: History):
    run = history.client.get_run(history.good.openings[-1].run_id)
    metrics = run.data.metrics
    assert metrics["test/auc_low"] < metrics["test/auc"] < metrics["test/auc_high"]
    for name in ("balanced_accuracy", "sensitivity", "specificity", "brier", "ece", "ece_uncalibrated"):
        assert metrics[f"test/{name}_low"] <= metrics[f"test/{name}"] + 0.1
    names = {item.path for item in history.client.list_artifacts(run.info.run_id, "pictures")}
    assert names == {
        f"pictures/{n}.svg" for n in ("roc", "precision_recall", "calibration", "confusion_matrix", "right_and_wrong")
    }


def test_the_card_is_logged_with_what_was_found(history: History):
    import_mlflow()
    run_id = history.good.openings[-1].run_id
    from bhsearch.tracking import model_files

    card = model_files.read_text(history.client.get_run(run_id).info.artifact_uri, "card.md")
    values, corrected = history.good.tested.values, history.good.corrected
    for number in (
        values["auc"],
        values["ece_uncalibrated"],
        values["ece"],
        corrected.score,
        history.good.point.threshold,
    ):
        assert f"{number:.3f}" in card
    assert "These cases were opened 2 times" in card
    for said in (
        "area under the ROC curve (AUC)", "expected calibration error", "24 cases, 24 images", "What it is for",
        "Drawn by bhsearch", "MIT, as bhsearch", "highest balanced accuracy", history.good.verdict.reason,
        "registered as champion",
    ):  # fmt: skip
        assert said in card, said
    assert history.good.openings[0].when in card
    assert "single fold models" in card
    assert "Synthetic data" in card
    assert {item.path for item in history.client.list_artifacts(run_id)} >= {"card.html", "card.md", "card_pictures"}


def test_without_a_whole_card_nothing_is_registered(inside, monkeypatch):
    def hole(*args):
        raise RunError("A model card must have every field, but `audit` is empty.")

    monkeypatch.setattr(publish, "build_model_card", hole)
    before = len(inside.client.search_model_versions(f"name = '{inside.few.version.name}'"))
    with pytest.raises(RunError, match="every field"):
        register(RegistrationRequest("few", FEW_FRESH), ProgressReporter())
    assert len(inside.client.search_model_versions(f"name = '{inside.few.version.name}'")) == before


def test_the_threshold_of_heat_maps_is_the_one_before_calibration():
    from bhsearch.evaluation.calibration import Calibration
    from bhsearch.lifecycle.build_model_card import uncalibrated

    line = Calibration(2.5, -0.7)
    assert line.apply(np.array(uncalibrated(0.3, line))) == pytest.approx(0.3)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_force_without_why_and_why_without_force_are_refused():
    with pytest.raises(SettingsError, match="--force requires a reason"):
        RegistrationRequest(force=True, reason=" ")
    with pytest.raises(SettingsError, match="only used with --force"):
        RegistrationRequest(reason="because")


def test_two_studies_must_be_told_apart(inside):
    with pytest.raises(StudyError, match=r"(?s)Several studies are possible.*good-and-weak.*few|few.*good-and-weak"):
        register(RegistrationRequest(), ProgressReporter())


def test_an_unknown_trial_lists_the_known(inside):
    with pytest.raises(StudyError, match=r"\(0, 1\), but got 7"):
        register(RegistrationRequest("good-and-weak", 7), ProgressReporter())


@pytest.mark.parametrize(("name", "alias"), [("a/b", "champion"), ("a", "challenger"), ("a", "v1")])
def test_a_name_that_mlflow_would_refuse_is_refused_before_the_opening(inside, name, alias):
    before = len(inside.client.search_runs(["1"]))
    with pytest.raises(SettingsError, match=r"--name|--alias"):
        register(RegistrationRequest("few", name=name, alias=alias), ProgressReporter())
    assert len(inside.client.search_runs(["1"])) == before


def test_what_must_never_be_promoted_cannot_be_forced(inside):
    """A study by image: refused before the opening; without force it would stay a challenger."""
    tracked_search(data=FEW, trials=1, study="by-image", folds=2, group_by="image")
    before = len(inside.client.search_model_versions())
    with pytest.raises(StudyError, match="cannot promote a model of this study: The folds are made by image"):
        register(RegistrationRequest("by-image", force=True, reason="I want it"), ProgressReporter())
    assert len(inside.client.search_model_versions()) == before


# -- once more ---------------------------------------------------------------------------------------------------------


def test_the_same_trial_on_the_same_cases_opens_nothing_and_gives_the_earlier_result(inside):
    before = openings_of(inside, inside.good)
    again = register(RegistrationRequest("good-and-weak", GOOD), ProgressReporter())
    assert isinstance(again, EarlierResult)
    assert openings_of(inside, inside.good) == before
    assert again.version == inside.good.version
    assert again.when == inside.good.openings[-1].when
    kept = [row for row in registration_summary.rows(inside.good) if row[0] not in ("opened", "version")]
    shown = registration_summary.earlier_rows(again)
    assert shown[: len(kept)] == kept
    assert "nothing, this time" in dict(shown)["opened"]
    assert dict(shown)["version"] == f"version {again.version.number} of {NAME}: champion"
    assert again.notes == registration_summary.notes(inside.good)
    other = register(RegistrationRequest("good-and-weak", GOOD, name="other", export="openvino"), ProgressReporter())
    assert other.version == again.version
    assert ["--name other did nothing" in other.notes[-2], "--export did nothing" in other.notes[-1]] == [True, True]


def test_an_earlier_result_can_be_promoted_by_force_without_an_opening(inside):
    before = openings_of(inside, inside.few)
    name = inside.few.version.name
    request = RegistrationRequest("few", FEW_TESTED, alias="wanted", force=True, reason="the first one")
    again = register(request, ProgressReporter())
    assert again.forced
    assert "wanted" in again.version.aliases
    assert openings_of(inside, inside.few) == before
    last = json.loads(sorted(inside.client.get_registered_model(name).tags.items())[-1][1])
    assert (last["how"], last["reason"], last["version"]) == ("force", "the first one", again.version.number)
    assert not register(request, ProgressReporter()).forced  # it has the alias
    inside.client.delete_registered_model_alias(name, "wanted")
    inside.client.delete_registered_model_tag(name, "bhsearch.promotion.0001")


def test_a_promotion_that_an_outage_prevented_is_carried_out_by_the_same_command(inside):
    version = inside.good.version
    held = inside.client.get_registered_model(NAME).tags["bhsearch.promotion.0002"]
    inside.client.delete_registered_model_tag(NAME, "bhsearch.promotion.0002")
    inside.client.set_registered_model_alias(NAME, "champion", inside.weak.version.number)
    again = register(RegistrationRequest("good-and-weak", GOOD), ProgressReporter())
    assert "champion" in again.version.aliases
    entry = json.loads(inside.client.get_registered_model(NAME).tags["bhsearch.promotion.0002"])
    assert {**entry, "when": ""} == {**json.loads(held), "when": ""}
    assert entry["version"] == version.number


def test_a_preview_says_what_would_happen_and_opens_nothing(inside):
    before = openings_of(inside, inside.few)
    prospect = preview(RegistrationRequest("few", FEW_FRESH), ProgressReporter())
    assert openings_of(inside, inside.few) == before
    assert prospect.n_groups == (7, 3, 4)
    assert prospect.champion is None
    shown = dict(registration_summary.plan_rows(prospect))
    assert shown["trial"].startswith(f"{FEW_FRESH} (")
    assert shown["sealed"].startswith("7 cases, 3 with benign and 4 with malignant images")
    assert inside.few.openings[0].when in shown["opened before"]
    assert "there are 3 and 4, so it cannot pass" in shown["gate needs"]
    assert "becomes challenger" in shown["then"]
    again = dict(
        registration_summary.plan_rows(preview(RegistrationRequest("good-and-weak", GOOD), ProgressReporter()))
    )
    assert "nothing is opened" in again["then"]
    assert again["champion"] == f"version {inside.good.version.number} of {NAME}"
    assert "difference to the champion above 0" in again["gate needs"]


def test_who_does_not_agree_opens_nothing(inside):
    before = openings_of(inside, inside.few)
    asked = []
    assert (
        register(
            RegistrationRequest("few", FEW_FRESH), ProgressReporter(), lambda prospect: asked.append(prospect) or False
        )
        is None
    )
    assert len(asked) == 1
    assert openings_of(inside, inside.few) == before


def test_the_corrected_score_names_its_trial_where_another_is_registered(inside):
    number = inside.worse.proposed.number
    assert number != inside.worse.trial.number
    assert dict(registration_summary.rows(inside.worse))["trial"].startswith(
        f"{inside.worse.trial.number} (the study proposes {number}), "
    )
    assert dict(registration_summary.rows(inside.worse))["corrected"].startswith(f"of trial {number}, AUC ")
    assert dict(registration_summary.rows(inside.good))["corrected"].startswith("AUC ")
    assert "bhsearch.auc_corrected" not in inside.worse.version.tags
    assert inside.good.version.tags["bhsearch.auc_corrected"].startswith(f"{inside.good.corrected.score:.5f} ")


def test_the_advice_names_a_model_that_is_there(inside):
    from bhsearch.tracking import registry

    for result in (
        inside.good,
        inside.worse,
        register(RegistrationRequest("good-and-weak", GOOD), ProgressReporter()),
    ):
        uri = registration_summary.advice(result).rpartition("--model ")[2]
        wanted = result.version.number
        assert registry.resolve(inside.client, uri) == f"models:/{result.version.name}/{wanted}"
    assert registration_summary.advice(inside.good).endswith(f"models:/{NAME}@champion")
    assert registration_summary.advice(inside.few).endswith(f"models:/{inside.few.version.name}@challenger")
    both = EarlierResult(replace(inside.good.version, aliases=("challenger", "champion")), "then", [], [])
    assert registration_summary.advice(both).endswith(f"models:/{NAME}@champion")
    blank = replace(inside.few, version=replace(inside.few.version, name="two words"))
    assert registration_summary.advice(blank).endswith("--model 'models:/two words@challenger'")


# -- where openings are kept -------------------------------------------------------------------------------------------


def test_openings_are_on_runs_and_in_the_tags_of_experiment_and_model(inside):
    first = inside.weak.openings[0]
    key = f"bhsearch.opening.{first.key}"
    experiment = inside.client.get_experiment(inside.weak.study.experiment_id)
    for tags in (experiment.tags, inside.client.get_registered_model(NAME).tags):
        assert json.loads(tags[key])["when"] == first.when
    assert inside.client.get_run(first.run_id).data.tags["bhsearch.opening_id"] == first.key


def test_the_models_page_and_its_versions_page_point_to_each_other(inside):
    version = inside.client.get_model_version(NAME, inside.good.version.number)
    assert version.source.startswith("models:/m-")
    model = inside.client.get_logged_model(version.source.removeprefix("models:/"))
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": version.version}]


def openings_of(history, result):
    from bhsearch.tracking import access_log

    digest = history.client.get_run(result.openings[0].run_id).data.tags["bhsearch.sealed"]
    return access_log.accesses(history.client, digest)


def test_changed_data_are_refused_with_the_names(inside, tmp_path):
    index = open_data(DATA)
    shutil.copytree(index.root, tmp_path / "moved")
    files = [tmp_path / "moved" / path for path in index.column("path")[:2]]
    shutil.copy(tmp_path / "moved" / index.column("path")[5], files[0])
    files[1].unlink()
    from bhsearch.errors import DataError
    from bhsearch.lifecycle.restore import restore_study
    from bhsearch.tracking import reader

    study = reader.find_study(inside.client, "good-and-weak")
    with pytest.raises(DataError) as caught:
        restore_study(study, ProgressReporter(), str(tmp_path / "moved"))
    assert f"{files[0].name}: other pixels" in str(caught.value)
    assert f"{files[1].name}: gone" in str(caught.value)
    assert "2 images of the study" in str(caught.value)


def test_intervals_of_the_good_and_the_weak_model_are_those_of_their_predictions(history: History):
    assert history.good.tested.values["auc"] == pytest.approx(history.good.verdict.numbers["challenger_auc"], abs=1e-6)
    assert np.ptp(history.good.tested.predictions.probability) > 0.1
