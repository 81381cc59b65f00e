"""Published folds: the format of their files, and the images in both training and test set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest

from bhsearch.data.layouts.breakhis_folds import read_folds, resolve_folds
from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.errors import DataError
from tests.data.factories import make_index

# Slides of BreakHis: 22549 has two here, 13412 is filed under two subtypes, and 90001 is in no list.
SLIDES = ["B_A-14-22549AB", "B_A-14-22549G", "B_F-14-14134", "M_DC-14-13412", "M_LC-14-13412", "M_DC-14-2523"]


def names(slide):
    return [f"SOB_{slide}-{magnification}-001.png" for magnification in (40, 100)]


def fold_file(folder, train, test, number=1, ending="\n"):
    """Return a fold file in the published format."""
    rows = [
        f"{name}|{name.split('-')[3]}|{number}|{side}"
        for side, slides in (("train", train), ("test", test))
        for slide in slides
        for name in names(slide)
    ]
    file = folder / f"dsfold{number}.txt"
    file.write_bytes((ending.join(rows) + ending).encode())
    return file


@pytest.fixture
def dataset():
    """The slides above, each with an image at two magnifications; one picture is filed under both of 13412."""
    made = make_index([(slide, int(slide.startswith("M")), 2) for slide in [*SLIDES, "M_DC-14-90001"]])
    slides = made.column("case")
    seen: dict[str, int] = {}
    paths = []
    for slide in slides:
        paths.append(f"deep/{names(slide)[seen.setdefault(slide, 0)]}")
        seen[slide] += 1
    digests = ["twin" if path.endswith("13412-100-001.png") else f"{at}" for at, path in enumerate(paths)]
    table = made.table.assign(
        path=paths, slide=slides, case=[slide.split("-")[2].rstrip("ABG") for slide in slides], pixels_digest=digests
    )
    return replace(made, table=table)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_fold_file_says_on_which_side_an_image_is(tmp_path, ending):
    (fold,) = read_folds([fold_file(tmp_path, SLIDES[:4], SLIDES[4:], number=3, ending=ending)])
    assert fold.number == 3
    assert {name for name, side in fold.part.items() if side == "train"} == {n for s in SLIDES[:4] for n in names(s)}
    assert {name for name, side in fold.part.items() if side == "test"} == {n for s in SLIDES[4:] for n in names(s)}


def test_folds_come_in_the_order_of_their_numbers(tmp_path):
    files = [fold_file(tmp_path, SLIDES[:4], SLIDES[4:], number=number) for number in (5, 1, 3)]
    assert [fold.number for fold in read_folds(files)] == [1, 3, 5]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("SOB_B_A-14-22549AB-40-001.png|40|1", "Expected a row such as"),
        ("SOB_B_A-14-22549AB-40-001.png|40|1|validation", "Expected a row such as"),
        ("SOB_B_A-14-22549AB-40-001.png|40|one|train", "Expected a row such as"),
        ("SOB_B_A-14-22549AB-40-001.png|100|1|train", "magnification differs from that in the file name"),
        ("cat.png|40|1|train", "'cat.png' is not a BreakHis file name"),
        ("SOB_M_DC-14-2523-40-001.png|40|1|train", "is in both the training and the test set"),
        ("SOB_B_A-14-22549AB-40-002.png|40|2|train", "2 fold numbers"),
    ],
)
def test_a_row_that_breaks_the_rule_is_named_with_its_file(tmp_path, line, words):
    file = fold_file(tmp_path, SLIDES[:4], SLIDES[4:])
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(DataError, match=words) as caught:
        read_folds([file])
    assert str(file) in str(caught.value)


def test_files_that_are_no_folds_are_refused(tmp_path):
    with pytest.raises(DataError, match="Cannot read the fold file"):
        read_folds([tmp_path / "nowhere.txt"])
    with pytest.raises(DataError, match="train and test rows with one fold number"):
        read_folds([fold_file(tmp_path, SLIDES, [])])
    file = fold_file(tmp_path, SLIDES[:4], SLIDES[4:])
    with pytest.raises(DataError, match="Give each file once"):
        read_folds([file, file])
    file.write_text("\n")
    with pytest.raises(DataError, match="contains no rows"):
        read_folds([file])


def test_images_are_found_by_their_name_wherever_they_lie(tmp_path, dataset):
    folds = read_folds([fold_file(tmp_path, SLIDES[:4], SLIDES[4:])])
    (placed,) = resolve_folds(dataset, folds)
    slide = dataset.column("slide")
    assert np.array_equal(placed.train, np.isin(slide.astype(str), SLIDES[:4]))
    assert np.array_equal(placed.test, np.isin(slide.astype(str), SLIDES[4:]))
    assert placed.n_missing == 0


def test_cases_with_slides_on_both_sides_and_their_shared_pictures_are_listed(tmp_path, dataset):
    train, test = [SLIDES[0], SLIDES[3], SLIDES[5]], [SLIDES[1], SLIDES[2], SLIDES[4]]
    (placed,) = resolve_folds(dataset, read_folds([fold_file(tmp_path, train, test)]))
    assert placed.leaking_cases == {
        "13412": (("M_DC-14-13412",), ("M_LC-14-13412",)),
        "22549": (("B_A-14-22549AB",), ("B_A-14-22549G",)),
    }
    assert placed.leaking_images == (("deep/SOB_M_DC-14-13412-100-001.png", "deep/SOB_M_LC-14-13412-100-001.png"),)
    assert placed.heading() == "Fold 1: in both training and test: cases: 2, identical images: 1"
    assert placed.leaks()[1] == "case 22549: train B_A-14-22549AB; test B_A-14-22549G"
    assert placed.leaks()[2].startswith("identical image: deep/SOB_M_DC")


def test_a_fold_that_keeps_cases_whole_leaks_nothing(tmp_path, dataset):
    (placed,) = resolve_folds(
        dataset, read_folds([fold_file(tmp_path, [*SLIDES[:2], *SLIDES[3:5]], [SLIDES[2], SLIDES[5]])])
    )
    assert placed.leaks() == []


def test_listed_images_that_are_not_there_are_counted(tmp_path, dataset):
    absent = "B_TA-14-16184"
    (placed,) = resolve_folds(dataset, read_folds([fold_file(tmp_path, [*SLIDES[:4], absent], SLIDES[4:])]))
    assert placed.n_missing == 2
    assert "missing: 2" in placed.heading()
    with pytest.raises(
        DataError, match=r"No test images of fold 1 were found in .*. Missing files:\n  SOB_B_TA-14-16184-100-001.png"
    ):
        resolve_folds(dataset, read_folds([fold_file(tmp_path, SLIDES, [absent])]))


def test_every_image_of_the_phantom_can_be_placed(tmp_path):
    dataset = phantom_dataset("phantom:cases=10,images=2")
    files = [PurePosixPath(path).name for path in dataset.column("path")]
    sides = ["train", "test"] * len(files)
    rows = [f"{name}|100X|1|{side}" for name, side in zip(files, sides, strict=False)]
    (tmp_path / "dsfold1.txt").write_text("\n".join(rows))
    (placed,) = resolve_folds(dataset, read_folds([tmp_path / "dsfold1.txt"]))
    assert (placed.train ^ placed.test).all()
