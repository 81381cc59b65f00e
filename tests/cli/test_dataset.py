from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from bhsearch.cli import terminal
from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.dataset import app
from bhsearch.errors import BhsearchError, DataError
from bhsearch.runtime import cache
from tests.data.embeddings.files import some_vectors, write_lists


@pytest.fixture
def root(tmp_path):
    """Two benign and two malignant images, one of them filed twice."""
    names = ["benign/SOB_B_A-14-1A-40-001.png", "benign/SOB_B_A-14-1B-40-001.png"]
    names += ["malignant/SOB_M_DC-14-2-40-001.png", "malignant/SOB_M_LC-14-2-40-001.png"]
    for at, name in enumerate(names):
        file = tmp_path / "data [red]" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), min(at, 2), np.uint8)).save(file)
    return tmp_path / "data [red]"


@pytest.fixture(autouse=True)
def _own_cache_for_each_test(tmp_path, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))


def run(*arguments, width=None, monkeypatch=None):
    """What a command prints; at a terminal of so many columns if `width` is given, else as if piped."""
    if width is not None:
        console = Console(width=width, force_terminal=True, highlight=False, color_system=None)
        monkeypatch.setattr(terminal, "out", console)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, BhsearchError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_info_counts_classes_subtypes_and_magnifications(root):
    lines = [line.split() for line in run("info", root).splitlines()]
    assert ["benign", "2", "1", "2", "1"] in lines
    assert ["malignant", "2", "1", "2", "1"] in lines
    assert ["DC", "0", "1", "1"] in lines
    assert ["40X", "2", "2", "4"] in lines


def test_an_audit_lists_files_that_cannot_be_read_and_goes_on(root):
    (root / "benign" / "SOB_B_A-14-3-40-001.png").write_text("no image")
    found = run("audit", root)
    assert "SOB_B_A-14-3-40-001.png: not an image" in " ".join(found.split())
    assert "Images repeated within a case" in found
    kept = json.loads(run("audit", root, "--json"))
    assert [file["path"] for file in kept["bad"]] == ["benign/SOB_B_A-14-3-40-001.png"]


def test_a_data_set_of_vectors_needs_no_images(tmp_path):
    names = [f"images/{number}.png" for number in range(6)]
    rows = [f"{name},P{number // 2},{('benign', 'malignant')[number % 2]}" for number, name in enumerate(names)]
    (tmp_path / "table.csv").write_text("\n".join(["path,case,label", *rows]))
    file = write_lists(tmp_path / "uni.parquet", names, some_vectors(6, 4), encoder="uni_v1")
    printed = run("info", tmp_path / "table.csv", "--features", file)
    assert "6 images, 3 cases" in printed
    assert "Vectors uni by uni_v1 (4 features, uni.parquet" in printed
    assert "3 cases" in run("audit", tmp_path / "table.csv", "--features", file)
    with pytest.raises(DataError, match="do not exist"):
        run("info", tmp_path / "table.csv")


def test_info_prints_paths_as_they_are(root):
    assert str(root) in run("info", root)


def test_audit_names_siblings_and_twins(root):
    text = run("audit", root)
    assert "siblings: Cases with several slides, which a split by slide separates: 2" in text
    assert "1: SOB_B_A-14-1A, SOB_B_A-14-1B" in text
    assert "SOB_M_DC-14-2-40-001.png = SOB_M_LC-14-2-40-001.png (in malignant)" in text


@pytest.mark.parametrize("command", ["info", "audit"])
def test_json_goes_to_standard_output_and_nothing_else_does(root, command):
    content = json.loads(run(command, root, "--json"))
    assert content["name"] == "breakhis"


def test_long_lists_are_cut_with_the_way_to_the_whole(tmp_path):
    for at in range(24):
        file = tmp_path / "data" / f"{at // 2}/{at % 2}/{at // 2}_idx5_x{at}_y1_class{at % 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((2, 2, 3), at, np.uint8)).save(file)
    text = run("audit", tmp_path / "data")
    assert "  and 2 more" in text
    assert "--json lists everything." in text


@pytest.mark.parametrize("command", ["info", "audit"])
def test_everything_fits_sixty_columns_of_a_terminal(root, command, monkeypatch):
    assert max(map(len, run(command, root, width=60, monkeypatch=monkeypatch).splitlines())) <= 60


def test_piped_output_is_plain_and_wraps_no_line(root):
    text = run("audit", root)
    assert "\x1b" not in text
    assert "  40X: 2 benign and 2 malignant here, 625 benign and 1,370 malignant published." in text.splitlines()


def test_options_reach_the_reader(root):
    (root / "benign/x1.png").write_bytes(b"")
    with pytest.raises(DataError, match="--skip-unreadable"):
        run("info", root, "--layout", "folders", "--case-pattern", "x([0-9])")
    text = run("info", root, "--layout", "folders", "--case-pattern", "x([0-9])", "--skip-unreadable")
    assert "Layout folders" in text
    assert "benign/x1.png: empty file" in text


def test_info_counts_what_is_left_out_and_says_what_is_not_used(root):
    (root / "benign" / "x_mask.png").touch()
    (root / "notes.txt").touch()
    text = run("info", root)
    assert "2 files left out: 1 .png (mask or annotation); 1 .txt (not a supported image format)" in text
    counts = json.loads(run("info", root, "--json"))
    assert [item["count"] for item in counts["left_out"]] == [1, 1]


def test_options_of_manifests_reach_the_reader(root, tmp_path):
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    rows = [f"{path},{'cancer' if path[0] == 'm' else 'normal'},c{at},{at},HE" for at, path in enumerate(files)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,case,fold,stain", *rows]), encoding="utf-8")
    options = ("--class-map", "benign=normal,malignant=cancer", "--ignore-column", "fold", "--image-root", root)
    for command in ("info", "audit"):
        assert "4 images" in run(command, tmp_path / "list.csv", *options)
    text = run("info", tmp_path / "list.csv", *options)
    assert "Column of the manifest not used: stain." in text
    assert "Ignored on request: fold." in text
    for at, said in ((0, "class-map"), (2, "ignore-column"), (4, "image-root")):
        with pytest.raises(DataError, match=f"--{said}"):
            run("info", tmp_path / "list.csv", *options[:at], *options[at + 2 :])


def test_the_cache_is_listed_and_cleared(root):
    assert run("cache").startswith("0 entries, 0 B")
    assert "at most 20.0 GB (BHSEARCH_CACHE_LIMIT)" in run("cache")
    run("info", root)
    listing = run("cache")
    assert listing.splitlines()[1].startswith("digests")
    assert "1 entries" not in listing
    assert run("cache", "--clear").startswith("Freed ")
    assert cache.entries() == []


def test_a_cache_without_a_limit_says_so(monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE_LIMIT", "none")
    assert "no limit (BHSEARCH_CACHE_LIMIT)" in run("cache")


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bhsearch.dataset", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_wrong_data_end_with_two_and_a_sentence_without_a_traceback(tmp_path):
    done = call("info", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_slow():
    code = "import sys, bhsearch.dataset; print([m for m in ('pandas', 'numpy', 'PIL', 'keras') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.data
def test_the_real_breakhis_can_be_looked_at(breakhis):
    content = json.loads(run("info", breakhis, "--json"))
    assert content["classes"]["all"] == {"images": 476, "cases": 33, "slides": 41, "groups": 33}
    assert content["magnifications"]["100X"] == {"benign": 217, "malignant": 215, "all": 432}


@pytest.fixture
def official(tmp_path):
    """The phantom's slides on two sides, twice: siblings of a case are torn apart."""
    index = phantom_dataset("phantom:cases=20,images=3")
    files = []
    for number in (1, 2):
        rows = []
        for path, slide in zip(index.column("path"), index.column("slide"), strict=True):
            name = path.rpartition("/")[2]
            side = "test" if slide.endswith("CD") or int(slide[-5:].rstrip("ABCD")[-1]) % 4 == number else "train"
            rows.append(f"{name}|100|{number}|{side}")
        files.append(tmp_path / f"dsfold{number}.txt")
        files[-1].write_text("\n".join(rows))
    return files


def test_the_protocol_prints_rates_and_the_leaks_of_its_folds(official):
    """Files follow the option as a shell lists them."""
    options = ("--backbone", "staintex-s", "--image-size", "48")
    printed = run("breakhis-folds", "phantom:cases=20,images=3", "--folds-file", *official, *options)
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("100X")]
    assert row[2] == row[5] == "+-"
    assert row[-1] == "2"
    assert all(0 <= float(row[at]) <= 100 for at in (1, 4))
    assert "Fold 1: in both training and test: cases:" in printed
    assert "case 90005: train SOB_" in printed
    assert "never to choose by" in printed
    assert "synthetic" in printed
    again = run("breakhis-folds", "phantom:cases=20,images=3", "--folds-file", official[0], "--folds-file", official[1],
                "--json", *options)  # fmt: skip
    found = json.loads(again)
    assert [fold["fold"] for fold in found["leaks"]] == [1, 2]
    assert f"{100 * found['summaries'][0]['image_rate']['mean']:.1f}" == row[1]


def test_the_protocol_refuses_folds_of_other_data(official, root):
    with pytest.raises(DataError, match="No training images of fold 1"):
        run("breakhis-folds", root, "--folds-file", official[0])


def test_the_leak_is_printed_and_drawn(tmp_path):
    options = ["--backbone", "staintex-s", "--image-size", "48", "--folds", "3", "--repeats", "1"]
    picture = tmp_path / "new" / "leak.png"
    text = run("leakage", "phantom:cases=20,images=3", *options, "--picture", picture)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == ["image", "slide", "case"]
    assert "synthetic data (phantom)" in text
    assert "Only the score by case" in text
    assert np.asarray(Image.open(picture)).std() > 10


def test_the_picture_of_a_leak_must_have_a_place(tmp_path):
    with pytest.raises(BhsearchError, match="is a folder"):
        run("leakage", "phantom:cases=20,images=3", "--picture", tmp_path)


@pytest.fixture
def table(tmp_path):
    """A table of six images with two sizes, two sites and two magnifications, in a folder that also holds the table."""
    folder = tmp_path / "table"
    folder.mkdir()
    lines = ["path,label,case,site,magnification"]
    for at in range(6):
        size = (10, 20) if at < 5 else (30, 40)
        Image.fromarray(np.full((*size, 3), at, np.uint8)).save(folder / f"{at}.png")
        lines.append(f"{at}.png,{at % 2},c{at},{'Köln' if at < 4 else 'Ulm'},{'40' if at < 3 else '100x'}")
    (folder / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "list.csv"


def test_info_lists_sites_and_the_spread_of_sizes(table):
    found = run("info", table)
    lines = [line.split() for line in found.splitlines()]
    assert ["Köln", "2", "2", "4"] in lines
    assert ["Ulm", "1", "1", "2"] in lines
    assert "Image sizes, width x height: 20 x 10 to 40 x 30 px, median 20 x 10 px, 2 different sizes" in found
    content = json.loads(run("info", table, "--json"))
    assert content["sizes"]["width"] == {"smallest": 20, "median": 20, "largest": 40}
    assert content["sites"]["Ulm"]["all"] == 2


def test_info_and_audit_take_one_magnification_in_any_spelling(table):
    whole = run("info", table)
    some = run("info", table, "--magnification", "40x")
    assert "3 images, 3 cases" in some
    assert "Only images at magnification 40X, of 6 images" in some
    assert "Image size, width x height: 20 x 10 px" in some
    fingerprint = next(line for line in whole.splitlines() if line.startswith("Fingerprint"))
    assert f"{fingerprint} of the whole data set" in some
    assert "3 images, 3 cases" in run("audit", table, "--magnification", "100")


def test_the_audit_lists_what_is_left_out(root):
    (root / "data" / "1").mkdir(parents=True)
    (root / "data" / "1" / "thumbnail.jpg").write_bytes(b"x")
    (root / "project.qpproj").write_text("{}")
    found = run("audit", root)
    assert "Kinds of files that are left out: 2" in found
    assert "1 .jpg file: thumbnail" in found
