"""Parts of other packages that a study uses: recorded with their versions, and required when it is resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from bhsearch.config import Settings
from bhsearch.data.layouts.base import LAYOUTS
from bhsearch.engines.optuna.registry import SAMPLERS
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import BhsearchError, InputError, StudyError
from bhsearch.evaluation.plugin_metrics import EXTRA_METRICS
from bhsearch.models import backend
from bhsearch.models.augmentation.base import AUGMENTATIONS
from bhsearch.models.backbones.base import KINDS
from bhsearch.plugins import PluginSource, UnknownPartError, are_enabled, installed_version
from bhsearch.study.workers.launchers.base import LAUNCHERS
from bhsearch.tracking import keys
from bhsearch.tracking.store_uri import tracking_uri

METADATA = "plugins"  # key in the metadata of a study; absent where no plugin is used
_SEPARATOR = "; "
# Parts that what happens to a study after the search does not need.
_OF_THE_SEARCH = (ENGINES.group, SAMPLERS.group, LAUNCHERS.group)


def parts_of(settings: Settings, layout: str, kinds: Iterable[str]) -> dict[str, str]:
    """Return the parts of other packages that a study uses and that must agree when it is resumed.

    Args:
        settings: Settings of the study, its sampler named.
        layout: Layout of the data.
        kinds: Kinds of its backbones.

    Returns:
        Distribution and version, such as `toy-parts 1.0`, by group and name, such as `bhsearch.samplers:toy`. Empty if
        all parts are built in.
    """
    return {f"{group}:{name}": str(source) for group, name, source in _sources(settings, layout, kinds) if source}


def _sources(settings: Settings, layout: str, kinds: Iterable[str]) -> Iterator[tuple[str, str, PluginSource | None]]:
    yield ENGINES.group, settings.engine, ENGINES.source(settings.engine)
    sampler = settings.sampler or ""
    yield SAMPLERS.group, sampler, ENGINES.get(settings.engine).sampler_source(sampler)
    yield LAYOUTS.group, layout, LAYOUTS.source(layout)
    for kind in kinds:
        yield KINDS.group, kind, KINDS.source(kind)
    for name in settings.augmentations:
        yield AUGMENTATIONS.group, name, AUGMENTATIONS.source(name)
    for name in settings.metrics:
        yield EXTRA_METRICS.group, name, EXTRA_METRICS.source(name)


def check_parts(study: str, held: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to resume a study with other parts than it was created with; backbones of new kinds may be added.

    Args:
        study: Name of the study.
        held: Parts that the study was created with, as `parts_of` returns them.
        now: Parts of this command.

    Raises:
        StudyError: If a part is missing, has another version, or was not there; it names the package to install.
    """
    problems = [f"  {_missing(part, source)}" for part, source in held.items() if now.get(part) != source]
    added = [part for part in now if part not in held and not part.startswith(f"{KINDS.group}:")]
    problems += [f"  {part} of {now[part]} is used now, and was not then" for part in added]
    if problems:
        raise StudyError(
            f"The study {study!r} must be resumed with the parts that it was created with, but:\n"
            + "\n".join(problems)
            + "\nInstall and name what is missing, or give a new name with --study."
        )


def require_parts(study: str, recorded: str) -> None:
    """Refuse to use a stored study without the packages that it needs after the search.

    Args:
        study: Name of the study.
        recorded: The tag of its run, from `recorded_parts`; empty if all parts are built in.

    Raises:
        StudyError: If a package is not installed or has another version.
    """
    needed = {
        part: source for part, source in _parsed(recorded).items() if part.partition(":")[0] not in _OF_THE_SEARCH
    }
    lacking = [_missing(part, source) for part, source in needed.items() if not _is_installed(source)]
    if lacking:
        raise StudyError(f"The study {study!r} needs parts of other packages, but {'; '.join(lacking)}.")


def recorded_parts(parts: Mapping[str, str], launcher: str) -> str:
    """Return the tag of a run: its parts, and the launcher if that is one of another package; may be empty."""
    source = LAUNCHERS.source(launcher)
    rows = {**parts, **({f"{LAUNCHERS.group}:{launcher}": str(source)} if source else {})}
    return _SEPARATOR.join(f"{part} = {source}" for part, source in rows.items())


def explain(error: UnknownPartError, settings: Settings) -> InputError:
    """Return a better error for an unknown part: one that names its package, if a stored study was created with it.

    The studies of built-in engines and, with tracking, the runs in MLflow are searched.
    """
    part = f"{error.group}:{error.name}"
    for name, parts in _stored_parts(settings):
        if part in parts:
            return StudyError(f"{error} The study {name!r} was created with it: {_missing(part, parts[part])}.")
    return error


def _stored_parts(settings: Settings) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield name and parts of every study that can be read without its parts."""
    for store in map(ENGINES.get, ENGINES.built_in):
        storage = settings.storage if store.capabilities.uses_database else Settings.storage
        names: list[str] = []
        with suppress(BhsearchError):  # a storage that cannot be opened
            names = store.names(storage)
        for name in names:
            with suppress(BhsearchError):  # a study of another program
                yield name, store.find(storage, name).metadata().get(METADATA, {})
    if settings.tracking and _has_store():
        with suppress(BhsearchError):
            with backend.silence_stderr():
                from bhsearch.tracking import connection, reader
            client = connection.open_client()
            for run in reader.search_all(client, f"tags.`{keys.PLUGINS}` != ''"):
                yield run.data.tags.get(keys.STUDY, run.info.run_name), _parsed(run.data.tags[keys.PLUGINS])


def _has_store() -> bool:
    """Return whether there is an MLflow store; looking for runs would create a local one."""
    return bool(tracking_uri()) or Path("mlflow.db").exists()


def _parsed(recorded: str) -> dict[str, str]:
    return dict(row.split(" = ") for row in recorded.split(_SEPARATOR)) if recorded else {}


def _is_installed(source: str) -> bool:
    distribution, _, version = source.rpartition(" ")
    return installed_version(distribution) == version


def _missing(part: str, source: str) -> str:
    """Return what is wrong with a part, and what to do."""
    distribution, _, version = source.rpartition(" ")
    here = installed_version(distribution)
    if here == version:
        return f"{part} of {source} is not used now; name it again"
    if not are_enabled():
        return f"{part} of {source} is turned off; unset BHSEARCH_PLUGINS"
    found = f"{distribution} {here} is installed" if here else f"{distribution} is not installed"
    return f"{part} comes from {source}, and {found}; install {distribution}=={version}"
