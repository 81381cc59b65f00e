"""The command: exit codes, a sentence for everything that is wrong, and nothing half-made."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from PIL import Image

from bhsearch.cli import terminal
from bhsearch.run import app
from tests.models.backbones.encoders.spoiled import WRONG
from tests.models.backbones.encoders.tiny import Tiny
from tests.studies import SMALL, Store, arguments, optuna_trials, run

NAME = "SOB_{letter}_{subtype}-14-{case}-100-{number:03d}.png"
Ends = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ends:
    """Run the command in this process, in an empty folder: exit code, output, errors."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def main(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["bhsearch.run", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            terminal.main(app, "python -m bhsearch.run")
        shown = capsys.readouterr()
        code = caught.value.code
        return (code if isinstance(code, int) else 1), shown.out, shown.err

    return main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images by BreakHis names: six cases of each class, two images a case."""
    folder = tmp_path / "images"
    random = np.random.default_rng(0)
    for case in range(12):
        letter, subtype = ("B", "F") if case % 2 else ("M", "DC")
        for number in (1, 2):
            name = NAME.format(letter=letter, subtype=subtype, case=20000 + case, number=number)
            place = folder / ("benign" if letter == "B" else "malignant")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(place / name)
    return folder


def of(folder: Path | str, **changes) -> list[str]:
    """Arguments of a study of some folder."""
    return arguments(**{"data": str(folder), "folds": 2, "trials": 1, "tracking": False, **changes})


def refused(ends: Ends, *words: str) -> str:
    """The sentence; the command must end with 2, say it on the error stream, and leave nothing behind."""
    code, _, err = ends(*words)
    assert code == 2, err
    assert "Traceback" not in err
    left = {path.name for path in Path.cwd().iterdir()}
    assert left <= {"optuna.db", "optuna.db-shm", "optuna.db-wal"}
    if left:
        assert optuna.get_all_study_names("sqlite:///optuna.db") == []
    return err


# -- help --------------------------------------------------------------------------------------------------------------


def test_help_says_what_it_is_for_and_what_not(ends):
    code, out, _ = ends("--help")
    assert code == 0
    assert "--trials" in out
    assert "not for screening" in " ".join(out.split())


def test_an_unknown_option_is_refused_with_the_close_one(ends):
    assert "--trials" in refused(ends, "--trails", "3")


def test_a_number_that_is_none_is_refused(ends):
    assert "Invalid value for '--trials': 'many' is not a whole number." in refused(ends, "--trials", "many")
    assert "Invalid value for '--timeout': '1h' is not a number." in refused(ends, "--timeout", "1h")


# -- the data ----------------------------------------------------------------------------------------------------------


def test_no_such_folder(ends):
    assert "nosuch: no such file or directory" in refused(ends, *of("nosuch"))


def test_no_images(ends, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    assert "No images were found in" in refused(ends, *of(tmp_path / "empty"))


def test_an_unknown_layout_lists_the_known(ends, images):
    message = refused(ends, *of(images, layout="nosuch"))
    assert all(name in message for name in ("breakhis", "idc", "folders", "manifest", "'nosuch'"))


def test_names_of_no_layout(ends, images, tmp_path):
    (images / "benign").rename(tmp_path / "images" / "left")
    (images / "malignant").rename(tmp_path / "images" / "right")
    for number, file in enumerate(sorted(images.rglob("*.png"))):
        file.rename(file.with_name(f"{number}.png"))
    assert "Cannot detect the layout" in refused(ends, *of(images))


def test_one_class_only(ends, images):
    shutil.rmtree(images / "benign")
    assert "Only malignant images were found" in refused(ends, *of(images))


def test_fewer_cases_than_folds_names_the_most_that_work(ends, images):
    message = refused(ends, *of(images, folds=9))
    assert "9" in message
    assert "fold" in message
    (most,) = {word.strip(".,:") for word in message.split() if word.strip(".,:") in {"3", "4", "5"}}
    code, _, err = ends(*of(images, folds=int(most)))
    assert code == 0, err


def test_a_bad_image_is_named_and_can_be_skipped(ends, images):
    files = sorted(images.rglob("*.png"))
    files[0].write_bytes(files[0].read_bytes()[:200])
    files[1].write_bytes(b"")
    files[2].write_text("not an image")
    message = refused(ends, *of(images))
    assert "Cannot read 3 of 24 images" in message
    assert all(file.name in message for file in files[:3])
    assert "--skip-unreadable" in message
    code, out, err = ends(*of(images), "--skip-unreadable")
    assert code == 0, err
    assert "3 images could not be read and were skipped" in out
    assert "21 images" in out


def test_a_name_that_does_not_parse(ends, images):
    file = sorted(images.rglob("*.png"))[0]
    file.rename(file.with_name("SOB_B_XX-14-20001-100-001.png"))
    assert "SOB_B_XX-14-20001-100-001.png" in refused(ends, *of(images))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("path,label\na.png,0\n", "lacks the required columns case"),
        ("path,label,case\na.png,0,1\nb.png,maybe,2\n", "'maybe'"),
        ("path,label,case\n../a.png,0,1\nb.png,1,2\n", "'../a.png'"),
        ("path,label,case\na.png,0,1\nnosuch.png,1,2\n", "nosuch.png"),
    ],
)
def test_a_wrong_manifest(ends, tmp_path, rows, words):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "images.csv").write_text(rows)
    assert words in refused(ends, *of(tmp_path / "images.csv"))


# -- networks and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbones": ("nosuch",)}, "but got 'nosuch'"),
        ({"backbones": ("nosuch.keras",)}, "no Keras model file 'nosuch.keras'"),
        ({"weights_dir": "nosuch"}, "--weights-dir must be an existing folder"),
        ({"image_size": 8}, "32 to 1024"),
        ({"resize": "stretch"}, "crop, squash, tiles"),
        ({"feature_backend": "nosuch"}, "auto, openvino, keras"),
        ({"feature_precision": "nosuch"}, "auto, f32, bf16"),
        ({"feature_precision": "bf16", "feature_backend": "keras"}, "requires --feature-backend openvino"),
        ({"sampler": "nosuch"}, "tpe, random, qmc, cmaes"),
        ({"regime": "nosuch"}, "auto, frozen"),
        ({"group_by": "patient"}, "case, site, slide, image"),
        ({"magnification": "40X"}, "all, 100X"),
        ({"test_fraction": 0.9}, "0.05 to 0.5"),
        ({"folds": 1}, "--folds must be from 2"),
        ({"repeats": 0}, "--repeats must be from 1"),
        ({"trials": 0}, "--trials must be at least 1"),
        ({"timeout": -1}, "--timeout must be"),
        ({"budget": 0}, "--budget must be above 0 minutes"),
        ({"seed": -1}, "--seed must be"),
        ({"case_pattern": "x"}, "--case-pattern"),
        ({"storage": "nosuch://ann:hunter2@host/db"}, "Cannot open the database in --storage"),
    ],
)
def test_an_option_that_cannot_be_is_a_sentence(ends, changes, words):
    message = refused(ends, *arguments(**{"trials": 1, **changes}))
    assert words in message
    assert "hunter2" not in message


def test_a_backbone_that_cannot_be_had_says_which_file_is_missing_and_where(ends, tmp_path, monkeypatch):
    """No weights and no network: an error before the first trial, never random weights."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("bhsearch.models.backbones.keras_applications._online", lambda: False)
    message = refused(ends, *arguments(backbones=("mobilenet-0.25",), weights_dir=str(tmp_path), trials=1))
    assert "mobilenet_2_5_224_tf_no_top.h5 is not in" in message
    assert "--weights-dir" in message


# Keras writes weights with TensorFlow's arrays, which are a version of NumPy behind.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("content", ["garbage", "another network"])
def test_weights_of_another_architecture(ends, tmp_path, content):
    import keras

    from bhsearch.models import backend

    backend.import_backend()
    file = tmp_path / "mobilenet_2_5_224_tf_no_top.h5"
    if content == "garbage":
        file.write_bytes(b"garbage" * 100)
    else:
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(tmp_path / "a.weights.h5")
        (tmp_path / "a.weights.h5").rename(file)
    message = refused(
        ends, *arguments(backbones=("mobilenet-0.25",), weights_dir=str(tmp_path), trials=1, tracking=False)
    )
    assert "does not fit the architecture" in message
    assert file.name in message


def test_a_model_file_that_is_no_backbone(ends, tmp_path):
    (tmp_path / "mine.keras").write_bytes(b"garbage")
    message = refused(ends, *arguments(backbones=(str(tmp_path / "mine.keras"),), trials=1, tracking=False))
    assert "mine.keras" in message


@pytest.mark.parametrize(
    "name",
    ["pickle", "missing shard", "shape", "missing tensor", "left-over tensor", "NaN", "model_type", "auto_map"],
)
def test_a_folder_of_an_encoder_that_cannot_be_used(ends, tmp_path, name):
    spoil, words = WRONG[name]
    folder = Tiny(scaled=True).write_transformers(tmp_path / "tiny", "dinov2")
    spoil(folder)
    message = refused(ends, *arguments(backbones=(str(folder),), trials=1))
    assert re.search(words, " ".join(message.split())), message


@pytest.mark.parametrize("changes", [{"image_size": 50}, {"regime": "finetune", "image_sizes": "50"}])
def test_images_into_which_no_whole_number_of_patches_fits(ends, tmp_path, changes):
    folder = Tiny().write_transformers(tmp_path / "tiny", "vit")
    message = refused(ends, *arguments(backbones=(str(folder),), trials=1, **changes))
    assert "multiple of its patches of 8 pixels" in message
    assert "starting" not in message  # before any backend is imported


def test_wrong_weights_leave_no_run_in_mlflow_either(ends, tmp_path):
    """What logs is started while backbones are built; nothing of a study that never began may stay."""
    (tmp_path / "mobilenet_2_5_224_tf_no_top.h5").write_bytes(b"garbage" * 100)
    work = tmp_path / "work"
    code, _, err = ends(*arguments(backbones=("mobilenet-0.25",), weights_dir=str(tmp_path), trials=1))
    assert code == 2, err
    assert "Traceback" not in err
    assert optuna.get_all_study_names(f"sqlite:///{work}/optuna.db") == []
    left = {path.name for path in work.iterdir()}
    assert left <= {"mlflow.db", "optuna.db", "optuna.db-shm", "optuna.db-wal"}
    if "mlflow.db" in left:
        assert Store(work).runs() == []


def test_a_working_directory_that_cannot_be_written(ends):
    """Running as root writes anywhere, so a file stands where the folder should be."""
    Path("outbox").write_text("a file")
    code, _, err = ends(*arguments(trials=1))
    assert code == 2, err
    assert "outbox" in err
    assert "Traceback" not in err
    assert optuna.get_all_study_names("sqlite:///optuna.db") == []


def test_a_cache_that_cannot_be_written(ends, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("BHSEARCH_CACHE", str(tmp_path / "cache"))
    assert "BHSEARCH_CACHE=FOLDER to use another folder" in refused(ends, *arguments(trials=1))


# -- what works --------------------------------------------------------------------------------------------------------


def test_a_study_without_tracking_ends_with_0_and_keeps_its_scores(ends):
    code, out, err = ends(*arguments(trials=2, tracking=False))
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("trial   ")]
    trials = optuna_trials(Path.cwd())
    assert [f"{trial.value:.4f}" in line for trial, line in zip(trials, lines, strict=True)] == [True, True]
    assert {path.name for path in Path.cwd().iterdir()} <= {"optuna.db", "optuna.db-shm", "optuna.db-wal"}


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_first_command_on_a_machine_prints_nothing_of_its_frameworks(tmp_path, monkeypatch, workers):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # set for the tests only
    words = arguments(workers=workers, trials=4, tracking=False)
    done = run(tmp_path, *words, BHSEARCH_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "absl" not in done.stdout
    assert "oneDNN" not in done.stdout


def test_quiet_prints_the_result_only(ends):
    code, out, _ = ends(*arguments(trials=1, tracking=False), "-q")
    assert code == 0
    assert "trial  AUC" in out
    assert not any(line.startswith(("trial   ", "data ")) for line in out.splitlines())


def test_a_file_of_settings_gives_the_options(ends, tmp_path):
    file = tmp_path / "study.toml"
    names = ", ".join(f'"{name}"' for name in SMALL["backbones"])
    file.write_text(
        f'data = "{SMALL["data"]}"\nbackbones = [{names}]\nimage_size = 48\nfolds = 3\ntrials = 9\ntracking = false\n'
        "workers = 0\n"
    )
    code, out, err = ends("--config", str(file), "--trials", "1")
    assert code == 0, err
    assert "1 to do" in out


def test_time_that_is_up_ends_with_130(ends):
    code, out, _ = ends(*arguments(trials=50, tracking=False, timeout=0.001))
    assert code == 130
    assert "Time is up" in out
    assert "the same command continues" in out or "No trial is complete" in out


def test_a_leaking_division_says_so_in_plan_and_result(ends):
    code, out, _ = ends(*arguments(trials=1, tracking=False, group_by="image"))
    assert code == 0
    assert out.count("These numbers mean nothing") >= 2
