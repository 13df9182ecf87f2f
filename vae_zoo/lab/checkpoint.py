"""All that a run goes on from, in one file."""

import collections
import io
import json
import pathlib
import time

import keras
import numpy as np
from keras import ops

from vae_zoo import files
from vae_zoo.engine import replicas

BEFORE = "checkpoint.previous.npz"  # of the epoch before
STATE = {"epoch", "stopped", "history", "best", "best_epoch", "wait", "settings"}


def read(path, content=None):
    """What a checkpoint holds.

    Args:
        path: of the file.
        content: bytes of it; None reads them.

    Returns:
        state, a dict; lists of arrays: the variables, and the best weights.

    Raises:
        ValueError: if it is damaged; the checkpoint of the epoch before is offered.
    """
    try:
        content = path.read_bytes() if content is None else content
        if not files.is_whole(content):
            raise ValueError("its checksum is that of another content")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if sum(item.file_size for item in file.zip.infolist()) > len(content):
                raise ValueError("its arrays are longer than the file")
            arrays = {name: np.asarray(file[name]) for name in file.files}
        state = files.parse_json(str(arrays.pop("state")))
        state["seconds"] = float(arrays.pop("seconds"))
        if not STATE <= set(state):
            raise ValueError(f"it says nothing of {', '.join(sorted(STATE - set(state)))}")
        if any(array.dtype.kind in "OSU" for array in arrays.values()):
            raise ValueError("its arrays are not of numbers")
        count = collections.Counter(name[:1] for name in arrays)
        variables, best = ([arrays[f"{kind}{i}"] for i in range(count[kind])] for kind in "vb")
        return state, variables, best
    except Exception as error:  # NumPy and zipfile raise a dozen kinds
        before = path.with_name(BEFORE)
        offer = f"mv {before} {path} goes back to the epoch before, " if before.exists() else ""
        raise ValueError(
            f"{path} is damaged ({files.in_words(error)}): {offer}--overwrite starts anew"
        ) from error


def seconds_of(output):
    """Seconds of training of the run in a folder, over all of its resumed parts."""
    return read(pathlib.Path(output, "checkpoint.npz"))[0]["seconds"]


def settings_of(output):
    """The settings of the run in a folder that its weights depend on, a dict."""
    return read(pathlib.Path(output, "checkpoint.npz"))[0]["settings"]


class Checkpoint(keras.callbacks.Callback):
    """All that the next epoch depends on, in one file, written whole or not at all.

    The file holds every variable of the model and its optimizer (weights, moments, iterations, loss
    scale, noise states), the history, and the best weights so far with their epoch; its checksum
    tells whether it is whole. The one of the epoch before stays beside it.

    Args:
        output: folder, for `checkpoint.npz` and `history.csv`.
        model: compiled model.
        batches: `data.Batches`, whose order is a function of (seed, epoch).
        stopping: `EarlyStopping` callback, which comes before this one.
        settings: dict that JSON can hold, what a resumed run must have too.
        averaging: list, of the callback that puts averaged weights in the place of the model's at
            the end of an epoch, before this one.
        limit: None, or float, seconds of training after which to stop.
    """

    def __init__(self, output, model, batches, stopping, settings, averaging=(), limit=None):
        super().__init__()
        self.averaging, self.limit = averaging, limit
        if limit is not None:  # each process has measured its own
            self.limit = replicas.number_from_first(limit)
        self.settings = json.loads(json.dumps(settings))
        self.path, self.table = output / "checkpoint.npz", output / "history.csv"
        files.sweep(output, self.path.name, BEFORE, self.table.name)
        self.of, self.batches, self.stopping = model, batches, stopping
        self.epoch, self.history, self.stopped, self.resumed = 0, {}, False, None
        self.seconds, self.since = 0.0, time.monotonic()

    def _variables(self):
        # What is not trained by steps has no optimizer.
        of_optimizer = self.of.optimizer.variables if self.of.compiled else ()
        return {id(v): v for v in [*self.of.variables, *of_optimizer]}.values()

    def on_epoch_end(self, epoch, logs=None):
        self.epoch = epoch + 1
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self.seconds += time.monotonic() - self.since  # of training, over all resumed parts
        self.since = time.monotonic()
        if self.limit is not None:
            # All processes stop at the same epoch.
            self.seconds = replicas.number_from_first(self.seconds)
            if self.seconds >= self.limit:
                self.of.stop_training = True
        state = {
            "epoch": self.epoch,
            "stopped": self.of.stop_training,
            "history": self.history,
            "best": None if self.stopping.best is None else float(self.stopping.best),
            "best_epoch": self.stopping.best_epoch,
            "wait": self.stopping.wait,
            "settings": self.settings,
        }
        arrays = {f"v{i}": ops.convert_to_numpy(v) for i, v in enumerate(self._variables())}
        best = {f"b{i}": array for i, array in enumerate(self.stopping.best_weights or [])}
        buffer = io.BytesIO()
        np.savez(buffer, state=json.dumps(state), seconds=self.seconds, **arrays, **best)
        with files.replacing(self.path) as partial:
            partial.write_bytes(files.sealed(buffer.getvalue()))
            if self.epoch > 1:  # before it may be of the run that this one replaces
                files.keep(self.path, BEFORE)
        rows = zip(range(self.epoch), *self.history.values())
        lines = [["epoch", *self.history], *rows]
        files.write_bytes(self.table, "".join(",".join(map(str, r)) + "\n" for r in lines).encode())

    def load(self):
        """Puts the state of the checkpoint back; without a checkpoint the run starts anew."""
        # Of several processes the first one's, wherever the others write.
        content = replicas.from_first(self.path.read_bytes() if self.path.exists() else None)
        if content is None:
            print(f"No {self.path}: starting from the beginning")
            return
        if self.of.compiled:
            self.of.optimizer.build(self.of.trainable_variables)
        variables = list(self._variables())
        state, arrays, best = read(self.path, content)
        self.seconds = state["seconds"]
        other = [k for k in self.settings if state["settings"].get(k) != self.settings[k]]
        if other:
            then = ", ".join(f"{name}={state['settings'].get(name)}" for name in other)
            raise ValueError(f"{self.path} is of a run with {then}: resume with the same settings")
        if [a.shape for a in arrays] != [tuple(v.shape) for v in variables]:
            raise ValueError(f"{self.path} is of another model: resume with the same settings")
        for variable, array in zip(variables, arrays):
            variable.assign(array)
        self.epoch, self.stopped, self.history = state["epoch"], state["stopped"], state["history"]
        self.batches.epoch = self.epoch
        self.resumed = {
            "best": state["best"],
            "best_epoch": state["best_epoch"],
            "wait": state["wait"],
            "best_weights": best or None,
        }
        print(f"Resuming after epoch {self.epoch}")

    def on_train_begin(self, logs=None):
        self.since = time.monotonic()
        vars(self.stopping).update(self.resumed or {})  # which it has just reset
        for callback in self.averaging:  # the checkpoint holds the averages in the model's place
            callback._ema_weights_in_model = self.resumed is not None
