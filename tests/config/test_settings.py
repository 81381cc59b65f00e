"""Settings: a file, options over it, and a sentence for everything that is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bhsearch.config import Settings, load_settings, model_limit, portable
from bhsearch.config.loading import to_toml
from bhsearch.config.option import choice_names, option_of
from bhsearch.config.parsing import parse_pairs, split_pooling
from bhsearch.config.settings import SECTIONS
from bhsearch.errors import SettingsError


def write(folder: Path, text: str) -> Path:
    file = folder / "study.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_nothing_given_is_the_default():
    assert load_settings(None, {}) == Settings()


def test_help_of_the_class_describes_every_setting_once():
    attributes = Settings.__doc__.partition("Attributes:")[2]
    described = re.findall(r"^        (\w+): \w", attributes, re.MULTILINE)
    assert described == [field.name for field in fields(Settings)]


def test_options_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    file = write(tmp_path, 'trials = 7\nseed = 3\nbackbones = ["staintex-s", "staintex-l"]\n')
    settings = load_settings(file, {"trials": 9, "folds": None})
    assert settings == dataclasses.replace(Settings(), trials=9, seed=3, backbones=("staintex-s", "staintex-l"))


def test_an_option_of_false_wins_too(tmp_path):
    """Only None means that an option was not given."""
    file = write(tmp_path, "skip_unreadable = true\n")
    assert load_settings(file, {"skip_unreadable": False}).skip_unreadable is False


def test_an_unknown_key_is_fatal_and_the_close_one_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"Unknown setting 'trails' in .*study\.toml\. Did you mean 'trials'\?"):
        load_settings(write(tmp_path, "trails = 7\n"), {})


def test_an_unknown_key_like_no_other_lists_all_keys(tmp_path):
    with pytest.raises(SettingsError, match="Unknown setting 'xyzzy'") as caught:
        load_settings(write(tmp_path, "xyzzy = 7\n"), {})
    assert all(field.name in str(caught.value) for field in fields(Settings))


@pytest.mark.parametrize(
    ("line", "key", "wanted"),
    [
        ('trials = "7"', "trials", "int"),
        ("trials = 7.5", "trials", "int"),
        ("trials = true", "trials", "int"),
        ("study = 7", "study", "str"),
        ("tracking = 1", "tracking", "bool"),
        ("timeout = false", "timeout", "float"),
        ("test_fraction = 'half'", "test_fraction", "float"),
        ("backbones = 7", "backbones", "list of names"),
        ("backbones = ['staintex-s', 7]", "backbones", "list of names"),
        ("data = ['a', 'b']", "data", "str"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(tmp_path, line, key, wanted):
    with pytest.raises(SettingsError, match=rf"{key} must be .*{wanted}"):
        load_settings(write(tmp_path, line + "\n"), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trials", 0),
        ("max_failures", 0),
        ("timeout", 0.0),
        ("budget", 0.0),
        ("budget", float("nan")),
        ("regime", "nosuch"),
        ("group_by", "patient"),
        ("resize", "stretch"),
        ("feature_backend", "nosuch"),
        ("patience", 0),
        ("workers", -1),
        ("max_worker_memory", 100.0),
        ("finetune_trials", 0),
        ("seed", -1),
        ("backbones", ()),
        ("keep_models", ""),
        ("keep_models", "best"),
        ("keep_models", "best:0"),
        ("keep_models", "best:-1"),
        ("keep_models", "best:1.5"),
        ("keep_models", "All"),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("trial_timeout", float("nan")),
        ("trial_timeout", float("inf")),
        ("max_worker_memory", float("nan")),
        ("test_fraction", float("nan")),
        ("data", ""),
        ("data", "  "),
        ("study", ""),
        ("storage", ""),
        ("weights_dir", ""),
        ("case_pattern", ""),
    ],
)
def test_a_value_out_of_range_is_named_as_its_option(name, value):
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} must"):
        Settings(**{name: value})


@pytest.mark.parametrize(("keep", "most"), [("all", None), ("none", 0), ("best:1", 1), ("best:20", 20)])
def test_models_are_kept_of_all_of_none_or_of_the_best(keep, most):
    assert model_limit(Settings(keep_models=keep).keep_models) == most


def test_whole_numbers_stand_for_fractions(tmp_path):
    timeout = load_settings(write(tmp_path, "timeout = 60\n"), {}).timeout
    assert timeout == 60.0
    assert isinstance(timeout, float)


@pytest.mark.parametrize("given", ["a,b", "a , b,", ["a", "b"], ("a", "b")])
def test_backbones_may_be_a_list_or_names_with_commas(given):
    assert load_settings(None, {"backbones": given}).backbones == ("a", "b")


@pytest.mark.parametrize(("text", "word"), [("trials = ", "TOML"), ("trials = 1\ntrials = 2\n", "TOML")])
def test_a_file_that_is_no_toml_is_refused(tmp_path, text, word):
    with pytest.raises(SettingsError, match=word):
        load_settings(write(tmp_path, text), {})


def test_a_file_of_other_bytes_is_refused(tmp_path):
    file = tmp_path / "study.toml"
    file.write_bytes(b"\xff\xfe\x00study")
    with pytest.raises(SettingsError, match=r"is not valid TOML|Cannot read the settings file"):
        load_settings(file, {})


@pytest.mark.parametrize("path", ["nosuch.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, path):
    with pytest.raises(SettingsError, match="Cannot read the settings file"):
        load_settings(tmp_path / path, {})


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    assert load_settings(write(tmp_path, "\ufefftrials = 3\n"), {}).trials == 3


@pytest.mark.parametrize("sizes", ["[64.5]", "[64, 96.0]", "[true]", '"64,96.5"', "[[64]]", "64"])
def test_sizes_that_are_no_whole_numbers_are_refused(tmp_path, sizes):
    with pytest.raises(SettingsError, match="image_sizes must be a list of whole numbers"):
        load_settings(write(tmp_path, f"image_sizes = {sizes}\n"), {})


@pytest.mark.parametrize("key", [field.name for field in fields(Settings) if "int" in str(field.type)])
def test_no_whole_number_may_have_a_fraction(tmp_path, key):
    value = "[2.5]" if key.endswith("_sizes") else "2.5"
    with pytest.raises(SettingsError, match=f"{key} must be"):
        load_settings(write(tmp_path, f"{key} = {value}\n"), {})


def test_the_home_folder_stands_for_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path, 'weights_dir = "~/w"\nimage_root = "~/i"\nbackbones = ["~/net.keras", "staintex-s"]\n')
    settings = load_settings(file, {})
    assert (settings.weights_dir, settings.image_root) == (f"{tmp_path}/w", f"{tmp_path}/i")
    assert settings.backbones == (f"{tmp_path}/net.keras", "staintex-s")


@pytest.mark.parametrize("given", [["fold", "set"], ["fold,set"], "fold, set", ("fold", " set ")])
def test_columns_to_ignore_may_be_repeated_or_have_commas(given):
    assert load_settings(None, {"ignore_columns": given}).ignore_columns == ("fold", "set")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().trials = 3


def test_a_choice_that_is_close_to_a_known_one_is_suggested():
    with pytest.raises(SettingsError, match=r"but got 'finetun'\. Did you mean 'finetune'\?"):
        Settings(regime="finetun")


def test_every_field_of_a_section_is_a_setting_and_every_setting_has_one_section():
    names = [field.name for section in SECTIONS for field in fields(section)]
    assert len(names) == len(set(names))
    assert set(names) == {field.name for field in fields(Settings)}


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_a_setting_is_described_by_a_sentence_and_a_placeholder(field):
    option = option_of(field)
    assert option.help[0].isupper()
    assert option.help.endswith(".")
    assert (option.metavar == "") == isinstance(field.default, bool)


@pytest.mark.parametrize("field", fields(Settings), ids=lambda field: field.name)
def test_a_default_is_one_of_the_choices(field):
    names = choice_names(option_of(field))
    assert not names or not field.default or field.default in names


def test_what_a_worker_takes_over_from_a_study_can_be_loaded_again(tmp_path):
    settings = Settings(data=str(tmp_path), class_map=("benign=normal",), image_sizes=(96,), patience=3, quiet=True)
    kept = json.loads(json.dumps(portable(settings)))
    assert load_settings(None, kept) == dataclasses.replace(settings, quiet=False)
    assert "storage" not in kept


def test_a_worker_finds_files_and_folders_of_backbones_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.keras").touch()
    (tmp_path / "uni").mkdir()
    (tmp_path / "uni" / "config.json").touch()
    (tmp_path / "staintex-s").mkdir()  # a folder without an encoder has nothing to do with the name
    names = ("net.keras", "uni", "uni@cls+mean", "staintex-s", "nosuch@cls")
    kept = portable(Settings(backbones=names))["backbones"]
    assert kept == [f"{tmp_path}/net.keras", f"{tmp_path}/uni", f"{tmp_path}/uni@cls+mean", "staintex-s", "nosuch@cls"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/uni@cls+mean", ("a/uni", "cls+mean")),
        ("uni@cls", ("uni", "cls")),
        ("uni", ("uni", None)),
        ("me@home/uni", ("me@home/uni", None)),
        ("uni@max", ("uni@max", None)),
        ("@cls", ("@cls", None)),
    ],
)
def test_a_pooling_is_the_end_of_a_name(name, parts):
    assert split_pooling(name) == parts


# -- settings of jobs --------------------------------------------------------------------------------------------------

_TEXT = some.text(some.characters(exclude_categories=["Cs"]))  # TOML has no surrogates
_VALUES = some.one_of(
    _TEXT,
    some.booleans(),
    some.integers(-(2**63), 2**63 - 1),
    some.floats(allow_nan=False, allow_infinity=False),
    some.lists(_TEXT),
)


@given(some.dictionaries(some.from_regex(r"[a-z_]+", fullmatch=True), _VALUES))
def test_what_is_written_as_toml_is_read_as_the_same(values):
    assert tomllib.loads(to_toml(values)) == values


def test_a_setting_without_a_value_is_left_out_of_a_file():
    assert to_toml({"timeout": None, "trials": 3}) == "trials = 3\n"


def test_the_settings_of_a_study_are_read_from_the_file_that_jobs_get(tmp_path):
    settings = Settings(
        data="/data/ä #1.csv",
        class_map=("benign=a,b", "malignant=c"), backbones=("staintex-s", "cnn"), image_sizes=(96, 128),
        budget=2.5, trials=7, study='a "b" \\ c\x7f',
    )  # fmt: skip
    file = write(tmp_path, to_toml(portable(settings, elsewhere=True)))
    loaded = load_settings(file, {})
    belonging = {field.name for field in fields(Settings) if option_of(field).belongs_to_command}
    kept = {field.name: getattr(settings, field.name) for field in fields(Settings) if field.name not in belonging}
    assert {key: getattr(loaded, key) for key in kept} == kept


def test_paths_of_another_machine_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("images", "weights"):
        (tmp_path / name).mkdir()
    (tmp_path / "net.keras").touch()
    settings = Settings(data="images", weights_dir="weights", backbones=("net.keras",))
    there, here = portable(settings, elsewhere=True), portable(settings)
    assert (there["data"], there["weights_dir"], there["backbones"]) == ("images", "weights", ["net.keras"])
    assert (here["data"], here["weights_dir"]) == (str(tmp_path / "images"), str(tmp_path / "weights"))
    assert here["backbones"] == [str(tmp_path / "net.keras")]


@pytest.mark.parametrize(
    ("given", "pairs"),
    [
        ("partition=gpu", ("partition=gpu",)),
        (["partition=gpu", " time = 1:00 "], ("partition=gpu", "time=1:00")),
        (("args=--mem=4G",), ("args=--mem=4G",)),
        (
            {"partition": "gpu", "gpus": 1, "cpus": 0.5, "exclusive": True},
            ("partition=gpu", "gpus=1", "cpus=0.5", "exclusive=true"),
        ),
        ("note=", ("note=",)),
        ((), ()),
    ],
)
def test_pairs_come_from_options_and_from_tables(given, pairs):
    assert parse_pairs(given) == pairs


@pytest.mark.parametrize("given", ["partition", "=gpu", " =gpu", "", ["a=1", "b"], [1], 3, None, True])
def test_what_is_no_pair_is_refused(given):
    with pytest.raises(SettingsError, match="--launcher-option must be KEY=VALUE, such as partition=gpu, but got "):
        parse_pairs(given)


def test_of_several_options_of_a_launcher_the_wrong_one_is_named():
    with pytest.raises(SettingsError, match=r"but got 'partition'\.$"):
        load_settings(None, {"launcher_option": ["time=60", "partition"]})


def test_options_of_a_launcher_may_be_a_table_of_the_file(tmp_path):
    file = write(tmp_path, 'launcher = "local"\n[launcher_option]\npartition = "gpu"\ngpus = 2\n')
    assert load_settings(file, {}).launcher_option == ("partition=gpu", "gpus=2")
    assert load_settings(file, {"launcher_option": ("a=b",)}).launcher_option == ("a=b",)


@pytest.mark.parametrize(
    ("variable", "in_file", "option", "wanted"),
    [
        (None, None, None, "sqlite:///optuna.db"),
        ("", None, None, "sqlite:///optuna.db"),
        ("journal:v", None, None, "journal:v"),
        ("journal:v", "journal:f", None, "journal:f"),
        ("journal:v", "journal:f", "journal:o", "journal:o"),
        ("journal:v", None, "journal:o", "journal:o"),
    ],
)
def test_the_variable_of_the_storage_is_weaker_than_file_and_option(
    tmp_path, monkeypatch, variable, in_file, option, wanted
):
    if variable is None:
        monkeypatch.delenv("BHSEARCH_STORAGE", raising=False)
    else:
        monkeypatch.setenv("BHSEARCH_STORAGE", variable)
    file = write(tmp_path, f'storage = "{in_file}"\n') if in_file else None
    assert load_settings(file, {"storage": option}).storage == wanted
