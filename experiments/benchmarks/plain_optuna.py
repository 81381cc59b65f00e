"""What one writes today without bhsearch: an Optuna script that trains Keras heads on frozen ImageNet networks.

It is the other side of `trial_speed.py`, and is meant to be good of its kind: cases are kept whole, a fifth of them is
held out, decoded images stay in memory within a fit, input is prepared in parallel. What it does not do is share
anything between fits, or keep anything but the score.

    python experiments/benchmarks/plain_optuna.py --data path/to/BreaKHis_v1 --weights-dir path/to/weights --trials 3
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import optuna
import tensorflow as tf
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

BATCH = 32
FILE_NAME = re.compile(
    r"SOB_([BM])_[A-Z]+-\d+-(\d+)[A-Z]*-\d+-\d+\.png"
)  # class, and case: the slide without its letters
BACKBONES = {
    "mobilenet-0.25": ("MobileNet", 0.25, "mobilenet_2_5_224_tf_no_top.h5"),
    "mobilenet-0.75": ("MobileNet", 0.75, "mobilenet_7_5_224_tf_no_top.h5"),
    "mobilenetv2-0.35": (
        "MobileNetV2",
        0.35,
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5",
    ),
}


def read_tree(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Path, label (1 malignant) and case of every image below a folder."""
    found = [(str(file), FILE_NAME.fullmatch(file.name)) for file in sorted(data.rglob("*.png"))]
    rows = [(path, match[1] == "M", match[2]) for path, match in found if match]
    if not rows:
        raise SystemExit(f"--data must be a folder of BreakHis images, but there are none below {data}.")
    paths, labels, cases = zip(*rows, strict=True)
    return np.array(paths), np.array(labels, np.float32), np.array(cases)


def hold_out(labels: np.ndarray, cases: np.ndarray) -> np.ndarray:
    """Mask of the images to search on: those of four fifths of the cases."""
    names, first = np.unique(cases, return_index=True)
    kept, _ = train_test_split(names, test_size=0.2, stratify=labels[first], random_state=0)
    return np.isin(cases, kept)


def make_dataset(
    paths: np.ndarray, labels: np.ndarray, size: int, training: bool, augment: keras.Model | None
) -> tf.data.Dataset:
    def load(path: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_png(tf.io.read_file(path), channels=3)
        return tf.image.resize(image, (size, size), antialias=True), label

    dataset = tf.data.Dataset.from_tensor_slices((paths, labels))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).cache()
    if training:
        dataset = dataset.shuffle(len(paths), seed=0)
    dataset = dataset.batch(BATCH)
    if augment is not None:
        dataset = dataset.map(lambda x, y: (augment(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def build(params: dict, size: int, weights_dir: Path) -> keras.Model:
    builder, alpha, file = BACKBONES[params["backbone"]]
    base = getattr(keras.applications, builder)(
        input_shape=(size, size, 3), alpha=alpha, include_top=False, weights=str(weights_dir / file), pooling="avg"
    )
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    x = base(keras.layers.Rescaling(1 / 127.5, offset=-1.0)(inputs), training=False)
    if params["hidden_units"]:
        x = keras.layers.Dense(params["hidden_units"], activation="relu")(x)
    x = keras.layers.Dropout(params["dropout"])(x)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    rate, decay = params["learning_rate"], params["weight_decay"]
    if params["optimizer"] == "adamw":
        optimizer = keras.optimizers.AdamW(rate, weight_decay=decay)
    else:
        optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    model.compile(optimizer, loss="binary_crossentropy")
    return model


def suggest(trial: optuna.Trial) -> dict:
    return {
        "backbone": trial.suggest_categorical("backbone", list(BACKBONES)),
        "augmentation": trial.suggest_categorical("augmentation", [False, True]),
        "hidden_units": trial.suggest_categorical("hidden_units", [0, 16, 64]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.6),
        "optimizer": trial.suggest_categorical("optimizer", ["adamw", "sgd"]),
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
    }


def fit_fold(params: dict, training: tuple, validation: tuple, options: argparse.Namespace) -> float:
    """AUC on the fold's validation images after the last epoch."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    augment = None
    if params["augmentation"]:
        layers = keras.layers
        augment = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.25), layers.RandomContrast(0.2)])
    model = build(params, options.image_size, options.weights_dir)
    train = make_dataset(*training, options.image_size, training=True, augment=augment)
    model.fit(train, epochs=options.epochs, verbose=0)
    test = make_dataset(*validation, options.image_size, training=False, augment=None)
    return float(roc_auc_score(validation[1], model.predict(test, verbose=0)[:, 0]))


def options_of(description: str | None) -> argparse.Namespace:
    """The options that the plain scripts share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of BreakHis images, at any depth")
    parser.add_argument("--weights-dir", type=Path, required=True, help="folder of Keras weight files")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    return parser.parse_args()


def folds_of(options: argparse.Namespace) -> tuple[list, str]:
    """Training and validation parts of each fold, and a description of the data."""
    paths, labels, cases = read_tree(options.data)
    rows = hold_out(labels, cases)
    paths, labels, cases = paths[rows], labels[rows], cases[rows]
    folds = StratifiedGroupKFold(options.folds, shuffle=True, random_state=0).split(paths, labels, cases)
    parts = [[(paths[part], labels[part]) for part in fold] for fold in folds]
    return parts, f"{len(paths)} images of {len(set(cases))} cases"


def main() -> None:
    options = options_of(__doc__)
    folds, said = folds_of(options)

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial)
        return float(np.mean([fit_fold(params, *fold, options) for fold in folds]))

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    started = time.perf_counter()
    study.optimize(objective, n_trials=options.trials)
    seconds = (time.perf_counter() - started) / options.trials
    print(f"{said}, best AUC {study.best_value:.4f}")
    print(f"{seconds:.2f} seconds a trial")


if __name__ == "__main__":
    main()
