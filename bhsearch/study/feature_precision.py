"""Choice of the floating-point precision of each backbone's features, which is stored with the study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from bhsearch.config import Settings
from bhsearch.engines.base import Engine
from bhsearch.errors import BackboneError, SettingsError
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.features import FeatureCache
from bhsearch.models.frozen.precision import AUTO, BF16, F32, openvino_facts, require_precision, supports_bf16
from bhsearch.objectives.precision import TOLERANCE, PrecisionComparison, compare_precisions
from bhsearch.runtime import cache
from bhsearch.study.context import StudyContext
from bhsearch.study.events import ProgressReporter
from bhsearch.text import plural

LEAST_SECONDS = 60.0  # of a view in f32, below which comparing the precisions may take longer than bf16 saves
PRECISION = "precision"  # key of the choices in the costs that an engine stores
_KIND, _FILE = "precisions", "comparison.json"


class PrecisionChoice(TypedDict):
    """Precision of the features of a backbone, as stored with a study.

    Attributes:
        precision: `f32` or `bf16`.
        reason: Why, as text.
        comparison: Record of the comparison of both precisions; None if they were not compared.
    """

    precision: str
    reason: str
    comparison: dict[str, Any] | None


def choose_precisions(
    prepared: StudyContext,
    names: Sequence[str],
    seconds: Mapping[str, float],
    features: FeatureCache,
    reporter: ProgressReporter,
) -> dict[str, PrecisionChoice]:
    """Choose the precision of backbones by `--feature-precision`; `auto` compares both where bf16 may save time.

    Args:
        prepared: Context of the study, in the frozen regime.
        names: Names of the backbones.
        seconds: Expected seconds of computing the features of one view in f32, by backbone; without those of vectors.
        features: Features of the development images.
        reporter: Receives the comparison as a progress step.
    """
    wanted = prepared.settings.feature_precision
    if wanted != AUTO:
        return {name: _choice(wanted, f"--feature-precision {wanted}") for name in names}
    return {
        name: _by_comparison(prepared, prepared.backbones[name], seconds.get(name, 0.0), features, reporter)
        for name in names
    }


def before_precisions(names: Sequence[str]) -> dict[str, PrecisionChoice]:
    """Return the choices of a study of an earlier version, which computed all features in f32."""
    return {name: _choice(F32, "the study was begun in f32") for name in names}


def stored_choices(engine: Engine) -> dict[str, PrecisionChoice]:
    """Return the choices that are stored with a study, by backbone; empty if there are none yet."""
    return dict(engine.costs().get(PRECISION, {}))


def precisions_of(choices: Mapping[str, PrecisionChoice]) -> dict[str, str]:
    """Return the precision by backbone."""
    return {name: choice["precision"] for name, choice in choices.items()}


def joint_choice(choices: Mapping[str, PrecisionChoice], members: Sequence[str]) -> PrecisionChoice | None:
    """Return the precisions of a joint backbone: that of all its members, or each with the name of the member.

    None in studies of earlier versions, which stored no precision.
    """
    found = {name: choices[name]["precision"] for name in members if name in choices}
    if len(found) < len(members):
        return None
    same = len(set(found.values())) == 1
    text = next(iter(found.values())) if same else ", ".join(f"{name} {value}" for name, value in found.items())
    return _choice(text, f"of {' + '.join(members)}")


def require_precisions(choices: Mapping[str, PrecisionChoice]) -> None:
    """Check that features can be computed in the stored precisions on this machine.

    Raises:
        SettingsError: If this processor does not support the precision of a backbone.
    """
    for precision in set(precisions_of(choices).values()):
        require_precision(precision)


def precision_row(choices: Mapping[str, PrecisionChoice]) -> list[tuple[str, str]]:
    """Return a row for the plan with the choices; empty if f32 was used without a comparison or a request for bf16."""
    shown = {name: choice for name, choice in choices.items() if choice["comparison"] or choice["precision"] != F32}
    if not shown:
        return []
    texts = [f"{name} {choice['precision']} ({choice['reason']})" for name, choice in shown.items()]
    if any(choice["comparison"] for choice in shown.values()):
        texts.append(f"bf16 where linear heads differ by at most {TOLERANCE:g} in AUC")
    return [("precision", "; ".join(texts))]


def check_feature_precision(settings: Settings) -> None:
    """Check that the features of a study can be computed in the precision of `--feature-precision`.

    Raises:
        SettingsError: If the precision is bf16, and the regime, the feature backend or the processor rule it out.
    """
    if settings.feature_precision != BF16:
        return
    if settings.regime == "finetune":
        raise SettingsError(
            "--feature-precision bf16 requires --regime frozen, but got --regime finetune. Use --precision for the "
            "precision of fine-tuning."
        )
    if settings.feature_backend == "keras":
        raise SettingsError("--feature-precision bf16 requires --feature-backend openvino, but got keras.")
    if settings.feature_backend == "auto" and backend.gpu_files():
        raise SettingsError(
            "--feature-precision bf16 requires --feature-backend openvino, but this machine has a GPU, for which auto "
            "chooses keras. Add --feature-backend openvino, or remove --feature-precision."
        )
    require_precision(BF16)


def _by_comparison(
    prepared: StudyContext, backbone: Backbone, seconds: float, features: FeatureCache, reporter: ProgressReporter
) -> PrecisionChoice:
    if features.feature_backend != "openvino":
        return _choice(F32, "features are not computed by OpenVINO")
    if seconds < LEAST_SECONDS:
        return _choice(F32, f"a view takes less than {LEAST_SECONDS:g} s")
    if not supports_bf16():
        return _choice(F32, "the processor does not support bf16")
    try:
        with reporter.step(f"comparing bf16 with f32 for {backbone.name}"):
            found = _compared(prepared, backbone, features)
    except BackboneError:
        return _choice(F32, "the network cannot be converted to OpenVINO")
    if found is None:
        return _choice(F32, "a fold lacks a class among the images for a comparison")
    return {"precision": BF16 if found.agrees else F32, "reason": _sentence(found), "comparison": found.to_record()}


def _sentence(found: PrecisionComparison) -> str:
    low, high = found.widest
    return (
        f"AUC {found.auc['f32/f32']:.4f} in f32, {found.auc['bf16/bf16']:.4f} in bf16, "
        f"{found.auc['bf16/f32']:.4f} from bf16 to f32; 95 % of differences within {low:+.4f} to {high:+.4f}, "
        f"{plural(found.n_images, 'image')} of {plural(found.n_groups, 'case')}; cosine at least {found.cosine:.6f}"
    )


def _compared(prepared: StudyContext, backbone: Backbone, features: FeatureCache) -> PrecisionComparison | None:
    """Return the comparison for a backbone and these images, which is computed once and cached."""
    images = prepared.images
    columns = {name: getattr(images, name).tolist() for name in ("label", "group", "stratum")}
    facts = {
        "backbone": backbone.name,
        "weights": backbone.digest,
        "pixels": features.pixels_key,
        "images": cache.cache_key({**columns, "fold": images.fold[0].tolist()}),
        "score": prepared.task.score,
        **openvino_facts(),
        "version": 1,
    }

    def fill(folder: Path) -> None:
        found = compare_precisions(features, backbone, images, prepared.task)
        (folder / _FILE).write_text(json.dumps(found and found.to_record()), encoding="utf-8")

    folder = cache.get_or_create(_KIND, facts, fill)
    record = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    return record and PrecisionComparison.from_record(record)


def _choice(precision: str, reason: str) -> PrecisionChoice:
    return {"precision": precision, "reason": reason, "comparison": None}
