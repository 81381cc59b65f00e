"""Interrupts are raised where they are allowed and deferred elsewhere.

Each test uses a process of its own, because signals would affect the test runner.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from bhsearch.runtime.interrupts import Interrupts

HEAD = """
import signal, sys, threading
from bhsearch.runtime.interrupts import deferred

number = int(sys.argv[1])
signal.signal(number, signal.default_int_handler)
"""
CASES = {
    "the first is remembered, and raised where it is allowed": """
with deferred() as interrupts:
    assert not interrupts.asked
    signal.raise_signal(number)
    assert interrupts.asked
    try:
        with interrupts.allowed():
            print("not interrupted")
    except KeyboardInterrupt:
        print("interrupted")
assert signal.getsignal(number) is signal.default_int_handler
""",
    "it is raised at once where it is allowed": """
with deferred() as interrupts:
    try:
        with interrupts.allowed():
            signal.raise_signal(number)
            print("not interrupted")
    except KeyboardInterrupt:
        assert interrupts.asked
        print("interrupted")
""",
    "a second is raised wherever it comes": """
with deferred() as interrupts:
    signal.raise_signal(number)
    try:
        signal.raise_signal(number)
        print("not interrupted")
    except KeyboardInterrupt:
        print("interrupted")
""",
    "what is ignored stays ignored": """
signal.signal(number, signal.SIG_IGN)
with deferred() as interrupts:
    signal.raise_signal(number)
assert signal.getsignal(number) is signal.SIG_IGN
print("not interrupted" if interrupts.asked else "interrupted")
""",
    "in another thread nothing changes": """
def work():
    with deferred():
        print("interrupted" if signal.getsignal(number) is signal.default_int_handler else "not interrupted")

thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("number", [2, 15])
@pytest.mark.parametrize("case", CASES)
def test_signals(case, number):
    end = subprocess.run(
        [sys.executable, "-c", HEAD + CASES[case], str(number)], capture_output=True, text=True, check=False
    )
    assert (end.stdout, end.returncode) == ("interrupted\n", 0), end.stderr


def test_what_is_allowed_is_over_when_it_is_left():
    interrupts = Interrupts()
    with interrupts.allowed():
        pass
    interrupts.ask()
    assert interrupts.asked
