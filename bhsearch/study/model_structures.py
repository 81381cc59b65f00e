"""Prepare the models of trials for the uploader, in a process that has imported Keras."""

from __future__ import annotations

import contextlib

from bhsearch.config import model_limit
from bhsearch.models import backend
from bhsearch.models.backbones.base import Backbone
from bhsearch.models.structures import Architecture, StructureBuilder
from bhsearch.objectives.base import TrialResult
from bhsearch.study.context import StudyContext


class ModelStructures:
    """Structures of the models of a study, which the uploader fills with the weights of each trial.

    Args:
        context: Context of the study.
    """

    def __init__(self, context: StudyContext) -> None:
        self._context = context
        self._builder = StructureBuilder(context.task.link)
        self._prepared: set[Architecture] = set()

    def prepare(self, backbone: Backbone, outcome: TrialResult) -> None:
        """Put the structure of a trial's model into the cache, unless the study keeps no models.

        Does nothing if the backbone is no Keras network, or if Keras is not imported, which would take longer than the
        uploader does with a leaner backend.

        Args:
            backbone: Backbone of the trial.
            outcome: Result of the trial.
        """
        settings = self._context.settings
        if model_limit(settings.keep_models) == 0 or not backend.is_imported() or not backbone.is_keras:
            return
        architecture = Architecture.of(
            backbone,
            settings.resize,
            settings.image_size,
            outcome.model,
            outcome.arrays,
            self._context.task.link,
        )
        if architecture in self._prepared:
            return
        with contextlib.suppress(Exception):  # the trial is valid without it; the uploader tries again and reports
            self._builder(architecture)
            self._prepared.add(architecture)
