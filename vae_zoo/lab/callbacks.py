"""What looks on while a model trains."""

import time

import keras
import numpy as np

from vae_zoo.lab import console, terms
from vae_zoo.lab.measure import active_units
from vae_zoo.models.kinds import given


class EpochLines(keras.callbacks.Callback):
    """Prints a line an epoch; where somebody watches, a bar counts its steps.

        12/100  1.2 s  val ELBO -171.8  rate 20.20  distortion 151.6

    The terms are those of the validation data, in nats per example where they are bounds, as many
    as there is room for. The weight of the KL is named while it rises, skipped steps if there are
    some.

    Args:
        monitor: str, the term whose best epoch is kept, `val_` included.
    """

    # Steps are counted and their logs not read, so no step waits for this.
    async_safe = True

    def __init__(self, monitor):
        super().__init__()
        self.monitor, self.beta, self.bar = monitor, None, None

    def on_epoch_begin(self, epoch, logs=None):
        self.since = time.monotonic()
        self.count = f"{epoch + 1:>{len(str(self.params['epochs']))}}/{self.params['epochs']}"
        self.bar = console.progress(self.count)(total=self.params["steps"], unit="step")

    def on_train_batch_end(self, batch, logs=None):
        # Of several steps an execution Keras counts the last ones as if all were there.
        done = min(batch + 1, self.bar.total or batch + 1)
        self.bar.update(max(0, done - self.bar.n))

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        seconds = time.monotonic() - self.since
        line = f"{self.count}  {seconds:.{int(seconds < 100)}f} s  val"
        gap = " "
        skipped = f"  skipped {logs['skipped']:.0f} steps" if logs.get("skipped") else ""
        shown = terms.line(logs, self.monitor)
        if logs.get("beta") != self.beta:
            self.beta = logs["beta"]
            shown.append(("beta", self.beta))
        for name, value in shown:
            more = f"{gap}{name} {console.short(round(value, 4))}"
            line += more if len(line + more + skipped) <= console.WIDTH else ""
            gap = "  "
        print(line + skipped, flush=True)

    def close(self):
        """Takes the bar away, also that of an epoch that was interrupted."""
        if self.bar is not None:
            self.bar.close()


class NoticeCollapse(keras.callbacks.Callback):
    """Says once where a trained VAE ignores nearly all of its latents: posterior collapse.

    Looks every tenth epoch and at the last. Fewer than a tenth of the units active
    (`measure.active_units`), or of a hierarchy a group in which none is, at the end or twice
    without a new one in between, is a line that says which latents carry the KL, and what to
    change. Bowman et al. 2016, arXiv:1511.06349, section 3.1.

    Args:
        x: examples, a few hundred held-out ones.
        epochs: int, of the whole run.
        y: their labels, where the model takes some.
    """

    def __init__(self, x, epochs, y=None):
        super().__init__()
        self.x, self.y, self.epochs = x, y, epochs
        self.said, self.before = False, None

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.epochs
        if self.said or not (last or (epoch + 1) % 10 == 0):
            return
        groups, _ = active_units(self.model, self.x, self.y)
        active, size = (sum(numbers) for numbers in zip(*groups))
        dead = [i for i, (here, _) in enumerate(groups) if not here] if len(groups) > 1 else []
        few = active < max(1, size / 10) if len(groups) == 1 else bool(dead)
        stuck = self.before is not None and active <= self.before
        self.before = active if few else None  # a young model may still wake up
        if few and (last or stuck):
            self.said = True
            kl = keras.tree.flatten(self.model.kl_per_latent(self.x, *given(self.y)))
            kl = np.sort(np.concatenate([group.ravel() for group in kl]))[::-1]
            where = f", none in group {dead[0] + 1} of {len(groups)} from the top," if dead else ""
            console.note(
                f"Posterior collapse: {active} of {size} latents{where} are active after epoch "
                f"{epoch + 1}; the KL is {kl.sum():.2f} nats, of which the first latents carry "
                f"{', '.join(f'{value:.2f}' for value in kl[:3])}. The decoder ignores the rest. "
                "Lower beta, raise it more slowly (a longer warm-up), or give the latents free "
                "bits."
            )


class TensorBoard(keras.callbacks.Callback):
    """Every logged term as a curve for TensorBoard, without TensorFlow (which Keras's own needs).

    Args:
        folder: path, for the event files.
    """

    def __init__(self, folder):
        super().__init__()
        try:
            from tensorboard.summary import DirectoryOutput, Writer
        except ImportError:
            raise ImportError("--tensorboard needs pip install 'vae_zoo[tensorboard]'") from None
        self.writer = Writer(DirectoryOutput(str(folder)))

    def on_epoch_end(self, epoch, logs=None):
        for name, value in logs.items():
            split = "validation" if name.startswith("val_") else "train"
            self.writer.add_scalar(f"{name.removeprefix('val_')}/{split}", value, step=epoch + 1)
        self.writer.flush()
