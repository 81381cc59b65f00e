"""The fitted model of a candidate: everything that is fixed before the sealed test is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhsearch.data.images.decode import decode
from bhsearch.evaluation.calibration import OperatingPoint, operating_point
from bhsearch.evaluation.predictions import DISCLAIMER, Predictions
from bhsearch.evaluation.selection.bbc_cv import CorrectedScore, corrected_score
from bhsearch.lifecycle.candidate import Candidate
from bhsearch.lifecycle.ranking import costs_of
from bhsearch.lifecycle.reproduce import deployed_network
from bhsearch.lifecycle.restore import RestoredStudy
from bhsearch.lifecycle.validation.training_facts import METADATA, TrainingFacts, collect_facts
from bhsearch.lifecycle.vectors.taken import require_exportable, vectors_taken
from bhsearch.study.context import FINETUNE, SYNTHETIC
from bhsearch.study.events import ProgressReporter
from bhsearch.tasks import task_record
from bhsearch.tracking import keys

if TYPE_CHECKING:
    from bhsearch.tracking.reader import StoredStudy
    from bhsearch.tracking.registry import Version

_N_EXAMPLES = 16  # approximate number of images on which an export is compared with Keras


@dataclass(frozen=True, eq=False)
class Champion:
    """The current champion, which the candidate would replace.

    Attributes:
        version: The registered version.
        network: Calibrated network of the version.
        lineage: Cases and images that the champion was developed and tested on.
        vectors: Name of the vectors of the data set that the champion takes; None if it takes images.
    """

    version: Version
    network: Any
    lineage: dict[str, Any]
    vectors: str | None = None


@dataclass(frozen=True, eq=False)
class Export:
    """An exported model.

    Attributes:
        folder: Folder of the exported model.
        difference: Largest difference in P(malignant) between the exported and the Keras model on example images.
    """

    folder: Path
    difference: float


@dataclass(frozen=True, eq=False)
class FittedModel:
    """A candidate whose calibration and threshold are fixed.

    Attributes:
        candidate: The candidate.
        corrected: Score of the trial that the study proposes, corrected for the search.
        point: Calibration and threshold.
        raw: Network before calibration.
        network: Network after calibration.
        champion: The champion that the candidate is compared with; None if there is no champion.
        export: The model in another format; None if no export was requested.
        facts: Facts about the development images, which the model carries.
    """

    candidate: Candidate
    corrected: CorrectedScore
    point: OperatingPoint
    raw: Any
    network: Any
    champion: Champion | None
    export: Export | None
    facts: TrainingFacts

    @property
    def note(self) -> str:
        """Text shown with every number, such as that the data are synthetic; may be empty."""
        return SYNTHETIC if self.candidate.restored.index.synthetic else ""

    @property
    def vectors(self) -> str | None:
        """Name of the vectors of the data set that the model takes; None if it takes images."""
        made_by = self._vectors
        return None if made_by is None else str(made_by["name"])

    @property
    def _vectors(self) -> dict[str, Any] | None:
        return keys.vectors_of(self.candidate.study.tags, self.candidate.trial.params["backbone"])

    def fixed(self) -> dict[str, float]:
        """Return calibration and threshold, which are logged with the access before any test image is read."""
        return {
            keys.CALIBRATION_SLOPE: self.point.calibration.slope,
            keys.CALIBRATION_OFFSET: self.point.calibration.offset,
            keys.THRESHOLD: self.point.threshold,
            **{f"{keys.THRESHOLD_AT}{rate}": value for rate, value in self.point.fixed_rates.items()},
        }

    def _precision(self) -> dict[str, str]:
        """Return the precision of the features that the heads were trained on; empty in the finetune regime."""
        study = self.candidate.study
        if study.tags[keys.REGIME] == FINETUNE:
            return {}
        return {"feature_precision": keys.feature_precision_of(study.tags, self.candidate.trial.params["backbone"])}

    def metadata(self) -> dict[str, Any]:
        """Return the metadata that is saved with the registered model."""
        study, restored = self.candidate.study, self.candidate.restored
        joined = keys.joined_of(study.tags, self.candidate.trial.params["backbone"])
        return {
            "task": task_record(study.task),
            "output": "P(malignant), calibrated",
            "threshold": self.point.threshold,
            "calibration": {"slope": self.point.calibration.slope, "offset": self.point.calibration.offset},
            "data": study.data,
            "data_fingerprint": study.tags[keys.DATA_FINGERPRINT],
            "split_fingerprint": restored.split.fingerprint,
            "case_pattern": restored.settings.case_pattern,
            "layout": restored.index.layout,
            "metrics": list(restored.settings.metrics),
            METADATA: self.facts.metadata(),
            "note": self.note,
            **self._precision(),
            **({"joined": list(joined)} if joined else {}),
            "licence": keys.licence_of(study.tags, self.candidate.trial.params["backbone"]),
            "use": DISCLAIMER,
            **({} if self._vectors is None else {"vectors": self._vectors}),
        }


def fix_operating_point(
    client: Any, candidate: Candidate, export: str | None, folder: Path, reporter: ProgressReporter
) -> FittedModel:
    """Load the network of a candidate, and fix calibration and threshold on its out-of-fold predictions.

    Args:
        client: Client of the MLflow store.
        candidate: The candidate.
        export: `openvino` to export the model to that format; None for no export.
        folder: Empty folder for the export.
        reporter: Receives progress events.

    Raises:
        MissingError: If the store lacks a model, or the study that this study was started from.
        RunError: If a model cannot be read.
    """
    from bhsearch.models.calibrated import calibrated

    predictions_of_all, cost = competitors(client, candidate.study, reporter)
    vectors = keys.vectors_of(candidate.study.tags, candidate.trial.params["backbone"])
    require_exportable(export, vectors)
    champion = _champion(client, candidate)
    with reporter.step("loading the model"):
        raw, predictions = deployed_network(candidate.study, candidate.trial, candidate.restored, reporter)
    point = operating_point(predictions, candidate.study.task)
    network = calibrated(raw, point.calibration.slope, point.calibration.offset)
    return FittedModel(
        candidate=candidate,
        export=_export(export, network, candidate.restored, folder, reporter),
        champion=champion,
        corrected=corrected_score(predictions_of_all, candidate.study.task, cost=cost),
        point=point,
        raw=raw,
        network=network,
        facts=collect_facts(
            network,
            candidate.restored.development,
            candidate.restored.settings.resize,
            reporter,
            None if vectors is None else str(vectors["name"]),
        ),
    )


def competitors(client: Any, study: StoredStudy, reporter: ProgressReporter) -> tuple[list[Predictions], list[float]]:
    """Read the out-of-fold predictions of all trials that the search selected from, and their costs.

    The search selects from the complete trials of the study and, if the study was started from an earlier study, from
    the complete trials of the earlier study.

    Returns:
        Predictions and inference time in milliseconds per image of each trial. The time is inf if it is unknown, and
        for trials of the earlier study.

    Raises:
        StudyError: If the earlier study is not in this store.
    """
    from bhsearch.tracking import reader

    origin = study.tags.get(keys.STARTED_FROM)
    earlier = reader.find_study(client, origin).trials if origin else ()
    own = sorted(study.trials, key=lambda trial: trial.number)
    trials = own + sorted(earlier, key=lambda trial: trial.number)
    cost = [*costs_of(study, own), *(math.inf for _ in earlier)]
    found = []
    with reporter.step("reading predictions") as progress:
        for done, trial in enumerate(trials, start=1):
            found.append(reader.predictions_of(trial))
            progress(done, len(trials))
    return found, cost


def _champion(client: Any, candidate: Candidate) -> Champion | None:
    from bhsearch.models.calibrated import load_network
    from bhsearch.tracking import model_files, registry

    version = candidate.plan.champion
    if version is None:
        return None
    lineage = registry.lineage(client, version)
    folder = model_files.download(version.uri)
    vectors = vectors_taken(
        f"the current {candidate.plan.alias}, {version.uri},",
        model_files.metadata_of(folder),
        candidate.restored.index,
        "Register the model with another --name or --alias, or search with all files of --features in one study.",
    )
    return Champion(version, load_network(model_files.network_file(folder)), lineage, vectors)


def _export(
    kind: str | None, network: Any, restored: RestoredStudy, folder: Path, reporter: ProgressReporter
) -> Export | None:
    """Export a network, and compare the export with Keras on development images; None if no export was requested.

    The export runs before the sealed test is opened, so that a failed export costs no access.
    """
    if kind is None:
        return None
    from bhsearch.models.openvino_export import export_openvino

    paths = restored.development.paths()
    examples = [decode(path) for path in paths[:: max(1, len(paths) // _N_EXAMPLES)]]
    with reporter.step("exporting the model"):
        difference = export_openvino(network, folder, examples)
    reporter.say(
        f"The model and its OpenVINO export differ by at most {difference:.1g} in P(malignant) (images compared: "
        f"{len(examples)}), with INFERENCE_PRECISION_HINT f32."
    )
    return Export(folder, difference)
