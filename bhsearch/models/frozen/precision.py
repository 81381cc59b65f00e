"""Floating-point precision in which OpenVINO computes frozen features."""

from __future__ import annotations

from functools import cache
from typing import Any

from bhsearch.errors import SettingsError

F32, BF16 = "f32", "bf16"  # as OpenVINO names them
AUTO = "auto"
FEATURE_PRECISIONS = (AUTO, F32, BF16)


@cache
def supports_bf16() -> bool:
    """Return whether OpenVINO reports that this processor multiplies in bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def require_precision(precision: str) -> None:
    """Check that OpenVINO computes in a precision on this processor.

    Raises:
        SettingsError: If the precision is bf16, and the processor does not support it.
    """
    if precision == BF16 and not supports_bf16():
        raise SettingsError(
            "--feature-precision bf16 requires a processor for which OpenVINO reports BF16, but "
            f"{openvino_facts()['processor']} has none. Use "
            "--feature-precision f32, or continue a study that was begun in bf16 on a processor with it."
        )


def openvino_facts() -> dict[str, Any]:
    """Return processor and version of OpenVINO, which determine speed and rounding, as facts of a cache entry."""
    import openvino

    processor = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")
    return {"processor": processor, "openvino": openvino.__version__}


def precision_facts(precision: str) -> dict[str, Any]:
    """Return the precision as facts of a cache entry; empty for f32, in which earlier entries were computed."""
    return {} if precision == F32 else {"precision": precision}
