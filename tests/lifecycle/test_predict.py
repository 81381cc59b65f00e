"""Predictions on images of one's own: rows per image and case, what cannot be read, files that appear whole."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bhsearch.cli import terminal
from bhsearch.cli.predict import choose_format
from bhsearch.data.dataset import CLASS_NAMES
from bhsearch.data.images.files import find_images
from bhsearch.errors import DataError, PlaceError, SettingsError
from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.lifecycle import predict
from bhsearch.lifecycle.predict import CaseRow, ImageRow, Model
from bhsearch.predict import app


class Brightness:
    """Stands for a network: P(malignant) is the mean brightness over 255."""

    def predict_on_batch(self, batch):
        return batch.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] / 255


MODEL = Model("models:/m@champion", CLASS_NAMES, 0.5, None, "", Brightness())


def image(file: Path, value: int, size=(6, 4)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(file)
    return file


@pytest.fixture
def folder(tmp_path):
    for case, values in {"90001": (255, 0), "90002": (255, 255)}.items():
        for number, value in enumerate(values, start=1):
            image(tmp_path / "in" / f"SOB_M_DC-14-{case}-100-{number:03d}.png", value, (4 + number, 5))
    (tmp_path / "in" / "broken.png").write_bytes(b"not an image")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    image(tmp_path / "in" / "deeper" / "other.jpg", 0)
    return tmp_path / "in"


def rows_of(folder, pattern=None):
    files = predict.find_files([str(folder)])
    case = predict.case_of(pattern, [str(folder)])
    rows = list(predict.predict(MODEL, files.images, case, files.bad, lambda done, total: None))
    return rows, files.bad


def test_a_row_per_image_in_order_and_one_per_known_case(folder):
    images, _ = rows_of(folder)
    assert [Path(row.image).name for row in images] == [
        "SOB_M_DC-14-90001-100-001.png", "SOB_M_DC-14-90001-100-002.png", "SOB_M_DC-14-90002-100-001.png",
        "SOB_M_DC-14-90002-100-002.png", "other.jpg",
    ]  # fmt: skip
    assert [row.probability for row in images] == pytest.approx([1, 0, 1, 1, 0], abs=1e-6)
    assert [row.label for row in images] == ["malignant", "benign", "malignant", "malignant", "benign"]
    assert [row.case for row in images] == ["90001", "90001", "90002", "90002", ""]
    assert predict.cases(MODEL, images) == [
        CaseRow("90001", 2, 0.5, "malignant", MODEL.uri, DISCLAIMER),
        CaseRow("90002", 2, 1.0, "malignant", MODEL.uri, DISCLAIMER),
    ]


def test_what_cannot_be_read_is_named_and_left_out(folder):
    rows, bad = rows_of(folder)
    assert [Path(item.path).name for item in bad] == ["broken.png"]
    assert "not an image" in bad[0].reason
    assert not any("broken" in row.image for row in rows)


def test_a_pattern_finds_cases_where_names_do_not(folder):
    images, _ = rows_of(folder, r"/(deeper)/")
    assert ("deeper", 1) in [(row.case, row.n_images) for row in predict.cases(MODEL, images)]


def test_probabilities_have_six_digits_and_labels_agree_with_what_is_written(tmp_path):
    """A label is that of the number in the file, not of a number with more digits."""
    model = Model("m", CLASS_NAMES, 0.501961, None, "", Brightness())  # 128/255 is 0.50196078...
    files = [image(tmp_path / "a.png", 128)]
    (row,) = predict.predict(model, files, predict.case_of(None), [], lambda done, total: None)
    assert (row.probability, row.label) == (0.501961, "malignant")


def test_files_are_found_once_and_folders_that_hold_none_are_refused(folder, tmp_path):
    file = folder / "deeper" / "other.jpg"
    assert predict.find_files([str(file), str(folder / "deeper")]).images == [file]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="No images were found"):
        predict.find_files([str(tmp_path / "empty")])
    with pytest.raises(DataError, match="There is no file or folder"):
        predict.find_files([str(tmp_path / "nosuch")])


def test_folders_hold_the_images_that_training_would_take(tmp_path):
    image(tmp_path / "in" / "a.png", 255)
    for junk in ("._b.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.png", ".ipynb_checkpoints/a.png", ".Trash-1000/a.png"):
        image(tmp_path / "in" / junk, 0)
    image(tmp_path / "in" / "a_mask.png", 0)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    files = predict.find_files([str(tmp_path / "in")])
    assert files.images == [tmp_path / "in" / path for path in find_images(tmp_path / "in").paths]
    assert files.images == [tmp_path / "in" / "a.png"]
    assert sum(item.count for item in files.left_out) == 5
    assert [file.reason for file in files.bad] == [
        f"{tmp_path / 'in' / 'link'}: a link to a folder outside the data folder"
    ]


def test_a_file_given_by_name_is_taken_whatever_it_is_called(tmp_path):
    file = image(tmp_path / "a_mask.png", 255)
    assert predict.find_files([str(file)]).images == [file]


def test_an_empty_name_is_not_the_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="shell variable"):
        predict.find_files([""])


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("SOB_M_DC-14-90001CD-100-001.png", "90001"),
        ("10253_idx5_x1_y51_class0.png", "10253"),
        ("10253_IDX5_x1_y51_class1.PNG", "10253"),
        ("unknown_idx5_x1_y51_class1.png", ""),
        ("p1.png", ""),
    ],
)
def test_names_of_known_data_sets_hold_the_case(name, case):
    assert predict.case_of(None)(Path("x") / name) == case


def test_a_pattern_is_searched_in_the_path_inside_the_folder_as_in_training():
    find = predict.case_of(r"^([^/]+)/", ["/some/data"])
    assert find(Path("/some/data/P7/x/1.png")) == "P7"
    assert find(Path("/some/data/unknown/1.png")) == ""


def test_spellings_of_a_case_are_one_row(tmp_path):
    for name in ("case01_a", "Case1_b"):
        image(tmp_path / f"{name}.png", 255)
    rows, _ = rows_of(tmp_path, "(?i)(case[0-9]+)_")
    assert [(row.case, row.n_images) for row in predict.cases(MODEL, rows)] == [("Case1", 2)]


def test_both_formats_say_the_same(folder):
    rows, _ = rows_of(folder)
    texts = {}
    for kind in predict.FORMATS:
        stream = io.StringIO()
        predict.write_to(stream, kind, rows)
        texts[kind] = stream.getvalue().splitlines()
    by_csv = list(csv.DictReader(texts["csv"]))
    by_json = [json.loads(line) for line in texts["jsonl"]]
    assert [{**row, "probability": f"{row['probability']:.6g}"} for row in by_json] == by_csv
    assert len(by_csv) == len(rows)


def test_files_are_plain_csv_in_two_tables_with_a_text_beside(tmp_path, folder):
    rows, _ = rows_of(folder)
    model = replace(MODEL, note="Synthetic data (phantom)")
    rows = [replace(row, use=model.use) for row in rows]
    file = tmp_path / "made" / "here" / "predictions.csv"
    written = predict.write_files(file, "csv", model, rows)
    assert written == [(file, 5), (file.with_name("predictions_cases.csv"), 2)]
    images, cases = (pd.read_csv(place, dtype={"case": str}) for place, _ in written)
    assert images.columns.tolist() == list(ImageRow.__dataclass_fields__)
    assert cases.columns.tolist() == list(CaseRow.__dataclass_fields__)
    by_case = images.dropna(subset="case").groupby("case")["probability"].mean()
    assert cases["probability"].tolist() == pytest.approx(by_case.tolist())
    for table in (images, cases):
        assert set(table["use"]) == {f"Synthetic data (phantom). {DISCLAIMER}"}
        assert set(table["model"]) == {MODEL.uri}
    text = (file.with_name("predictions.README.txt")).read_text(encoding="utf-8")
    assert DISCLAIMER in text
    assert f"{MODEL.uri}. P(malignant) of at least 0.5 is labelled malignant" in text
    assert "predictions_cases.csv: one row per case" in text
    assert sorted(file.name for file in file.parent.iterdir()) == [
        "predictions.README.txt", "predictions.csv", "predictions_cases.csv",
    ]  # fmt: skip


def test_files_appear_whole_or_not_at_all(tmp_path):
    def interrupted():
        yield ImageRow("a.png", "", 0.5, "malignant", "m", DISCLAIMER)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict.write_files(tmp_path / "out.csv", "csv", MODEL, interrupted())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(PlaceError):
        predict.write_files(tmp_path / "file" / "out.csv", "csv", MODEL, [])


@pytest.mark.parametrize("place", ["/dev/null", "."])
def test_devices_and_folders_are_not_replaced(place):
    with pytest.raises(PlaceError, match="--output must be the path of a file"):
        predict.check_output(Path(place))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_standard_output_is_said(folder):
    rows, _ = rows_of(folder)
    stream = Path("/dev/full").open("w")  # noqa: SIM115  # closing it tries again, and fails
    with pytest.raises(PlaceError, match="disk is full while writing standard output"):
        predict.write_to(stream, "csv", rows)
    with pytest.raises(OSError, match="No space"):
        stream.close()


def test_missing_folders_of_the_output_are_made_and_are_gone_where_it_fails(tmp_path):
    file = tmp_path / "no" / "such" / "out.csv"

    def refused():
        with predict.whole(file):
            assert file.parent.is_dir()
            raise DataError("a sentence")

    with pytest.raises(DataError):
        refused()
    assert list(tmp_path.iterdir()) == []
    with predict.whole(file) as stream:
        stream.write("whole")
    assert file.read_text(encoding="utf-8") == "whole"
    assert [path.name for path in file.parent.iterdir()] == ["out.csv"]


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(PlaceError, match="is a folder"), predict.whole(tmp_path):
        pass


@pytest.fixture
def ends(monkeypatch, capsys, folder):
    monkeypatch.setattr(predict, "open_model", lambda uri, reporter: MODEL)
    monkeypatch.setenv("COLUMNS", "200")

    def main(*words):
        monkeypatch.setattr("sys.argv", ["bhsearch.predict", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            terminal.main(app, "python -m bhsearch.predict")
        shown = capsys.readouterr()
        return caught.value.code, shown.out, shown.err

    return main


def test_bad_images_end_the_command_with_one_and_the_rest_is_written(ends, folder, tmp_path):
    code, out, err = ends(folder, "--output", tmp_path / "out.csv")
    assert code == 1
    assert out == f"wrote 5 rows to {tmp_path / 'out.csv'}\nwrote 2 rows to {tmp_path / 'out_cases.csv'}\n"
    assert "broken.png: not an image" in err
    assert len(pd.read_csv(tmp_path / "out.csv")) == 5
    assert "1 file left out: 1 .txt (not a supported image format)" in err


def test_files_of_which_none_is_an_image_are_wrong_input_and_nothing_is_written(ends, folder, tmp_path):
    code, out, err = ends(folder / "broken.png", "--output", tmp_path / "out" / "out.csv")
    assert code == 2
    assert out == ""
    assert "No image can be read" in err
    assert "broken.png: not an image" in err
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize("kind", predict.FORMATS)
def test_good_images_end_it_with_nought_and_only_rows_of_images_are_on_standard_output(ends, folder, kind):
    (folder / "broken.png").unlink()
    code, out, err = ends(folder, "--format", kind)
    assert code == 0
    assert len(out.splitlines()) == 5 + (kind == "csv")
    assert "malignant. Research only. Not for screening patients." in " ".join(err.split())


def test_an_output_that_cannot_be_written_is_refused_before_the_model_is_loaded(ends, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda uri, reporter: pytest.fail("too early"))
    (tmp_path / "file").touch()
    code, _, err = ends(folder, "--output", tmp_path / "file" / "out.csv")
    assert code == 2
    assert "--output" in err


@pytest.mark.parametrize("words", [("--format", "xml"), ("--case-pattern", "no group"), ("--case-pattern", "(")])
def test_wrong_options_end_it_with_two(ends, folder, words):
    code, out, err = ends(folder, *words)
    assert (code, out) == (2, "")
    assert words[0].lstrip("-") in err


def test_a_pattern_that_finds_no_case_ends_it_with_two_before_the_model_is_loaded(ends, folder, monkeypatch):
    monkeypatch.setattr(predict, "open_model", lambda uri, reporter: pytest.fail("too early"))
    code, out, err = ends(folder, "--case-pattern", "patient-([0-9]+)")
    assert (code, out) == (2, "")
    assert "--case-pattern 'patient-([0-9]+)' finds no case" in err


def test_the_format_is_that_of_the_suffix_and_a_conflict_is_refused():
    chosen = choose_format
    assert chosen(None, None) == "csv"
    assert chosen("jsonl", None) == "jsonl"
    for name, kind in (("a.csv", "csv"), ("a.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("a.txt", "csv"), ("a", "csv")):
        assert chosen(None, Path(name)) == chosen(kind, Path(name)) == kind
    assert chosen("jsonl", Path("a.json")) == "jsonl"
    with pytest.raises(SettingsError, match="csv or jsonl"):
        chosen("xml", None)
    with pytest.raises(SettingsError, match=r"must agree, but got csv and 'out.jsonl'"):
        chosen("csv", Path("out.jsonl"))
    with pytest.raises(SettingsError, match=r"must end in .csv, .txt, .jsonl, .ndjson .* but got 'out.xlsx'"):
        chosen(None, Path("out.xlsx"))


def test_without_known_cases_there_is_no_file_of_cases(tmp_path, folder):
    rows = [replace(row, case="") for row in rows_of(folder)[0]]
    file = tmp_path / "out.jsonl"
    (tmp_path / "out_cases.jsonl").write_text("of an earlier call")
    assert predict.write_files(file, "jsonl", MODEL, rows) == [(file, 5)]
    assert sorted(each.name for each in tmp_path.glob("out*")) == ["out.README.txt", "out.jsonl"]
    assert "the case of no image is known" in (tmp_path / "out.README.txt").read_text(encoding="utf-8")
