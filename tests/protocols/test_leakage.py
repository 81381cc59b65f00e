from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.errors import SettingsError
from bhsearch.models.backbones.registry import find_backbones
from bhsearch.objectives.space import frozen_space
from bhsearch.protocols import leakage
from bhsearch.study.events import ProgressReporter

OPTIONS = {"image_size": 96, "repeats": 2, "feature_backend": "keras"}


@pytest.fixture(scope="module")
def backbone():
    return find_backbones(["staintex-s"], None).backbones[0]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BHSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield phantom_dataset("phantom:cases=30,images=6")


def test_it_is_measured_at_a_point_of_the_space():
    point = {**leakage.POINT, "backbone": "staintex-l"}
    space = frozen_space(("staintex-l",))
    assert set(point) == {parameter.name for parameter in space}
    assert all(parameter.holds(point[parameter.name]) for parameter in space)


def test_folds_by_image_score_higher_than_folds_by_case(index, backbone):
    """The phantom's cases can be recognised, so tearing them apart must pay; and only one grouping tears none."""
    by_image, by_slide, by_case = leakage.measure(index, backbone, ProgressReporter(), **OPTIONS)
    assert by_image.mean > by_case.mean + 0.03
    assert by_image.n_torn > by_slide.n_torn > by_case.n_torn == 0
    assert [len(row.aucs) for row in (by_image, by_slide, by_case)] == [2, 2, 2]
    rows = leakage.table_rows([by_image, by_slide, by_case])
    assert [row[0] for row in rows] == ["image", "slide", "case"]
    assert float(rows[0][2]) == pytest.approx(by_image.mean - by_case.mean, abs=6e-4)
    assert rows[2][2:] == ("", "0")


def test_data_without_slides_are_folded_in_two_ways(index, backbone):
    bare = replace(index, table=index.table.assign(slide=""))
    found = leakage.measure(bare, backbone, ProgressReporter(), **OPTIONS)
    assert [row.group_by for row in found] == ["image", "case"]


def test_sealed_images_are_never_read(index, backbone, monkeypatch):
    from bhsearch.data.splits import make_split

    sealed = set(index.select(make_split(index).test).column("path"))
    seen: list[str] = []
    real = leakage.pixel_cache

    def watched(part, *rest):
        seen.extend(part.column("path"))
        return real(part, *rest)

    monkeypatch.setattr(leakage, "pixel_cache", watched)
    leakage.measure(index, backbone, ProgressReporter(), **OPTIONS)
    assert seen
    assert sealed
    assert sealed.isdisjoint(seen)


@pytest.mark.parametrize("wrong", [{"image_size": 8}, {"folds": 1}, {"feature_backend": "nosuch"}])
def test_a_wrong_option_is_refused_before_the_work(index, backbone, wrong):
    with pytest.raises(SettingsError):
        leakage.measure(index, backbone, ProgressReporter(), **wrong)


def test_one_repeat_has_no_range():
    rows = leakage.table_rows([leakage.FoldScores("image", (0.9,), 3), leakage.FoldScores("case", (0.6,), 0)])
    assert rows == [("image", "0.900", "+0.300", "3"), ("case", "0.600", "", "0")]
    assert np.isclose(leakage.FoldScores("case", (0.5, 0.7), 0).mean, 0.6)
