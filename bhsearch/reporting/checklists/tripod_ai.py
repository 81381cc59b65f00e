"""TRIPOD+AI: reporting of clinical prediction models, 27 items in 52 parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bhsearch.reporting.checklists.base import Answer, Checklist, Item, author, filled, not_applicable
from bhsearch.reporting.checklists.study_facts import joined

if TYPE_CHECKING:
    from bhsearch.reporting.checklists.study_facts import StudyFacts

NAME = "TRIPOD+AI"
CITATION = (
    "Collins GS, Moons KGM, Dhiman P, et al. TRIPOD+AI statement: updated guidance for reporting clinical prediction "
    "models that use regression or machine learning methods. BMJ 2024;385:e078378. doi:10.1136/bmj-2023-078378"
)
_TITLE, _INTRODUCTION, _METHODS, _OPEN = "Title and abstract", "Introduction", "Methods", "Open science"
_PATIENTS, _RESULTS, _DISCUSSION = "Patient and public involvement", "Results", "Discussion"
ITEMS = (
    Item("1", _TITLE, "Title: development or evaluation of a prediction model, population, outcome"),
    Item("2", _TITLE, "Abstract by the TRIPOD+AI list for abstracts"),
    Item("3a", _INTRODUCTION, "Clinical context, diagnosis or prognosis, reason for the model, earlier models"),
    Item("3b", _INTRODUCTION, "Target population, purpose in the care pathway, intended users"),
    Item("3c", _INTRODUCTION, "Known health inequalities between groups"),
    Item("4", _INTRODUCTION, "Objectives, and whether they include development, evaluation or both"),
    Item("5a", _METHODS, "Sources of the development and evaluation data, why these, how representative"),
    Item("5b", _METHODS, "Dates of the data: start and end of inclusion, end of follow-up"),
    Item("6a", _METHODS, "Setting, number and location of centres"),
    Item("6b", _METHODS, "Eligibility criteria"),
    Item("6c", _METHODS, "Treatments and how they were handled"),
    Item("7", _METHODS, "Preparation and quality checks of the data, and whether they were equal across groups"),
    Item("8a", _METHODS, "Outcome and time horizon, how and when assessed, and whether equally across groups"),
    Item("8b", _METHODS, "Qualifications and demographics of those who judged the outcome"),
    Item("8c", _METHODS, "Blinding of the judgement of the outcome"),
    Item("9a", _METHODS, "Choice of the first predictors, and selection before modelling"),
    Item("9b", _METHODS, "Definition of the predictors, how and when they were measured, blinding"),
    Item("9c", _METHODS, "Qualifications and demographics of those who judged predictors"),
    Item("10", _METHODS, "How the study size was chosen, for development and for evaluation, and why it suffices"),
    Item("11", _METHODS, "Handling of missing data, reasons for leaving out data"),
    Item("12a", _METHODS, "Use of the data for development and evaluation, and how they were divided"),
    Item("12b", _METHODS, "Handling of the predictors in the analysis: transformation, scaling"),
    Item("12c", _METHODS, "Type of model, building steps, tuning of hyperparameters, internal validation"),
    Item("12d", _METHODS, "Heterogeneity of parameters and performance between clusters such as hospitals"),
    Item("12e", _METHODS, "Measures and plots of performance, comparison of models"),
    Item("12f", _METHODS, "Updating of the model after its evaluation, such as recalibration"),
    Item("12g", _METHODS, "How predictions were computed for the evaluation"),
    Item("13", _METHODS, "Methods for imbalanced classes, and recalibration afterwards"),
    Item("14", _METHODS, "Approaches to fairness and their reasons"),
    Item("15", _METHODS, "Output of the model; classes and how thresholds were found"),
    Item("16", _METHODS, "Differences between development and evaluation data"),
    Item("17", _METHODS, "Ethics committee, and consent or its waiver"),
    Item("18a", _OPEN, "Funding and the role of the funders"),
    Item("18b", _OPEN, "Conflicts of interest of all authors"),
    Item("18c", _OPEN, "Where the protocol is, or that there is none"),
    Item("18d", _OPEN, "Registration of the study, or that it was not registered"),
    Item("18e", _OPEN, "Availability of the data"),
    Item("18f", _OPEN, "Availability of the code of the analysis"),
    Item("19", _PATIENTS, "Involvement of patients and the public, or that there was none"),
    Item("20a", _RESULTS, "Flow of the participants, with and without the outcome"),
    Item("20b", _RESULTS, "Characteristics of the participants, overall and by source; differences between groups"),
    Item("20c", _RESULTS, "Comparison of evaluation and development data in important predictors and outcome"),
    Item("21", _RESULTS, "Number of participants and outcomes in each analysis"),
    Item("22", _RESULTS, "Full model for predictions in new persons, and restrictions of its use"),
    Item("23a", _RESULTS, "Performance with confidence intervals, also in important subgroups"),
    Item("23b", _RESULTS, "Results on heterogeneity between clusters, if examined"),
    Item("24", _RESULTS, "Results of updating the model"),
    Item("25", _DISCUSSION, "Interpretation, including fairness, the objectives and earlier studies"),
    Item("26", _DISCUSSION, "Limitations, and their effect on bias, uncertainty and generalisability"),
    Item("27a", _DISCUSSION, "Handling of poor or missing input when the model is used"),
    Item("27b", _DISCUSSION, "Interaction and expertise that the model requires of its users"),
    Item("27c", _DISCUSSION, "Next steps of research on applicability and generalisability"),
)
_NOT_OPENED = "The held-out test was not opened for this study: `bhsearch register` evaluates the model on it."


def tripod_ai(facts: StudyFacts) -> Checklist:
    """Return the checklist with the answers that the records of a study hold."""
    return Checklist(NAME, CITATION, ITEMS, {**_introduction(facts), **_methods(facts), **_results(facts)})


def _introduction(facts: StudyFacts) -> dict[str, Answer]:
    test = facts.report.test
    both = "development and evaluation" if test is not None else "development"
    return {
        "1": author(f"The study is the {both} of a model; name population and outcome."),
        "2": author("Use the separate list for abstracts."),
        "3a": author("The model is diagnostic; describe context and earlier models."),
        "3b": author("The model is for research only and may not be used to screen patients."),
        "3c": author("Describe them, or state that none are known."),
        "4": author(f"The records cover {both}."),
    }


def _methods(facts: StudyFacts) -> dict[str, Answer]:
    tested = facts.report.test is not None
    return {
        "5a": filled(facts.source, "Kind of source, reason for its choice, representativeness."),
        "5b": author("The records hold no dates of the cases."),
        "6a": author("The records hold no centres."),
        "6b": author(f"Criteria by which the cases came into the data set. {facts.subset}".strip()),
        "6c": author("State treatments before the sample was taken, if relevant."),
        "7": filled(facts.preparation, "Preparation before the data set, and whether it was equal across groups."),
        "8a": filled(facts.outcome, "How and when the outcome was assessed, and why it was chosen."),
        "8b": author("Who made the diagnoses."),
        "8c": author("Whether the diagnoses were made without knowledge of the images of the study."),
        "9a": filled(facts.predictors, "Why these encoders were searched."),
        "9b": filled(facts.inputs, "Staining, scanner or camera, and magnification of the images."),
        "9c": not_applicable("No person judges a predictor: the pixels of the image are the only input."),
        "10": filled(facts.precision, "How the number of cases was chosen; a calculation, if there was one."),
        "11": filled(facts.missing, "Cases without images or diagnosis that did not enter the data set."),
        "12a": filled(facts.partition),
        "12b": filled(facts.training, "The parameters on views and scaling are explained in the documentation."),
        "12c": filled(joined(facts.model, facts.search, facts.selection)),
        "12d": author("The search does not compare sites. State whether there are clusters."),
        "12e": filled(joined(facts.measures, facts.uncertainty), "Why these measures were chosen."),
        "12f": not_applicable("No model was updated: calibration and threshold are fitted before the evaluation."),
        "12g": filled(facts.model if tested else "", missing=_NOT_OPENED),
        "13": filled(facts.balance, "Why, and how it affects the probabilities, which are calibrated out of fold."),
        "14": author("The records hold no demographic data."),
        "15": filled(facts.output, "" if tested else "The threshold is fixed when the model is registered."),
        "16": filled(facts.source, "Any difference in setting, eligibility or outcome between the parts."),
        "17": author("Name committee and consent, or the waiver."),
        "18a": author("Name funders and their role."),
        "18b": author("Declare them, or state that there are none."),
        "18c": author("Name the protocol, or state that there is none."),
        "18d": author("Name the register, or state that the study was not registered."),
        "18e": author("Where the images are available, and under which licence or terms."),
        "18f": filled(facts.code, "Where the code of further analyses is available."),
        "19": author("Describe it, or state that there was none."),
    }


def _results(facts: StudyFacts) -> dict[str, Answer]:
    tested = facts.report.test is not None
    return {
        "20a": filled(facts.cases, "Cases that were excluded before the data set."),
        "20b": author("The records hold no demographic or clinical data."),
        "20c": filled(facts.cases if tested else "", "Demographic and clinical data of both parts.", _NOT_OPENED),
        "21": filled(facts.cases),
        "22": filled(
            joined(facts.tested, facts.training) if tested else "",
            "Where the registered model is available.",
            "`bhsearch register` writes the model and its card.",
        ),
        "23a": filled(joined(facts.performance, facts.accuracy), "Demographic subgroups."),
        "23b": not_applicable("Not examined: the search does not compare clusters."),
        "24": not_applicable("No model was updated."),
        "25": author("Interpret the results."),
        "26": author(f"Warnings of the study: {facts.warnings}" if facts.warnings else "Discuss the limitations."),
        "27a": author("`bhsearch predict` lists unreadable images and warns of images unlike those of training."),
        "27b": author("State who may run the model, and with which training."),
        "27c": author("`bhsearch validate` evaluates the model on an external cohort."),
    }
