"""Joint backbones during a search: the backbones that they join, once a study has decided that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bhsearch.engines.base import Engine, Trial
from bhsearch.errors import RunError
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.backbones.joint import with_joined
from bhsearch.objectives.frozen import FrozenObjective
from bhsearch.objectives.joint import Joints
from bhsearch.objectives.space import JOINT_NAMES
from bhsearch.study.context import StudyContext
from bhsearch.study.feature_precision import PrecisionChoice, joint_choice, stored_choices
from bhsearch.study.objective_factory import Objective


def with_joints_of(context: StudyContext, engine: Engine) -> Mapping[str, Backbone]:
    """Return the backbones of a context, with the joint ones that a study has decided on."""
    if not context.settings.combine:
        return context.backbones
    return with_joined(context.backbones, engine.joints())


class TrialBackbones:
    """Backbones of the trials of a worker, which knows the joint ones from its first trial with one of them.

    Args:
        context: Context of the study.
        engine: Engine of the study, which stores what is joined.
        objective: Objective of the study, which receives the joint backbones.
    """

    def __init__(self, context: StudyContext, engine: Engine, objective: Objective) -> None:
        self._context, self._engine, self._objective = context, engine, objective
        self._backbones: Mapping[str, Backbone] = context.backbones
        self._joints: Joints = {}
        self._precisions = stored_choices(engine)

    def require(self, trial: Trial) -> None:
        """Make the backbone of a trial known to the objective.

        Raises:
            RunError: If it is not decided which backbones are joined, since a user enqueued the trial too early.
        """
        name = trial.params.get("backbone")
        if name in self._backbones or name not in JOINT_NAMES or not isinstance(self._objective, FrozenObjective):
            return
        self._joints = self._engine.joints()
        if name not in self._joints:
            raise RunError(
                f"{name} joins no backbones: which ones are joined is decided when the starting points of all "
                "backbones have ended."
            )
        self._backbones = with_joined(self._context.backbones, self._joints)
        self._objective.use(self._backbones)

    def get(self, name: str) -> Backbone:
        """Return the backbone of a trial."""
        return self._backbones[name]

    def joined(self, name: str) -> Sequence[str]:
        """Return the names of the backbones that a joint backbone joins; empty for a single one."""
        return self._joints.get(name, ())

    def precision(self, name: str) -> PrecisionChoice | None:
        """Return the precision of the features of a backbone; None if none is stored."""
        members = self.joined(name)
        return joint_choice(self._precisions, members) if members else self._precisions.get(name)
