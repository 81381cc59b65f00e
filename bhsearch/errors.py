"""Exception hierarchy.

* BhsearchError: exit code 1, the command failed
  x InputError: exit code 2, the input of the user is wrong
    - SettingsError: an option, or a key of a settings file
    - DataError: image files, their names, labels or cases
    - BackboneError: a network or its weights
    - StudyError: a study or a store that the command cannot use
      + MissingError: a record that the store does not contain
    - PlaceError: a folder that cannot be written, or a disk that is full
  x RunError: the work itself failed
    - LostStorageError: the database of the study was deleted or replaced during the search

A message states the rule, the value that broke it, and what to do. Commands print the message without a traceback.
"""


class BhsearchError(Exception):
    """Base class of all errors that bhsearch raises on purpose."""

    exit_code = 1


class InputError(BhsearchError):
    """The input of the user is wrong. Nothing was changed, unless a disk became full during the work."""

    exit_code = 2


class SettingsError(InputError):
    """An option, or a key of a settings file, is unknown or out of range."""


class DataError(InputError):
    """The image files, their names, labels or cases cannot be used."""


class BackboneError(InputError):
    """A network or its weights are not available or cannot be used."""


class StudyError(InputError):
    """The command cannot use a study or a store."""


class MissingError(StudyError):
    """The store reports that it does not contain a record. Other failures of a request do not raise this error."""


class PlaceError(InputError):
    """A folder cannot be written, or its disk is full. No partial file is left."""


class RunError(BhsearchError):
    """The work itself failed: training diverged, too many trials failed, or not everything could be logged."""


class LostStorageError(RunError):
    """The database of the study was deleted or replaced during the search."""
