"""What a study will write: between what is said to be certain and what is said to be possible."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from bhsearch.data.images.pixel_cache import pixel_cache
from bhsearch.data.open_data import open_data
from bhsearch.errors import PlaceError
from bhsearch.models.resize import make_resize
from bhsearch.study.checks import disk_space
from bhsearch.study.checks.disk_space import require_space, requirements_of, warnings_of
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from tests.studies import SMALL, cache_of, search, settings

Usage = namedtuple("Usage", "total used free")
GB = 10**9


@pytest.fixture
def fresh(monkeypatch, tmp_path, tmp_path_factory):
    """An empty working directory, and a cache that has nothing but the images of the phantom."""
    drawn = open_data(SMALL["data"]).root.relative_to(cache_of(tmp_path_factory))
    entry = Path(*drawn.parts[:2])  # its kind and its key
    shutil.copytree(Path(cache_of(tmp_path_factory)) / entry, tmp_path / "cache" / entry)
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def free(monkeypatch):
    """Set how much is free, on every disk."""
    return lambda n_bytes: monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda place: Usage(0, 0, n_bytes))


def prepared(**changes) -> StudyContext:
    return StudyContext.build(settings(**changes), ProgressReporter())


def needs(remaining: int = 50, **changes) -> dict[str, tuple[int, int]]:
    return {need.what: (need.least, need.most) for need in requirements_of(prepared(**changes), remaining)}


def size_of(*folders: Path) -> int:
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def test_what_a_finished_study_wrote_lies_between(finished, tmp_path_factory, monkeypatch):
    """Four trials, looked at as if nothing of them was there."""
    said = needs(4)
    monkeypatch.setenv("BHSEARCH_CACHE", cache_of(tmp_path_factory))
    runs = [Path(run.info.artifact_uri.removeprefix("file://")) for run in finished.store.children().values()]
    models = next(finished.folder.glob("mlruns/*/models"))
    least, most = said["models"]
    assert 0 < least <= size_of(models) <= most
    least, most = said["pictures and predictions"]
    assert 0 < least <= size_of(*runs) <= most


def test_resized_images_are_known_to_the_byte_and_need_nothing_when_they_are_there(fresh):
    made = prepared()
    (before,) = {needs()["resized images"]}
    pixels = pixel_cache(made.development, make_resize("crop", 48))
    assert before == (pixels.file.stat().st_size,) * 2
    assert needs()["resized images"] == (0, 0)


def test_features_of_every_view_are_possible_and_none_is_certain(fresh):
    least, most = needs()["features"]
    n_images = len(prepared().development)
    assert (least, most) == (0, 4 * n_images * 55 * 13)  # 55 features of 13 views
    assert needs(image_size=96)["features"] == (least, most)


def test_models_count_members_trials_and_what_is_kept(fresh):
    kwargs = {"regime": "finetune", "backbones": ("cnn",), "image_size": 32, "pruner": "none", "trials": 7}
    one = needs(1, **kwargs)["models"][0]
    assert one > 3 * 500_000  # three folds of 0.2 million weights
    assert needs(7, **kwargs)["models"][0] == 7 * one
    assert needs(7, **kwargs, keep_models="best:2")["models"][0] == 2 * one
    assert needs(7, **kwargs, keep_models="none")["models"] == (0, 0)
    assert needs(7, **kwargs, repeats=2)["models"][0] == pytest.approx(14 * one, abs=14)
    # Of trials that may be pruned, one model is certain; of a study that has two, the next may take their place.
    assert needs(7, **kwargs | {"pruner": "median"})["models"][0] == one
    assert needs(7, **kwargs | {"trials": 9}, keep_models="best:2")["models"][0] == 0


def test_a_study_with_nothing_to_do_needs_nothing(fresh):
    assert needs(0) == {}


def test_a_server_keeps_files_elsewhere(fresh, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert not {"models", "pictures and predictions"} & set(needs())
    assert not {"models", "a trial that waits for MLflow"} & set(needs(tracking=False))


def test_too_small_a_disk_is_refused_with_what_is_needed_where_and_what_helps(fresh, free):
    free(10_000)
    with pytest.raises(PlaceError) as caught:
        require_space(prepared(), 500)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert "0.0 MB are free" in text
    for words in ("MB of resized images in", str(fresh / "cache"), str(fresh / "mlruns"), "BHSEARCH_CACHE=FOLDER"):
        assert words in text
    assert "features" not in text  # they may be there
    assert "cache --clear" not in text  # too little is in it
    free(GB)
    require_space(prepared(), 500)


def test_a_cache_that_could_be_cleared_is_named(fresh, free):
    pixel_cache(prepared().development, make_resize("crop", 96))
    free(100_000)
    with pytest.raises(PlaceError, match=r"`python -m bhsearch.dataset cache --clear` frees [0-9.]+ MB"):
        require_space(prepared(), 1)


def test_what_may_become_too_little_is_a_warning_of_the_plan(fresh, free):
    most = sum(need.most for need in requirements_of(prepared(), 50))
    free(most)
    assert warnings_of(prepared(), 50) == []
    free(most - 1)
    (sentence,) = warnings_of(prepared(), 50)
    assert sentence.startswith("The study may write up to ")
    assert "--keep-models best:5 or none keeps fewer models" in sentence
    require_space(prepared(), 50)


def test_disks_are_looked_at_one_by_one(fresh, monkeypatch):
    """The cache may lie on another one than the working directory."""
    if not Path("/dev/shm").exists() or Path("/dev/shm").stat().st_dev == fresh.stat().st_dev:
        pytest.skip("no second disk here")
    monkeypatch.setenv("BHSEARCH_CACHE", "/dev/shm/nosuch/cache")
    real = shutil.disk_usage
    monkeypatch.setattr(
        disk_space.shutil,
        "disk_usage",
        lambda place: Usage(0, 0, 0) if str(place).startswith("/dev/shm") else real(place),
    )
    with pytest.raises(PlaceError, match="/dev/shm/nosuch/cache") as caught:
        require_space(prepared(), 50)
    assert "mlruns" not in str(caught.value)


def test_a_study_that_is_refused_leaves_nothing(here, free, monkeypatch):
    monkeypatch.setenv("BHSEARCH_CACHE", str(here / "cache"))
    prepared()  # the phantom itself is drawn
    free(10_000)
    with pytest.raises(PlaceError, match="The study needs at least"):
        search(trials=2, workers=0, tracking=True)
    import optuna

    assert optuna.get_all_study_names(f"sqlite:///{here}/optuna.db") == []
    assert not (here / "outbox").exists()
    assert not (here / "cache" / "pixels").exists()
