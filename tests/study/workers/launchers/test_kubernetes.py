"""The manifest of `--launcher kubernetes`, checked against the official models of the Kubernetes API."""

from __future__ import annotations

import re
import shlex
import shutil
import stat
import subprocess
import tomllib
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bhsearch.errors import SettingsError
from bhsearch.study.workers.launchers.jobs import StudyJobs
from bhsearch.study.workers.launchers.kubernetes import LAUNCHER, MANIFEST, SECRET_FILE, job_name

client = pytest.importorskip("kubernetes.client")

STORAGE = "postgresql+psycopg://ann:s%40cret word@db/studies"
NEEDED = {"image": "registry.example.org/bhsearch:1", "cache_claim": "cache"}
MODELS = {"ConfigMap": "V1ConfigMap", "Job": "V1Job"}
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def jobs(folder, **changes):
    given = StudyJobs(
        study="mine",
        n_workers=4,
        encoders=[],
        settings={"study": "mine", "data": "/data/images", "trials": 20, "backbones": ["auto"], "features": []},
        worker_options=["--trial-timeout", "600"],
        options=NEEDED,
        variables={"BHSEARCH_STORAGE": STORAGE, "MLFLOW_TRACKING_URI": "http://mlflow:5000"},
        folder=folder / "jobs" / "mine",
    )
    return replace(given, **changes)


def written(folder, **changes):
    """Write a job, and return its documents by kind and the lines for the user."""
    given = jobs(folder, **changes)
    LAUNCHER.check(given.options, dry_run=True)
    lines = LAUNCHER.write(given)
    documents = yaml.safe_load_all((given.folder / MANIFEST).read_text(encoding="utf-8"))
    return {each["kind"]: each for each in documents}, lines


def unknown_keys(document, model):
    """Return the paths of the keys that a model of the API does not have, which its own deserialisation ignores."""
    if model.startswith(("list[", "List[")):
        assert isinstance(document, list), (document, model)
        return [path for each in document for path in unknown_keys(each, model[5:-1])]
    if model.startswith(("dict[", "Dict[")):
        assert isinstance(document, dict), (document, model)
        assert all(isinstance(key, str) for key in document)
        kind = model[5:-1].split(", ")[1]
        return [path for each in document.values() for path in unknown_keys(each, kind)]
    if not hasattr(client, model):
        kinds = {"str": str, "int": int, "bool": bool}
        assert type(document) is kinds[model], (document, model)
        return []
    found = getattr(client, model)
    names = {key: attribute for attribute, key in found.attribute_map.items()}
    paths = [key for key in document if key not in names]
    for key in document:
        if key in names:
            paths += [f"{key}.{path}" for path in unknown_keys(document[key], found.openapi_types[names[key]])]
    return paths


def deserialised(document, model):
    """Return a document as an object of the official client, which checks required fields and enumerations."""
    return client.ApiClient()._ApiClient__deserialize(document, model)


def pod_of(documents):
    return documents["Job"]["spec"]["template"]["spec"]


def container_of(documents):
    (container,) = pod_of(documents)["containers"]
    return container


FULL = {
    **NEEDED, "cache_path": "/shared", "data_claim": "images", "data_path": "/images", "namespace": "lab",
    "secret": "study-secret", "gpus": "2", "cpu": "1500m", "memory": "16Gi", "node_selector": "example.org/gpu=a100",
    "user": "1234",
}  # fmt: skip


@pytest.mark.parametrize("options", [NEEDED, FULL])
def test_the_manifest_has_only_fields_of_the_api(tmp_path, options):
    documents, _ = written(tmp_path, options=options)
    assert list(documents) == ["ConfigMap", "Job"]
    for kind, model in MODELS.items():
        assert unknown_keys(documents[kind], model) == []
        again = client.ApiClient().sanitize_for_serialization(deserialised(documents[kind], model))
        assert again == documents[kind]


def test_a_misspelt_key_or_a_value_of_another_type_would_be_found(tmp_path):
    """The test above would be worth nothing if the models ignored both, as the client's deserialisation does."""
    documents, _ = written(tmp_path)
    container_of(documents)["volumeMount"] = container_of(documents).pop("volumeMounts")
    documents["Job"]["spec"]["backOffLimitPerIndex"] = 3
    assert unknown_keys(documents["Job"], "V1Job") == [
        "spec.backOffLimitPerIndex",
        "spec.template.spec.containers.volumeMount",
    ]
    documents["Job"]["spec"]["parallelism"] = "4"
    with pytest.raises(AssertionError, match="'4', 'int'"):
        unknown_keys(documents["Job"], "V1Job")


def test_each_worker_is_an_index_that_is_restarted_by_a_new_pod(tmp_path):
    spec = written(tmp_path)[0]["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 4
    assert spec["backoffLimitPerIndex"] > 0
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # demanded by backoffLimitPerIndex
    evicted, timed_out = spec["podFailurePolicy"]["rules"]
    assert (evicted["action"], evicted["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert (timed_out["action"], timed_out["onExitCodes"]["values"]) == ("FailIndex", [130])


@pytest.mark.parametrize(("index", "part"), [("0", []), ("1", ["--only", "trials"]), ("10", ["--only", "trials"])])
def test_the_first_pod_runs_the_whole_study_and_the_others_run_trials(tmp_path, index, part):
    """The real shell runs the script; only the program that it ends in is another one."""
    documents, _ = written(tmp_path)
    (tmp_path / "bhsearch").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "bhsearch").chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": index}
    done = subprocess.run(container_of(documents)["command"], env=variables, capture_output=True, text=True, check=True)
    mounted = next(each for each in container_of(documents)["volumeMounts"] if each["name"] == "settings")["mountPath"]
    words = ["run", "--config", f"{mounted}/settings.toml", "--trial-timeout", "600", *part]
    assert done.stdout.splitlines() == words


def test_the_settings_are_in_the_config_map_and_mounted(tmp_path):
    settings = {"study": 'a "b"\nc', "data": "/data/ä: #1", "trials": 7, "backbones": ["auto"], "seed": None}
    documents, _ = written(tmp_path, settings=settings)
    (text,) = documents["ConfigMap"]["data"].values()
    assert tomllib.loads(text) == {key: value for key, value in settings.items() if value is not None}
    volume = next(each for each in pod_of(documents)["volumes"] if each["name"] == "settings")
    assert volume["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]


def test_secrets_are_references_and_only_the_private_file_has_their_values(tmp_path):
    documents, lines = written(tmp_path)
    name = documents["Job"]["metadata"]["name"]
    container = container_of(documents)
    assert container["envFrom"] == [{"secretRef": {"name": name}}]
    storage = next(each for each in container["env"] if each["name"] == "BHSEARCH_STORAGE")
    assert storage["valueFrom"] == {"secretKeyRef": {"name": name, "key": "BHSEARCH_STORAGE"}}
    file = tmp_path / "jobs" / "mine" / SECRET_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert dict(line.split("=", 1) for line in file.read_text().splitlines()) == {
        "BHSEARCH_STORAGE": STORAGE,
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }
    assert STORAGE not in "\n".join([*lines, (file.parent / MANIFEST).read_text()])


def test_a_file_that_others_could_read_is_replaced_by_a_private_one(tmp_path):
    file = tmp_path / "jobs" / "mine" / SECRET_FILE
    other = tmp_path / "other"
    other.touch()
    file.parent.mkdir(parents=True)
    file.symlink_to(other)
    for _ in range(2):
        written(tmp_path)
        assert not file.is_symlink()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.chmod(0o644)
    assert other.read_text() == ""


def test_paths_of_this_machine_are_left_out_and_named(tmp_path):
    more = {"AWS_CA_BUNDLE": "/etc/ssl/ours.pem", "BHSEARCH_CACHE": "/home/ann/cache", "PGUSER": "ann"}
    documents, lines = written(tmp_path, variables={"BHSEARCH_STORAGE": STORAGE, **more})
    text = (tmp_path / "jobs" / "mine" / SECRET_FILE).read_text()
    assert "PGUSER=ann\n" in text
    assert "/etc/ssl" not in text
    assert "/home/ann" not in text
    said = "Not in the Secret, because they name paths or proxies of this machine only: AWS_CA_BUNDLE."
    assert lines[-1] == said
    plain = {each["name"]: each["value"] for each in container_of(documents)["env"] if "value" in each}
    assert plain["BHSEARCH_CACHE"].startswith("/cache/")
    assert plain["BHSEARCH_OUTBOX"].startswith("/cache/")  # so that finished trials survive a pod


@pytest.mark.parametrize("value", ["/abc+def", "~abc"])
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "PGPASSWORD", "HF_TOKEN"])
def test_a_secret_that_looks_like_a_path_is_kept(tmp_path, name, value):
    _, lines = written(tmp_path, variables={"BHSEARCH_STORAGE": STORAGE, name: value})
    assert f"{name}={value}\n" in (tmp_path / "jobs" / "mine" / SECRET_FILE).read_text()
    assert "Not in the Secret" not in "\n".join(lines)


@pytest.mark.parametrize(
    "name", ["PGPASSFILE", "PGSSLKEY", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "HF_TOKEN_PATH"]
)
def test_a_path_of_a_secret_is_a_path(tmp_path, name):
    _, lines = written(tmp_path, variables={"BHSEARCH_STORAGE": STORAGE, name: "/home/ann/file"})
    assert "/home/ann" not in (tmp_path / "jobs" / "mine" / SECRET_FILE).read_text()
    assert lines[-1].endswith(f": {name}.")


@pytest.mark.parametrize(
    ("name", "value", "is_kept"),
    [
        ("https_proxy", "http://proxy.example.org:3128", True),
        ("HTTPS_PROXY", "http://localhost:3128", False),
        ("http_proxy", "127.0.0.1:3128", False),
        ("no_proxy", "localhost", True),
    ],
)
def test_a_proxy_of_this_machine_is_left_out(tmp_path, name, value, is_kept):
    written(tmp_path, variables={"BHSEARCH_STORAGE": STORAGE, name: value})
    assert (f"{name}={value}\n" in (tmp_path / "jobs" / "mine" / SECRET_FILE).read_text()) == is_kept


def test_git_adds_no_secret(tmp_path):
    written(tmp_path)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    added = subprocess.run(["git", "-C", tmp_path, "ls-files"], check=True, capture_output=True, text=True).stdout
    assert added.splitlines() == ["jobs/mine/.gitignore", "jobs/mine/job.yaml"]
    assert stat.S_IMODE((tmp_path / "jobs" / "mine").stat().st_mode) == 0o700


@pytest.mark.skipif(not shutil.which("kubectl"), reason="needs kubectl, but no cluster")
def test_kubectl_reads_the_secret_from_its_file(tmp_path):
    variables = {
        "BHSEARCH_STORAGE": STORAGE,
        "PGPASSWORD": "/a#b=c 'd' $e",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
    }
    _, lines = written(tmp_path, variables=variables, options={**NEEDED, "namespace": "lab"})
    (line,) = [line for line in lines if line.startswith("kubectl create secret")]
    create, pipe, apply = line.partition(" | ")
    assert pipe + apply == " | kubectl apply -f -"
    done = subprocess.run(shlex.split(create), capture_output=True, text=True, check=True)
    secret = yaml.safe_load(done.stdout)
    assert secret["metadata"]["namespace"] == "lab"
    assert {name: b64decode(value).decode() for name, value in secret["data"].items()} == variables


@pytest.mark.parametrize(
    ("n_workers", "said"),
    [
        (1, "The job has 1 pod, a worker that also ranks the trials."),
        (2, "The job has 2 pods, each a worker; pod 0 also ranks the trials."),
    ],
)
def test_the_number_of_pods_is_said(tmp_path, n_workers, said):
    assert written(tmp_path, n_workers=n_workers)[1][0] == said


def test_a_variable_of_several_lines_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="MLFLOW_NOTE has several lines"):
        written(tmp_path, variables={"BHSEARCH_STORAGE": STORAGE, "MLFLOW_NOTE": "a\nb"})


def test_the_options_are_in_the_manifest(tmp_path):
    documents, lines = written(tmp_path, options=FULL)
    pod, container = pod_of(documents), container_of(documents)
    assert container["image"] == NEEDED["image"]
    limits = {"cpu": "1500m", "memory": "16Gi", "nvidia.com/gpu": "2"}
    assert container["resources"] == {"limits": limits, "requests": limits}
    assert pod["nodeSelector"] == {"example.org/gpu": "a100"}
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 1234
    assert {each["metadata"]["namespace"] for each in documents.values()} == {"lab"}
    mounts = {each["name"]: each for each in container["volumeMounts"]}
    assert mounts["data"] == {"name": "data", "mountPath": "/images", "readOnly": True}
    assert mounts["cache"]["mountPath"] == "/shared"
    claims = {each["name"]: each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["volumes"]}
    assert (claims["data"], claims["cache"]) == ("images", "cache")
    assert {each["name"] for each in pod["volumes"]} == set(mounts)
    create, submit, logs = (shlex.split(line) for line in lines if line.startswith("kubectl"))
    assert create[1:5] == ["create", "secret", "generic", "study-secret"]
    assert create[6:8] == logs[-2:] == ["--namespace", "lab"]
    assert submit[1:4] == ["replace", "--force", "-f"]  # also if the job exists, whose template cannot be changed
    assert Path(submit[4]).is_file()


def test_without_limits_and_data_claim_there_are_none(tmp_path):
    documents, _ = written(tmp_path)
    assert "resources" not in container_of(documents)
    assert {each["name"] for each in pod_of(documents)["volumes"]} == {"settings", "work", "cache"}


STUDIES = ["mine", "Mine", "MINE", "a_b", "a-b", "a b", "a.b", "x" * 300, "x" * 301, "-", "é", "1", "bhsearch-mine"]


def test_names_of_jobs_are_labels_and_differ_between_studies():
    names = [job_name(study) for study in STUDIES]
    assert len(set(names)) == len(STUDIES)
    for name in names:
        assert LABEL.fullmatch(f"{name}-99999")
        assert len(f"{name}-99999") <= 63
        assert name == job_name(STUDIES[names.index(name)])


@pytest.mark.parametrize("text", ["1e3", "y", "no", "0x10", "null", "2026-01-01", "a: b", "# c", "true", "1_000"])
def test_text_that_looks_like_another_type_stays_text(tmp_path, text):
    documents, _ = written(tmp_path, study=text)
    assert documents["Job"]["metadata"]["annotations"] == {"bhsearch/study": text}
    raw = (tmp_path / "jobs" / "mine" / MANIFEST).read_text()
    assert re.search(rf"bhsearch/study: [\"']{re.escape(text)}[\"']\n", raw)  # YAML 1.1 and 1.2 read quotes alike


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "requires an image that contains bhsearch"),
        ({"cache_claim": None}, "requires a PersistentVolumeClaim that all pods can write"),
        ({"imgae": "x"}, r"has the options image, .*, but got --launcher-option imgae=x\."),
        ({"gpus": "0.5"}, r"gpus must be a whole number of GPUs for each pod, such as 1, but got '0\.5'"),
        ({"gpus": "-1"}, "gpus must be a whole number"),
        ({"gpus": "two"}, "gpus must be a whole number"),
        ({"gpus": "٣"}, "gpus must be a whole number"),
        ({"cpu": "0"}, "cpu must be a number of CPUs such as 4"),
        ({"cpu": "4 cores"}, "cpu must be a number"),
        ({"memory": "16GB"}, "memory must be an amount of memory such as 16Gi"),
        ({"memory": "0Gi"}, "memory must be an amount"),
        ({"namespace": "My_lab"}, "namespace must be a name of lower-case letters"),
        ({"namespace": "x" * 64}, "namespace must be a name"),
        ({"secret": "a_b"}, "secret must be a name"),
        ({"cache_claim": ""}, "cache_claim must be a name"),
        ({"data_claim": "A"}, "data_claim must be a name"),
        ({"cache_path": "cache"}, "cache_path must be an absolute path"),
        ({"data_claim": "a", "data_path": "/cache"}, "data_path and cache_path must differ, but both are /cache"),
        ({"data_path": "/x"}, "data_path requires data_claim=NAME"),
        ({"node_selector": "gpu"}, "node_selector must be a label of nodes"),
        ({"user": "0"}, "user must be the numeric id of a user other than root"),
        ({"user": "ann"}, "user must be the numeric id"),
        ({"image": "a b"}, "image must be an image"),
    ],
)
def test_wrong_options_are_refused(changes, message):
    options = {name: value for name, value in {**NEEDED, **changes}.items() if value is not None}
    with pytest.raises(SettingsError, match=message):
        LAUNCHER.check(options, dry_run=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", "images"),
        ("data", "phantoms/images"),
        ("weights_dir", "weights"),
        ("image_root", "../images"),
        ("features", ["/data/a.h5", "b.h5"]),
        ("backbones", ["auto", "models/encoder.onnx"]),
    ],
)
def test_relative_paths_are_refused_and_nothing_is_written(tmp_path, key, value):
    settings = {**jobs(tmp_path).settings, key: value}
    with pytest.raises(SettingsError, match=f"--{key.replace('_', '-')} must be an absolute path in the pods"):
        written(tmp_path, settings=settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["s.log", "~/s.log", "/s.log", "/cache", "/cachet/s.log", "/cache/../s.log", "/data/s.log"]
)
def test_a_journal_that_pods_do_not_share_is_refused_and_nothing_is_written(tmp_path, path):
    options = {**NEEDED, "data_claim": "images"}  # which is mounted read-only
    with pytest.raises(SettingsError, match=rf"must be below /cache, .*, but got 'journal:{re.escape(path)}'"):
        written(tmp_path, variables={"BHSEARCH_STORAGE": f"journal:{path}"}, options=options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cache_path", "path"), [("/cache", "/cache/s.log"), ("/a/b/", "/a/b/c/s.log"), ("/a", "/a/./b//s")]
)
def test_a_journal_on_the_cache_claim_is_allowed(tmp_path, cache_path, path):
    options = {**NEEDED, "cache_path": cache_path}
    assert "Job" in written(tmp_path, variables={"BHSEARCH_STORAGE": f"journal:{path}"}, options=options)[0]


def test_names_that_are_no_paths_are_allowed(tmp_path):
    settings = {
        **jobs(tmp_path).settings,
        "data": "phantom:cases=24",
        "backbones": ["hf://owner/name", "/models/a.onnx"],
    }
    assert "Job" in written(tmp_path, settings=settings)[0]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "jobs").write_text("a file")
    with pytest.raises(SettingsError, match="Cannot write the files of the job in"):
        written(tmp_path)
