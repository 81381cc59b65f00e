"""Which words mean the phantom, and which a path."""

import pytest
from PIL import Image

from bhsearch.data.opening import open_data
from bhsearch.errors import DataError, SettingsError


@pytest.fixture
def folder(tmp_path):
    for number, label in enumerate(("benign", "malignant")):
        (tmp_path / "phantom" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "phantom" / label / "a.png")
    return tmp_path / "phantom"


def test_the_word_phantom_with_parameters_means_synthetic_tissue():
    index = open_data("phantom:cases=20,images=2")
    assert index.synthetic
    assert len(set(index.column("case"))) == 20


@pytest.mark.parametrize("options", [{"layout": "idc"}, {"case_pattern": "(x)"}])
def test_options_for_images_of_ones_own_do_not_fit_the_phantom(options):
    with pytest.raises(SettingsError, match="images of your own"):
        open_data("phantom:cases=20,images=2", **options)


def test_anything_else_is_a_path(folder):
    assert open_data(str(folder)).layout == "folders"
    with pytest.raises(DataError, match="phantoms"):
        open_data("phantoms")


def test_a_folder_called_phantom_can_be_given_by_a_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert open_data("./phantom").layout == "folders"
