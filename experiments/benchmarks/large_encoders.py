"""Large encoders on a CPU: memory of conversion and inference, images a second and features in f32 and in bf16.

    python experiments/benchmarks/large_encoders.py --data path/to/breakhis --encoders vit-b,vit-l

An encoder is `vit-b` (86 M weights), `vit-l` (303 M) or `vit-s` (22 M), with random weights that are drawn here, or the
folder of a published encoder. Conversion and each inference run in a process of their own, whose memory is read from
the system while it runs: mapped files apart from the rest, because the system can drop them. The images are synthetic
tissue (--data for others).

The rate of an encoder is compared with the fastest float32 matrix product of OpenVINO on this machine, per second of
a processor, which other work on the machine stretches less than wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from feature_speed import machine, work_of

VITS = {"vit-s": (384, 12, 6), "vit-b": (768, 12, 12), "vit-l": (1024, 24, 16)}  # width, blocks, attention heads
PATCH = 16
_POLL_SECONDS = 0.02
GB = 1e9


@dataclass
class Memory:
    """Largest resident memory of a process in bytes: its own, and pages of mapped files.

    Attributes:
        own: Anonymous and shared memory.
        mapped: Pages of mapped files.
    """

    own: int = 0
    mapped: int = 0

    def look(self, pid: int) -> None:
        """Read the memory of a process, if it still runs."""
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        sizes = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")}
        self.own = max(self.own, sizes.get("RssAnon", 0) + sizes.get("RssShmem", 0))
        self.mapped = max(self.mapped, sizes.get("RssFile", 0))


@dataclass
class Inference:
    """An inference of an encoder over the images, after the network was compiled.

    Attributes:
        precision: `f32` or `bf16`.
        seconds: Wall-clock and processor seconds.
        compile_seconds: Wall-clock seconds of compiling the network.
        memory: Memory of the process.
        features: Features of the images. Shape (n_images, n_features).
    """

    precision: str
    seconds: tuple[float, float]
    compile_seconds: float
    memory: Memory
    features: np.ndarray


@dataclass
class Measured:
    """Everything that is measured of an encoder.

    Attributes:
        name: Name of the encoder.
        operations: Operations of an image.
        n_images: Number of images.
        convert_seconds: Wall-clock seconds of the conversion.
        convert_memory: Memory of the process that converts.
        inferences: One for each precision that OpenVINO reports for this processor.
    """

    name: str
    operations: float
    n_images: int
    convert_seconds: float
    convert_memory: Memory
    inferences: list[Inference]


def write_vit(folder: Path, width: int, n_blocks: int, n_heads: int, size: int = 224) -> Path:
    """Write a vision transformer with random weights as transformers does, and return the folder.

    Weights of matrices have a variance of 1 over their number of inputs, so that tokens of different images differ.

    Args:
        folder: Target folder, which is created.
        width: Length of a token.
        n_blocks: Number of blocks.
        n_heads: Number of attention heads.
        size: Side of the images in pixels.
    """
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}

    def layer(name: str, n_out: int, *n_in: int) -> None:
        scale = np.float32(1 / np.sqrt(np.prod(n_in)))
        tensors[f"{name}.weight"] = random.standard_normal((n_out, *n_in), np.float32) * scale
        tensors[f"{name}.bias"] = np.zeros(n_out, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(width, np.float32), np.zeros(width, np.float32)

    layer("embeddings.patch_embeddings.projection", width, 3, PATCH, PATCH)
    tensors["embeddings.cls_token"] = random.standard_normal((1, 1, width), np.float32)
    n_tokens = 1 + (size // PATCH) ** 2
    tensors["embeddings.position_embeddings"] = 0.1 * random.standard_normal((1, n_tokens, width), np.float32)
    for k in range(n_blocks):
        block = f"encoder.layer.{k}"
        norm(f"{block}.layernorm_before")
        for part in ("query", "key", "value"):
            layer(f"{block}.attention.attention.{part}", width, width)
        layer(f"{block}.attention.output.dense", width, width)
        norm(f"{block}.layernorm_after")
        layer(f"{block}.intermediate.dense", 4 * width, width)
        layer(f"{block}.output.dense", width, 4 * width)
    norm("layernorm")
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": n_blocks,
        "num_attention_heads": n_heads,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "image_size": size,
        "patch_size": PATCH,
        "num_channels": 3,
        "qkv_bias": True,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    colours = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours), encoding="utf-8")
    return folder


def measured(folder: Path, images: Path, precisions: Sequence[str]) -> Measured:
    """Convert an encoder and run it in each precision.

    Args:
        folder: Folder of the encoder.
        images: File of uint8 images. Shape (n_images, size, size, 3).
        precisions: Precisions to run.
    """
    from bhsearch.models.backbones.registry import find_backbones
    from bhsearch.models.openvino import BackgroundConversion

    array = np.load(images, mmap_mode="r")
    (backbone,) = find_backbones([str(folder)], None).backbones
    memory, started = Memory(), time.perf_counter()
    conversion = BackgroundConversion([backbone], array.shape[1])
    process = conversion._process
    if process is None:
        raise SystemExit(f"{backbone.name} is converted already. Use another BHSEARCH_CACHE.")
    _watch(process.pid, memory, lambda: process.poll() is None)
    seconds = time.perf_counter() - started
    file = conversion.program(backbone)
    if file is None:
        raise SystemExit(f"{backbone.name} could not be converted.")
    assert not psutil.pid_exists(process.pid), "the conversion must have ended"
    found = [inference(file, images, precision) for precision in precisions]
    return Measured(backbone.name, work_of(file)[0], len(array), seconds, memory, found)


def inference(file: Path, images: Path, precision: str) -> Inference:
    """Run a converted encoder in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "features.npy"
        command = [sys.executable, str(Path(__file__).resolve()), "--infer", str(file), str(images), precision]
        command.append(str(target))
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            memory = Memory()
            _watch(process.pid, memory, lambda: process.poll() is None)
            assert process.stdout is not None
            printed = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"The inference of {file} in {precision} ended with {process.returncode}.")
        wall, processors, compiling = json.loads(printed.splitlines()[-1])
        return Inference(precision, (wall, processors), compiling, memory, np.load(target))


def infer(file: Path, images: Path, precision: str, target: Path) -> None:
    """Run a converted encoder in this process, and print the seconds."""
    from bhsearch.models.features import batch_size
    from bhsearch.models.openvino_program import openvino_forward

    array = np.load(images, mmap_mode="r")
    step = batch_size(array.shape[1])

    def batches(n_images: int) -> Iterator[np.ndarray]:
        for first in range(0, n_images, step):
            yield np.asarray(array[first : first + step], np.float32)

    started = time.perf_counter()
    forward = openvino_forward(file, precision=precision)
    compiling = time.perf_counter() - started
    forward(batches(step))  # which fills buffers for the first time
    started, used = time.perf_counter(), _processor_seconds()
    rows = forward(batches(len(array)))
    seconds = time.perf_counter() - started, _processor_seconds() - used
    np.save(target, rows)
    print(json.dumps([*seconds, compiling]))


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine similarity of the rows of two arrays. Shape (n_rows,)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def tables(found: Sequence[Measured], float32: float, bfloat16: float | None) -> str:
    """Return the measurements as tables.

    Args:
        found: Measurements by encoder.
        float32: Operations a processor second of the fastest float32 matrix product.
        bfloat16: The same in bfloat16; None if the processor does not support it.
    """
    lower = "is not supported here" if bfloat16 is None else f"is {bfloat16 / GB:.0f} GFLOP/s"
    lines = [
        f"The fastest matrix product is {float32 / GB:.0f} GFLOP/s per processor in float32; in bfloat16, it {lower}.",
        "",
        "| encoder | process | seconds | own memory, GB | mapped files, GB |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for one in found:
        rows = [("conversion", one.convert_seconds, one.convert_memory)]
        rows += [(f"inference in {each.precision}", each.seconds[0], each.memory) for each in one.inferences]
        for what, seconds, memory in rows:
            sizes = f"{memory.own / GB:.2f} | {memory.mapped / GB:.2f}"
            lines.append(f"| {one.name} | {what} | {seconds:.1f} | {sizes} |")
    lines += [
        "",
        "| encoder | precision | GFLOP an image | images a second | images a processor second | share of the float32 "
        "product | cosine with f32, least and median |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in found:
        for each in one.inferences:
            wall, processors = (one.n_images / seconds for seconds in each.seconds)
            similar = cosines(one.inferences[0].features, each.features)
            lines.append(
                f"| {one.name} | {each.precision} | {one.operations / GB:.1f} | {wall:.2f} | {processors:.2f} | "
                f"{one.operations * processors / float32:.0%} | {similar.min():.6f}, {np.median(similar):.6f} |"
            )
        if len(one.inferences) == 1:
            lines.append(f"| {one.name} | bf16 | | not supported here | | | |")
    return "\n".join(lines)


def pixels(data: str, n_images: int, size: int) -> np.ndarray:
    """Return images from all over a data set. uint8, shape (n_images, size, size, 3)."""
    from bhsearch.data.images.decode import decode
    from bhsearch.data.open_data import open_data
    from bhsearch.models.resize import make_resize

    paths, resize = open_data(data).paths(), make_resize("crop", size)
    rows = np.unique(np.linspace(0, len(paths) - 1, n_images).astype(int))
    return np.concatenate([resize.apply(decode(paths[row])) for row in rows])


def _watch(pid: int, memory: Memory, running: Callable[[], bool]) -> None:
    while running():
        memory.look(pid)
        time.sleep(_POLL_SECONDS)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--encoders", default="vit-b", help="vit-s, vit-b, vit-l or folders, comma between (vit-b)")
    made.add_argument("--data", default="phantom:cases=40,images=4", help="(phantom:cases=40,images=4)")
    made.add_argument("--images", type=int, default=32, help="(32)")
    made.add_argument("--image-size", type=int, default=224, help="side in pixels (224)")
    made.add_argument("--infer", nargs=4, help=argparse.SUPPRESS)
    return made


def main(arguments: Sequence[str] | None = None) -> list[Measured]:
    """Print the tables, and return the measurements."""
    options = parser().parse_args(arguments)
    if options.infer:
        file, images, precision, target = options.infer
        infer(Path(file), Path(images), precision, Path(target))
        return []
    from bhsearch.models.frozen.precision import BF16, F32, supports_bf16

    precisions = (F32, BF16) if supports_bf16() else (F32,)
    found = []
    with tempfile.TemporaryDirectory() as place:
        images = Path(place) / "images.npy"
        np.save(images, pixels(options.data, options.images, options.image_size))
        os.environ["BHSEARCH_CACHE"] = str(Path(place) / "cache")
        for name in options.encoders.split(","):
            if name in VITS:
                folder = write_vit(Path(place) / f"{name}-random", *VITS[name], size=options.image_size)
            else:
                folder = Path(name)
            found.append(measured(folder, images, precisions))
    able = machine()
    print(tables(found, able.float32, able.bfloat16 if len(precisions) > 1 else None))
    return found


if __name__ == "__main__":
    main()
