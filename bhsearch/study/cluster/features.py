"""Compute the features of a study without running trials, so that workers find them in the cache."""

from __future__ import annotations

from dataclasses import replace

from bhsearch.errors import SettingsError
from bhsearch.models.augmentation.policies import IDENTITY
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.study.context import StudyContext
from bhsearch.study.feature_costs import stored_costs
from bhsearch.study.objective_factory import make_objective
from bhsearch.study.resume.metadata import StudyMetadata
from bhsearch.study.session import StudySession


def compute_features(session: StudySession, backbone: str) -> None:
    """Compute the features of the images themselves; other views are computed by the first trial that needs them.

    The costs and the precision of the features are stored with the study. A finetune study computes no features, but
    its resized images are cached.

    Args:
        session: Session of the study.
        backbone: Name of a backbone of the study; empty for all of them.

    Raises:
        SettingsError: If the study has no backbone of this name.
    """
    context, metadata = _restricted(session.context, session.metadata, backbone)
    objective = make_objective(context, metadata["started_from"], session.reporter)
    stored_costs(context, metadata, session.engine, objective, session.reporter)
    if not isinstance(objective, FrozenObjective):
        return
    for each in context.found.backbones:
        with session.reporter.step(f"features of {each.name}"):
            for features in (objective.features, *objective.features.shifted):
                features.get(each, IDENTITY)


def _restricted(context: StudyContext, metadata: StudyMetadata, backbone: str) -> tuple[StudyContext, StudyMetadata]:
    """Return context and metadata of a study with one of its backbones only; unchanged for an empty name."""
    if not backbone:
        return context, metadata
    found = tuple(each for each in context.found.backbones if each.name == backbone)
    if not found:
        names = ", ".join(each.name for each in context.found.backbones)
        raise SettingsError(
            f"--only features:BACKBONE must name a backbone of the study ({names}), but got {backbone!r}."
        )
    held: StudyMetadata = {**metadata, "backbones": {backbone: metadata["backbones"][backbone]}}
    return replace(context, found=replace(context.found, backbones=found), backbones={backbone: found[0]}), held
