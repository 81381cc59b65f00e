from __future__ import annotations

import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import pytest

from bhsearch.evaluation.predictions import DISCLAIMER
from bhsearch.reporting.report_figures import COLUMN, drawn_figures, write_figures
from bhsearch.reporting.study_report import SYNTHETIC, report_page
from tests.reporting.reports import CURVE, make_report, registered, row

ALWAYS = {"estimates", "history", "best_trials", "cost", "importances", "parameters"}
OF_BEST = {"roc", "calibration", "subtypes", "magnifications"}
SEALED = {"sealed_roc", "sealed_calibration", "sealed_decision_curve", "sealed_probabilities"}
CURVES = {"learning_curve"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "new" / "folder"
    return folder, write_figures(make_report(**registered(), learning_curve=CURVE), folder)


def test_each_figure_is_there_as_svg_and_as_pdf(written):
    folder, names = written
    assert set(names) == ALWAYS | OF_BEST | SEALED | CURVES
    assert {file.name for file in folder.iterdir()} == {
        "captions.md",
        *(f"{name}.{kind}" for name in names for kind in ("svg", "pdf")),
    }


def test_svg_files_are_sound_hold_text_and_need_nothing_else(written):
    folder, names = written
    for name in names:
        content = (folder / f"{name}.svg").read_text(encoding="utf-8")
        root = ET.fromstring(content)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        if name != "parameters":
            assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * COLUMN)
        assert root.findall(".//{http://www.w3.org/2000/svg}text"), "text was turned into outlines"
        links = [value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")]
        assert all(link.startswith(("#", "data:")) for link in links)


def test_pdf_files_are_sound_and_embed_their_fonts(written):
    folder, names = written
    for name in names:
        content = (folder / f"{name}.pdf").read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        assert len(re.findall(rb"/Type /Page\b", content)) == 1
        assert b"/FontFile2" in content
        assert b"/Type3" not in content


def test_the_same_report_gives_the_same_files(written, tmp_path):
    folder, names = written
    write_figures(make_report(**registered(), learning_curve=CURVE), tmp_path)
    for name in names:
        for kind in ("svg", "pdf"):
            assert (tmp_path / f"{name}.{kind}").read_bytes() == (folder / f"{name}.{kind}").read_bytes()


def test_captions_say_what_of_what_and_how_many(written):
    folder, names = written
    captions = (folder / "captions.md").read_text(encoding="utf-8")
    assert DISCLAIMER in captions
    assert re.findall(r"\*\*(\w+)\.\*\*", captions) == names
    assert "AUC 0.710 (0.600 to 0.800), n = 16 cases (6 benign, 10 malignant)" in captions
    assert "Promoted to champion by the gate." in captions
    assert CURVE.sentence() in captions
    assert SYNTHETIC not in captions


def test_synthetic_data_are_marked_in_every_figure():
    for name, item in drawn_figures(make_report(synthetic=True)).items():
        assert item.caption.endswith(SYNTHETIC), name
        assert any("synthetic" in text.get_text() for text in item.figure.texts), name


def test_what_has_nothing_to_show_is_left_out():
    bare = make_report(
        proposed_predictions=None,
        spread={},
        rows=[row(k, 0.5 + k / 10, milliseconds=math.nan, params={"backbone": "b"}) for k in range(2)],
    )
    assert set(drawn_figures(bare)) == {"estimates", "history", "best_trials"}
    assert drawn_figures(make_report(rows=[row(0, None)], proposed_predictions=None)) == {}


def test_words_stay_inside_the_figure():
    """A name that is cut off at the left edge is the commonest fault of such figures."""
    for name, item in drawn_figures(make_report(**registered(), learning_curve=CURVE)).items():
        item.figure.draw_without_rendering()
        width, height = item.figure.get_size_inches() * item.figure.dpi
        for axes in item.figure.axes:
            for label in (*axes.get_yticklabels(), axes.xaxis.label, axes.yaxis.label):
                box = label.get_window_extent()
                if label.get_text() and name != "parameters":  # cut to what is drawn when it is written
                    assert 0 <= box.x0 < box.x1 <= width, (name, label.get_text())
            for label in (axes.xaxis.label, axes.yaxis.label):
                box = label.get_window_extent()
                assert not label.get_text() or 0 <= box.y0 < box.y1 <= height, (name, label.get_text())


CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


@pytest.mark.skipif(CHROMIUM is None or shutil.which("pdftotext") is None, reason="needs chromium and pdftotext")
def test_in_print_no_page_is_empty_and_every_table_is_open(tmp_path):
    page, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    rows = [row(k, 0.5 + k / 200) for k in range(60)]
    # The reader closed the list of trials before printing.
    page.write_text(report_page(make_report(rows=rows, **registered())).replace("<details open>", "<details>"))
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--user-data-dir={tmp_path}/u"]
    subprocess.run(
        [str(CHROMIUM), *words, f"--print-to-pdf={printed}", page.as_uri()],
        check=True,
        capture_output=True,
        timeout=120,
    )
    text = subprocess.run(["pdftotext", "-layout", printed, "-"], check=True, capture_output=True, text=True).stdout
    pages = text.split("\f")[:-1]
    assert 4 <= len(pages) <= 12
    assert all(len(page.split()) > 5 for page in pages)
    for number in range(60):
        assert re.search(rf"trial {number}: AUC", text)
    sizes = subprocess.run(["pdfinfo", printed], check=True, capture_output=True, text=True).stdout
    width, height = map(float, re.findall(r"Page size:\s+([\d.]+) x ([\d.]+)", sizes)[0])
    assert (width, height) == pytest.approx((595, 842), abs=2)  # A4 in points
