"""Studies of vectors that were computed elsewhere, from a file to a model that is served without bhsearch."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhsearch import predict, report, run, validate
from bhsearch.api import predict_images
from bhsearch.errors import StudyError
from bhsearch.lifecycle.registration import RegistrationRequest, RegistrationResult
from bhsearch.lifecycle.reproduce import reproduce
from bhsearch.study.events import ProgressReporter
from bhsearch.tracking import model_files
from tests.registered import registered, work_in
from tests.studies import Store, cache_of, command_here, optuna_trials, started, tracked_search, working_in

# Keras writes weights with TensorFlow's arrays, which are a version of NumPy behind.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
N_CASES, N_IMAGES, N_FEATURES = 36, 4, 12
STUDY = "vectors"
LOAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
uri, file = sys.argv[1:]
by_keras = mlflow.keras.load_model(uri).predict(np.load(file), verbose=0)
signature = mlflow.models.get_model_info(uri).signature.inputs.to_dict()
loaded = sorted(name for name in sys.modules if name.split(".")[0] == "bhsearch")
print("\\n" + json.dumps([np.ravel(by_keras).tolist(), loaded, signature]))
"""


def vectors(labels: np.ndarray, seed: int) -> np.ndarray:
    """Vectors that separate the classes in part, with an effect of each case."""
    random = np.random.default_rng(seed)
    of_case = np.repeat(random.normal(size=(len(labels) // N_IMAGES, N_FEATURES)), N_IMAGES, axis=0)
    noise = random.normal(size=(len(labels), N_FEATURES))
    return (0.5 * of_case + noise + labels[:, None] * np.linspace(0, 0.8, N_FEATURES)).astype(np.float32)


def write(folder: Path, prefix: str, seed: int) -> pd.DataFrame:
    """A manifest without a single image file, and a Parquet file in another order."""
    cases = [f"{prefix}{number // N_IMAGES:02d}" for number in range(N_CASES * N_IMAGES)]
    paths = [f"{case}/patch{number % N_IMAGES}.png" for number, case in enumerate(cases)]
    labels = np.repeat(np.arange(N_CASES) % 2, N_IMAGES)
    names = np.array(["benign", "malignant"])[labels]
    manifest = pd.DataFrame({"path": paths, "case": cases, "label": names})
    manifest.to_csv(folder / "manifest.csv", index=False)
    frame = manifest.assign(vector=list(vectors(labels, seed)))
    order = np.random.default_rng(seed).permutation(len(frame))
    shuffled = frame.iloc[order][["path", "vector"]]
    shuffled.attrs = {"encoder": "uni_v1"}
    shuffled.to_parquet(folder / "uni.parquet", index=False)
    return frame


@pytest.fixture
def data(here: Path) -> pd.DataFrame:
    (here / "mine").mkdir()
    return write(here / "mine", "case", 0)


MANIFEST, FILE = "mine/manifest.csv", "mine/uni.parquet"


def search(**changes: object) -> None:
    settings = {"data": MANIFEST, "features": (FILE,), "backbones": ("auto",), "study": STUDY, "trials": 3}
    tracked_search(**{**settings, **changes})


@dataclass(frozen=True)
class Made:
    """A finished study of two encoders in a folder of its own, and a trial of it that is registered. Look only."""

    folder: Path
    frame: pd.DataFrame
    trial: int
    result: RegistrationResult


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_store) -> Made:
    folder = tmp_path_factory.mktemp("vectors")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "mine").mkdir()
    written = write(folder / "mine", "case", 0)
    np.savez(folder / "mine" / "conch.npz", x=np.stack(written["vector"]) ** 3, stem=written["path"].to_numpy(str))
    with working_in(folder, cache_of(tmp_path_factory)):
        search(features=(FILE, "mine/conch.npz"), trials=4)
        uni = next(trial.number for trial in optuna_trials(folder, STUDY) if trial.params["backbone"] == "uni")
        result = registered(RegistrationRequest(trial=uni, force=True, reason="a test"))
        frame = pd.read_parquet(FILE)
        np.save("some.npy", np.stack(frame["vector"]))
    return Made(folder, frame, uni, result)


@pytest.fixture
def uri(made, tmp_path_factory, monkeypatch) -> str:
    """The registered model, with the folder of its study as working directory."""
    work_in(made.folder, cache_of(tmp_path_factory), monkeypatch)
    return made.result.version.uri


def test_a_study_becomes_a_model_that_takes_vectors(made: Made, uri: str):
    trials = optuna_trials(made.folder, STUDY)
    assert {trial.params["backbone"] for trial in trials} == {"uni", "conch"}
    assert set(trials[0].params) == {"backbone", "hidden_units", "log10_penalty"}
    store = Store(made.folder)
    made_by = json.loads(store.parent().data.tags["bhsearch.vectors"])
    assert made_by["uni"]["encoder"] == "uni_v1"
    assert (made_by["conch"]["file"], made_by["conch"]["n_features"]) == ("conch.npz", N_FEATURES)
    assert made.result.tested.values["auc"] > 0.6
    card = model_files.read_text(store.client.get_run(made.result.version.run_id).info.artifact_uri, "card.md")
    assert f"vectors of {N_FEATURES} features in float32, made by uni_v1 (file uni.parquet" in card
    assert "There are no images to show" in card
    assert model_files.metadata_of(model_files.download(uri))["vectors"] == made_by["uni"]


def answers_here(uri: str) -> list[float]:
    import mlflow

    found: list[float] = np.ravel(mlflow.keras.load_model(uri).predict(np.load("some.npy"), verbose=0)).tolist()
    return found


def answers_elsewhere(uri: str) -> list[float]:
    """The same of a process that never imports bhsearch."""
    with started(Path.cwd(), "-c", LOAD, uri, "some.npy") as process:
        output, _ = process.communicate()
        assert process.returncode == 0, output
    by_keras, loaded, signature = json.loads(output.splitlines()[-1])
    assert loaded == []
    assert signature[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, N_FEATURES]}
    found: list[float] = by_keras
    return found


@pytest.mark.parametrize("answers", [answers_here, pytest.param(answers_elsewhere, marks=pytest.mark.slow)])
def test_keras_command_api_and_server_agree(made: Made, uri: str, tmp_path: Path, answers):
    frame, by_keras = made.frame, answers(uri)
    done = command_here(predict, FILE, "--model", uri, "--case-pattern", "(case[0-9]+)")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["image"] for row in rows] == frame["path"].tolist()
    assert rows[0]["case"] == rows[0]["image"][:6]
    assert by_keras == pytest.approx([float(row["probability"]) for row in rows], abs=1e-5)
    by_api = predict_images(FILE, model=uri, quiet=True)
    assert by_api["probability"].tolist() == pytest.approx(by_keras, abs=1e-5)
    frame.assign(case="one").to_parquet(tmp_path / "with_cases.parquet")
    by_api = predict_images(tmp_path / "with_cases.parquet", model=uri, quiet=True)
    assert set(by_api["case"]) == {"one"}
    assert_serves(uri, frame, by_keras)


def test_a_registered_trial_is_trained_again_to_the_same_predictions(made: Made, uri: str):
    assert reproduce(None, ProgressReporter(), study=STUDY, trial=made.trial).largest < 1e-5


def test_reports_speak_of_vectors(uri: str):
    """Neither the page nor the checklists speak of images of a size."""
    done = command_here(report, "--study", STUDY)
    assert done.returncode == 0, done.stderr
    page, checklist = (Path(name).read_text() for name in ("report.html", "report_checklist.md"))
    assert "the study is of vectors, which an encoder computed elsewhere" in page
    assert "<dt>vectors</dt><dd>uni by uni_v1" in page
    assert "image size" not in page
    assert "Vectors of the images, which an encoder computed elsewhere: uni by uni" in checklist.replace("\\", "")
    assert "resized to" not in checklist


def assert_serves(uri: str, frame: pd.DataFrame, expected: list[float]) -> None:
    """As `mlflow models serve` loads and asks it."""
    import mlflow

    served = mlflow.pyfunc.load_model(uri)
    answer = served.predict(np.stack(frame["vector"])[:5])
    assert answer["probability"].tolist() == pytest.approx(expected[:5], abs=1e-5)
    assert set(answer["label"]) <= {"benign", "malignant"}
    with pytest.raises(mlflow.MlflowException, match="must be finite"):
        served.predict(np.full((1, N_FEATURES), np.nan, np.float32))


def test_other_inputs_are_refused(uri: str, tmp_path: Path):
    np.savez(tmp_path / "narrow.npz", x=np.random.default_rng(0).normal(size=(3, 2)), path=np.array(["a", "b", "c"]))
    done = command_here(predict, str(tmp_path / "narrow.npz"), "--model", uri)
    assert done.returncode == 2
    assert f"narrow.npz has 2 features, and the model takes {N_FEATURES}" in done.stderr
    done = command_here(predict, MANIFEST, "--model", uri)
    assert done.returncode == 2
    assert f"takes vectors of uni_v1 ({N_FEATURES} features), but got images" in done.stderr


def test_it_is_validated_on_a_cohort_of_the_same_encoder_and_on_none_of_images(uri: str, tmp_path: Path):
    write(tmp_path, "elsewhere", 7)
    cohort = ("--data", str(tmp_path / "manifest.csv"), "--features", str(tmp_path / "uni.parquet"))
    done = command_here(validate, uri, *cohort)
    assert done.returncode == 0, done.stderr
    done = command_here(validate, uri, "--data", "phantom:cases=24,images=1")
    assert done.returncode == 2
    assert "The data have images and no vectors" in done.stderr


def test_a_changed_file_is_refused(here: Path, data: pd.DataFrame):
    search()
    shutil.copy(FILE, "mine/before.parquet")
    write(here / "mine", "case", 1)
    with pytest.raises(StudyError, match="vectors of uni: the digest was"):
        search(trials=5)
    shutil.copy("mine/before.parquet", FILE)
    search(trials=5)
    assert len(optuna_trials(here, STUDY)) == 5


def test_another_key_is_refused(here: Path, data: pd.DataFrame):
    search()
    with pytest.raises(StudyError, match="--features-key: was None, is now path"):
        search(trials=5, features_key="path")


def refused(*words: str) -> str:
    done = command_here(run, "--data", MANIFEST, "--workers", "0", "--quiet", *words)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 8
    return done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--features", FILE, "--regime", "finetune"), "--features requires --regime frozen or auto"),
        (("--features", FILE, "--backbones", "staintex-s"), "--features cannot be used with --backbones staintex-s"),
        (
            ("--features", FILE, "--feature-precision", "bf16"),
            "--feature-precision bf16 cannot be used with --features",
        ),
        (("--features", FILE, "--robustness"), "--robustness cannot be used with --features"),
        (("--features", FILE, "--score-weight-shift", "0.5"), "--score-weight-shift cannot be used with --features"),
        (("--features", FILE, "--features-key", "nosuch"), "--features-key must be a column"),
        (("--features", "mine/nosuch.parquet"), "There is no file --features mine/nosuch.parquet"),
        (("--features", MANIFEST), "--features must be a Parquet, HDF5 or npz file"),
        (("--features-key", "path"), "--features-key requires --features"),
        (("--backbones", f"features:{FILE}"), f"Give files of vectors with --features {FILE}"),
        (("--features", f"{FILE},other/uni.parquet"), "2 files are called 'uni'"),
    ],
)
def test_what_contradicts_vectors_is_a_sentence(here: Path, data: pd.DataFrame, words, expected: str):
    (here / "other").mkdir()
    shutil.copy(FILE, "other/uni.parquet")
    assert expected in refused(*words)


def test_an_image_without_a_vector_is_a_sentence(here: Path, data: pd.DataFrame):
    frame = pd.read_parquet(FILE)
    frame[frame["path"] != "case00/patch0.png"].to_parquet(FILE)
    assert "case00/patch0.png" in refused("--features", FILE)


def test_a_model_of_images_is_no_rival_of_one_of_vectors(here: Path, data: pd.DataFrame):
    """The champion cannot be asked on vectors, so the sealed test stays closed."""
    search()
    tracked_search(data="phantom:cases=36,images=1", trials=1, study="images")
    registered(RegistrationRequest(study="images", name="one", force=True, reason="a test"))
    with pytest.raises(StudyError, match=r"The data have vectors \(uni\), but the current champion, .* takes images"):
        registered(RegistrationRequest(study=STUDY, name="one"))


def test_equal_vectors_are_one_image(here: Path, data: pd.DataFrame):
    """Two cases that share a vector are never on both sides of a fold."""
    frame = data.copy()
    frame.at[N_IMAGES, "vector"] = frame.at[0, "vector"]
    frame[["path", "vector"]].to_parquet(FILE)
    search(trials=1)
    split = Store(here).client.download_artifacts(Store(here).parent().info.run_id, "study/split.json")
    images = json.loads(Path(split).read_text())["images"]
    group = dict(zip(images["path"], images["group"], strict=True))
    assert group["case00/patch0.png"] == group["case01/patch3.png"]
    assert group["case00/patch0.png"] != group["case02/patch0.png"]


def test_ids_take_the_place_of_paths(here: Path, data: pd.DataFrame):
    manifest = pd.DataFrame({"id": np.arange(len(data)), "case": data["case"], "label": data["label"]})
    manifest.to_csv(MANIFEST, index=False)
    pd.DataFrame({"id": np.arange(len(data)), "vector": data["vector"]}).to_parquet(FILE)
    search(trials=1)
    assert len(optuna_trials(here, STUDY)) == 1


def test_a_folder_of_images_may_have_vectors(here: Path, data: pd.DataFrame):
    """Pixels then only identify the images."""
    from bhsearch.data.open_data import open_data

    index = open_data("phantom:cases=24,images=3")
    labels = index.labels.astype(int)
    frame = pd.DataFrame({"path": index.column("path")})
    random = np.random.default_rng(0)
    frame["vector"] = list((random.normal(size=(len(index), 5)) + labels[:, None]).astype(np.float32))
    frame.to_parquet("mine/phantom.parquet")
    search(data="phantom:cases=24,images=3", features=("mine/phantom.parquet",), trials=2)
    assert max(trial.value for trial in optuna_trials(here, STUDY)) > 0.8
