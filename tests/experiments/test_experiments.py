"""Ready studies and benchmarks: each file says how it is run, and that is how it runs."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import shlex
import subprocess
import sys
import time
import tomllib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import typer.main

import bhsearch
from bhsearch.config import Settings, load_settings
from bhsearch.data.synthetic.phantom import phantom_dataset
from bhsearch.errors import DataError
from bhsearch.objectives.space import finetune_space
from bhsearch.run import app
from bhsearch.study.context import FINETUNE_PRUNER
from experiments.benchmarks.gpu import __main__ as gpu
from experiments.benchmarks.gpu import networks

ROOT = Path(__file__).resolve().parents[2]
STUDIES = sorted((ROOT / "experiments").glob("*.toml"))
SCRIPTS = sorted((ROOT / "experiments" / "benchmarks").glob("*.py"))
SIMULATED = ("learning_curve", "nested_studies", "racing", "ray_cluster", "vectors")  # draw their own data
by_name = pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
TINY = {
    "data": "phantom:cases=20,images=2",
    "layout": "auto",
    "backbones": ("staintex-s",),
    "image_size": 48,
    "trials": 1,
    "workers": 0,
}


def load(name: str) -> ModuleType:
    """A benchmark script as a module; the folder is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def opening(file: Path) -> str:
    """The comment block at the top of a file."""
    found = re.match(r"(#.*\n)+", file.read_text(encoding="utf-8"))
    assert found is not None, f"{file.name} must open with a comment"
    return found[0]


def test_the_promised_studies_are_there():
    """The tests below go by glob, and would pass on an empty folder."""
    assert {"quick", "breakhis-frozen", "idc-frozen"} <= {file.stem for file in STUDIES}


@by_name
def test_a_study_opens_with_its_own_command_its_cost_and_its_score(file):
    (command,) = re.findall(r"^# +python -m bhsearch\.run (.*)$", opening(file), re.MULTILINE)
    given = typer.main.get_command(app).make_context("run", shlex.split(command)).params
    assert given["config"] == file.relative_to(ROOT)
    (said,) = re.findall(r"^# Cost and score: (.*)$", opening(file), re.MULTILINE)
    measured = r"\d+ (s|min|h) on .*, AUC 0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\]"
    assert re.match(measured, said) or said.startswith("not measured as it stands; experiments/benchmarks/README.md")


def test_a_first_look_says_what_it_costs_and_scores():
    """Nobody decides on a first look by "not measured"."""
    assert "not measured" not in opening(ROOT / "experiments" / "quick.toml")


@by_name
def test_the_command_of_a_study_needs_nothing_that_it_does_not_name(file):
    """Data of the user's own are given in the command, so that nobody has to edit the file."""
    data = tomllib.loads(file.read_text(encoding="utf-8"))["data"]
    assert data == "phantom" or f"--data {data}" in opening(file)


@pytest.mark.slow
@by_name
def test_a_study_runs_as_it_stands_but_smaller(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(file, {})
    tiny = TINY | ({"backbones": ("cnn",), "image_size": 32} if settings.regime == "finetune" else {})
    result = bhsearch.optimize(config=file, **tiny, tracking=False, quiet=True)
    assert result.study == settings.study
    assert list(result.trials["state"]) == ["COMPLETE"]
    assert 0.0 <= result.best.trial.value <= 1.0


@pytest.mark.parametrize("name", ["breakhis-frozen", "idc-frozen"])
def test_a_study_of_the_users_data_never_falls_back_on_synthetic_tissue(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = ROOT / "experiments" / f"{name}.toml"
    with pytest.raises(DataError, match="path/to"):
        bhsearch.optimize(config=file, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_studies_are_called_differently_from_each_other_and_from_the_default():
    """In one folder they would else be refused as the same study with another split."""
    names = [load_settings(file, {}).study for file in STUDIES]
    assert len(set(names)) == len(names)
    assert None not in names


def test_full_settings_keep_the_default_size_and_repeat_the_folds():
    for name in ("breakhis-frozen", "idc-frozen"):
        settings = load_settings(ROOT / "experiments" / f"{name}.toml", {})
        default = Settings()
        assert (settings.image_size, settings.folds, settings.trials) == (
            default.image_size,
            default.folds,
            default.trials,
        )
        assert settings.repeats == 3
        assert settings.group_by == "case"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_answers_help(script, monkeypatch, capsys):
    """Run as a script, but in this process: another one would import the frameworks again."""
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)  # one script may use another
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    commands = (f"python experiments/benchmarks/{script.name}", f"python -m experiments.benchmarks.{script.stem}")
    assert any(command in printed for command in commands)
    if script.stem not in SIMULATED:
        assert f"python experiments/benchmarks/{script.name} --data" in printed


def test_speed_is_compared_round_by_round():
    """A ratio of medians would hide that the machine was slower in one of the rounds."""
    speed = load("trial_speed")
    ours = [speed.OurRun(4.0, 5.0, 1.0, 10, 12.0), speed.OurRun(8.0, 10.0, 2.0, 10, 14.0)]
    printed = speed.tables({"one": [50.0, 200.0], "other": [10.0, 10.0]}, {"96 px": ours})
    assert "| one, 96 px | | 125.0 (50.0 to 200.0) | | |" in printed
    assert "| bhsearch, 96 px | 10 | 1.50 (1.00 to 2.00) | 75 (50 to 100) | 8 (5 to 10) |" in printed
    assert "| 96 px | 6.0 | 7.5 | 1.5 | 13.0 |" in printed


@pytest.mark.slow
def test_the_time_of_a_study_is_that_of_its_whole_process(tmp_path, monkeypatch):
    speed, tissue = load("trial_speed"), phantom_dataset(TINY["data"]).root
    options = Namespace(data=tissue, weights_dir=tmp_path, trials=2, folds=2, backbones="staintex-s")
    monkeypatch.setitem(speed.VARIANTS, "48 px, warm", ("--image-size", "48", "--no-tracking"))
    started = time.monotonic()
    run = speed.run_ours(options, "48 px, warm", tmp_path)
    assert run.n_trials == 2
    assert min(run.before, run.trials, run.after, run.processor) > 0
    assert 2 * run.seconds_a_trial <= time.monotonic() - started + 0.1
    assert (tmp_path / "cache" / "features").is_dir()


def test_a_run_that_fails_ends_the_comparison_with_its_words(tmp_path):
    speed = load("trial_speed")
    options = Namespace(data=tmp_path / "nowhere", weights_dir=tmp_path, trials=1, folds=2, backbones="staintex-s")
    with pytest.raises(SystemExit, match=r"ended with 2:(.|\n)*nowhere"):
        speed.run_ours(options, "default size", tmp_path)


def test_the_plain_script_keeps_siblings_of_a_case_together(tmp_path):
    """Else it would be compared on an easier task."""
    plain = load("plain_optuna")
    names = [
        "SOB_B_A-14-22549AB-100-001.png",
        "SOB_B_A-14-22549G-40-002.png",
        "SOB_M_DC-14-2523-100-001.png",
        "notes.png",
    ]
    for name in names:
        (tmp_path / name).touch()
    paths, labels, cases = plain.read_tree(tmp_path)
    assert [Path(path).name for path in paths] == names[:3]
    assert labels.tolist() == [0.0, 0.0, 1.0]
    assert cases.tolist() == ["22549", "22549", "2523"]


@pytest.mark.filterwarnings("ignore:(currentThread|getName):DeprecationWarning")  # of KerasTuner
def test_the_loop_of_keras_tuner_fits_each_fold_of_each_trial(tmp_path, monkeypatch, capsys):
    """What a fit does is tested by hand; here only that the tuner asks for it."""
    monkeypatch.syspath_prepend(ROOT / "experiments" / "benchmarks")
    plain, tuned = importlib.import_module("plain_optuna"), load("plain_keras_tuner")
    asked = []

    def fit_fold(params, training, validation, options):
        asked.append(params)
        assert len(training[0]) == len(training[1])
        assert set(validation[1]) == {0.0, 1.0}
        return 0.75

    for case in range(20):
        (tmp_path / f"SOB_{'BM'[case % 2]}_A-14-{case}-100-001.png").touch()
    monkeypatch.setattr(plain, "fit_fold", fit_fold)
    arguments = ["--data", str(tmp_path), "--weights-dir", str(tmp_path), "--trials", "3", "--folds", "2"]
    monkeypatch.setattr(sys, "argv", ["plain_keras_tuner.py", *arguments])
    tuned.main()
    assert len(asked) == 6
    assert set(asked[0]) == {
        "backbone",
        "augmentation",
        "hidden_units",
        "dropout",
        "optimizer",
        "learning_rate",
        "weight_decay",
    }
    assert "16 images of 16 cases, best AUC 0.7500" in capsys.readouterr().out


def test_the_plain_script_holds_out_whole_cases_of_both_classes():
    plain = load("plain_optuna")
    cases = np.repeat([f"{number}" for number in range(20)], 3)
    labels = np.repeat([number < 10 for number in range(20)], 3).astype(np.float32)
    kept = plain.hold_out(labels, cases)
    assert set(cases[kept]).isdisjoint(cases[~kept])
    assert len(set(cases[kept])) == 16
    assert set(labels[~kept]) == {0.0, 1.0}


# -- finetuning --------------------------------------------------------------------------------------------------------


def test_the_recorded_studies_are_those_that_the_benchmark_names():
    pruning = load("pruning")
    studies = pruning.read(pruning.CURVES)
    assert list(studies) == [name for name, _, _ in pruning.STUDIES]
    space = {row.name: row for row in pruning.shorter(finetune_space(pruning.BACKBONES, (pruning.IMAGE_SIZE,)))}
    for curves in studies.values():
        assert len(curves) == pruning.N_TRIALS
        assert all(space[name].holds(value) for curve in curves for name, value in curve.params.items())
        assert all(curve.reports[-1][1] == pytest.approx(curve.score, abs=1e-6) for curve in curves)


def test_the_default_pruner_loses_a_hundredth_at_most_with_half_of_the_epochs_at_most():
    """On the studies that its constants were not chosen on."""
    pruning = load("pruning")
    judged = [curves for name, curves in pruning.read(pruning.CURVES).items() if not name.startswith(pruning.TUNING)]
    assert len(judged) == 5
    results = [pruning.replay(curves, FINETUNE_PRUNER) for curves in judged]
    assert np.mean([each.loss for each in results]) <= pruning.MOST_LOSS
    assert np.mean([each.share for each in results]) <= pruning.MOST_SHARE


def curve(pruning: ModuleType, scores: list[float], epochs: int = 4):
    """A trial that stands alike at every look of a fold."""
    reports = [
        (step, scores[step // 4], scores[step // 4] if step % 4 == 3 else None) for step in range(4 * len(scores))
    ]
    return pruning.Curve({"epochs": epochs}, reports, scores[-1], 1.0)


def test_a_replay_counts_epochs_up_to_the_report_that_ended_a_trial():
    pruning = load("pruning")
    curves = [curve(pruning, [0.9, 0.9]) for _ in range(4)] + [curve(pruning, [0.5, 0.5])]
    whole = pruning.replay(curves, "none")
    assert (whole.loss, whole.share, whole.n_pruned) == (0.0, 1.0, 0)
    ended = pruning.replay(curves, "median")  # the bad one at the half of its first fold: 2 of its 8 epochs
    assert (ended.loss, ended.n_pruned) == (0.0, 1)
    assert ended.share == pytest.approx((4 * 8 + 2) / 40)


def test_a_replay_loses_what_only_a_late_bloomer_had_but_not_a_trial_that_was_done():
    pruning = load("pruning")
    good = [curve(pruning, [0.8, 0.8]) for _ in range(4)]
    assert pruning.replay([*good, curve(pruning, [0.5, 0.95])], "median").loss == pytest.approx(0.15)
    late = replace(curve(pruning, [0.9, 0.9]), reports=[(step, 0.9, None) for step in range(7)] + [(7, 0.1, 0.1)])
    assert pruning.replay([*good, late], "halving").n_pruned == 0


def test_curves_come_back_from_their_file_and_a_damaged_file_is_said_to_be_one(tmp_path, capsys):
    pruning = load("pruning")
    file, studies = tmp_path / "curves.json.gz", {"study-1": [curve(pruning, [0.6, 0.7])]}
    pruning.write(file, studies)
    once = file.read_bytes()
    pruning.write(file, studies)
    assert file.read_bytes() == once
    assert pruning.read(file) == studies
    file.write_bytes(once[:-9])
    with pytest.raises(SystemExit) as caught:
        pruning.main(["--data", str(file)])
    assert caught.value.code == 2
    assert "--record" in capsys.readouterr().err


def test_the_speed_of_finetuning_is_compared_round_by_round():
    speed = load("finetune_speed")
    ours, theirs = ([np.array(pair) for pair in pairs] for pairs in ([(1, 2), (2, 2)], [(4, 6), (12, 6)]))
    printed = speed.epoch_rows("cnn", "none", {"bare": ours, "ours": ours, "keras": theirs, "cached": ours})
    assert printed.splitlines() == [
        "| cnn | none | wall | 1.500 | 1.500 | +0.0% | 8.000 | 5.0 | 1.500 | 1.0 |",
        "| cnn | none | processors | 2.000 | 2.000 | +0.0% | 6.000 | 3.0 | 2.000 | 1.0 |",
    ]
    assert speed.fixed_rows("cnn", theirs, ours).splitlines()[0] == "| cnn | wall | 8.00 | 1.500 | 5 |"


@pytest.mark.slow
def test_both_sides_of_the_comparison_train_on_the_same_files(tmp_path):
    speed = load("finetune_speed")
    options = speed.parser().parse_args(
        ["--data", TINY["data"], "--images", "20", "--batch", "8", "--image-size", "48"]
    )
    bench = speed.bench_of(options)
    assert (bench.n_training, bench.steps, bench.size, len(bench.index)) == (16, 2, 48, 24)
    links = list(speed.class_folders(bench, tmp_path).rglob("*.png"))
    assert {int(file.stem) for file in links} == set(bench.task().training)
    for file in links:
        row = int(file.stem)
        assert file.resolve() == bench.index.paths()[row].resolve()
        assert file.parent.name == ("benign", "malignant")[bench.index.labels[row]]


def test_what_is_timed_are_real_steps_and_a_real_trial_without_them():
    speed = load("finetune_speed")
    options = speed.parser().parse_args(
        ["--data", TINY["data"], "--images", "16", "--batch", "8", "--image-size", "32", "--epochs", "2"]
    )
    bench = speed.bench_of(options)
    (backbone,) = speed.find_backbones(["cnn"], None, trainable=True).backbones
    program = speed.CompiledTrainer(speed.shape_of(backbone, bench))
    for measure in (speed.bare_loop(program, bench, "all"), speed.our_epoch(program, bench, "all")):
        assert (measure() > 0).all()
    steps, start = program._run, speed.start_of(program)
    with speed.without_steps(program):
        state, facts, images, plan = speed.ready(program, bench, "none", 2)
        still, _ = program.run(state, facts, images, plan)
    assert all((a == b).all() for a, b in zip(program.weights_of(still).weights, start.weights, strict=True))
    assert program._run is steps
    assert (speed.fixed_seconds(speed.shape_of(backbone, bench), bench) > 0).all()


def test_too_few_images_for_a_comparison_are_an_error(capsys):
    speed = load("finetune_speed")
    with pytest.raises(SystemExit) as caught:
        speed.main(["--data", TINY["data"], "--images", "9999"])
    assert caught.value.code == 2
    assert "9999" in capsys.readouterr().err


def test_work_is_counted_as_the_paper_of_the_network_counts_it():
    """MobileNet 0.25 at 224 px: 41 million multiplications, a quarter of a million of them in its top."""
    backbone = networks.RandomBackbone("mobilenet-0.25", None, "random-0", "keras-applications")
    work = networks.work_of(backbone.build(224), backbone.more_operations(224))
    assert work.operations / 2 == pytest.approx(41e6, rel=0.03)
    device = networks.Device("one", work.operations * 100, work.values * 8 * 400)
    assert networks.shares(50, 1, work, device, 4) == pytest.approx((0.5, 0.125))
    row = networks.table([("net", networks.Speed(50, 20, 70, 0.5, 1.5, 2500.0), work)], device, 2).splitlines()[-1]
    assert row == "| net | 50 | 50.0% | 12.5% | 20 | 60.0% | 7.5% | 70 | 0.5, 1.5 | 2.5 |"


def test_the_vision_transformer_of_the_gpu_benchmark_is_the_one_of_the_paper():
    """ViT-B/16 at 224 px: 86 million weights, 17.6 thousand million multiplications."""
    backbone = networks.RandomBackbone(networks.VIT, None, "random-0", "keras-applications")
    network = backbone.build(224)
    assert network.count_params() == pytest.approx(86e6, rel=0.01)
    work = networks.work_of(network, backbone.more_operations(224))
    assert work.operations / 2 == pytest.approx(17.6e9, rel=0.02)


@pytest.mark.slow
def test_the_gpu_benchmark_runs_where_there_is_no_gpu(tmp_path, capfd):
    gpu.main(
        [
            "--data",
            "noise:48",
            "--check",
            "--variants",
            "default, again",
            "--parts",
            "device,compilation,frozen,hidden,finetune",
            "--output",
            str(tmp_path),
        ]
    )
    printed = capfd.readouterr().out
    assert "finetune: exit code 0" in printed
    assert "Random weights and noise: speed only." in printed
    assert re.search(r"Frozen, heads on the processor: 3 trials in [\d.]+ s, features there", printed)
    assert re.search(r"Extrapolated to 50 trials of 5 folds: \d+ minutes", printed)
    assert "| mobilenet-0.25 | default, again |" in printed
    assert re.search(r"A hidden head of 16 units for all folds, on the device: [\d.]+ s, then", printed)
    assert "Not measured: prepare, speeds, start, command, profile, workers." in printed


@pytest.mark.parametrize(("device", "least"), [("h100", 5), ("h200", 3)])
def test_the_figures_of_a_gpu_in_the_page_are_the_ones_that_were_recorded(device, least, capsys):
    folder = ROOT / "experiments" / "benchmarks" / "gpu" / device
    gpu.main(["--data", "noise:7909", "--table", "--output", str(folder)])
    page = (ROOT / "experiments" / "benchmarks" / "gpu.md").read_text(encoding="utf-8")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) >= least
    assert [row for row in rows if row not in page] == []


def test_noise_of_the_gpu_benchmark_must_have_a_number(capsys):
    with pytest.raises(SystemExit) as caught:
        gpu.main(["--data", "noise"])
    assert caught.value.code == 2
    assert "noise:N" in capsys.readouterr().err


def test_the_overhead_of_engines_is_measured_once_and_drawn(tmp_path, monkeypatch, capsys):
    """Real studies of both engines, of one trial each before the ones that are timed."""
    overhead = load("engine_overhead")
    chosen = [("optuna", "qmc"), ("keras-tuner", "grid"), ("keras-tuner", "bayesian")]
    monkeypatch.setattr(overhead, "CASES", chosen)
    arguments = ["--data", str(tmp_path / "times.json"), "--sizes", "1,2", "--figure", str(tmp_path / "curves.png")]
    kept = overhead.main(arguments)
    assert set(kept["times"]) == {overhead.key(*case, size) for case in chosen for size in (1, 2)}
    assert all(found["mean"][0] > 0 and found["first"][1] > 0 for found in kept["times"].values())
    printed = capsys.readouterr().out
    assert overhead.main(arguments) == kept  # a second run measures nothing again
    assert capsys.readouterr().out == printed
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        overhead.main([*arguments, "--most", "1"])


def test_a_sampler_that_thinks_too_long_is_given_up_and_said_so(tmp_path, monkeypatch):
    # In a new process: in this one, the signal of the timer could reach a thread that earlier tests left, and kill it.
    code = """
import json, sys
from pathlib import Path
from experiments.benchmarks import engine_overhead

def think(study):
    while True:
        pass

engine_overhead.one_trial = think
print(json.dumps(engine_overhead.measure(Path(sys.argv[1]), "keras-tuner", "random", 0.2)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"first": None, "mean": None}
    overhead = load("engine_overhead")
    monkeypatch.setattr(overhead, "CASES", [("keras-tuner", "random")])
    kept = {"most": 60.0, "times": {"keras-tuner/random/50": {"first": [0.5, 0.6], "mean": [1.5, 2.0]}}}
    kept["times"]["keras-tuner/random/500"] = found
    row = "| keras-tuner | random | 1.5 (2) | over 60 | over 60 |"
    assert overhead.table(kept, (50, 500)).splitlines()[2] == row
