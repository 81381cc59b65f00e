"""The folder of a study: whole after any kill, read while it is written, and never taken from another program."""

from __future__ import annotations

import json

import pytest

from bhsearch import states
from bhsearch.engines.base import Trial
from bhsearch.engines.keras_tuner.journal import (
    JournalEntry,
    find_study,
    load_settings,
    metadata_of,
    names,
    open_study,
    save_settings,
)
from bhsearch.errors import PlaceError, StudyError
from bhsearch.runtime import cache

FACTS = {"uid": "1", "backbones": {"a": "digest"}}


def put(study, number, **notes):
    """A trial that begins."""
    entry = JournalEntry(
        Trial(number, states.RUNNING, {"x": number / 3}, notes=notes), "random", number, {"tuner/round": 0}
    )
    with study.journal.alone():
        study.journal.start(entry)
    return entry


def filled(directory):
    """Two trials that ended and one that runs."""
    study = open_study(directory, "study", FACTS)
    for number in range(3):
        put(study, number, owner={"pid": 7})
    study.journal.end(0, states.COMPLETE, 0.1 + 0.2, {"seconds": 1.5})
    study.journal.end(1, states.FAILED, None, {"reason": "zu groß"})
    return study


def test_trials_come_back_exactly(tmp_path):
    entries = filled(tmp_path).journal.entries()
    again = find_study(tmp_path, "study").journal.entries()
    assert again == entries
    assert [entry.trial.state for entry in again] == [states.COMPLETE, states.FAILED, states.RUNNING]
    assert again[0].trial.value == 0.1 + 0.2
    assert again[1].trial.notes == {"owner": {"pid": 7}, "reason": "zu groß"}
    assert (again[2].sampler, again[2].place, again[2].extra) == ("random", 2, {"tuner/round": 0})


def test_a_journal_cut_at_any_byte_is_a_shorter_study_that_goes_on(tmp_path):
    """What a kill in the middle of a write leaves, or a disk that was full."""
    file = filled(tmp_path).journal.folder / "trials.jsonl"
    whole = file.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 5
    for size in range(len(whole) + 1):
        file.write_bytes(whole[:size])
        study = find_study(tmp_path, "study")
        lines = sum(end <= size for end in ends)
        assert len(study.journal.entries()) == min(lines, 3)
        if size % 7 == 0:  # a write costs more than a look
            put(study, min(lines, 3))
            again = find_study(tmp_path, "study").journal.entries()
            assert again == study.journal.entries()
            assert len(again) == min(lines, 3) + 1
            assert file.read_bytes().startswith(whole[: ends[lines - 1] if lines else 0])


def test_a_line_that_is_half_written_is_not_seen_until_it_is_whole(tmp_path):
    study = filled(tmp_path)
    reader = find_study(tmp_path, "study").journal
    assert len(reader.entries()) == 3
    line = json.dumps({"trial": 2, "state": "COMPLETE", "value": 0.5, "notes": {}}).encode() + b"\n"
    with (study.journal.folder / "trials.jsonl").open("ab", buffering=0) as stream:
        stream.write(line[:20])
        assert reader.entries()[2].trial.state == states.RUNNING
        stream.write(line[20:])
    assert reader.entries()[2].trial.value == 0.5


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", "{}", '{"trial": 9, "params": {}}', '{"trial": 7, "state": "FAIL"}']
)
def test_a_journal_that_is_damaged_is_named(tmp_path, line):
    study = filled(tmp_path)
    with (study.journal.folder / "trials.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(StudyError, match=r"trials\.jsonl is damaged or was not written by bhsearch"):
        find_study(tmp_path, "study").journal.entries()


def test_facts_that_are_damaged_are_named(tmp_path):
    folder = filled(tmp_path).journal.folder
    (folder / "facts.json").write_text("{")
    with pytest.raises(StudyError, match=r"Cannot read the study metadata in .*facts\.json"):
        metadata_of(find_study(tmp_path, "study"))


def test_a_study_killed_while_it_was_made_or_deleted_is_none(tmp_path):
    study = filled(tmp_path)
    (study.journal.folder / "facts.json").unlink()
    (study.journal.folder / "facts.json.new").write_text("{")
    assert names(tmp_path) == []
    with pytest.raises(StudyError, match="Existing studies: none"):
        find_study(tmp_path, "study")
    fresh = open_study(tmp_path, "study", {"uid": "2"})
    assert fresh.journal.entries() == []
    assert metadata_of(fresh) == {"uid": "2"}


def test_a_reader_follows_a_study_that_is_deleted_and_made_anew(tmp_path):
    study = filled(tmp_path)
    reader = find_study(tmp_path, "study").journal
    assert len(reader.entries()) == 3
    study.delete()
    assert reader.entries() == []
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []
    put(open_study(tmp_path, "study", FACTS), 0)
    assert len(reader.entries()) == 1


def test_a_folder_of_keras_tuner_itself_is_refused_and_left_alone(tmp_path):
    (tmp_path / "study" / "trial_0000").mkdir(parents=True)
    (tmp_path / "study" / "oracle.json").write_text("{}")
    with pytest.raises(StudyError, match=r"contains 'oracle\.json', a file of another program.*--study"):
        open_study(tmp_path, "study", FACTS)
    assert (tmp_path / "study" / "oracle.json").read_text() == "{}"
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../../up", "a b", "ä %2F", "case:1"])
def test_any_name_is_a_folder_of_its_own_in_the_directory(tmp_path, name):
    directory = tmp_path / "keras_tuner"
    open_study(directory, name, FACTS)
    open_study(directory, "a_b", FACTS)
    assert names(directory) == sorted([name, "a_b"])
    assert len(list(directory.iterdir())) == 2
    assert list(tmp_path.iterdir()) == [directory]
    assert metadata_of(find_study(directory, name)) == FACTS


def test_a_directory_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "keras_tuner").touch()
    with pytest.raises(PlaceError, match="Cannot write the study"):
        open_study(tmp_path / "keras_tuner", "study", FACTS)


def test_settings_are_remembered_beside_the_facts(tmp_path):
    study = filled(tmp_path)
    assert load_settings(study) == {}
    save_settings(study, {"trials": 5})
    again = open_study(tmp_path, "study", {"uid": "other"})
    assert (metadata_of(again), load_settings(again)) == (FACTS, {"trials": 5})


def test_who_writes_waits_for_the_lock(tmp_path, monkeypatch):
    """Two writers at once would both cut off what they take for the other's half a line."""
    study, held = filled(tmp_path), []
    real = cache.lock

    def watched(path):
        held.append(path.name)
        return real(path)

    monkeypatch.setattr("bhsearch.engines.keras_tuner.journal.lock", watched)
    study.journal.end(2, states.COMPLETE, 0.5, {})
    study.journal.entries()
    assert held == ["lock"]
