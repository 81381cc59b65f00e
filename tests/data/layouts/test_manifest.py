"""Manifests as written by programs, spreadsheets and Windows: read correctly, or refused with the reason."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest

from bhsearch.data.audit import audit
from bhsearch.data.layouts.base import LayoutOptions
from bhsearch.data.layouts.registry import read
from bhsearch.data.load_dataset import load_dataset
from bhsearch.data.splits import make_split
from bhsearch.errors import DataError, SettingsError
from tests.conftest import SHARED

PLAIN = "path,label,case\na.png,0,c1\nb.png,1,c2\n"


@pytest.fixture
def manifest(tmp_path):
    """Write a manifest next to empty files."""

    def make(content, *paths, name="list.csv"):
        root = tmp_path / "data"
        for path in ("a.png", "b.png", "x/c.png", *paths):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        data = content.encode() if isinstance(content, str) else content
        (root / name).write_bytes(data)
        return root / name

    return make


def rows(listing):
    return [(row.path, row.label, row.case) for row in listing.rows]


EXPECTED = [("a.png", 0, "c1"), ("b.png", 1, "c2")]


# -- how it is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "path;label;case\na.png;0;c1\nb.png;1;c2\n",
        "path\tlabel\tcase\na.png\t0\tc1\nb.png\t1\tc2\n",
        "path|label|case\na.png|0|c1\nb.png|1|c2\n",
        "sep=;\r\npath;label;case\r\na.png;0;c1\r\nb.png;1;c2\r\n",
        '"sep=,"\npath,label,case\na.png,0,c1\nb.png,1,c2\n',
        PLAIN.replace("\n", "\r"),
        PLAIN + ",,\n,,\n",
        PLAIN + "  , ,\u00a0\n",
        "path,label,case,,\na.png,0,c1,,\nb.png,1,c2,,\n",
        "\ufeffPath , LABEL,Case\na.png,0,c1\nb.png,1,c2\n",
        "path,label,case\na.png,0.0,c1\nb.png,1.0,c2\n",
        "path,label,case\n.\\a.png,0,c1\nx\\..\\b.png,1,c2\n",
        "path,label,case\n../data/a.png,0,c1\n./b.png,1,c2\n",
    ],
)
def test_what_means_the_same_is_read_the_same(manifest, text):
    assert rows(read(manifest(text))) == EXPECTED


@pytest.mark.parametrize("name", ["list.CSV", "list.tsv"])
def test_a_manifest_is_known_by_its_suffix(manifest, name):
    assert rows(read(manifest(PLAIN, name=name))) == EXPECTED


def test_paths_of_windows_and_absolute_ones_inside_the_folder_are_read(manifest):
    file = manifest("")
    inside = file.parent.resolve() / "b.png"
    file.write_text(f"path,label,case\nx\\c.png,0,c1\n{inside},1,c2\n", encoding="utf-8")
    assert rows(read(file)) == [("b.png", 1, "c2"), ("x/c.png", 0, "c1")]


def test_an_absolute_path_through_a_linked_folder_is_inside(manifest, tmp_path):
    file = manifest("")
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    file.write_text(f"path,label,case\n{tmp_path}/linked/a.png,0,c1\nb.png,1,c2\n", encoding="utf-8")
    assert rows(read(file)) == EXPECTED


def test_a_file_whose_name_holds_a_backslash_is_itself(manifest):
    assert rows(read(manifest("path,label,case\na.png,0,c1\nx\\c.png,1,c2\n", "x\\c.png")))[1] == ("x\\c.png", 1, "c2")


@pytest.mark.parametrize(("there", "given"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_of_a_path_may_be_composed_or_not(manifest, there, given):
    path, text = (unicodedata.normalize(form, "fällé.png") for form in (there, given))
    assert rows(read(manifest(f"path,label,case\n{text},0,c1\nb.png,1,c2\n", path)))[1][0] == path


def test_folder_and_file_may_have_their_accents_in_different_forms(tmp_path):
    """As after a copy between systems: the folder was made on one of them, the files on the other."""
    composed, decomposed = (unicodedata.normalize(form, "fällé") for form in ("NFC", "NFD"))
    (tmp_path / composed).mkdir()
    for name in "ab":
        (tmp_path / composed / f"{decomposed}{name}.png").touch()
    lines = [f"{composed}/{composed}{name}.png,{at},c{at}" for at, name in enumerate("ab")]
    (tmp_path / "list.csv").write_text("path,label,case\n" + "\n".join(lines), encoding="utf-8")
    found = read(tmp_path / "list.csv")
    assert [row.path for row in found.rows] == [f"{composed}/{decomposed}{name}.png" for name in "ab"]


@pytest.mark.parametrize(("name", "advice"), [("list.xlsx", "CSV UTF-8"), ("a.png", "Give the folder of the images")])
def test_another_file_than_a_table_is_refused_with_the_way_out(tmp_path, name, advice):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=f"but got the file .*{name}. .*{advice}"):
        load_dataset(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label,case\n", "has no rows below its header"),
        ("path,label,case\n,,\n", "has no rows below its header"),
        ("", "lacks the required columns path, label, case. Its columns are empty"),
        ("path;label;Fall\na.png;0;c1\n", r"columns case\. Its columns are path, label, Fall \(separator: semicolon\)"),
        ("Bild;Diagnose;Fall\na.png;0;c1\n", r"Its columns are Bild, Diagnose, Fall \(separator: semicolon\)\. Rename"),
        (
            "Bild\tDiagnose, Arzt\tFall\na.png\t0\tc1\n",
            r"are Bild, Diagnose, Arzt, Fall \(separator: tab\)",
        ),
        ("path,label,étiquette\n".encode("cp1252"), "is not UTF-8 text: byte 12 is 0xe9. Save it as UTF-8"),
        ("path,label,case\na.png,0,Smith, John\nb.png,1,c\n", r"line 2: the row has 4 fields, but the header has 3"),
        (b"\xff\xfep\x00a\x00", "is not UTF-8 text"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(manifest, text, said):
    with pytest.raises(DataError, match=said):
        read(manifest(text))


@pytest.mark.parametrize(
    "header",
    ["label,case,label", "label,case,LABEL", "label,case, label ", "label,case,ｌabel", "label,case,note,Note"],
)
def test_a_column_twice_is_refused(manifest, header):
    n_columns = header.count(",") + 2
    text = f"path,{header}\n" + "".join(f"{name}.png{',0' * (n_columns - 1)}\n" for name in "ab")
    with pytest.raises(DataError, match=r"has several columns named '(label|note)'"):
        read(manifest(text))


# -- images elsewhere --------------------------------------------------------------------------------------------------


def test_images_may_be_in_another_folder_than_their_manifest(manifest, tmp_path):
    manifest("")
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "list.csv"
    file.write_text(
        f"path,label,case\na.png,0,c1\n../data/b.png,1,c2\n{tmp_path}/data/x/c.png,1,c3\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="give it with --image-root"):
        read(file)
    listing = read(file, options=LayoutOptions(image_root=tmp_path / "data"))
    assert (listing.root, rows(listing)[:2]) == (tmp_path / "data", EXPECTED)
    assert [row[0] for row in rows(read(file, options=LayoutOptions(image_root=tmp_path / "data")))] == [
        "a.png",
        "b.png",
        "x/c.png",
    ]
    with pytest.raises(SettingsError, match="--image-root must be an existing folder"):
        read(file, options=LayoutOptions(image_root=tmp_path / "nosuch"))
    with pytest.raises(SettingsError, match="--image-root requires the layout manifest"):
        read(tmp_path / "data", layout="idc", options=LayoutOptions(image_root=tmp_path))


@pytest.mark.parametrize("path", ["C:\\Users\\a.png", "d:/images/a.png", r"\\server\share\a.png"])
def test_absolute_paths_of_windows_are_refused_with_what_helps(manifest, path):
    file = manifest(f"path;label;case\n{path};0;c1\nb.png;1;c2\n")
    with pytest.raises(DataError, match=r"drive letter or a server of Windows.*Write paths relative to the folder"):
        read(file, options=LayoutOptions(image_root=file.parent))


# -- cases -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["1.23457E+11", "1,23457E+11", "1E+11", "2.0e+09"])
def test_cases_that_a_spreadsheet_rounded_are_refused(manifest, case):
    with pytest.raises(DataError, match=r"(?s)several patients.*\(1\).*line 3: .*as text"):
        read(manifest(f"path;label;case\na.png;0;c1\nb.png;1;{case}\n"))


@pytest.mark.parametrize("case", ["1E11", "E+11", "12E+11", "S1.2E+11", "123456789012"])
def test_other_cases_with_digits_and_letters_are_kept(manifest, case):
    assert rows(read(manifest(f"path;label;case\na.png;0;c1\nb.png;1;{case}\n")))[1] == ("b.png", 1, case)


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_of_another_name_need_a_map(manifest):
    file = manifest("path,label,case\na.png,normal,c1\nb.png,Cancer,c2\n")
    with pytest.raises(DataError, match=r"(?s)'normal' in 1 row\n.*--class-map benign=normal,malignant=Cancer$"):
        read(file)
    assert rows(read(file, options=LayoutOptions(class_map=("benign=normal", "malignant=cancer")))) == EXPECTED


def test_a_map_may_turn_numbers_over(manifest):
    file = manifest("path,label,case\na.png,1,c1\nb.png,0.0,c2\n")
    assert rows(read(file, options=LayoutOptions(class_map=("benign=1", "malignant=0")))) == EXPECTED


# -- cases -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["nan", "NA", "N/A", "-", "unknown", "None", "NULL", "?", "#N/A"])
def test_a_case_that_is_not_known_is_refused_with_its_line(manifest, case):
    with pytest.raises(DataError, match=r"(?s)Name the case of each, or remove .*\(1\):\n  line 3: '"):
        read(manifest(f"path,label,case\na.png,0,c1\nb.png,1,{case}\n"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("case{:04d}", "Case{:04d}"),
        ("{:04d}", "{}"),
        ("fällé{}", unicodedata.normalize("NFD", "fällé{}")),
        ("c {}", "c_{}"),
    ],
)
def test_spellings_of_a_case_stay_on_one_side_and_are_said(tmp_path, one, other):
    import numpy as np
    from PIL import Image

    lines = ["path,label,case"]
    for at in range(24):
        Image.fromarray(np.full((4, 5, 3), 10 * at, np.uint8)).save(tmp_path / f"{at}.png")
        lines.append(f"{at}.png,{at // 2 % 2},{(other if at % 2 else one).format(at // 2 + 1)}")
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    dataset = load_dataset(tmp_path / "list.csv")
    split = make_split(dataset, n_folds=2)
    patient = np.array([int(Path(path).stem) // 2 for path in split.paths])
    for side in (split.test, *(split.validation(0, fold) for fold in (0, 1))):
        assert not set(patient[side]) & set(patient[~side])
    found = audit(dataset)
    assert len(found.spellings) == 12
    assert found.findings()[0].severity == "error"
    assert any("Cases with several spellings, kept together: 12" in sentence for sentence in found.summary_lines())


# -- columns that divide the data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column", ["split", "Set", "FOLD", "part", "partition", "subset", "phase", "usage", "data_split"]
)
@pytest.mark.parametrize("values", [("train", "test"), ("Training", "TEST"), ("val", "testing"), ("train", "valid")])
def test_a_column_of_parts_is_honoured(manifest, column, values):
    listing = read(manifest(f"path,label,case,{column}\na.png,0,c1,{values[0]}\nb.png,1,c2,{values[1]}\n"))
    meant = {"val": "validation", "valid": "validation", "testing": "test", "training": "train"}
    assert [row.part for row in listing.rows] == [meant.get(value.lower(), value.lower()) for value in values]
    assert any(f"from the column {column}" in note for note in listing.notes)


@pytest.mark.parametrize("column", ["split", "Set", "FOLD", "part", "partition", "subset", "phase", "is_test"])
@pytest.mark.parametrize("values", [("1", "2"), ("A", "B"), ("train", "other"), ("train", "")])
def test_a_column_of_other_parts_is_refused_unless_it_is_ignored(manifest, column, values):
    file = manifest(f"path,label,case,{column}\na.png,0,c1,{values[0]}\nb.png,1,c2,{values[1]}\n")
    with pytest.raises(DataError, match=rf"'{column}' looks like a predefined split.*--ignore-column {column}"):
        read(file)
    listing = read(file, options=LayoutOptions(ignore_columns=(column.swapcase(),)))
    assert {row.part for row in listing.rows} == {""}
    assert any("Ignored on request" in note for note in listing.notes)


def test_a_column_of_parts_can_be_ignored_too(manifest):
    file = manifest("path,label,case,split\na.png,0,c1,train\nb.png,1,c2,test\n")
    assert {row.part for row in read(file, options=LayoutOptions(ignore_columns=("split",))).rows} == {""}


def test_one_part_alone_divides_nothing_and_is_said(manifest):
    listing = read(manifest("path,label,case,split\na.png,0,c1,train\nb.png,1,c2,train\n"))
    assert {row.part for row in listing.rows} == {""}
    assert listing.notes == ("The column split has one value, train, so there is no predefined split.",)


def test_two_columns_that_divide_the_images_differently_are_refused(manifest):
    text = "path,label,case,split,set\na.png,0,c1,train,{}\nb.png,1,c2,test,{}\n"
    with pytest.raises(DataError, match=r"'split', 'set' of the manifest define different splits.*--ignore-column set"):
        read(manifest(text.format("test", "train")))
    assert [row.part for row in read(manifest(text.format("Train", "tests"))).rows] == ["train", "test"]


def test_other_columns_are_named_as_not_used(manifest):
    listing = read(manifest(",path,label,case,stain,empty\n0,a.png,0,c1,HE,\n1,b.png,1,c2,HE,\n"))
    assert listing.notes == ("Columns of the manifest not used: an unnamed column, stain.",)


def test_parts_in_the_paths_of_a_manifest_are_said_to_have_no_effect(manifest):
    file = manifest("path,label,case\ntrain/a.png,0,c1\ntest/b.png,1,c2\n", "train/a.png", "test/b.png")
    assert "The parts test, train in the paths are not used" in read(file).notes[0]


@pytest.mark.parametrize(
    ("names", "said"), [(("splits",), "got 'splits'"), (("case",), "required columns, but got case")]
)
def test_only_columns_that_are_there_and_not_needed_can_be_ignored(manifest, names, said):
    with pytest.raises(SettingsError, match=f"--ignore-column .*{said}"):
        read(manifest(PLAIN), options=LayoutOptions(ignore_columns=names))


# -- the reported ones -------------------------------------------------------------------------------------------------

RIGHT = [
    "HEAD",
    "LABEL",
    "backslash",
    "emptyrows",
    "semicolon",
    "tab",
    "sepline",
    "cr",
    "crlf",
    "bom",
    "nbsp",
    "trailing",
]
REFUSED = {
    "NAcase": "line 2: 'NA'",
    "dupheader": "several columns named 'label'",
    "col_fold": "--ignore-column fold",
    "headeronly": "has no rows",
    "label23": "--class-map benign=1,malignant=2",
    "unquoted_comma": "line 26",
    "latin1": "UTF-8",
    "utf16": "UTF-8",
}


def reported(tmp_path):
    if not (SHARED / "bugs").is_dir():
        pytest.skip("the real test material is not here: ../shared/bugs")
    shutil.copytree(SHARED / "bugs/manifests", tmp_path / "manifests")
    return tmp_path / "manifests"


@pytest.mark.data
def test_the_reported_manifests_are_read_right_or_refused_with_the_reason(tmp_path):
    folder = reported(tmp_path)
    plain = rows(read(folder / "plain.csv"))
    for name in RIGHT:
        assert rows(read(folder / f"{name}.csv")) == plain, name
    for name, said in REFUSED.items():
        with pytest.raises(DataError, match=said):
            read(folder / f"{name}.csv")


@pytest.mark.data
@pytest.mark.parametrize(("name", "sealed"), [("col_split", "test"), ("col_part", "validation")])
def test_a_reported_column_of_parts_seals_its_own_test(tmp_path, name, sealed):
    dataset = load_dataset(reported(tmp_path) / f"{name}.csv")
    split = make_split(dataset, n_folds=2)
    assert split.sealed_by == "part"
    assert set(dataset.column("part")[split.test]) == {sealed}


@pytest.mark.data
def test_one_picture_of_two_labels_and_one_archive_in_itself_are_told(tmp_path):
    folder = reported(tmp_path)
    (folder / "link").symlink_to("img")
    told = audit(load_dataset(folder / "dup_symlink.csv")).summary_lines()
    assert told[0] == "Images labelled both benign and malignant: 1, such as img/00.png = link/00.png."
    nested = audit(load_dataset(SHARED / "bugs/layouts/idc_nested")).summary_lines()
    assert [sentence.partition(",")[0] for sentence in nested] == ["Images repeated within a case: 36"]
