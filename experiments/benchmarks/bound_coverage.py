"""Measure how often the bounds of the best trial's score hold, and how far they are from the score.

Each study has a known truth, draws or searches trials, selects the best one, and computes the interval of BBC-CV and
the lower bound of `bhsearch.evaluation.selection.mabt` from the same bootstrap draws. Two kinds of data:

simulation: predictions are drawn directly. The logit of image k of case i in trial t is

        d(x_t) (y_i - 1/2) + s_i (a_i + b_i(x_t)) + e_ik + f_ik(x_t)

    with the label y_i, a case effect a_i that all trials share, and an image effect e_ik. b_i and f_ik are random
    fields over the parameters x_t in the unit cube, so similar parameters give similar predictions. Half of the cases
    have the scale s_i = 0.6 and half 1.4 (heterogeneous cases). A case has 3 to 9 images; a study has 40, 80 or 140
    cases, two fifths of them benign, in 5 folds. In a null study d is 0. In a non-null study d has a maximum within the
    cube, which corresponds to an AUC of 0.62 to 0.96. The truth is the expected AUC of the selected trial, computed
    from the variances.

phantom: 60 cases are taken from 400 cases of the synthetic tissue; trials are logistic regressions on the features of
    staintex with a sampled encoder, penalty and subset of the features. In a null study the labels are permuted over
    cases and the truth is 0.5. In a non-null study the truth is the AUC of the mean of the selected trial's fold heads
    on fresh cases.

The random search draws parameters uniformly. The adaptive search is Optuna's TPE for the phantom; for the simulation,
after 10 random trials, three of four trials are normal steps of 0.15 from the best trial so far.

The studies of the phases are different, so that a choice made on one is confirmed on another.

    python experiments/benchmarks/bound_coverage.py --data simulation --phase confirm
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from bhsearch.evaluation.bootstrap import bootstrap_auc, group_draws, interval
from bhsearch.evaluation.metrics import score, weighted_auc
from bhsearch.evaluation.predictions import Predictions, case_weights
from bhsearch.evaluation.selection.bbc_cv import winner_scores
from bhsearch.evaluation.selection.mabt import LEVEL, lower_bound
from bhsearch.evaluation.selection.proposal import proposed, spread_of_differences
from bhsearch.tasks.binary import BinaryTask

Floats = npt.NDArray[np.float64]
Predict = Callable[[Floats], Floats]  # parameters of a trial in the unit cube -> out-of-fold probability, shape (n,)
Propose = Callable[[list[Floats], list[float]], Floats]  # earlier parameters and scores -> parameters of the next trial

N_FOLDS, N_PARAMETERS = 5, 3
TASK = BinaryTask()
PHASES = {"choose": 0, "confirm": 1, "confirm-again": 2}
SEARCHES = ("random", "adaptive")
N_CASES = (40, 80, 140)  # of the simulation
PHANTOM_CASES, POOL_CASES = 60, 400


@dataclass(frozen=True)
class Judged:
    """Bounds of one study.

    Attributes:
        truth: Expected AUC of the selected trial.
        raw: Score of the selected trial.
        corrected: Score corrected by BBC-CV.
        low, high: Ends of the BBC-CV interval.
        naive: 2.5 % quantile of the bootstrap scores of the selected trial.
        bounds: Lower bound of each method.
    """

    truth: float
    raw: float
    corrected: float
    low: float
    high: float
    naive: float
    bounds: dict[str, float]


# -- judging a study ---------------------------------------------------------------------------------------------------


def judge(trials: Sequence[Predictions], truth: Callable[[int], float], n_draws: int) -> Judged:
    """Select the best trial and compute its bounds."""
    first = trials[0]
    draws = group_draws(first.group, first.stratum, n_draws)
    both = np.concatenate([draws, draws == 0])
    inside, left_out = np.split(np.stack([bootstrap_auc(trial, both) for trial in trials]), 2, axis=1)
    outside = winner_scores(proposed(inside, spread_of_differences(inside), np.full(len(trials), np.inf)), left_out)
    scores = np.array([score(trial, TASK) for trial in trials])
    best = int(scores.argmax())
    low, high = interval(outside)
    raw = float(scores[best])
    bounds = {
        "MABT": lower_bound(trials, scores, inside, draws),
        "MABT at 99.5 %": lower_bound(trials, scores, inside, draws, 0.995),
        "MABT, unadjusted": lower_bound(trials[best : best + 1], scores[best:][:1], inside[best : best + 1], draws),
        "MABT, contenders": contenders_bound(trials, scores, inside, draws),
        "max-t": max_t_bound(scores, inside),
    }
    return Judged(
        truth=truth(best),
        raw=raw,
        corrected=float(np.nanmean(outside)),
        low=low,
        high=high,
        naive=float(np.nanquantile(inside[best], 1 - LEVEL)),
        bounds=bounds,
    )


def contenders_bound(trials: Sequence[Predictions], scores: Floats, samples: Floats, draws: Floats) -> float:
    """Return the bound in which only trials compete that could be the best.

    A trial competes if its gap to the best is at most sqrt(2 log log n) standard errors of the gap, for n groups, as in
    Hansen's test of superior predictive ability (2005).
    """
    best = int(scores.argmax())
    spread = np.nanstd(samples - samples[best], axis=1)
    near = scores[best] - scores <= np.sqrt(2 * np.log(np.log(draws.shape[1]))) * spread
    kept = np.flatnonzero(near)
    return lower_bound([trials[trial] for trial in kept], scores[kept], samples[kept], draws)


def max_t_bound(scores: Floats, samples: Floats) -> float:
    """Return the best score minus the 97.5 % quantile of the largest standardised deviation, in standard errors."""
    samples = samples[:, np.isfinite(samples).all(axis=0)]
    spread = samples.std(axis=1)
    largest = ((samples - scores[:, None]) / spread[:, None]).max(axis=0)
    best = int(scores.argmax())
    return float(scores[best] - np.quantile(largest, LEVEL) * spread[best])


# -- searches ----------------------------------------------------------------------------------------------------------


def random_search(rng: np.random.Generator) -> Propose:
    return lambda _points, _scores: rng.random(N_PARAMETERS)


def adaptive_search(rng: np.random.Generator, n_random: int = 10) -> Propose:
    def propose(points: list[Floats], scores: list[float]) -> Floats:
        if len(points) < n_random or rng.random() < 0.25:
            return rng.random(N_PARAMETERS)
        return np.clip(points[int(np.argmax(scores))] + rng.normal(0, 0.15, N_PARAMETERS), 0, 1)

    return propose


def tpe_search(seed: int) -> Propose:
    """Return Optuna's TPE on the unit cube."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    asked: list[optuna.Trial] = []

    def propose(_points: list[Floats], scores: list[float]) -> Floats:
        if asked:
            study.tell(asked[-1], scores[-1])
        asked.append(study.ask())
        return np.array([asked[-1].suggest_float(f"x{axis}", 0, 1) for axis in range(N_PARAMETERS)])

    return propose


def search(template: Predictions, predict: Predict, propose: Propose, n_trials: int) -> list[Predictions]:
    """Run a search and return the predictions of its trials."""
    points: list[Floats] = []
    scores: list[float] = []
    trials = []
    for _ in range(n_trials):
        points.append(propose(points, scores))
        trials.append(replace(template, probability=predict(points[-1])[None]))
        scores.append(score(trials[-1], TASK))
    return trials


def template_of(label: npt.NDArray[np.int8], group: npt.NDArray[np.int64], rng: np.random.Generator) -> Predictions:
    """Assign cases to folds, stratified by label, and return predictions of 0.5."""
    groups, first, number = np.unique(group, return_index=True, return_inverse=True)
    fold = np.zeros(len(groups), np.int8)
    for value in (0, 1):
        members = rng.permutation(np.flatnonzero(label[first] == value))
        fold[members] = np.arange(len(members)) % N_FOLDS
    text = np.full(len(label), "", dtype=object)
    return Predictions(
        label=label,
        probability=np.full((1, len(label)), 0.5),
        fold=fold[number][None],
        group=number.astype(np.int64),
        stratum=label.astype(np.int64),
        path=text,
        case=text,
        subtype=text,
        magnification=text,
    )


# -- simulation --------------------------------------------------------------------------------------------------------

SHARED_CASE, OWN_CASE, SHARED_IMAGE, OWN_IMAGE = 0.8, 0.6, 0.6, 0.5  # standard deviations of a, b, e and f
SCALES = (0.6, 1.4)
N_WAVES, LENGTH_SCALE = 24, 0.35  # of the random fields


def simulated_study(seed: tuple[int, ...], is_null: bool, search_name: str, n_trials: int, n_draws: int) -> Judged:
    rng = np.random.default_rng(seed)
    n_cases = N_CASES[seed[-1] % len(N_CASES)]
    size = rng.integers(3, 10, n_cases)
    case = np.repeat(np.arange(n_cases), size)
    label_of_case = (np.arange(n_cases) % 5 >= 2).astype(np.int8)
    template = template_of(label_of_case[case], case, rng)
    scale = rng.permutation(np.resize(SCALES, n_cases))
    shared = (scale * rng.normal(0, SHARED_CASE, n_cases))[case] + rng.normal(0, SHARED_IMAGE, len(case))
    own_case = scale[:, None] * rng.normal(0, OWN_CASE, (n_cases, N_WAVES))
    own = own_case[case] + rng.normal(0, OWN_IMAGE, (len(case), N_WAVES))
    wave, phase = rng.normal(0, 1 / LENGTH_SCALE, (N_PARAMETERS, N_WAVES)), rng.uniform(0, 2 * np.pi, N_WAVES)
    centre, highest = rng.random(N_PARAMETERS), rng.uniform(0.62, 0.96)

    def field(x: Floats) -> Floats:
        return np.sqrt(2 / N_WAVES) * np.cos(x @ wave + phase)

    def variance(x: Floats, s: float) -> float:
        share = float((field(x) ** 2).sum())
        return s**2 * (SHARED_CASE**2 + share * OWN_CASE**2) + SHARED_IMAGE**2 + share * OWN_IMAGE**2

    def distance(x: Floats) -> float:
        if is_null:
            return 0.0
        unit = np.sqrt(2 * variance(centre, 1.0)) * float(norm.ppf(highest))
        return float(unit * (1 - 0.5 * ((x - centre) ** 2).sum()))

    points: list[Floats] = []

    def predict(x: Floats) -> Floats:
        points.append(x)
        return 1 / (1 + np.exp(-(distance(x) * (template.label - 0.5) + shared + own @ field(x))))

    def truth(trial: int) -> float:
        x = points[trial]
        spread = [np.sqrt(variance(x, s) + variance(x, other)) for s in SCALES for other in SCALES]
        return float(np.mean(norm.cdf(distance(x) / np.array(spread))))

    propose = (random_search if search_name == "random" else adaptive_search)(rng)
    return judge(search(template, predict, propose, n_trials), truth, n_draws)


# -- synthetic tissue --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tissue:
    """Features of synthetic tissue.

    Attributes:
        features: Features of each encoder, standardised over the pool. Each of shape (n_images, n_features).
        label: Label of each image. Shape (n_images,).
        case: Case of each image. Shape (n_images,).
    """

    features: tuple[Floats, ...]
    label: npt.NDArray[np.int8]
    case: npt.NDArray[np.int64]

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Tissue:
        """Return the features of some images."""
        return Tissue(tuple(part[rows] for part in self.features), self.label[rows], self.case[rows])


def tissue(n_cases: int, n_images: int, seed: int, image_size: int = 96) -> Tissue:
    """Draw synthetic tissue and compute the features of staintex."""
    from bhsearch.data.grouping import units_of_groups
    from bhsearch.data.images.pixel_cache import pixel_cache
    from bhsearch.data.synthetic.phantom import phantom_dataset
    from bhsearch.models import backend
    from bhsearch.models.augmentation.cached_views import views_of
    from bhsearch.models.backbones.registry import find_backbones
    from bhsearch.models.features import FeatureCache
    from bhsearch.models.resize import make_resize

    backend.import_backend()
    index = phantom_dataset(f"phantom:cases={n_cases},images={n_images},seed={seed},difficulty=0.7")
    cache = FeatureCache(pixel_cache(index, make_resize("crop", image_size)), "auto")
    (view,) = views_of("none", 1)
    found = find_backbones(["staintex-s", "staintex-l"], None).backbones
    features = tuple(np.asarray(cache.get(backbone, view), np.float64) for backbone in found)
    return Tissue(features, index.labels.astype(np.int8), units_of_groups(index).number.astype(np.int64))


@dataclass(frozen=True)
class Head:
    """A logistic regression on some standardised features of an encoder."""

    encoder: int
    kept: npt.NDArray[np.int64]
    mean: Floats
    scale: Floats
    weights: Floats
    bias: float

    def logits(self, tissue: Tissue) -> Floats:
        """Return a logit per image."""
        rows = (tissue.features[self.encoder][:, self.kept] - self.mean) / self.scale
        return np.asarray(rows @ self.weights + self.bias)


def fit_head(tissue: Tissue, x: Floats) -> Head:
    """Fit the head with parameters x: encoder, penalty (C from 1e-5 to 1) and share of the features (0.1 to 1)."""
    from sklearn.linear_model import LogisticRegression

    encoder = int(x[0] >= 0.5)
    n_features = tissue.features[encoder].shape[1]
    order = np.random.default_rng(int(x[0] * 1e6)).permutation(n_features)
    kept = np.sort(order[: max(2, int(n_features * (0.1 + 0.9 * x[2])))])
    rows = tissue.features[encoder][:, kept]
    mean, scale = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    weight = case_weights(tissue.case, np.zeros((1, len(rows)), np.int8))[0]
    model = LogisticRegression(C=10 ** (5 * x[1] - 5) * len(rows) / weight.sum(), tol=1e-3, max_iter=200)
    model.fit((rows - mean) / scale, tissue.label, sample_weight=weight)
    return Head(encoder, kept, mean, scale, model.coef_[0], float(model.intercept_[0]))


def phantom_study(
    seed: tuple[int, ...], is_null: bool, search_name: str, n_trials: int, n_draws: int, pool: Tissue, fresh: Tissue
) -> Judged:
    rng = np.random.default_rng(seed)
    _, first = np.unique(pool.case, return_index=True)
    chosen = np.concatenate(
        [
            rng.choice(pool.case[first[pool.label[first] == value]], n, replace=False)
            for value, n in ((0, PHANTOM_CASES * 2 // 5), (1, PHANTOM_CASES * 3 // 5))
        ]
    )
    data = pool.select(np.isin(pool.case, chosen))
    _, first, number = np.unique(data.case, return_index=True, return_inverse=True)
    if is_null:
        data = replace(data, label=rng.permutation(data.label[first])[number])
    template = template_of(data.label, data.case, rng)
    fitted: list[list[Head]] = []

    def predict(x: Floats) -> Floats:
        probability, heads = np.empty(len(data.label)), []
        for fold in range(N_FOLDS):
            held_out = template.fold[0] == fold
            heads.append(fit_head(data.select(~held_out), x))
            probability[held_out] = 1 / (1 + np.exp(-heads[-1].logits(data.select(held_out))))
        fitted.append(heads)
        return probability

    def truth(trial: int) -> float:
        if is_null:
            return 0.5
        mean = np.mean([head.logits(fresh) for head in fitted[trial]], axis=0)
        weight = case_weights(fresh.case, np.zeros((1, len(mean)), np.int8))[0]
        return float(weighted_auc(fresh.label, mean, weight))

    propose = random_search(rng) if search_name == "random" else tpe_search(seed[-1])
    return judge(search(template, predict, propose, n_trials), truth, n_draws)


# -- tables ------------------------------------------------------------------------------------------------------------


def studies(options: argparse.Namespace, is_null: bool, search_name: str) -> Iterator[Judged]:
    """Yield the studies of one kind; those of the two phases have different seeds."""
    study: Callable[..., Judged] = simulated_study
    if options.data == "phantom":
        pool, fresh = tissue(POOL_CASES, 6, 1), tissue(options.fresh_cases, 2, 2)
        study = partial(phantom_study, pool=pool, fresh=fresh)
    for number in range(options.studies):
        seed = (PHASES[options.phase], int(is_null), SEARCHES.index(search_name), number)
        yield study(seed, is_null, search_name, options.trials, options.draws)


HEAD = (
    "| search | truth | method | holds | corrected score minus bound | relative to BBC-CV | raw score minus bound "
    "| relative to BBC-CV |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def rows(search_name: str, is_null: bool, judged: Sequence[Judged]) -> list[str]:
    """Return a row for each method: how many bounds hold, and their distances to the corrected and the raw score.

    The distances of a bound are relative to the distance of the lower end of BBC-CV to the corrected score.
    """
    truth, raw, corrected, low, high, naive = (
        np.array([getattr(study, name) for study in judged])
        for name in ("truth", "raw", "corrected", "low", "high", "naive")
    )
    start = [search_name, "null" if is_null else "non-null"]
    half = (corrected - low).mean()
    both = ((low <= truth) & (truth <= high)).sum()
    lines = [f"| {' | '.join([*start, 'BBC-CV, both ends', f'{both} of {len(judged)}', '', '', '', ''])} |"]
    bounds = {"BBC-CV, lower end": low, "quantile, no correction": naive}
    bounds |= {name: np.array([study.bounds[name] for study in judged]) for name in judged[0].bounds}
    for name, bound in bounds.items():
        held = f"{(bound <= truth).sum()} of {len(judged)}"
        distances = [(corrected - bound).mean(), (raw - bound).mean()]
        cells = [cell for distance in distances for cell in (f"{distance:.3f}", f"{distance / half:.0%}")]
        lines.append(f"| {' | '.join([*start, name, held, *cells])} |")
    return lines


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="simulation", choices=["simulation", "phantom"], help="(simulation)")
    made.add_argument("--phase", default="confirm", choices=list(PHASES), help="which studies (confirm)")
    made.add_argument("--studies", type=int, default=150, help="number of studies of each kind (150)")
    made.add_argument("--trials", type=int, default=50, help="trials of a study (50)")
    made.add_argument("--draws", type=int, default=1000, help="bootstrap draws (1000)")
    made.add_argument(
        "--fresh-cases", type=int, default=2000, help="cases that determine the truth of a phantom (2000)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> dict[tuple[str, bool], list[Judged]]:
    options = parser().parse_args(arguments)
    started, found = time.process_time(), {}
    print(f"{options.data}, phase {options.phase}, {options.trials} trials, {options.draws} draws\n\n{HEAD}")
    for search_name in SEARCHES:
        for is_null in (True, False):
            judged = list(studies(options, is_null, search_name))
            found[search_name, is_null] = judged
            print("\n".join(rows(search_name, is_null, judged)), flush=True)
    for (search_name, is_null), judged in found.items():
        means = [np.mean([getattr(study, name) for study in judged]) for name in ("truth", "raw", "corrected")]
        print(
            f"\n{search_name}, {'null' if is_null else 'non-null'}: truth {means[0]:.3f}, raw {means[1]:.3f}, "
            f"corrected {means[2]:.3f}",
            end="",
        )
    print(f"\n\n{time.process_time() - started:.0f} s of CPU")
    return found


if __name__ == "__main__":
    main()
