"""One champion asked in four ways, a server among them, gives one answer; its folder holds no code and no pickle."""

from __future__ import annotations

import base64
import csv
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bhsearch import predict
from bhsearch.data.images.decode import decode
from bhsearch.data.open_data import open_data
from tests.registered import DATA, NAME
from tests.studies import command_here, environment, import_mlflow

URI = f"models:/{NAME}@champion"
_SECONDS = 300  # only a hang meets it


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def files(inside, tmp_path):
    """Images of three sizes, PNG and JPEG."""
    found = [*open_data(DATA).paths()[:6]]
    for number, box in enumerate([(0, 0, 120, 100), (30, 10, 90, 200)]):
        with Image.open(found[number]) as image:
            image.crop(box).save(tmp_path / f"cut{number}.jpg", quality=95)
        found.append(tmp_path / f"cut{number}.jpg")
    return found


@pytest.fixture
def served(inside):
    """The champion behind a server; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = environment(
        MLFLOW_TRACKING_URI=os.environ["MLFLOW_TRACKING_URI"], MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"
    )
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        URI,
        "--env-manager",
        "local",
        "--port",
        str(port),
    ]
    with (inside.folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic() + _SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping")
                break
            except OSError:
                assert process.poll() is None, (inside.folder / "server.log").read_text()
                assert time.monotonic() < end, "the server did not come up"
                time.sleep(0.1)
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def ask(port, images):
    body = json.dumps({"dataframe_records": [{"image": base64.b64encode(data).decode()} for data in images]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["predictions"]


def test_predict_pyfunc_and_keras_agree(inside, files):
    """Issue 4, D, on the phantom; the server is asked below."""
    mlflow = import_mlflow()
    done = command_here(predict, *map(str, files))
    assert done.returncode == 0, done.stderr
    images = list(csv.DictReader(done.stdout.splitlines()))
    by_command = np.array([float(row["probability"]) for row in images])
    frame = pd.DataFrame({"image": [file.read_bytes() for file in files]})
    by_pyfunc = mlflow.pyfunc.load_model(URI).predict(frame)
    network = mlflow.keras.load_model(URI)
    by_keras = [float(network.predict_on_batch(decode(file)[None])[0, 0]) for file in files]
    assert np.ptp(by_command) > 0.1
    assert by_pyfunc["probability"].to_numpy() == pytest.approx(by_command, abs=1e-5)
    assert by_keras == pytest.approx(by_command, abs=1e-5)
    assert by_pyfunc["label"].tolist() == [row["label"] for row in images]


@pytest.mark.slow
def test_server_and_curl_line_agree_with_pyfunc(inside, files, served):
    """The curl line is the one of the page on serving."""
    from bhsearch.tracking import serving

    images = [file.read_bytes() for file in files]
    answers = ask(served, images)
    by_pyfunc = import_mlflow().pyfunc.load_model(URI).predict(pd.DataFrame({"image": images}))
    assert [row["probability"] for row in answers] == pytest.approx(by_pyfunc["probability"], abs=1e-5)
    assert [row["label"] for row in answers] == by_pyfunc["label"].tolist()
    line = serving.CURL.replace("IMAGE.png", shlex.quote(str(files[0]))).replace("5001", str(served))
    shell = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=_SECONDS)
    (answer,) = json.loads(shell.stdout)["predictions"]  # alone, no batch: the last bit may differ
    assert answer == {**answers[0], "probability": pytest.approx(answers[0]["probability"], abs=1e-5)}
    with pytest.raises(urllib.error.HTTPError, match="400") as caught:
        ask(served, [files[0].read_bytes(), b"no image"])
    assert "Row 1 of the column image is not an image" in caught.value.read().decode()


def test_the_folder_holds_no_code_and_no_pickle(inside):
    from mlflow.models import Model

    folder = Path(import_mlflow().artifacts.download_artifacts(URI))
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {"MLmodel", "data/model.keras"} <= files
    assert not [name for name in files if name.endswith((".py", ".pkl", ".pickle", ".joblib", ".npy", ".pt"))]
    with zipfile.ZipFile(folder / "data" / "model.keras") as archive:
        assert {*archive.namelist()} == {"metadata.json", "config.json", "model.weights.h5"}
        assert "Lambda" not in archive.read("config.json").decode()
    flavours = Model.load(str(folder)).flavors
    assert flavours["python_function"]["loader_module"] == "bhsearch.tracking.serving"
    assert "code" not in flavours["python_function"]
    assert "bhsearch" not in (folder / "requirements.txt").read_text(encoding="utf-8")


def test_threshold_classes_and_signature_travel_with_it(inside):
    from mlflow.models import Model

    model = Model.load(str(import_mlflow().artifacts.download_artifacts(URI)))
    assert model.metadata["threshold"] == inside.good.point.threshold
    assert model.metadata["calibration"]["slope"] == inside.good.point.calibration.slope
    assert model.metadata["task"] == {"name": "binary", "class_names": ["benign", "malignant"]}
    assert "Not for screening" in model.metadata["use"]
    assert [(column.name, column.type.name) for column in model.signature.inputs] == [("image", "binary")]
    assert [column.name for column in model.signature.outputs] == ["probability", "label"]


def test_the_served_model_is_the_tested_one(inside):
    """What was measured on the sealed images is what is handed out."""
    tested = inside.good.tested.predictions
    root = open_data(DATA).root
    frame = pd.DataFrame({"image": [(root / path).read_bytes() for path in tested.path]})
    found = import_mlflow().pyfunc.load_model(URI).predict(frame)["probability"]
    assert found.to_numpy() == pytest.approx(tested.probability[0], abs=1e-6)


def test_the_page_on_serving_has_the_lines_that_are_run_here():
    from bhsearch.tracking import serving

    page = (Path(__file__).resolve().parents[2] / "docs/how-to/register-serve.md").read_text(encoding="utf-8")
    joined = " ".join(page.replace("\\\n", " ").split())
    assert " ".join(serving.CURL.split()) in joined
    assert serving.SERVE.format(name="NAME", alias="champion") in joined
