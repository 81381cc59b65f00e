"""Load settings from a TOML file and from the command line, which takes precedence."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from bhsearch.config.option import did_you_mean, option_of
from bhsearch.config.parsing import expand_home, split_pooling
from bhsearch.config.settings import Settings, type_of
from bhsearch.errors import SettingsError


def load_settings(file: Path | None, options: Mapping[str, Any]) -> Settings:
    """Return the settings of a TOML file, overridden by command-line options.

    Args:
        file: TOML file whose keys are the fields of `Settings`, or None.
        options: Option values by field of `Settings`; None if the option was not given.

    Raises:
        SettingsError: If the file cannot be read, contains an unknown key, or a value has the wrong type or range.
    """
    values = _read(file) if file is not None else {}
    _require_known(values, str(file))
    _require_known(options, "the options")
    given = {key: value for key, value in options.items() if value is not None}
    return Settings(**{key: _converted(key, value) for key, value in {**_of_variables(), **values, **given}.items()})


def _of_variables() -> dict[str, str]:
    """Return the settings that environment variables set."""
    names = {field.name: option_of(field).variable for field in fields(Settings)}
    return {key: os.environ[name] for key, name in names.items() if os.environ.get(name)}


def to_toml(values: Mapping[str, Any]) -> str:
    """Return settings as the text of a settings file; values that are None are left out.

    Args:
        values: Text, numbers, booleans and lists of text by key, as returned by `portable`.
    """
    # A JSON value of these types is also a TOML value, except that TOML forbids an unescaped DEL.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value is not None]
    return "\n".join(lines).replace("\x7f", "\\u007f") + "\n"


def portable(settings: Settings, *, elsewhere: bool = False) -> dict[str, Any]:
    """Return the settings that a worker needs to join the study from another folder, as JSON-able values.

    The storage URL is left out, since it may contain a password.

    Args:
        settings: Settings of the study.
        elsewhere: Whether the paths are those of another machine, and stay as they are. Otherwise existing paths are
            made absolute.
    """
    declared = {field.name: option_of(field) for field in fields(Settings)}
    values = {key: value for key, value in asdict(settings).items() if not declared[key].belongs_to_command}
    if not elsewhere:
        values |= _absolute_paths(settings)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _absolute_paths(settings: Settings) -> dict[str, Any]:
    """Return the settings that name paths, by key, with the paths of existing files and folders made absolute."""
    values: dict[str, Any] = {key: getattr(settings, key) for key in ("data", "weights_dir", "image_root")}
    for key, value in values.items():
        if value is not None and Path(value).expanduser().exists():
            values[key] = str(Path(value).expanduser().resolve())
    values["features"] = [str(Path(file).expanduser().resolve()) for file in settings.features]
    values["backbones"] = [_with_absolute_path(name) for name in settings.backbones]
    return values


def _with_absolute_path(backbone: str) -> str:
    """Return the name of a backbone with an absolute path if it names an existing file or the folder of an encoder."""
    path = Path(split_pooling(backbone)[0])
    exists = path.is_file() or (path / "config.json").is_file()
    return str(path.resolve()) + backbone.removeprefix(str(split_pooling(backbone)[0])) if exists else backbone


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"Cannot read the settings file {str(file)!r} (--config): {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"The settings file {str(file)!r} (--config) is not valid TOML: {error}.") from error


def _require_known(keys: Iterable[str], where: str) -> None:
    known = [field.name for field in fields(Settings)]
    for key in keys:
        if key not in known:
            hint = did_you_mean(key, known) or f" The keys are {', '.join(known)}."
            raise SettingsError(f"Unknown setting {key!r} in {where}.{hint}")


def _converted(key: str, value: Any) -> Any:
    """Convert a value to the type of its field, such as a list to a tuple or an integer to a float.

    Raises:
        SettingsError: If the value cannot be converted.
    """
    option = option_of(next(field for field in fields(Settings) if field.name == key))
    allowed = get_args(type_of(key)) or (type_of(key),)
    if option.parse is not None:
        try:
            return option.parse(value)
        except ValueError as error:
            raise SettingsError(f"{key} must be {error}, but got {value!r}.") from error
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
        raise SettingsError(f"{key} must be of type {names}, but got {value!r}.")
    return expand_home(value) if option.is_path else value
