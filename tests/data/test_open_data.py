"""Values of `--data` that mean synthetic tissue, and values that are paths."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from bhsearch.config import load_settings, portable
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.open_data import open_data, open_settings
from bhsearch.errors import DataError, SettingsError


@pytest.fixture
def folder(tmp_path):
    for number, label in enumerate(("benign", "malignant")):
        (tmp_path / "phantom" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "phantom" / label / "a.png")
    return tmp_path / "phantom"


def test_the_word_phantom_with_parameters_means_synthetic_tissue():
    dataset = open_data("phantom:cases=20,images=2")
    assert dataset.synthetic
    assert len(set(dataset.column("case"))) == 20


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "idc"},
        {"options": LayoutOptions(case_pattern="(x)")},
        {"options": LayoutOptions(class_map=("benign=a",))},
        {"options": LayoutOptions(ignore_columns=("fold",))},
        {"options": LayoutOptions(image_root=Path())},
    ],
)
def test_options_for_images_of_ones_own_do_not_fit_the_phantom(options):
    with pytest.raises(SettingsError, match="your own images"):
        open_data("phantom:cases=20,images=2", **options)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_text_is_not_the_working_directory(empty, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(SettingsError, match="check that it is set"):
        open_data(empty)


def test_settings_carry_every_option_to_the_reader(tmp_path):
    (tmp_path / "images").mkdir()
    lines = ["path,label,case,fold"]
    for at in range(4):
        Image.new("RGB", (8, 8), (at, 0, 0)).save(tmp_path / "images" / f"{at}.png")
        lines.append(f"{at}.png,{('normal', 'cancer')[at % 2]},c{at},{at}")
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    options = {"class_map": "benign=normal,malignant=cancer", "ignore_columns": ["fold"]}
    settings = load_settings(
        None, {"data": str(tmp_path / "list.csv"), "image_root": str(tmp_path / "images"), **options}
    )
    assert open_settings(settings).labels.tolist() == [0, 1, 0, 1]
    assert open_settings(load_settings(None, portable(settings))).labels.tolist() == [0, 1, 0, 1]
    shutil.move(tmp_path / "list.csv", tmp_path / "images" / "moved.csv")
    assert len(open_settings(settings, data=str(tmp_path / "images" / "moved.csv"))) == 4


def test_anything_else_is_a_path(folder):
    assert open_data(str(folder)).layout == "folders"
    with pytest.raises(DataError, match="phantoms"):
        open_data("phantoms")


def test_a_folder_called_phantom_can_be_given_by_a_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert open_data("./phantom").layout == "folders"
