"""Workers that share a GPU: their number, their share of the memory, and when another one is added."""

import pytest

from bhsearch.config import Settings
from bhsearch.errors import SettingsError
from bhsearch.study.workers.gpus import WorkerGrowth, gpu_variables, memory_variables, visible_gpus
from bhsearch.study.workers.pool import n_workers

MEMORY = (
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "TF_FORCE_GPU_ALLOW_GROWTH",
)


@pytest.mark.parametrize(
    ("visible", "given", "number"),
    [
        ("0", {"workers_per_gpu": "3"}, 3),
        ("0,1", {"workers_per_gpu": "3"}, 6),
        ("0,1", {"workers_per_gpu": "auto"}, 2),
        ("0,1", {"workers_per_gpu": "3", "engine": "keras-tuner"}, 1),
    ],
)
def test_each_gpu_has_its_workers(monkeypatch, visible, given, number):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert n_workers(Settings(**given)) == number


@pytest.mark.parametrize("files", [["nvidia4", "nvidia5"], ["nvidia10", "nvidia9"], ["nvidia0", "nvidia1"]])
def test_gpus_are_counted_from_0_whatever_their_device_files_are_called(tmp_path, monkeypatch, files):
    """In a container, which has some of the GPUs of its machine, CUDA counts these only."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in (*files, "nvidiactl", "nvidia-uvm", "nvidia-modeset", "null"):
        (tmp_path / name).touch()
    assert visible_gpus(tmp_path) == ["0", "1"]


def test_without_device_files_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidiactl").touch()
    assert visible_gpus(tmp_path) == []


@pytest.mark.parametrize(
    ("named", "gpus"),
    [
        ("2,0", ["2", "0"]),
        ("GPU-8932f937-d72c, MIG-GPU-8932/1/2", ["GPU-8932f937-d72c", "MIG-GPU-8932/1/2"]),
        ("NoDevFiles", []),  # SLURM's word for a job without GPUs
        ("none", []),
        ("0,-1,1", ["0"]),
        ("", []),
    ],
)
def test_gpus_are_those_that_cuda_takes_from_the_variable(tmp_path, monkeypatch, named, gpus):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus(tmp_path) == gpus


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_two_numbers_of_workers_are_refused_together(monkeypatch, workers):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SettingsError, match=rf"but got --workers {workers} and --workers-per-gpu auto\. Remove one"):
        n_workers(Settings(workers=workers, workers_per_gpu="auto"))
    assert n_workers(Settings(workers=workers)) == workers


@pytest.mark.parametrize("value", ["auto", "2"])
def test_without_a_gpu_the_option_is_refused(monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SettingsError, match=f"--workers-per-gpu {value} requires a GPU, but none.*--workers"):
        n_workers(Settings(workers_per_gpu=value))


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "True", "١"])
def test_the_number_is_checked(value):
    with pytest.raises(SettingsError, match="--workers-per-gpu must be auto or a whole number"):
        Settings(workers_per_gpu=value)


@pytest.fixture
def unset(monkeypatch):
    for name in MEMORY:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("unset")
def test_workers_are_spread_over_the_gpus_and_share_their_memory():
    assert gpu_variables(0, [], 4, grows=False) == {}
    assert gpu_variables(0, ["0"], 1, grows=False) == {}
    assert [gpu_variables(slot, ["5", "7"], 2, grows=False)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["5", "7"]
    several = [gpu_variables(slot, ["5", "7"], 5, grows=False) for slot in range(5)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in several] == ["5", "7", "5", "7", "5"]
    shares = [float(each["XLA_PYTHON_CLIENT_MEM_FRACTION"]) for each in several]
    assert sum(shares[::2]) <= 0.9, "the three workers of one GPU reserve more than it has"
    assert gpu_variables(0, ["0"], 1, grows=True)["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"


@pytest.mark.usefixtures("unset")
def test_the_memory_that_the_user_has_set_stays(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.123")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    kept = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.123", "TF_FORCE_GPU_ALLOW_GROWTH": "false"}
    assert gpu_variables(0, ["0"], 2, grows=False) == memory_variables(0.5) == kept
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    assert gpu_variables(0, ["0"], 1, grows=True)["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


@pytest.mark.usefixtures("unset")
def test_the_other_name_of_the_share_is_not_contradicted(monkeypatch):
    """JAX refuses to have both."""
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.2")
    assert memory_variables(0.5) == {"XLA_CLIENT_MEM_FRACTION": "0.2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def grown(rate_of, n_gpus=1, n_trials=2000):
    """Numbers of workers over a search whose trials a minute depend on their number only."""
    growth, now, numbers = WorkerGrowth(n_gpus), 0.0, []
    for _ in range(n_trials):
        now += 60 / rate_of(growth.n_workers)
        growth.finished(now)
        numbers.append(growth.n_workers)
    return numbers


def test_workers_are_added_while_each_gives_ten_percent_more_trials():
    assert grown(lambda n: 10.0)[-1] == 2, "the second one gave nothing, so that there is no third"
    assert grown(lambda n: 10.0 * min(n, 3))[-1] == 4, "three fill the GPU, and the fourth shows it"
    assert grown(lambda n: 10.0 * n)[-1] == 8, "the most"
    assert grown(lambda n: 10.0 * min(n, 4), n_gpus=2)[-1] == 6, "one more for each of two GPUs at a time"
    assert grown(lambda n: 10.0 * 1.09**n)[-1] == 2
    assert grown(lambda n: 10.0 * 1.12**n)[-1] == 8


def test_the_first_trials_of_new_workers_which_compile_do_not_count():
    growth, now = WorkerGrowth(1), 0.0
    since_added = 0
    for _ in range(2000):
        since_added += 1
        now += 500.0 if since_added <= growth.n_workers else 6.0 / min(growth.n_workers, 3)
        since_added = 0 if growth.finished(now) else since_added
    assert growth.n_workers == 4
