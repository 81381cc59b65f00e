"""CLAIM, 2024 update: reporting of artificial intelligence in medical imaging, 44 items."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.reporting.checklists.base import Answer, Checklist, Item, author, filled, not_applicable
from bhsearch.reporting.checklists.study_facts import joined

if TYPE_CHECKING:
    from bhsearch.reporting.checklists.study_facts import StudyFacts

NAME = "CLAIM 2024"
CITATION = (
    "Tejani AS, Klontzas ME, Gatti AA, et al. Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 "
    "Update. Radiology: Artificial Intelligence 2024;6(4):e240300. doi:10.1148/ryai.240300"
)
_TITLE, _INTRODUCTION, _DESIGN, _DATA = "Title and abstract", "Introduction", "Methods: design", "Methods: data"
_REFERENCE, _PARTITIONS = "Methods: reference standard", "Methods: data partitions"
_MODEL, _TRAINING, _EVALUATION = "Methods: model", "Methods: training", "Methods: evaluation"
_RESULTS, _DISCUSSION, _OTHER = "Results", "Discussion", "Other information"
ITEMS = (
    Item("1", _TITLE, "Title or abstract: that AI is used, and of which kind"),
    Item("2", _TITLE, "Structured abstract with design, methods, results and conclusions"),
    Item("3", _INTRODUCTION, "Scientific and clinical background, intended use and role"),
    Item("4", _INTRODUCTION, "Aims, objectives and hypotheses"),
    Item("5", _DESIGN, "Prospective or retrospective"),
    Item("6", _DESIGN, "Goal of the study, such as making a model or testing its use"),
    Item("7", _DATA, "Sources of the data"),
    Item("8", _DATA, "Criteria of inclusion and exclusion"),
    Item("9", _DATA, "Preprocessing of the data"),
    Item("10", _DATA, "Selection of parts of the data"),
    Item("11", _DATA, "De-identification"),
    Item("12", _DATA, "Handling of missing data"),
    Item("13", _DATA, "Protocol of image acquisition"),
    Item("14", _REFERENCE, "Definition of the reference standard"),
    Item("15", _REFERENCE, "Reason for this reference standard"),
    Item("16", _REFERENCE, "Source of the annotations, qualifications of the annotators"),
    Item("17", _REFERENCE, "Annotation of the test data: procedure and tools"),
    Item("18", _REFERENCE, "Variability between and within annotators, and how disagreement was resolved"),
    Item("19", _PARTITIONS, "How the data were assigned to partitions, with their proportions"),
    Item("20", _PARTITIONS, "Level at which the partitions are disjoint"),
    Item("21", _PARTITIONS, "Intended sample size of the test data and how it was found"),
    Item("22", _MODEL, "Model: input, output, architecture"),
    Item("23", _MODEL, "Software, libraries and versions"),
    Item("24", _MODEL, "Initialization of the parameters, transfer learning"),
    Item("25", _TRAINING, "Training: procedure, augmentation, hyperparameters"),
    Item("26", _TRAINING, "Selection of the final model"),
    Item("27", _TRAINING, "Ensembles: members and how they are combined"),
    Item("28", _EVALUATION, "Measures of performance"),
    Item("29", _EVALUATION, "Measures of uncertainty and significance"),
    Item("30", _EVALUATION, "Analysis of robustness or sensitivity"),
    Item("31", _EVALUATION, "Methods of explanation and their validation"),
    Item("32", _EVALUATION, "Evaluation on internal data"),
    Item("33", _EVALUATION, "Testing on external data, or why there is none"),
    Item("34", _EVALUATION, "Registration of a clinical trial"),
    Item("35", _RESULTS, "Numbers of included and excluded patients or examinations"),
    Item("36", _RESULTS, "Demographic and clinical characteristics in each partition"),
    Item("37", _RESULTS, "Performance on all partitions and subgroups, against the reference standard"),
    Item("38", _RESULTS, "Diagnostic performance with its precision"),
    Item("39", _RESULTS, "Analysis of failures"),
    Item("40", _DISCUSSION, "Limitations"),
    Item("41", _DISCUSSION, "Implications for practice, intended use and role"),
    Item("42", _OTHER, "Where the full protocol or further technical details are"),
    Item("43", _OTHER, "Availability of software, model and data"),
    Item("44", _OTHER, "Funding and the role of the funders"),
)


def claim(facts: StudyFacts) -> Checklist:
    """Return the checklist with the answers that the records of a study hold."""
    return Checklist(NAME, CITATION, ITEMS, {**_design(facts), **_methods(facts), **_results(facts)})


def _design(facts: StudyFacts) -> dict[str, Answer]:
    return {
        "1": author("Name the kind, such as heads on a frozen network or a fine-tuned network."),
        "2": author("Write the abstract."),
        "3": author("The model is for research only and may not be used to screen patients."),
        "4": author("State them."),
        "5": author("State how the cases were collected; a search on existing images is retrospective."),
        "6": author("The study makes a model that separates the classes."),
        "7": filled(facts.source, "Where the data come from, and where they are available."),
        "8": author("Criteria by which the cases came into the data set."),
        "9": filled(facts.preparation, "Steps before the data set, such as cutting patches from slides."),
        "10": filled(facts.subset, "Selection before the data set, such as regions of a slide."),
        "11": author("How and when the data were de-identified."),
        "12": filled(facts.missing, "Cases without images or diagnosis that did not enter the data set."),
        "13": author("Staining, scanner or camera, resolution."),
        "14": filled(facts.outcome, "Who or what assigned the class, from which material."),
        "15": author("Why this reference standard, and its limits."),
        "16": author("Who annotated, with which qualifications."),
        "17": author("Procedure and tools of annotation."),
        "18": author("The records hold one label per image."),
    }


def _methods(facts: StudyFacts) -> dict[str, Answer]:
    return {
        "19": filled(facts.partition),
        "20": filled(facts.disjoint),
        "21": filled(facts.precision, "How the number of test cases was chosen."),
        "22": filled(facts.model, "Architecture of the encoder, with a reference."),
        "23": filled(facts.software),
        "24": filled(facts.initialization, "Data on which the encoder was trained before, and its licence."),
        "25": filled(joined(facts.training, facts.search)),
        "26": filled(facts.selection),
        "27": filled(facts.model),
        "28": filled(facts.measures, "Comparison with published models."),
        "29": filled(facts.uncertainty),
        "30": filled(
            facts.robustness, missing="`bhsearch run --robustness` evaluates the best trials on changed images."
        ),
        "31": author("The model card has heat maps of the worst images of the held-out test, without validation."),
        "32": filled(facts.tested, missing="The held-out test was not opened: `bhsearch register` evaluates it."),
        "33": author(
            "The study holds no external data; `bhsearch validate` evaluates the model on an external cohort."
        ),
        "34": not_applicable("A search on existing images is no clinical trial."),
    }


def _results(facts: StudyFacts) -> dict[str, Answer]:
    return {
        "35": filled(facts.cases, "Excluded cases, with a flow diagram."),
        "36": author("The records hold no demographic or clinical data."),
        "37": filled(facts.performance, "Demographic subgroups; the report has subtypes and magnifications."),
        "38": filled(facts.accuracy),
        "39": filled(facts.failures, "Discuss them in their medical context."),
        "40": author(f"Warnings of the study: {facts.warnings}" if facts.warnings else "Discuss them."),
        "41": author("Discuss them."),
        "42": author("The MLflow run of the study holds settings, split and search space."),
        "43": filled(facts.code, "Where model and images are available, and under which licence or terms."),
        "44": author("Name funders and their role."),
    }
