"""The schema version of stored studies, and the check that this version of bhsearch can read a store."""

from __future__ import annotations

from bhsearch.errors import StudyError

SCHEMA = 1
# Last commit of bhsearch that reads stores of an earlier schema, by schema number; a store without number has schema 0.
_READERS = {0: "d6a9faa"}


def require_schema(number: object, store: str) -> None:
    """Check that the schema of a store is the one that this version of bhsearch reads and writes.

    Args:
        number: Schema number from the store, as a number or a string; None if the store has no number, which means
            schema 0.
        store: Description of the store for the message, as the subject of a sentence, such as `The study 'mine'`.

    Raises:
        StudyError: If the number differs from `SCHEMA`; the message names a version of bhsearch that reads the store.
    """
    text = "0" if number is None else str(number)
    if text == str(SCHEMA):
        return
    if text.isdigit() and int(text) in _READERS:
        raise StudyError(
            f"{store} has the schema {text} of an earlier version of bhsearch, but this version reads only schema "
            f"{SCHEMA}. Use the commit {_READERS[int(text)]} to read it, or start a new study with another --study and "
            "--storage, and another working directory or MLFLOW_TRACKING_URI for MLflow."
        )
    raise StudyError(
        f"{store} has the unknown schema {text}; this version of bhsearch reads only schema {SCHEMA}. Use the version "
        "of bhsearch that created it."
    )
