"""The launcher `kubernetes`, which writes the manifest of an indexed Job and submits nothing itself.

Each pod of the Job is a worker. The pod with index 0 goes on after the last trial, and ranks the trials. All pods share
one claim for the cache, where features are computed once, and for the outbox, so that finished trials which MLflow does
not have yet survive a pod. Kubernetes gives the pods of an index the same host name, `<job>-<index>`: a replacement
therefore sees at once that the process before it has ended, retries its trial and sends its finished trials.

No value of an environment variable is in the manifest, because some are secret. The pods read them from a Secret, which
the user creates from a file with mode 0600.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from bhsearch.config import TRIALS
from bhsearch.config.loading import to_toml
from bhsearch.data.open_data import is_phantom
from bhsearch.engines.optuna.storages.url import journal_file
from bhsearch.errors import SettingsError
from bhsearch.runtime.environment import write_private
from bhsearch.runtime.hosts import is_loopback
from bhsearch.study.workers.launchers.jobs import (
    STORAGE_VARIABLE,
    TIME_IS_UP,
    Placement,
    StudyJobs,
    is_proxy,
    make_private_folder,
    may_be_secret,
)
from bhsearch.tracking.store_uri import host_of

MANIFEST, SECRET_FILE = "job.yaml", "secret.env"
_CONFIG_FOLDER, _CONFIG_FILE, _WORK_FOLDER = "/etc/bhsearch", "settings.toml", "/work"
_RETRIES = 5  # restarts of an index after failures; Kubernetes waits 10 s before the first, and twice as long each time
_GRACE_SECONDS = 120  # a worker ends its trial and logs its outbox; the pod with index 0 also ranks the trials
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?"
_SELECTOR = re.compile(rf"{_QUALIFIED}=([A-Za-z0-9]([-\w.]{{0,61}}[A-Za-z0-9])?)?", re.ASCII)
_NAME = "a name of lower-case letters, digits and -"
# Pattern of each option's values, and what the values are.
_OPTIONS: dict[str, tuple[re.Pattern[str], str]] = {
    "image": (re.compile(r"[\w./:@-]+", re.ASCII), "an image such as registry.example.org/bhsearch:1"),
    "cache_claim": (_SUBDOMAIN, _NAME),
    "cache_path": (re.compile(r"/[^:\s]+"), "an absolute path in the pods, such as /cache"),
    "data_claim": (_SUBDOMAIN, _NAME),
    "data_path": (re.compile(r"/[^:\s]+"), "an absolute path in the pods, such as /data"),
    "namespace": (_LABEL, _NAME),
    "secret": (_SUBDOMAIN, _NAME),
    "gpus": (re.compile(r"\d{1,3}", re.ASCII), "a whole number of GPUs for each pod, such as 1"),
    "cpu": (re.compile(r"(?=.*[1-9])\d+(\.\d+)?m?", re.ASCII), "a number of CPUs such as 4, 0.5 or 500m"),
    "memory": (re.compile(r"(?=.*[1-9])\d+(\.\d+)?([KMGT]i|[kMGT])?", re.ASCII), "an amount of memory such as 16Gi"),
    "node_selector": (_SELECTOR, "a label of nodes such as node_selector=accelerator=a100"),
    "user": (re.compile(r"[1-9]\d{0,8}", re.ASCII), "the numeric id of a user other than root, such as 10001"),
}
_REQUIRED = {
    "image": "an image that contains bhsearch, such as --launcher-option image=registry.example.org/bhsearch:1",
    "cache_claim": "a PersistentVolumeClaim that all pods can write, such as --launcher-option cache_claim=cache",
}
_DEFAULTS = {"cache_path": "/cache", "data_path": "/data", "gpus": "0", "user": "10001"}
_PATHS = ("data", "weights_dir", "image_root", "features", "backbones")  # settings that name paths in the pods


class KubernetesLauncher:
    """A launcher that writes a ConfigMap and an indexed Job; see `ClusterLauncher`."""

    concludes = True
    only_renders = True

    def check(self, options: Mapping[str, str], *, dry_run: bool) -> None:  # noqa: ARG002  # see `ClusterLauncher`
        """Check the options; see `ClusterLauncher`."""
        for name, value in options.items():
            if name not in _OPTIONS:
                raise SettingsError(
                    f"--launcher kubernetes has the options {', '.join(_OPTIONS)}, but got --launcher-option "
                    f"{name}={value}."
                )
            pattern, what = _OPTIONS[name]
            if not pattern.fullmatch(value):
                raise SettingsError(f"--launcher-option {name} must be {what}, but got {value!r}.")
        for name, what in _REQUIRED.items():
            if name not in options:
                raise SettingsError(f"--launcher kubernetes requires {what}.")
        if "data_path" in options and "data_claim" not in options:
            raise SettingsError(
                "--launcher-option data_path requires data_claim=NAME, the claim that is mounted there."
            )
        given = {**_DEFAULTS, **options}
        if "data_claim" in options and Path(given["data_path"]) == Path(given["cache_path"]):
            raise SettingsError(
                f"--launcher-option data_path and cache_path must differ, but both are {given['cache_path']}."
            )

    def write(self, jobs: StudyJobs) -> Sequence[str]:
        """Write the manifest and the file of the Secret, and return the `kubectl` lines; see `ClusterLauncher`."""
        _require_paths_of_pods(jobs.settings)
        _require_shared_journal(jobs)
        kept = {name: value for name, value in jobs.variables.items() if not _is_of_this_machine(name, value)}
        secret = "".join(f"{name}={_one_line(name, value)}\n" for name, value in kept.items())
        manifest = "---\n".join(
            yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=1000) for each in _documents(jobs)
        )
        try:
            make_private_folder(jobs.folder, [SECRET_FILE])
            (jobs.folder / MANIFEST).write_text(manifest, encoding="utf-8")
            write_private(jobs.folder / SECRET_FILE, secret)
        except OSError as error:
            raise SettingsError(f"Cannot write the files of the job in {jobs.folder}: {error.strerror}.") from error
        return _lines(jobs, [name for name in jobs.variables if name not in kept and name not in _places(_DEFAULTS)])

    def submit(self, jobs: StudyJobs) -> Placement:
        """Raise an error: `--dry-run` is required before."""
        raise NotImplementedError("This launcher only renders.")


def job_name(study: str) -> str:
    """Return the name of a study's Job: a DNS label that differs between studies.

    It has at most 48 characters, so that the host names of the pods, `<name>-<index>`, are DNS labels, too.
    """
    word = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:30].strip("-")
    return "-".join(filter(None, ["bhsearch", word, hashlib.sha256(study.encode()).hexdigest()[:8]]))


def _documents(jobs: StudyJobs) -> list[dict[str, Any]]:
    """Return the ConfigMap and the Job."""
    options = {**_DEFAULTS, **jobs.options}
    name = job_name(jobs.study)
    metadata: dict[str, Any] = {"name": name, "labels": {"app.kubernetes.io/name": "bhsearch"}}
    if "namespace" in options:
        metadata["namespace"] = options["namespace"]
    metadata["annotations"] = {"bhsearch/study": jobs.study}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    spec = {
        "completionMode": "Indexed",
        "completions": jobs.n_workers,
        "parallelism": jobs.n_workers,
        # Failures are counted by index, so that one bad node does not end the study. This requires `restartPolicy:
        # Never`: a failed pod is replaced by a new one, perhaps on another node.
        "backoffLimitPerIndex": _RETRIES,
        "podFailurePolicy": {
            "rules": [
                # Evictions, preemptions and drained nodes do not count as failures.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                # A replacement would be given the time of `--timeout` anew.
                {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [TIME_IS_UP]}},
            ]
        },
        "template": {"metadata": {"labels": metadata["labels"]}, "spec": _pod(jobs, name, options)},
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    return [{**config, "data": {_CONFIG_FILE: to_toml(jobs.settings)}}, job]


def _pod(jobs: StudyJobs, name: str, options: Mapping[str, str]) -> dict[str, Any]:
    secret = options.get("secret", name)
    storage = {"secretKeyRef": {"name": secret, "key": STORAGE_VARIABLE}}  # a pod without it does not start
    mounts = [
        {"name": "settings", "mountPath": _CONFIG_FOLDER, "readOnly": True},
        {"name": "work", "mountPath": _WORK_FOLDER},
        {"name": "cache", "mountPath": options["cache_path"]},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "settings", "configMap": {"name": name}},
        {"name": "work", "emptyDir": {}},
        {"name": "cache", "persistentVolumeClaim": {"claimName": options["cache_claim"]}},
    ]
    if "data_claim" in options:
        mounts.append({"name": "data", "mountPath": options["data_path"], "readOnly": True})
        volumes.append(
            {"name": "data", "persistentVolumeClaim": {"claimName": options["data_claim"], "readOnly": True}}
        )
    container: dict[str, Any] = {
        "name": "bhsearch",
        "image": options["image"],
        "command": ["/bin/sh", "-c", _script(jobs)],
        "workingDir": _WORK_FOLDER,
        "envFrom": [{"secretRef": {"name": secret}}],
        "env": [
            {"name": STORAGE_VARIABLE, "valueFrom": storage},
            *({"name": key, "value": value} for key, value in _places(options).items()),
        ],
        "volumeMounts": mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    limits = {key: options[key] for key in ("cpu", "memory") if key in options}
    if int(options["gpus"]):
        limits["nvidia.com/gpu"] = str(int(options["gpus"]))
    if limits:
        container["resources"] = {"limits": limits, "requests": limits}
    user = int(options["user"])
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a Service `mlflow` would set MLFLOW_PORT and the like
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if "node_selector" in options:
        key, _, value = options["node_selector"].partition("=")
        pod["nodeSelector"] = {key: value}
    return pod


def _places(options: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that name folders in the pods."""
    root = options["cache_path"].rstrip("/")
    return {"BHSEARCH_CACHE": f"{root}/cache", "BHSEARCH_OUTBOX": f"{root}/outbox", "HOME": _WORK_FOLDER}


def _script(jobs: StudyJobs) -> str:
    """Return the shell script of a pod: index 0 does all parts of the study, the others only trials."""
    command = ["bhsearch", "run", "--config", f"{_CONFIG_FOLDER}/{_CONFIG_FILE}", *jobs.worker_options]
    return f'[ "$JOB_COMPLETION_INDEX" = 0 ] || set -- --only {TRIALS}\nexec {shlex.join(command)} "$@"\n'


def _lines(jobs: StudyJobs, left_out: Sequence[str]) -> list[str]:
    options, name = jobs.options, job_name(jobs.study)
    namespace = ["--namespace", options["namespace"]] if "namespace" in options else []
    manifest, secret = (_shown(jobs.folder / file) for file in (MANIFEST, SECRET_FILE))
    create = ["create", "secret", "generic", options.get("secret", name), f"--from-env-file={secret}"]
    several = f"The job has {jobs.n_workers} pods, each a worker; pod 0 also ranks the trials."
    lines = [
        "The job has 1 pod, a worker that also ranks the trials." if jobs.n_workers == 1 else several,
        "Create the Secret, submit the job, and watch it. Repeating these lines ends a job of this study that is still "
        "running, and starts it again; finished trials are kept.",
        # `create` alone fails if the Secret exists, and `apply` if the job does: its template cannot be changed.
        shlex.join(["kubectl", *create, *namespace, "--dry-run=client", "-o", "yaml"]) + " | kubectl apply -f -",
        shlex.join(["kubectl", "replace", "--force", "-f", manifest]),
        shlex.join(["kubectl", "logs", "-f", "-l", f"job-name={name}", "--prefix", *_requests(jobs), *namespace]),
        f"{secret} contains the storage and its password; delete it when the Secret exists.",
    ]
    if left_out:
        lines.append(
            f"Not in the Secret, because they name paths or proxies of this machine only: {', '.join(left_out)}."
        )
    return lines


def _requests(jobs: StudyJobs) -> list[str]:
    """Return the option without which `kubectl logs` follows at most 5 pods."""
    return ["--max-log-requests", str(jobs.n_workers)] if jobs.n_workers > 5 else []


def _shown(file: Path) -> str:
    """Return a path as short as possible: relative if it is below the working directory."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _require_paths_of_pods(settings: Mapping[str, Any]) -> None:
    """Check that settings name absolute paths, since the working directory of a pod is empty.

    Raises:
        SettingsError: If one is relative.
    """
    for key in _PATHS:
        values = settings.get(key) or []
        for value in [values] if isinstance(values, str) else values:
            is_name = (key == "data" and is_phantom(value)) or (key == "backbones" and not _is_relative_path(value))
            if not (is_name or value.startswith("/")):
                raise SettingsError(
                    f"With --launcher kubernetes, --{key.replace('_', '-')} must be an absolute path in the pods, such "
                    f"as /data/images, but got {value!r}."
                )


def _require_shared_journal(jobs: StudyJobs) -> None:
    """Check that a journal is on the cache claim, the only folder of a pod that others share and that it can write.

    Raises:
        SettingsError: If each pod would have a journal of its own.
    """
    file = journal_file(jobs.variables[STORAGE_VARIABLE])
    root = {**_DEFAULTS, **jobs.options}["cache_path"]
    if file is None or PurePosixPath(root) in PurePosixPath(posixpath.normpath(file)).parents:
        return
    raise SettingsError(
        f"With --launcher kubernetes, the journal of --storage must be below {root}, where all pods share the cache "
        f"claim, such as journal:{root.rstrip('/')}/studies.log, but got 'journal:{file}'."
    )


def _is_relative_path(backbone: str) -> bool:
    return "/" in backbone and not backbone.startswith(("/", "hf://"))


def _is_of_this_machine(name: str, value: str) -> bool:
    """Return whether a variable names a path or a proxy of this machine, which a pod would not find.

    A secret value may begin like a path.
    """
    if is_proxy(name):
        return name.lower() != "no_proxy" and is_loopback(host_of(value if "//" in value else f"//{value}"))
    is_value = may_be_secret(name) and not name.endswith(("FILE", "PATH")) and name != "PGSSLKEY"
    return not is_value and value.startswith(("/", "~"))


def _one_line(name: str, value: str) -> str:
    """Return a value for a file of `kubectl create secret --from-env-file`.

    Raises:
        SettingsError: If it has several lines, which the file cannot contain.
    """
    if len(value.splitlines()) > 1:
        raise SettingsError(f"The environment variable {name} has several lines, which a Secret's file cannot contain.")
    return value


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """A dumper whose text every YAML parser reads as text, and that writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML would leave 1e3, y and the like bare, which kubectl reads as a number and a truth value.
    plain = re.fullmatch(r"[A-Za-z/][\w./@-]+", text, re.ASCII)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None if plain else '"')


_Dumper.add_representer(str, _text)
LAUNCHER = KubernetesLauncher()
