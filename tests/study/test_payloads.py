from __future__ import annotations

import shlex

import psutil
import pytest
from typer.testing import CliRunner

from bhsearch import run
from bhsearch.config import Settings
from bhsearch.study.payloads import command_of, machine


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"data": "a folder/it's", "trials": 8}, "--data 'a folder/it'\"'\"'s' --trials 8"),
        ({"backbones": ("staintex-s", "own net.keras"), "image_sizes": (96, 128)},
         "--backbones 'staintex-s,own net.keras' --image-sizes 96,128"),
        ({"ignore_predefined_split": True, "tracking": False, "quiet": True},
         "--ignore-predefined-split --no-tracking"),
        ({"init_from": "s", "max_failures": 2}, "--max-failures 2 --init-from s"),
    ],
)  # fmt: skip
def test_the_command_holds_what_differs_from_the_defaults(changes, words):
    assert command_of(Settings(**changes)) == f"python -m bhsearch.run {words}".strip()


def test_the_command_never_holds_the_password_of_the_storage():
    command = command_of(Settings(storage="postgresql+psycopg://user:secret@host/name"))
    assert "secret" not in command
    assert "postgresql+psycopg://host/name" in command


def test_the_command_is_one_that_the_command_line_takes(monkeypatch, tmp_path):
    """Every option by its real name: one that did not exist would end with 2 before anything is read."""
    given = {
        "data": "nowhere", "layout": "idc", "case_pattern": "(x)", "magnification": "100X",
        "ignore_predefined_split": True, "skip_unreadable": True, "study": "s", "trials": 3, "timeout": 9.0,
        "max_failures": 2, "seed": 4, "robustness": True, "nested": True, "budget": 9.0, "race_divisions": 2,
        "score_weight_shift": 0.5, "combine": 2, "feature_precision": "f32",
        "regime": "frozen", "finetune_trials": 2, "init_from": "f", "warm_start_from": ("w",), "patience": 5,
        "pruner": "median", "precision": "float32", "backbones": ("staintex-s",), "weights_dir": "w",
        "image_size": 96, "image_sizes": (128,), "batch_sizes": (8, 16),
        "resize": "tiles", "feature_backend": "keras", "folds": 3,
        "repeats": 2, "test_fraction": 0.3, "group_by": "slide", "engine": "keras-tuner", "sampler": "random",
        "workers": 1, "workers_per_gpu": "2", "launcher": "local", "augmentations": ("a",), "metrics": ("m",),
        "storage": "sqlite:///x.db", "trial_timeout": 5.0, "max_worker_memory": 900.0, "tracking": False,
        "keep_models": "none", "class_map": ("benign=normal",), "ignore_columns": ("fold",), "image_root": "images",
        "features": ("uni.parquet", "conch.npz"), "features_key": "id", "heads": "linear",
    }  # fmt: skip
    words = shlex.split(command_of(Settings(**given)))[3:]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(run.app, [*words, "--help"])
    assert done.exit_code == 0, done.output
    from dataclasses import fields

    of_jobs = ("launcher_option", "dry_run", "wait", "only")

    assert set(given) == {field.name for field in fields(Settings)} - {"quiet", *of_jobs}, "a new setting: add it above"


def test_the_machine_is_said_with_its_cores():
    said = machine()
    assert f"{psutil.cpu_count()} core" in said
    assert "GiB of memory" in said
