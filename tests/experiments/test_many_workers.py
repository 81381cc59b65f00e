"""Small cells with real workers, storages and servers; `experiments/benchmarks/many-workers.md` has larger ones."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil
import pytest

from bhsearch.errors import MissingError
from experiments.benchmarks.many_workers import __main__ as many_workers
from experiments.benchmarks.many_workers.servers import postgres


@pytest.mark.slow
def test_workers_that_sleep_share_a_journal_and_every_second_is_in_a_part(tmp_path, capfd):
    output = tmp_path / "table.md"
    words = ["--quick", "--tracking", "off", "--storages", "journal", "--output", str(output)]
    ((cell, found),) = many_workers.main(words)
    assert (cell.workers, cell.trials, found.n_completed) == (2, 6, 6)
    assert found.search >= 3 * 0.2
    assert math.isnan(found.tracked)
    assert 0.2 <= found.parts["sleep"] < found.parts["total"] <= 2 * found.search / found.n_completed + 0.01
    assert all(found.parts[part] >= 0.0 for part in ("lock", "read", "ask", "end", "else"))
    assert found.parts["ask"] > 0.0
    assert found.processor["worker"] > 0.0
    row = f"| journal, no tracking | 2 | 0.2 | 6 | {0.6 / found.search:.2f} |"
    assert row in output.read_text()
    assert row in capfd.readouterr().out
    assert psutil.Process().children() == []


def test_a_server_of_the_benchmark_ends_with_it_and_leaves_no_files():
    try:
        with postgres() as server:
            assert server.url() != server.url()
            folder = Path(server.process.cwd())
            assert server.n_connections() <= 1
    except MissingError as error:
        pytest.skip(str(error))
    assert not server.process.is_running()
    assert not folder.exists()


def test_an_unknown_storage_is_refused_before_anything_is_started(capsys):
    with pytest.raises(SystemExit) as caught:
        many_workers.main(["--quick", "--storages", "journal,oracle"])
    assert caught.value.code == 2
    assert "--storages must be among postgresql, journal, but got oracle." in capsys.readouterr().err
    assert os.environ.get("MLFLOW_TRACKING_URI", "").find("127.0.0.1") == -1
