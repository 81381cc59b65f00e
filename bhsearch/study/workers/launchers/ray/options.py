"""The options of the launcher `ray`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bhsearch.errors import SettingsError

LOCAL = "local"  # address of a cluster that the command starts on this machine
_KNOWN = ("address", "num_cpus", "num_gpus")


@dataclass(frozen=True)
class RayOptions:
    """What a worker needs, and the cluster that has it.

    Attributes:
        num_cpus: Number of CPUs of a worker. Fractions are allowed below 1.
        num_gpus: Number of GPUs of a worker, at most 1; None for 1 if the cluster has GPUs, else 0.
        address: Address of the cluster, `HOST:PORT`; `local` for one that the command starts; None for the variable
            RAY_ADDRESS, else for the cluster that was started on this machine last, else `local`.
    """

    num_cpus: float = 1.0
    num_gpus: float | None = None
    address: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, str]) -> RayOptions:
        """Return the options from the values of `--launcher-option` by name.

        Raises:
            SettingsError: If a name is unknown, or a value is out of range.
        """
        unknown = sorted(options.keys() - set(_KNOWN))
        if unknown:
            raise SettingsError(
                f"The launcher ray has the options {', '.join(_KNOWN)}, but got --launcher-option {unknown[0]}."
            )
        num_cpus = _number(options, "num_cpus", 1.0)
        if num_cpus > 1 and num_cpus != int(num_cpus):
            raise SettingsError(
                "--launcher-option num_cpus must be a whole number or below 1, as Ray requires, but got "
                f"{options['num_cpus']}."
            )
        num_gpus = _number(options, "num_gpus", 0.0) if "num_gpus" in options else None
        if num_gpus is not None and num_gpus > 1:
            raise SettingsError(
                f"--launcher-option num_gpus must be at most 1, but got {options['num_gpus']}: a worker uses one GPU. "
                "For more GPUs, place more workers with --workers."
            )
        address = options.get("address")
        if address is not None and ("://" in address or not (address == LOCAL or _is_host_and_port(address))):
            raise SettingsError(
                "--launcher-option address must be HOST:PORT of the head node of a Ray cluster, or local, but got "
                f"{address!r}. Run the command on a node of the cluster."
            )
        return cls(num_cpus, num_gpus, address)


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    text = options.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise SettingsError(f"--launcher-option {name} must be a number from 0, such as 0.5, but got {text!r}.")
    return value


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal()
