"""Check that backbones can be joined in a study (`--combine`), and say in the plan what is joined."""

from __future__ import annotations

from bhsearch.config import Settings
from bhsearch.engines.registry import ENGINES
from bhsearch.errors import SettingsError
from bhsearch.objectives.joint import N_JOINED
from bhsearch.objectives.space import JOINT_BACKBONES, JOINT_NAMES
from bhsearch.study.context import FINETUNE, FROZEN, StudyContext


def check_combine(settings: Settings) -> None:
    """Check that backbones can be joined with some settings.

    Raises:
        SettingsError: If the value of `--combine` is unknown, or contradicts another option.
    """
    combine = settings.combine
    if combine not in JOINT_BACKBONES:
        raise SettingsError(f"--combine must be one of {', '.join(map(str, JOINT_BACKBONES))}, but got {combine}.")
    if not combine:
        return
    if settings.features:
        raise SettingsError(
            f"--combine {combine} cannot be used with --features: the deployed model takes the vectors of one encoder. "
            "Join the vectors of several encoders in one file instead."
        )
    if settings.regime == FINETUNE:
        raise SettingsError(
            f"--combine {combine} requires --regime frozen or auto, but got --regime {settings.regime}: features "
            "can be joined, but networks cannot be fine-tuned together."
        )
    if not ENGINES.get(settings.engine).capabilities.combines:
        raise SettingsError(
            f"--combine {combine} requires --engine optuna, but got --engine {settings.engine}, which cannot decide "
            "during a study which backbones are joined."
        )


def check_joinable(context: StudyContext) -> None:
    """Check that the backbones of a study can be joined.

    Raises:
        SettingsError: If `--combine` is given and they cannot.
    """
    combine, names = context.settings.combine, list(context.backbones)
    if not combine or context.regime != FROZEN:
        return
    if len(names) < 2:
        raise SettingsError(
            f"--combine {combine} requires two or more backbones, but got {names[0]}. Add backbones, or remove "
            "--combine."
        )
    files = [name for name, backbone in context.backbones.items() if not backbone.is_keras]
    if files:
        raise SettingsError(
            f"--combine {combine} requires Keras networks, but got {', '.join(files)}: the deployed model of an ONNX, "
            "OpenVINO or SavedModel encoder cannot contain another encoder. Remove one of them."
        )
    taken = sorted(JOINT_NAMES & set(names))
    if taken:
        raise SettingsError(
            f"--combine {combine} calls joint backbones {', '.join(JOINT_BACKBONES[combine])}, but {taken[0]} is "
            "the name of a backbone. Rename its file."
        )


def plan_row(context: StudyContext) -> str:
    """Return the description of the joint backbones for the plan; empty without `--combine`."""
    combine, n_backbones = context.settings.combine, len(context.backbones)
    if not combine or context.regime != FROZEN:
        return ""
    best = min(n_backbones, N_JOINED)
    if best == 2:
        what = "both backbones as joint-1"
    else:
        pairs = f"the pairs of the best {best} backbones as {JOINT_BACKBONES[2][0]} to {JOINT_BACKBONES[2][-1]}"
        what = pairs if combine == 2 else f"{pairs}, all {best} as {JOINT_BACKBONES[3][-1]}"
    return f"{what}, decided when the starting points of all backbones have ended; features side by side, costs in sum"
