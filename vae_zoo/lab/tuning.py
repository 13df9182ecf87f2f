"""Search over hyperparameters: what KerasTuner may vary in each family, and what it looks for.

    search = Search("dense_vae", "digits", objective="val_elbo", epochs=30)
    tuner = search.tuner("bayesian", trials=12, output="output/tune")
    tuner.search()

A bound at β = 1 is best where β = 1 was trained, by construction: with `val_elbo` β is not
searched. Where it is, something else must say which β is good: `OBJECTIVES` has two, and takes
others by name.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import time
from collections.abc import Callable

import keras
import keras_tuner
import numpy as np
from keras_tuner.src import utils

from vae_zoo import data, files, zoo
from vae_zoo.data import factors
from vae_zoo.engine import distribute, replicas
from vae_zoo.engine.batches import Batches
from vae_zoo.engine.saving import keywords
from vae_zoo.lab import factor_numbers, metrics, runs
from vae_zoo.lab.evaluate import features, labels_of
from vae_zoo.lab.spaces import FAMILIES, OF_CLASSES
from vae_zoo.models.kinds import BaseVAE
from vae_zoo.parts import likelihoods, schedules


def _save_json(path, content):
    text = json.dumps(content)
    files.write_bytes(path, text.encode())
    return text


# KerasTuner's own leaves half a file when it is killed while it writes, and cannot go on from it.
utils.save_json = _save_json


# === What is searched for ===


@dataclasses.dataclass
class Objective:
    """What is sought among the numbers of a trial.

    Args:
        direction: "max" or "min".
        value: function of (search, model, numbers) -> float; `numbers` are those of
            `Search.measured`.
        searches_beta: bool, False where β = 1 is best by construction.
    """

    direction: str
    value: Callable
    searches_beta: bool = True


def _cnn_fid(search, model, numbers):
    n = len(search.real_features)
    new = model.sample(n, seed=search.seed, y=labels_of(model, search.validation[1][:n]))
    return metrics.frechet_distance(features(search.classifier, new), search.real_features)


def _rate_at_distortion(search, model, numbers):
    """The rate; what the distortion is too large by costs a hundred times as much."""
    return numbers["rate"] + 100.0 * max(0.0, numbers["distortion"] - search.target_distortion)


def _of_factors(name, search, model, numbers):
    how = {"num_images": 10_000, "fast": True, "seed": search.seed, "only": (name,)}
    return factor_numbers.numbers(model, *search.factors, **how)[name]["value"]


OBJECTIVES = {
    "val_elbo": Objective("max", lambda search, model, numbers: numbers["val_elbo"], False),
    "val_iwae": Objective("max", lambda search, model, numbers: numbers["val_iwae"], False),
    "val_loss": Objective("min", lambda search, model, numbers: numbers["val_loss"], False),
    "cnn_fid": Objective("min", _cnn_fid),
    "rate_at_distortion": Objective("min", _rate_at_distortion),
    **{
        name: Objective("max", functools.partial(_of_factors, name))
        for name in factor_numbers.MEASURES
    },
}


TUNERS = {
    "random": keras_tuner.RandomSearch,
    "bayesian": keras_tuner.BayesianOptimization,
    "hyperband": keras_tuner.Hyperband,
}


class Search(keras_tuner.HyperModel):
    """A family, a data set and an objective, as KerasTuner's `HyperModel`.

    A trial is trained on the training images, stopped early, measured and judged on the validation
    images; test images are not looked at, but by the objectives of factors, which draw 10,000
    images of the whole set.

    Args:
        family: name in `FAMILIES`; or, of a family of one's own, a function of (hp, shape, seed
            and, where its constructor takes it, beta) -> model, of any kind.
        dataset: see `vae_zoo.data.load`.
        objective: name in `OBJECTIVES`; None takes the validation bound, or loss.
        target_distortion: float, nats, for the objective "rate_at_distortion".
        likelihood: of the family's; None takes the recipe's default.
        epochs, batch_size, seed: ints, of each trial.
        progress: function of a line of text, called after each trial.
        image_size: what images are brought to, see `data.load`.

    Raises:
        ValueError: if a name is unknown, or the objective cannot be computed of the family or the
            data set.
    """

    def __init__(
        self,
        family="dense_vae",
        dataset="digits",
        objective=None,
        target_distortion=None,
        likelihood=None,
        epochs=30,
        batch_size=128,
        seed=0,
        progress=print,
        image_size=None,
    ):
        super().__init__()
        if not callable(family) and family not in FAMILIES:
            raise ValueError(f"`family` must be one of {sorted(FAMILIES)}. Received: {family!r}")
        self.make, default = (family, None) if callable(family) else FAMILIES[family]
        self.likelihood = (likelihood or default) if default else None
        if self.likelihood:
            likelihoods.get(self.likelihood)
        if objective is not None and objective not in OBJECTIVES:
            raise ValueError(
                f"`objective` must be one of {sorted(OBJECTIVES)}. Received: {objective!r}"
            )
        if (objective == "rate_at_distortion") != (target_distortion is not None):
            raise ValueError(
                "The objective rate_at_distortion and a target distortion (nats) go together"
            )
        self.epochs, self.batch_size, self.seed = epochs, batch_size, seed
        self.progress, self.target_distortion = progress, target_distortion
        self.dataset, self.image_size, self.family = dataset, image_size, family
        self.train, self.validation, self.test = runs.splits(dataset, image_size)

        # What the family is, one of its models says.
        model = self.make(keras_tuner.HyperParameters(), **self._shared())
        bounded = isinstance(model, BaseVAE)
        self.with_beta = "beta" in keywords(type(model))
        if model.sees_bits:
            held_out = self.validation, self.test
            self.validation, self.test = ((data.binarize(x), y) for x, y in held_out)
        self.objective = objective or f"val_{model.monitor}"
        if self.objective != "val_loss" and not bounded:
            raise ValueError(
                f"The objective of {family} must be val_loss. Received: {self.objective}"
            )
        if self.objective == "val_iwae" and "iwae" not in model.logged:
            raise ValueError(f"{family} has no importance-weighted bound: choose another objective")
        self.judge = OBJECTIVES[self.objective]
        if self.objective == "cnn_fid":
            self._load_features()
        if self.objective in factor_numbers.MEASURES:
            if not factor_numbers.takes(model):
                raise ValueError(f"{self.objective} needs one vector of latents, unlike {family}")
            self.factors = factors.load(dataset, image_size)

    def _shared(self):
        """What every model of the search is made with."""
        shared = {"shape": self.train[0].shape[1:], "seed": self.seed}
        if self.family in OF_CLASSES:
            if self.train[1] is None:
                raise ValueError(f"{self.family} needs classes, and {self.dataset} has none")
            shared["condition"] = 1 + int(max(np.max(y) for _, y in (self.train, self.validation)))
        return shared | ({"likelihood": self.likelihood} if self.likelihood else {})

    def _load_features(self):
        self.classifier = zoo.classifier(self.dataset, self.train[0].shape[1:])
        if self.classifier is None:
            raise ValueError(f"cnn_fid needs a classifier, and the zoo has none for {self.dataset}")
        real = data.load(self.dataset, "validation", image_size=self.image_size)[0][:2000]
        self.real_features = features(self.classifier, real)

    def build(self, hp):
        # Hyperband goes on with the best of its trials, updates counted.
        epochs, first = (hp.values.get(f"tuner/{k}", 0) for k in ("epochs", "initial_epoch"))
        epochs = epochs or self.epochs
        images = self.train[0]
        shared = self._shared()
        if self.with_beta:
            beta = 1.0
            if self.judge.searches_beta:
                beta = hp.Float("beta", 0.1, 10.0, sampling="log", default=1.0)
            warm_up = hp.Float("warm_up", 0.0, 0.5, step=0.1, default=0.1)  # of the epochs
            steps = 0 if first else round(warm_up * epochs * -(-len(images) // self.batch_size))
            shared["beta"] = schedules.warm_up(steps, beta)
        rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log", default=1e-3)
        keras.utils.set_random_seed(self.seed)
        model = self.make(hp, **shared)
        rate = runs.scheduled(rate, "cosine", epochs, len(images), self.batch_size)
        model.compile(keras.optimizers.Adam(rate))
        model.optimizer.build(model.trainable_variables)  # as those in the files of trials are
        return model

    def fit(self, hp, model, epochs=None, initial_epoch=0, callbacks=(), **kwargs):
        """Trains one trial; a dict of its numbers, the objective's among them."""
        start = time.monotonic()
        batches = Batches(*self.train, batch_size=self.batch_size, seed=self.seed)
        held_out = Batches(*self.validation, batch_size=self.batch_size, shuffle=False)
        monitor, mode = runs.monitored(model)
        stopping = keras.callbacks.EarlyStopping(
            monitor, patience=max(5, self.epochs // 5), mode=mode, restore_best_weights=True
        )
        # With another β the best bound at β = 1 is not what is sought.
        stops = () if self.judge.searches_beta and self.with_beta else (stopping,)
        try:
            model.fit(
                batches,
                epochs=epochs or self.epochs,
                initial_epoch=initial_epoch,
                validation_data=held_out,
                callbacks=[*callbacks, *stops],
                verbose=0,
            )
            numbers = self.measured(model, held_out)
            # From the first, so that all processes try the same next.
            value = replicas.number_from_first(self.judge.value(self, model, numbers))
            numbers[self.objective] = value
            if not np.isfinite(value):
                raise ValueError(f"{self.objective} is {value}")
        except Exception as error:  # KerasTuner writes it down and goes on
            if distribute.lost(error):  # every other trial would fail too
                raise keras_tuner.errors.FatalError(str(error)) from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.progress(f"trial failed: {reason[:200]}  ({_described(hp)})")
            raise keras_tuner.errors.FailedTrialError(reason) from error
        for callback in callbacks:  # what was measured is what is kept
            if hasattr(callback, "filepath"):
                model.save_weights(callback.filepath)
        numbers["seconds"] = time.monotonic() - start
        self.progress(
            f"{self.objective} {value:.2f}  ({_described(hp)}; {numbers['seconds']:.0f} s)"
        )
        return numbers

    def measured(self, model, held_out):
        """Validation numbers of a model: val_loss and, of a bound, val_elbo, rate, distortion."""
        logs = model.evaluate(held_out, verbose=0, return_dict=True)
        names = {
            "loss": "val_loss",
            "elbo": "val_elbo",
            "iwae": "val_iwae",
            "kl": "rate",
            "reconstruction": "distortion",
        }
        return {names[name]: float(value) for name, value in logs.items() if name in names}

    def tuner(self, kind, trials, output):
        """A KerasTuner tuner of this search, which goes on with what it finds in `output`.

        Several processes search together where KerasTuner's own variables name them:
        `KERASTUNER_TUNER_ID` (chief, tuner0, tuner1 …), `KERASTUNER_ORACLE_IP` and
        `KERASTUNER_ORACLE_PORT`, with one folder for all.

        Args:
            kind: name in `TUNERS`.
            trials: int, at most; Hyperband ends earlier where its brackets do.
            output: folder.
        """
        if kind not in TUNERS:
            raise ValueError(f"`tuner` must be one of {sorted(TUNERS)}. Received: {kind!r}")
        if kind == "hyperband":
            limits = {"max_epochs": self.epochs, "hyperband_iterations": 100}
            limits["factor"] = _factor(self.epochs, trials)
        else:
            limits = {"max_trials": trials}
        tuner = TUNERS[kind](
            self,
            objective=keras_tuner.Objective(self.objective, self.judge.direction),
            directory=str(pathlib.Path(output).resolve()),
            project_name="trials",
            seed=self.seed + 1,  # of 0 KerasTuner makes a random one
            max_consecutive_failed_trials=trials + 1,
            **limits,
        )
        if hasattr(tuner.oracle, "trials"):  # else those of the chief
            _settle(tuner.oracle)
            if kind == "hyperband":
                tuner.oracle.max_trials = trials
        if replicas.devices()[0] > 1:
            # The other clears all that Keras knows before each trial: the devices too.
            tuner._try_build = tuner._build_hypermodel
        return tuner

    def default(self):
        """Numbers of the recipe's default settings, trained and judged as a trial is."""
        hp = keras_tuner.HyperParameters()
        return self.fit(hp, self.build(hp))


def _settle(oracle):
    """Brings the trials on disk and KerasTuner's list of them to agree; a kill may come between the
    writing of the two. A trial that the list has not is dropped, for the list draws it again; one
    that is over is not tried again."""
    for name in set(oracle.trials) - set(oracle.start_order):
        del oracle.trials[name]
        shutil.rmtree(oracle._get_trial_dir(name))
    over = {name for name, trial in oracle.trials.items() if trial.status == "COMPLETED"}
    oracle._retry_queue = [name for name in oracle._retry_queue if name not in over]
    oracle.end_order += sorted(over - set(oracle.end_order))


def _factor(epochs, trials):
    """The smallest factor, 3 at least, with which Hyperband's first bracket has so many trials at
    most: with more it would end before any setting was trained to the end."""
    for factor in range(3, epochs + 3):
        oracle = keras_tuner.oracles.HyperbandOracle("loss", max_epochs=epochs, factor=factor)
        last = oracle._get_num_brackets() - 1
        if sum(oracle._get_size(last, i) for i in range(last + 1)) <= trials:
            break
    return factor


def _settings(hp):
    """The values of a trial, without those that are Hyperband's own."""
    return {name: value for name, value in hp.values.items() if not name.startswith("tuner/")}


def _described(hp):
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in _settings(hp).items()
    )


def table(tuner):
    """All trials of a search, the best first, failed ones last: a list of dicts of settings,
    numbers and "status"."""
    rows = []
    for trial in tuner.oracle.trials.values():
        row = {"trial": trial.trial_id, "status": trial.status}
        row |= _settings(trial.hyperparameters)
        for name in trial.metrics.metrics:
            history = trial.metrics.get_history(name)
            row[name] = float(history[-1].value[0]) if history else None
        rows.append(row)
    objective = tuner.oracle.objective
    sign = -1 if objective.direction == "max" else 1

    def done(row):
        return row["status"] == "COMPLETED" and row.get(objective.name) is not None

    return sorted(rows, key=lambda row: (not done(row), sign * (row.get(objective.name) or 0)))


def varied(tuner):
    """Names of the settings in which the trials of a search differ, or of the first one."""
    settings = [_settings(trial.hyperparameters) for trial in tuner.oracle.trials.values()]
    names = [name for name in settings[0] if all(name in own for own in settings)]
    return [name for name in names if len({own[name] for own in settings}) > 1] or names[:1]
