"""The schema number that every store of studies carries, and the refusal of a store with another number."""

from __future__ import annotations

from bhsearch.errors import StudyError

SCHEMA = 1
# The last commit of bhsearch that reads stores of an earlier schema. Stores without a number have the schema 0.
_READERS = {0: "d6a9faa"}


def require_schema(number: object, store: str) -> None:
    """Refuse a store whose schema is not the one that this version reads and writes.

    Args:
        number: Schema number as the store holds it, a number or its text; None where the store has no number, which
            means schema 0.
        store: What the number was read from, as the subject of a sentence, such as `The study 'mine'`.

    Raises:
        StudyError: If the number differs from `SCHEMA`. The message names the number and what reads the store.
    """
    text = "0" if number is None else str(number)
    if text == str(SCHEMA):
        return
    if text.isdigit() and int(text) in _READERS:
        raise StudyError(
            f"{store} must have the schema {SCHEMA}, but has the schema {text}: an earlier version of bhsearch made "
            f"it. The commit {_READERS[int(text)]} reads it. Use that version, or make a new study: another --study "
            "and --storage for the trials, another folder or MLFLOW_TRACKING_URI for MLflow."
        )
    raise StudyError(
        f"{store} must have the schema {SCHEMA}, but has the schema {text}, which this version of bhsearch does not "
        "know. Use the version that made it."
    )
