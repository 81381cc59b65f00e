"""Names that a person reads in MLflow, and addresses of its pages."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import bhsearch
from bhsearch.objectives.space import finetune_space, frozen_space, starting_point
from bhsearch.plugins import BUILT_IN
from bhsearch.tracking import keys, links, notes


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"backbone": "staintex-l", "policy": "colour", "hidden_units": 16}, "039 staintex-l colour mlp16"),
        ({"backbone": "staintex-l", "policy": "none", "hidden_units": 0}, "039 staintex-l none linear"),
        ({"backbone": "cnn", "policy": "dihedral", "depth": "all"}, "039 cnn dihedral depth-all"),
        ({"backbone": "δίκτυο", "policy": "stain", "hidden_units": 64}, "039 δίκτυο stain mlp64"),
        ({"views": 4}, "039"),
    ],
)
def test_a_run_is_named_by_what_the_trial_tried(params, name):
    assert keys.trial_name(39, params) == name


def test_both_spaces_have_what_names_are_made_of():
    frozen = starting_point(frozen_space(("staintex-s",)), "staintex-s")
    finetune = starting_point(finetune_space(("cnn",), (48,)), "cnn")
    assert keys.trial_name(0, frozen) == "000 staintex-s none linear"
    assert keys.trial_name(1234, finetune) == "1234 cnn dihedral depth-all"


def test_settings_come_back_from_the_parameters_of_a_run():
    params = keys.config_params({"data": "phantom", "folds": 5, "backbones": ("a", "b")})
    assert params == {"config/data": "phantom", "config/folds": "5", "config/backbones": "('a', 'b')"}
    assert keys.config_of({**params, "other": "1"}) == {"data": "phantom", "folds": "5", "backbones": "('a', 'b')"}


@pytest.mark.parametrize(
    ("uri", "address", "served"),
    [
        (None, "http://127.0.0.1:5000/", False),
        ("sqlite:///elsewhere/mlflow.db", "http://127.0.0.1:5000/", False),
        ("https://host:8080", "https://host:8080/", True),
        ("https://user:secret@host/mlflow/", "https://host/mlflow/", True),
    ],
)
def test_links_lead_to_the_server_or_to_where_the_page_listens(monkeypatch, uri, address, served):
    if uri is None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert links.is_served() == served
    assert links.trials_url("7") == (
        f"{address}#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=bhsearch-trials"
    )
    assert links.parallel_url("7").startswith(f"{address}#/experiments/7/runs?workflowType=machine_learning&")
    assert links.run_url("7", "abc") == f"{address}#/experiments/7/runs/abc?workflowType=machine_learning"


STUDY = {
    "note": "Synthetic", "study": "s", "data": "d", "settings": {"folds": 5, "repeats": 2, "regime": "frozen"},
    "tags": {},
}  # fmt: skip


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (
            {"state": "COMPLETE"},
            "**0.8123** (95 % over cases: 0.700 to 0.900), case-weighted, out of fold, mean over 10",
        ),
        ({"state": "PRUNED", "seconds": 12.3}, "Pruned after 12 s"),
        ({"state": "FAIL", "reason": "it diverged"}, "Failed: it diverged"),
    ],
)
def test_a_trial_is_described_by_its_end_its_point_and_its_study(trial, says):
    values = {"auc": 0.81234, "auc_low": 0.7, "auc_high": 0.9}
    point = {"backbone": "staintex-s", "learning_rate": 0.0123456}
    note = notes.trial_note(STUDY, {"number": 3, "params": point, **trial}, values, "7", "parent")
    assert note.startswith("**Synthetic.**\n\n")
    assert says in note
    assert "backbone staintex-s, learning_rate 0.01235" in note
    assert "[s](#/experiments/7/runs/parent?workflowType=machine_learning)" in note
    assert note.endswith("Not for screening patients.")


RECORDED = {"bhsearch.licences": '{"uni": "cc-by-nc-nd-4.0", "densenet121": "BSD-3-Clause"}'}


@pytest.mark.parametrize(
    ("tags", "backbone", "licence", "limited"),
    [
        (RECORDED, "uni", "cc-by-nc-nd-4.0", True),
        (RECORDED, "densenet121", "BSD-3-Clause", False),
        (RECORDED, "other", "unknown", True),
        ({}, "staintex-l", "no weights", False),  # a study begun before licences were recorded
        ({}, "densenet121", "unknown", True),
    ],
)
def test_the_licence_of_a_backbone_is_the_recorded_one(tags, backbone, licence, limited):
    assert keys.licence_of(tags, backbone) == licence
    assert (licence in keys.licence_limit(tags, backbone)) == limited
    assert bool(keys.licence_limit(tags, backbone)) == limited


def test_a_trial_says_how_its_backbone_limits_its_model():
    trial = {"number": 3, "state": "FAIL", "reason": "it diverged"}
    said = [
        notes.trial_note({**STUDY, "tags": RECORDED}, {**trial, "params": params}, {}, "7", "parent")
        for params in ({"backbone": "uni"}, {"backbone": "densenet121"}, {})
    ]
    assert ["is non-commercial, and so is this model" in note for note in said] == [True, False, False]


def test_no_other_module_spells_a_name_in_mlflow():
    """Names of modules are allowed; attributes in Optuna's storage and groups of entry points are in other rooms."""
    package = Path(bhsearch.__file__).parent
    spelt = {}
    rooms = ("study", "tracking", "lifecycle", "protocols", "reporting", "evaluation")
    files = [file for room in rooms for file in (package / room).rglob("*.py")]
    for file in files:
        home = file.relative_to(package)
        if home == Path("tracking/keys.py"):
            continue
        constants = (node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if is_text(node))
        named = (node.value for node in constants if re.fullmatch(r"bhsearch\.[a-z_]+\.?", node.value))
        found = [
            name
            for name in named
            if name not in BUILT_IN and not (package / f"{name.removeprefix('bhsearch.')}.py").exists()
        ]
        if found:
            spelt[str(home)] = found
    assert spelt == {}


def is_text(node):
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
