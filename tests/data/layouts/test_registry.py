from __future__ import annotations

import pytest

from bhsearch.data.images.files import find_images
from bhsearch.data.layouts import breakhis as names
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.listing import ImageRecord
from bhsearch.data.layouts.registry import LAYOUTS, detect, read
from bhsearch.errors import DataError, SettingsError

BENIGN, MALIGNANT = "SOB_B_TA-14-16184CD-40-001.png", "SOB_M_DC-14-13412-100-007.png"


@pytest.fixture
def manifest(tree):
    def make(text, *paths):
        root = tree(*paths, "list.csv")
        (root / "list.csv").write_text(text, encoding="utf-8")
        return root / "list.csv"

    return make


def by_path(listing):
    return {row.path: row for row in listing.rows}


# --- looking at the tree ---


@pytest.mark.parametrize(
    ("paths", "layout"),
    [
        ([f"a/b/c/{BENIGN}", MALIGNANT], "breakhis"),
        ([f"benign/SOB/{BENIGN}", f"malignant/SOB/{MALIGNANT}"], "breakhis"),
        ([f"benign/SOB/x/{BENIGN}", "malignant/SOB/x/renamed.png"], "breakhis"),
        ([f"benign/{BENIGN}", "malignant/other.png"], "folders"),
        ([f"train/benign/{BENIGN}", f"validation/malignant/{MALIGNANT}"], "folders"),
        (["benign/a.png", "malignant/b.jpg"], "folders"),
        (["Train/Benign/a.png", "Train/Malignant/b.jpg"], "folders"),
        (["7/0/7_idx5_x1_y51_class0.png"], "idc"),
        (["deep/er/7/0/7_idx5_x1_y51_class0.png"], "idc"),
    ],
)
def test_the_layout_is_chosen_by_looking(tree, paths, layout):
    assert detect(tree(*paths)) == layout


def test_a_csv_file_is_a_manifest(manifest):
    assert detect(manifest("path,label,case\n")) == "manifest"


def test_a_tree_of_no_known_layout_is_refused_with_the_known_ones(tree):
    with pytest.raises(DataError) as error:
        read(tree("cats/1.png", "dogs/2.png"))
    assert all(layout in str(error.value) for layout in LAYOUTS)
    assert "cats/1.png" in str(error.value)


def test_an_unknown_layout_is_refused_with_the_known_ones(tree):
    with pytest.raises(SettingsError, match="camelyon") as error:
        read(tree(BENIGN), layout="camelyon")
    assert all(layout in str(error.value) for layout in LAYOUTS)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such file"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["auto", "breakhis", "idc", "folders"])
def test_no_images_are_refused(tree, layout):
    with pytest.raises(DataError, match="No images were found"):
        read(tree("README.md"), layout=layout)


def test_a_file_that_is_no_manifest_and_a_folder_as_manifest_are_refused(tree):
    root = tree(BENIGN)
    with pytest.raises(DataError, match=r"manifest \(\.csv\)"):
        read(root / BENIGN)
    with pytest.raises(DataError, match="is a folder"):
        read(root, layout="manifest")


@pytest.mark.parametrize("present", [BENIGN, MALIGNANT])
def test_one_class_only_is_refused_by_name(tree, present):
    with pytest.raises(DataError, match=f"Only {'benign' if present == BENIGN else 'malignant'} images"):
        read(tree(present))


def test_hidden_files_other_suffixes_and_archive_leftovers_are_no_images(tree):
    root = tree("a.png", ".DS_Store", "._a.png", "README.txt", "__MACOSX/a.png", ".git/a.png", "b/c.TIFF", "Thumbs.db")
    assert find_images(root).paths == ("a.png", "b/c.TIFF")


def test_a_linked_folder_outside_is_bad_and_one_inside_is_passed_over(tree, tmp_path):
    root = tree("in/a.png")
    (tmp_path / "elsewhere").mkdir()
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "in")
    (root / "cycle").symlink_to(root)
    found = find_images(root)
    assert found.paths == ("in/a.png",)
    assert [file.path for file in found.bad] == ["out"]


def test_folders_that_are_called_like_images_are_looked_into_and_bad_where_they_are_empty(tree):
    """Tiles often lie in a folder called after their slide."""
    root = tree("slide.tif/a.png")
    (root / "b.png").mkdir()
    found = find_images(root)
    assert found.paths == ("slide.tif/a.png",)
    assert [(file.path, file.reason) for file in found.bad] == [("b.png", "an empty folder")]


# --- breakhis ---


def test_breakhis_takes_everything_from_the_name_and_nothing_from_the_folder(tree):
    listing = read(tree(f"any/benign/depth/{MALIGNANT}", BENIGN))
    assert listing.layout == "breakhis"
    assert listing.has_cases
    assert listing.rows == (
        ImageRecord(BENIGN, 0, "16184", "SOB_B_TA-14-16184CD", "TA", "40X"),
        ImageRecord(f"any/benign/depth/{MALIGNANT}", 1, "13412", "SOB_M_DC-14-13412", "DC", "100X"),
    )


def test_all_names_that_do_not_parse_are_named_up_to_twenty_then_counted(tree):
    wrong = [f"SOB_M_DC-14-X{at:02d}.png" for at in range(23)]
    with pytest.raises(DataError) as error:
        read(tree(BENIGN, MALIGNANT, *wrong))
    assert names.GRAMMAR in str(error.value)
    assert [name in str(error.value) for name in wrong] == [True] * 20 + [False] * 3
    assert "and 3 more" in str(error.value)


# --- idc ---


def test_idc_takes_the_patient_as_case_and_slide(tree):
    listing = read(tree("IDC/7/0/7_idx5_x1_y51_class0.png", "IDC/7/1/7_idx5_x51_y51_class1.png"))
    assert [(row.label, row.case, row.slide) for row in listing.rows] == [(0, "7", "7"), (1, "7", "7")]


def test_idc_works_from_inside_one_patient(tree):
    listing = read(tree("0/7_idx5_x1_y51_class0.png", "1/7_idx5_x51_y51_class1.png"))
    assert {row.case for row in listing.rows} == {"7"}


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("7/1/7_idx5_x1_y1_class0.png", "the folder is 1, the file name says class0"),
        ("8/0/7_idx5_x1_y1_class0.png", "the folder names patient 8, the file name 7"),
        ("7/0/7_x1_y1_class0.png", "7/0/7_x1_y1_class0.png"),
    ],
)
def test_idc_names_that_contradict_their_folders_are_named(tree, path, said):
    with pytest.raises(DataError, match=said):
        read(tree(path, "9/0/9_idx5_x1_y1_class0.png", "9/1/9_idx5_x1_y1_class1.png"))


# --- folders ---


def test_folders_give_label_and_part_and_breakhis_names_the_rest(tree):
    listing = read(tree(f"train/benign/{BENIGN}", f"validation/malignant/{MALIGNANT}"))
    assert listing.has_cases
    assert listing.rows == (
        ImageRecord(f"train/benign/{BENIGN}", 0, "16184", "SOB_B_TA-14-16184CD", "TA", "40X", "train"),
        ImageRecord(f"validation/malignant/{MALIGNANT}", 1, "13412", "SOB_M_DC-14-13412", "DC", "100X", "validation"),
    )


def test_without_names_or_pattern_each_image_is_its_own_case(tree):
    listing = read(tree("benign/a.png", f"malignant/{MALIGNANT}"))
    assert not listing.has_cases
    assert by_path(listing)["benign/a.png"].case == "benign/a.png"
    assert by_path(listing)[f"malignant/{MALIGNANT}"].case == "13412"


@pytest.mark.parametrize("pattern", ["p([0-9]+)_", "(b|m)[^/]*/p(?P<case>[0-9]+)_"])
def test_a_pattern_takes_the_case_from_names_that_are_not_breakhis_ones(tree, pattern):
    listing = read(
        tree("benign/p1_a.png", "malignant/p2_b.png", f"malignant/{MALIGNANT}"),
        options=LayoutOptions(case_pattern=pattern),
    )
    assert listing.has_cases
    assert {path: row.case for path, row in by_path(listing).items()} == {
        "benign/p1_a.png": "1",
        "malignant/p2_b.png": "2",
        f"malignant/{MALIGNANT}": "13412",
    }


def test_a_pattern_sees_the_folders_too(tree):
    listing = read(tree("benign/c1/a.png", "malignant/c2/a.png"), options=LayoutOptions(case_pattern="/([^/]+)/[^/]+$"))
    assert [row.case for row in listing.rows] == ["c1", "c2"]


def test_paths_in_which_the_pattern_finds_no_case_are_named(tree):
    with pytest.raises(DataError, match=r"(?s)does not match these paths.*malignant/b\.png") as error:
        read(tree("benign/p1.png", "malignant/b.png"), options=LayoutOptions(case_pattern="p([0-9]+)"))
    assert "benign/p1.png" not in str(error.value)


@pytest.mark.parametrize(("pattern", "said"), [("(", "regular expression"), ("p[0-9]+", "must have a group")])
def test_a_pattern_that_cannot_be_used_is_an_error_of_the_option(tree, pattern, said):
    with pytest.raises(SettingsError, match=said):
        read(tree("benign/p1.png", "malignant/p2.png"), options=LayoutOptions(case_pattern=pattern))


def test_a_pattern_that_would_be_ignored_is_refused(tree):
    with pytest.raises(SettingsError, match="requires the layout folders"):
        read(tree(BENIGN, MALIGNANT), options=LayoutOptions(case_pattern="(x)"))


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["train/benign/a.png", "malignant/b.png"], "malignant/b.png"),
        ([f"benign/{MALIGNANT}", f"malignant/{MALIGNANT}", "benign/a.png"], f"benign/{MALIGNANT}"),
        (["benign/SOB_B_A-14.png", "malignant/b.png"], "benign/SOB_B_A-14.png"),
    ],
)
def test_images_that_fit_no_place_are_named(tree, paths, said):
    with pytest.raises(DataError, match=r"\n  " + said):
        read(tree(*paths))


@pytest.mark.parametrize("part", ["train", "validation"])
def test_one_part_alone_is_no_division(tree, part):
    listing = read(tree(f"{part}/benign/a.png", f"{part}/malignant/b.png"))
    assert {row.part for row in listing.rows} == {""}


# --- manifest ---


def test_a_manifest_gives_labels_cases_and_what_more_it_has(manifest):
    text = (
        "path,label,case,slide,subtype,magnification,site,note\nx/a.png,benign,c1,s1,F,40X,Ulm,hm\n./b.png,1,c2,,,,,\n"
    )
    listing = read(manifest(text, "x/a.png", "b.png"))
    assert listing.layout == "manifest"
    assert listing.rows == (
        ImageRecord("b.png", 1, "c2"),
        ImageRecord("x/a.png", 0, "c1", "s1", "F", "40X", site="Ulm"),
    )
    assert listing.root.name == "data"


def test_a_manifest_may_come_from_a_spreadsheet(manifest):
    listing = read(manifest("\ufeffpath, label, case\r\na.png, Malignant , c1\r\nb.png,0,c2\r\n", "a.png", "b.png"))
    assert [(row.label, row.case) for row in listing.rows] == [(1, "c1"), (0, "c2")]


def test_missing_columns_are_named_beside_those_that_are_there(manifest):
    with pytest.raises(DataError, match=r"columns label, case\. Its columns are path, class \(separator: comma\)"):
        read(manifest("path,class\na.png,1\n", "a.png"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            "a.png,2,c\nb.png,maybe,c\n",
            r"labels.* not 0, 1, benign, malignant.*\(2\).*'2' in 1 row\n.*'maybe' in 1 row\n",
        ),
        ("../a.png,1,c\n", r"are outside the image folder.*'\.\./a\.png'"),
        ("x/../../a.png,1,c\n", "are outside the image folder"),
        ("/etc/a.png,1,c\n", "are outside the image folder.*'/etc/a.png'"),
        (",1,c\n", "are outside the image folder"),
        ("gone.png,1,c\n", "do not exist.*line 2: gone.png"),
        ("a.png,1,\n", "rows of the manifest have no case.*a.png"),
        ("a.png,1\n", "rows of the manifest have no case.*a.png"),
        ("a.png,1,c\n./a.png,1,c\n", r"files more than once.*\(1\).*a\.png"),
        ("", "has no rows"),
        ("a.png,1,c\n", "Only malignant images"),
    ],
)
def test_wrong_rows_of_a_manifest_are_named(manifest, rows, said):
    with pytest.raises(DataError, match=f"(?s){said}"):
        read(manifest(f"path,label,case\n{rows}", "a.png", "b.png", "..dots/c.png"))


def test_a_folder_whose_name_begins_with_dots_is_inside(manifest):
    file = manifest("path,label,case\n..dots/a.png,1,c\nb.png,0,d\n", "..dots/a.png", "b.png")
    assert read(file).rows[0].path == "..dots/a.png"


@pytest.mark.parametrize("content", [b"\xff\xfe\x00p", b"path,label,case\n\xe9.png,1,c\n"])
def test_a_manifest_that_is_no_utf8_is_refused(tmp_path, content):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match="UTF-8"):
        read(tmp_path / "list.csv")


# --- the real trees ---


@pytest.mark.data
def test_the_real_breakhis_is_read(breakhis):
    listing = read(breakhis)
    assert listing.layout == "breakhis"
    cases = {row.case: row.label for row in listing.rows}
    assert (len(listing.rows), list(cases.values()).count(0), list(cases.values()).count(1)) == (476, 13, 20)


@pytest.mark.data
def test_the_real_idc_is_read(idc):
    listing = read(idc)
    assert (listing.layout, len(listing.rows), len({row.case for row in listing.rows})) == ("idc", 4938, 140)
