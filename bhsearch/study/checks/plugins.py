"""Plugins that a study uses: record their versions, and check that they are installed when the study is resumed.

A part is an exchangeable component, such as a sampler or a backbone. Parts of other packages are called plugins.
"""

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

_SEPARATOR = "; "
# Groups of parts that are needed for the search only, and not to use a finished study.
_OF_THE_SEARCH = (ENGINES.group, SAMPLERS.group, LAUNCHERS.group)


def parts_of(settings: Settings, layout: str, kinds: Iterable[str]) -> dict[str, str]:
    """Return the plugins that a study uses and that must be the same when it is resumed.

    Args:
        settings: Settings of the study, with the sampler filled in.
        layout: Name of the data layout.
        kinds: Kinds of the backbones.

    Returns:
        Distribution and version, such as `toy-parts 1.0`, by group and name of the part, such as
        `bhsearch.samplers:toy`. Empty if all parts are built in.
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
    """Check that a study is resumed with the plugins that it was created with; backbones of new kinds may be added.

    Args:
        study: Name of the study.
        held: Plugins that the study was created with, from `parts_of`: distribution and version by part.
        now: Plugins of this command, from `parts_of`.

    Raises:
        StudyError: If a plugin is missing, has another version, or is new; the message names the packages to install.
    """
    problems = [f"  {_missing(part, source)}" for part, source in held.items() if now.get(part) != source]
    added = [part for part in now if part not in held and not part.startswith(f"{KINDS.group}:")]
    problems += [
        f"  {part} from {now[part]} is used now, but was not used when the study was created" for part in added
    ]
    if problems:
        raise StudyError(
            f"The study {study!r} was created with other plugins:\n"
            + "\n".join(problems)
            + "\nInstall and use the same plugins, or create a new study with --study."
        )


def require_parts(study: str, recorded: str) -> None:
    """Check that the plugins needed to use a finished study are installed.

    Args:
        study: Name of the study.
        recorded: Tag of the study's MLflow run, from `recorded_parts`; empty if all parts are built in.

    Raises:
        StudyError: If a package is not installed or has another version.
    """
    needed = {
        part: source for part, source in _parsed(recorded).items() if part.partition(":")[0] not in _OF_THE_SEARCH
    }
    lacking = [_missing(part, source) for part, source in needed.items() if not _is_installed(source)]
    if lacking:
        raise StudyError(f"The study {study!r} requires plugins that are not available: {'; '.join(lacking)}.")


def recorded_parts(parts: Mapping[str, str], launcher: str) -> str:
    """Return the plugins of a study, and the launcher if it is a plugin, as the tag of the study's MLflow run.

    Args:
        parts: Plugins of the study, from `parts_of`.
        launcher: Name of the launcher.

    Returns:
        Text of the tag; empty if all parts are built in.
    """
    source = LAUNCHERS.source(launcher)
    rows = {**parts, **({f"{LAUNCHERS.group}:{launcher}": str(source)} if source else {})}
    return _SEPARATOR.join(f"{part} = {source}" for part, source in rows.items())


def explain(error: UnknownPartError, settings: Settings) -> InputError:
    """Return an error for an unknown part that also names the missing package, if a stored study used the part.

    The function searches the studies of the built-in engines and, with tracking, the runs in MLflow. If no study used
    the part, it returns `error`.
    """
    part = f"{error.group}:{error.name}"
    for name, parts in _stored_parts(settings):
        if part in parts:
            return StudyError(f"{error} The study {name!r} was created with it: {_missing(part, parts[part])}.")
    return error


def _stored_parts(settings: Settings) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the name and the plugins of every stored study whose metadata can be read without its plugins."""
    for store in map(ENGINES.get, ENGINES.built_in):
        storage = settings.storage if store.capabilities.uses_database else Settings.storage
        names: list[str] = []
        with suppress(BhsearchError):  # the storage cannot be opened
            names = store.names(storage)
        for name in names:
            with suppress(BhsearchError):  # another program created the study
                yield name, store.find(storage, name).metadata().get("plugins", {})
    if settings.tracking and _has_store():
        with suppress(BhsearchError):
            with backend.silence_stderr():
                from bhsearch.tracking import connection, reader
            client = connection.open_client()
            for run in reader.search_all(client, f"tags.`{keys.PLUGINS}` != ''"):
                yield run.data.tags.get(keys.STUDY, run.info.run_name), _parsed(run.data.tags[keys.PLUGINS])


def _has_store() -> bool:
    """Return whether an MLflow store exists; this check avoids that a search for runs creates a local store."""
    return bool(tracking_uri()) or Path("mlflow.db").exists()


def _parsed(recorded: str) -> dict[str, str]:
    return dict(row.split(" = ") for row in recorded.split(_SEPARATOR)) if recorded else {}


def _is_installed(source: str) -> bool:
    distribution, _, version = source.rpartition(" ")
    return installed_version(distribution) == version


def _missing(part: str, source: str) -> str:
    """Return a message that says why a plugin is unavailable and how to make it available.

    Args:
        part: Group and name of the part, such as `bhsearch.samplers:toy`.
        source: Distribution and version, such as `toy-parts 1.0`.
    """
    distribution, _, version = source.rpartition(" ")
    here = installed_version(distribution)
    if here == version:
        return f"{part} from {source} is not used now; give the option that selects it again"
    if not are_enabled():
        return f"{part} from {source} is disabled; unset BHSEARCH_PLUGINS"
    found = f"{distribution} {here} is installed" if here else f"{distribution} is not installed"
    return f"{part} is provided by {source}, but {found}; install {distribution}=={version}"
