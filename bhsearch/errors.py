"""Who may fail, and how.

    BhsearchError            exit code 1: the run failed
    |-- InputError           exit code 2: what the user gave is wrong
    |   |-- SettingsError    an option, or a key of a settings file
    |   |-- DataError        image files, their names, labels or cases
    |   |-- BackboneError    a network or its weights
    |   |-- StudyError       a study or a store that does not fit this command
    |   |   `-- MissingError what was asked for is not in the store, as the store itself says
    |   `-- PlaceError       a folder that cannot be written, or a disk that is full
    `-- RunError             the work itself failed: diverged, too many failed trials, not everything logged
        `-- LostStorageError the database of the study was deleted or replaced while it was searched

Every message says the rule, then the value that broke it, then what to do. Commands print it without a traceback.
"""


class BhsearchError(Exception):
    """Base of every error that bhsearch raises on purpose."""

    exit_code = 1


class InputError(BhsearchError):
    """Something the user gave is wrong; nothing was changed, unless a disk filled up in the midst of it."""

    exit_code = 2


class SettingsError(InputError):
    """An option, or a key of a settings file, is unknown or out of range."""


class DataError(InputError):
    """The image files, their names, labels or cases cannot be used."""


class BackboneError(InputError):
    """A network or its weights cannot be had."""


class StudyError(InputError):
    """A study or a store does not fit this command."""


class MissingError(StudyError):
    """Something is not in the store, as the store itself says; a request that failed is never this error."""


class PlaceError(InputError):
    """A folder cannot be written, or its disk is full; nothing half-made is left there."""


class RunError(BhsearchError):
    """The work itself failed."""


class LostStorageError(RunError):
    """The database of the study was deleted or replaced while the study was searched."""
