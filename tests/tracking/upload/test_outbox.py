"""The outbox: what lies in it is whole, and goes out only when the engine knows of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bhsearch.errors import InputError, PlaceError
from bhsearch.tracking.upload import outbox as module
from bhsearch.tracking.upload.outbox import Outbox

ARRAYS = {"probability": np.array([[0.25, 0.5]], np.float32), "label": np.array([0, 1], np.int8)}


@pytest.fixture
def box(tmp_path) -> Outbox:
    return Outbox(tmp_path / "outbox" / "uid")


def names(box: Outbox) -> list[str]:
    return sorted(path.name for path in box.folder.iterdir())


def test_a_message_comes_back_as_it_was(box):
    box.put(7, {"number": 7, "params": {"rate": 0.1}}, ARRAYS)
    box.release(7)
    message = box.trial(7)
    assert message.record == {"number": 7, "params": {"rate": 0.1}}
    for name, array in ARRAYS.items():
        assert message.arrays[name].dtype == array.dtype
        assert message.arrays[name].tobytes() == array.tobytes()


@given(score=st.floats(allow_nan=False, allow_infinity=False), text=st.text())
def test_numbers_and_words_survive(tmp_path_factory, score, text):
    """The engine is told the score from here after a kill: it must be the same number."""
    box = Outbox(tmp_path_factory.mktemp("box"))
    box.put(0, {"score": score, "reason": text}, {})
    assert box.held()[0] == {"score": score, "reason": text}


def test_a_trial_that_was_put_is_held_until_it_is_released(box):
    box.put(3, {"number": 3}, {})
    assert box.waiting() == []
    assert list(box.held()) == [3]
    assert box.holds() == {3}
    box.release(3)
    assert box.waiting() == [3]
    assert box.held() == {}
    assert box.holds() == {3}
    box.sent(3)
    assert box.holds() == set()
    assert Outbox(box.folder / "gone", make=False).holds() == set()


def test_trials_wait_in_the_order_of_their_numbers(box):
    for number in (10, 9, 100_000, 2):
        box.put(number, {}, {})
        box.release(number)
    assert box.waiting() == [2, 9, 10, 100_000]


def test_a_trial_that_was_sent_is_forgotten(box):
    box.put(1, {}, ARRAYS)
    box.release(1)
    box.sent(1)
    assert box.waiting() == []


def test_the_study_and_its_end_are_those_given_last(box):
    assert box.end() is None
    for n in (1, 2):
        box.put_study({"n": n}, ARRAYS)
        assert box.end() is None  # an end belongs to the session that put it
        box.put_summary({"n": n}, {"picture": np.full(3, n)})
    assert box.study().record == {"n": 2}
    assert box.end().record == {"n": 2}
    assert box.end().arrays["picture"].tolist() == [2, 2, 2]
    assert box.waiting() == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", ["savez", "rename"])
def test_a_message_appears_whole_or_not_at_all(box, monkeypatch, step):
    """Whatever step a process dies in, nobody sees a half-written trial."""

    def die(*args, **kwargs):
        raise Killed

    box.put_study({}, {})
    with monkeypatch.context() as patch:
        patch.setattr(*((module.np, "savez") if step == "savez" else (Path, "rename")), die)
        patch.setattr(module.shutil, "rmtree", lambda *args, **kwargs: None)  # a killed process cleans nothing up
        with pytest.raises(Killed):
            box.put(0, {"number": 0}, ARRAYS)
    assert box.held() == {}
    assert box.waiting() == []
    again = Outbox(box.folder)
    again.put(0, {"number": 0}, ARRAYS)
    again.release(0)
    assert again.trial(0).record == {"number": 0}
    again.sent(0)
    again.close()
    assert not box.folder.exists()  # with what the killed process left


def test_a_record_that_json_cannot_hold_leaves_nothing(box):
    with pytest.raises(TypeError):
        box.put(0, {"bad": object()}, {})
    assert names(box) == []


def test_closing_deletes_an_empty_outbox_and_the_folder_of_all(box):
    box.put_study({}, {})
    box.put_summary({}, {})
    box.close()
    assert not box.folder.exists()
    assert not box.folder.parent.exists()


def test_closing_leaves_the_outboxes_of_other_studies(box):
    other = Outbox(box.folder.parent / "other")
    box.close()
    assert other.folder.exists()


@pytest.mark.parametrize("released", [True, False])
def test_closing_keeps_an_outbox_with_a_trial_in_it(box, released):
    box.put(0, {"number": 0}, {})
    if released:
        box.release(0)
    box.close()
    assert (box.waiting(), list(box.held())) == (([0], []) if released else ([], [0]))


def test_processes_of_two_hosts_with_the_same_number_and_start_have_outboxes_of_their_own(tmp_path, monkeypatch):
    """As process 1 of two pods has that start together and share a folder."""
    boxes = []
    for host in ("job-0", "job-1"):
        monkeypatch.setattr(module, "this_process", lambda host=host: {"host": host, "pid": 1, "started": 1234.5})
        boxes.append(Outbox.open(tmp_path / "outbox", "uid"))
    assert boxes[0].folder != boxes[1].folder
    assert {box.uid for box in boxes} == {"uid"}
    assert [box.folder for box in boxes[0].others()] == [boxes[1].folder]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(InputError, match="outbox"):
        Outbox(tmp_path / "outbox" / "uid")


def test_records_can_be_read_by_other_programs(box):
    """A person whose store is gone for good must be able to get at the numbers."""
    box.put(0, {"score": 0.5}, ARRAYS)
    (folder,) = box.folder.iterdir()
    assert json.loads((folder / "record.json").read_text()) == {"score": 0.5}
    with np.load(folder / "arrays.npz") as arrays:
        assert set(arrays.files) == set(ARRAYS)


def test_the_folder_of_all_outboxes_is_in_the_working_directory_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv(module.VARIABLE, raising=False)
    assert module.outbox_root() == Path("outbox")
    monkeypatch.setenv(module.VARIABLE, str(tmp_path / "other"))
    assert module.outbox_root() == tmp_path / "other"
    (tmp_path / "other").write_text("a file")
    with pytest.raises(PlaceError, match="BHSEARCH_OUTBOX=FOLDER"):
        Outbox.open(module.outbox_root(), "uid")
