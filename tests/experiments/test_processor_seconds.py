"""One small study of each kind; `experiments/benchmarks/processor-seconds.md` has larger ones."""

from __future__ import annotations

import sys

import pytest

from bhsearch.runtime.processes import python_command
from tests.experiments.test_experiments import load


@pytest.fixture(scope="module")
def measuring():
    return load("processor_seconds")


@pytest.mark.slow
def test_every_process_of_a_study_is_known_and_counted(measuring, capsys):
    words = ["--data", "phantom:cases=24,images=2", "--trials", "2", "--image-size", "48", "--backbones", "staintex-s"]
    cold, warm = (studies[0].processor for studies in measuring.main([*words, "--rounds", "1"]))
    for found in (cold, warm):
        assert {"command", "worker", "uploader"} <= set(found)
        parts = sum(seconds for kind, seconds in found.items() if kind != measuring.ALL)
        assert 0.8 * found[measuring.ALL] < parts <= 1.05 * found[measuring.ALL]
    assert "conversion of backbones" in cold
    assert "conversion of backbones" not in warm
    assert f"| processor, worker | {cold['worker']:.1f} | {warm['worker']:.1f} |" in capsys.readouterr().out


def test_a_process_is_known_by_its_module(measuring):
    for module, kind in measuring.PROCESSES.items():
        assert measuring.kind_of(python_command(module, "argument")) == kind
    assert measuring.kind_of([sys.executable, "-c", "pass"]) == measuring.OTHER
