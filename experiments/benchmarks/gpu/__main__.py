"""What a GPU makes of the networks and of whole studies: one prepared script whose parts each stand alone.

All weights are RANDOM and the images are noise, 7,909 of them as in BreakHis, in 82 cases: speed only. Each part runs
in a process of its own, has a time limit, and writes each result at once to `PART.jsonl` in the output folder; a part
that did not come to its end is reported as far as it came, and one that was not reached as not measured.

    KERAS_BACKEND=jax python -m experiments.benchmarks.gpu --data noise:7909 --output results
    python -m experiments.benchmarks.gpu --data noise:7909 --output results --table      # only print what is there
    python -m experiments.benchmarks.gpu --data noise:7909 --output results --check      # tiny, on a processor

Parts, in their order: device, compilation (of a training step, under several flags of XLA), prepare (images drawn and
programs compiled for the next parts), speeds, frozen (50 trials, features there; heads on the processor and on the
device), hidden (one head of each kind), start (twice with one compilation cache), finetune (some trials, extrapolated),
command (run and register, tracked), profile, workers (1, 2 and 4).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bhsearch.errors import BhsearchError, DataError
from bhsearch.models.backbones.keras_applications import REGISTRY
from experiments.benchmarks.gpu import networks, parts
from experiments.benchmarks.gpu.compilation import VARIANTS
from experiments.benchmarks.gpu.networks import Device, Speed, Work

CHECK: dict[str, Any] = {
    "n_images": 120,
    "image_size": 32,
    "backbones": "mobilenet-0.25,vit-b16",
    "frozen_backbones": "mobilenet-0.25,mobilenet-0.5",
    "finetune_backbones": "mobilenet-0.25",
    "profile_backbones": "mobilenet-0.25",
    "compiled_backbones": "mobilenet-0.25",
    "hidden_units": [16],
    "profile_batches": [8],
    "network": "mobilenet-0.25",
    "batch": 8,
    "measured": 16,
    "trials": 1,
    "frozen_trials": 3,
    "folds": 2,
    "side": 256,
    "phantom": "phantom:cases=24,images=3",
    "command_size": 32,
    "workers": [1],
    "worker_trials": 1,
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", default="noise:7909", help="noise:N, so many images (noise:7909)")
    made.add_argument("--output", default="gpu-results", help="folder of the results (gpu-results)")
    made.add_argument("--parts", default=",".join(parts.PARTS), help="comma between; others are left as they are")
    made.add_argument("--minutes", type=float, default=12.0, help="after which no further part begins (12)")
    made.add_argument("--table", action="store_true", help="print the results that are there, and run nothing")
    made.add_argument("--check", action="store_true", help="tiny settings, to see that it runs")
    made.add_argument("--image-size", type=int, default=224, help="side in pixels (224)")
    made.add_argument(
        "--backbones", default="mobilenetv2-1.0,efficientnetb0,densenet121,resnet50v2,convnext-tiny,vit-b16"
    )
    made.add_argument("--frozen-backbones", default="mobilenetv2-1.0,efficientnetb0,densenet121,resnet50v2")
    made.add_argument("--finetune-backbones", default="mobilenetv2-1.0,efficientnetb0,densenet121,resnet50v2")
    made.add_argument("--profile-backbones", default="mobilenetv2-1.0,densenet121")
    made.add_argument("--compiled-backbones", default="mobilenetv2-1.0", help="of the part compilation")
    made.add_argument("--variants", default=";".join(VARIANTS), help="of compilation, semicolons between")
    made.add_argument("--variant-seconds", type=int, default=90, help="limit of each of its variants (90)")
    made.add_argument("--profile-batches", type=int, nargs="+", default=[16, 64], help="images in a step (16 64)")
    made.add_argument("--network", help="of the parts speed and start; mobilenetv2-1.0 for start")
    made.add_argument("--batch", type=int, default=32, help="images in a step of finetuning, for the table (32)")
    made.add_argument("--precision", default="auto", help="as for bhsearch.run (auto)")
    made.add_argument("--measured", type=int, default=2048, help="images that a speed is measured on (2048)")
    made.add_argument("--side", type=int, default=8192, help="of the squares that the device is measured with (8192)")
    made.add_argument("--trials", type=int, default=10, help="of the finetune study and of the command (10)")
    made.add_argument("--frozen-trials", type=int, default=50, help="of the frozen study (50)")
    made.add_argument("--finetune-shape", nargs=2, help="batch and depth of all these trials, else as searched")
    made.add_argument("--hidden-units", type=int, nargs="+", default=[16, 64], help="of the part hidden (16 64)")
    made.add_argument("--folds", type=int, default=2, help="of the finetune study (2)")
    made.add_argument("--phantom", default="phantom:cases=60,images=6", help="data of command and workers")
    made.add_argument("--command-size", type=int, default=96, help="side in pixels of command and workers (96)")
    made.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="workers that share the device (1 2 4)")
    made.add_argument("--worker-trials", type=int, default=8, help="trials of each of these studies (8)")
    return made


def images_of(data: str) -> int:
    """How many images `noise:N` says.

    Raises:
        DataError: If it says something else.
    """
    kind, _, number = data.partition(":")
    if kind != "noise" or not number.isdigit() or int(number) < 1:
        raise DataError(f"--data must be noise:N with a number of images, but got {data!r}.")
    return int(number)


def check(options: argparse.Namespace) -> None:
    """Refuse names that are not known, before anything runs.

    Raises:
        DataError: Naming them.
    """
    options.n_images = images_of(options.data)
    if options.check:
        vars(options).update(CHECK)
    wanted = ",".join((options.backbones, options.frozen_backbones, options.finetune_backbones)).split(",")
    unknown = [name for name in wanted if name not in (*REGISTRY, networks.VIT)]
    if unknown:
        raise DataError(f"--backbones must be of {', '.join(REGISTRY)}, {networks.VIT}, but got {', '.join(unknown)}.")
    unknown = [name for name in options.parts.split(",") if name not in parts.PARTS]
    if unknown:
        raise DataError(f"--parts must be of {', '.join(parts.PARTS)}, but got {', '.join(unknown)}.")


def run_parts(options: argparse.Namespace, given: Sequence[str]) -> None:
    """Run each part in a process of its own, one after another, until the minutes are over."""
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * options.minutes
    environment = os.environ | {
        "BHSEARCH_CACHE": str((folder / "cache").resolve()),
        "JAX_COMPILATION_CACHE_DIR": str((folder / "compiled").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1",
    }
    for part in options.parts.split(","):
        for _ in range(2 if part == "start" else 1):
            limit = min(parts.PARTS[part][1], end - time.monotonic())
            if limit < 10:
                print(f"{part}: not measured, the time was over", flush=True)
                continue
            own = environment | (
                {"JAX_COMPILATION_CACHE_DIR": str((folder / "start").resolve())} if part == "start" else {}
            )
            words = [sys.executable, "-m", "experiments.benchmarks.gpu", *given, "--only", part]
            with subprocess.Popen(words, env=own, start_new_session=True) as process:
                try:
                    print(f"{part}: exit code {process.wait(limit)}", flush=True)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                    print(f"{part}: stopped after {limit:.0f} s", flush=True)


# -- the tables -------------------------------------------------------------------------------------------------------


def results(folder: Path, part: str) -> list[dict[str, Any]]:
    """What a part wrote; nothing where it was not reached."""
    file = folder / f"{part}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def tables(folder: Path) -> str:
    """All results as Markdown."""
    known = results(folder, "device")
    if not known:
        return "The device was not measured, so nothing else is reported."
    facts = known[-1]
    device = Device(facts["name"], facts["operations"], facts["bytes"])
    said = [
        f"{device.name}; {facts['backend']}, {facts['precision']}; best matrix product {device.operations / 1e12:.1f} "
        f"TFLOP/s in {facts['dtype']}, best copy {device.bytes / 1e9:.0f} GB/s. Random weights and noise: speed only."
    ]
    rows = [row for row in results(folder, "speeds") if "speed" in row]
    value_bytes = 4 if facts["precision"] == "float32" else 2
    if rows:
        measured = [(row["network"], Speed(**row["speed"]), Work(**row["work"])) for row in rows]
        said.append(networks.table(measured, device, value_bytes))
    said += _compilation_said(results(folder, "compilation"))
    said += [
        f"Frozen, heads on the {row.get('heads', 'device')}: {row['n_trials']} trials in {row['seconds']:.1f} s, "
        f"features there; a trial {row['median']:.2f} s (median), {row['longest']:.1f} s (longest)."
        for row in results(folder, "frozen")
        if "n_trials" in row
    ]
    said += [
        f"A hidden head of {row['units']} units for all folds, on the {'device' if row['on_device'] else 'processor'}: "
        f"{row['first']:.1f} s, then {row['second']:.1f} s."
        for row in results(folder, "hidden")
    ]
    starts = [
        f"{row['features_seconds']:.1f} s (features) and {row['training_seconds']:.1f} s (training)"
        for row in results(folder, "start")
    ]
    if starts:
        said.append(
            f"First step of {results(folder, 'start')[0]['network']} in a new process: {', then '.join(starts)}."
        )
    said += _finetune_said(results(folder, "finetune"))
    said += [
        f"Command, {row['step']}: {row['seconds']:.0f} s, exit code {row['code']}."
        for row in results(folder, "command")
    ]
    said += [_workers_said(row) for row in results(folder, "workers")]
    said += _profile_said(results(folder, "profile"))
    missing = [part for part in parts.PARTS if not (folder / f"{part}.jsonl").exists()]
    if missing:
        said.append(f"Not measured: {', '.join(missing)}.")
    return "\n\n".join(said)


def _compilation_said(rows: list[dict[str, Any]]) -> list[str]:
    rows = [row for row in rows if "compiler" in row]
    if not rows:
        return []
    lines = [
        "| network | flags | to the end of the first steps, s | compiler, s | processor, s | finetune, images/s "
        "| ms of a fold outside its steps: initial state, constants, weights |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        outside = ", ".join(
            f"{1000 * row['fold'][name]:.0f}" for name in ("initial_state", "step_constants", "weights_of")
        )
        lines.append(
            f"| {row['network']} | {row['variant']} | {row['first_steps_seconds']:.1f} "
            f"| {row['compiler'].get('backend_compile_duration', 0.0):.1f} | {row['processor_seconds']:.0f} "
            f"| {row['images_a_second']:,.0f} | {outside} |"
        )
    return ["\n".join(lines)]


def _finetune_said(rows: list[dict[str, Any]]) -> list[str]:
    whole = [row for row in rows if not row["pruned"]]
    if not whole:
        return []
    seconds = sum(row["seconds"] for row in rows)
    per_fold = float(np.mean([row["seconds"] / row["folds"] for row in rows]))
    speed = sum(row["trained_images"] for row in whole) / sum(row["seconds"] for row in whole)
    minutes = per_fold * parts.N_FOLDS * parts.N_TRIALS / 60
    return [
        f"Finetune: {len(rows)} trials ({len(rows) - len(whole)} pruned) of {rows[0]['folds']} folds in {seconds:.0f} s"
        f", programs compiled before; {speed:,.0f} images a second in whole trials. Extrapolated to {parts.N_TRIALS} "
        f"trials of {parts.N_FOLDS} folds: {minutes:.0f} minutes."
    ]


def _workers_said(row: dict[str, Any]) -> str:
    """Trials a minute from the end of each worker's first trial to the last end: starting and compiling are out."""
    times = sorted(row["times"], key=lambda time_: time_[1])
    later = times[row["workers"] :]
    if not later:
        return f"Workers, {row['workers']}: {len(times)} trials ended in {row['seconds']:.0f} s."
    span = later[-1][1] - times[row["workers"] - 1][1]
    return f"Workers, {row['workers']}: {len(later) / max(span, 1e-9) * 60:.1f} trials a minute once all had begun."


def _profile_said(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "| network, batch | step, ms | augmentation | forward | drawing | 16 steps a call |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    several = {(row["network"], row["batch"]): row["step_ms"] for row in rows if "steps_per_call" in row}
    for row in rows:
        if "steps_per_call" not in row:
            then = several.get((row["network"], row["batch"]))
            cells = [row[name] for name in ("step_ms", "augment_ms", "forward_ms", "fixed_ms")]
            last = "" if then is None else f"{then:.2f}"
            lines.append(
                f"| {row['network']}, {row['batch']} | " + " | ".join(f"{x:.2f}" for x in cells) + f" | {last} |"
            )
    return ["\n".join(lines)]


def main(arguments: Sequence[str] | None = None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    made = parser()
    made.add_argument("--only", help=argparse.SUPPRESS)
    made.add_argument("--shape", nargs=3, help=argparse.SUPPRESS)
    made.add_argument("--variant", help=argparse.SUPPRESS)
    options = made.parse_args(given)
    try:
        check(options)
        if options.only:
            part = parts.WITHIN[options.only] if options.only in parts.WITHIN else parts.PARTS[options.only][0]
            part(parts.Bench(options, options.only))
            return
        if not options.table:
            run_parts(options, given)
        print(tables(Path(options.output)))
    except BhsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
