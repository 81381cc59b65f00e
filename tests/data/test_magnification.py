from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.magnification import at_magnification, magnification_key
from bhsearch.errors import SettingsError
from tests.data.factories import balanced, make_index


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *((text, "40X") for text in ("40", "40X", "40x", "x40", "40 x", " 40× ", "40.0", "40,00", "040")),
        *((text, "2.5X") for text in ("2.5", "2,5x", "2.50X")),
        ("400x", "400X"),
        *((text, text) for text in ("", "high", "40X/0.65", "20x and 40x", "0.25 mpp", "-40", "all")),
    ],
)
def test_spellings_of_a_magnification_have_one_key(text, key):
    assert magnification_key(text) == key
    assert magnification_key(key) == key


def test_a_table_with_several_spellings_has_one_magnification_and_every_image_of_it(tmp_path):
    spellings = ["40", "40x", "40X", "100x", "100.0", "x100"]
    lines = ["path,label,case,magnification"]
    for at, spelling in enumerate(spellings * 2):
        Image.fromarray(np.full((4, 4, 3), at, np.uint8)).save(tmp_path / f"{at}.png")
        lines.append(f"{at}.png,{at // 6},c{at},{spelling}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    dataset = load_dataset(tmp_path / "list.csv")
    assert set(dataset.column("magnification")) == {"40X", "100X"}
    for wanted in ("40", "40x", "40X", "x40"):
        name, chosen = at_magnification(dataset, wanted)
        assert (name, int(chosen.sum())) == ("40X", 6)


def test_a_magnification_that_is_not_a_number_is_found_by_its_name():
    dataset = make_index(balanced(2, 2), magnifications=("low", "high"))
    name, chosen = at_magnification(dataset, "HIGH")
    assert (name, int(chosen.sum())) == ("high", 8)


def test_all_selects_every_image_and_another_magnification_is_refused():
    dataset = make_index(balanced(2, 2), magnifications=("40X", "100X"))
    assert at_magnification(dataset, "all")[1].all()
    with pytest.raises(SettingsError, match="must be one of all, 40X, 100X, but got '400'"):
        at_magnification(dataset, "400")
