"""Speed and memory of the zoo beside loops written by hand: python tools/benchmark.py

Each backend is a process of its own. Within it the zoo and the hand-written loop take turns, so
that what else happens on the machine happens to both; what counts are ratios of one run.
"""

import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
ROOT = pathlib.Path(__file__).parent.parent
ONE_THREAD = {  # a device
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}
TASKS = ("fit", "encode", "sample", "log_likelihood")
MODELS = {  # and what is measured of each
    "dense_vae": TASKS,
    "conv_vae": TASKS,
    "flow_prior_vae": ("fit",),
    "hierarchical_vae": ("fit",),
}


def benchmark(
    backends=BACKENDS,
    models=tuple(MODELS),
    precisions=("float32",),
    batch_size=128,
    images=10240,
    rounds=5,
    distribute=False,
    devices=2,
    json_file: str = None,
    readme=False,
):
    """Measure fit, encode, sample and log_likelihood against loops written by hand, the cached
    sampling of a PixelCNN against one forward pass a pixel, and denoising against plain NumPy.

    Args:
        backends: those of tensorflow, jax and torch to measure; what is not installed is left out
        models: of dense_vae (784-500-500-50), conv_vae (32 and 64 filters), flow_prior_vae (the
            first with a RealNVP as its prior) and hierarchical_vae (three dense scales)
        precisions: float32, mixed_bfloat16
        batch_size: images in a training step
        images: images in an epoch (digits, repeated)
        rounds: turns that the zoo and the hand-written loop take; medians are reported
        distribute: measure instead how fit scales: on one device, and on several with as many
            times the batch
        devices: how many those are, of one thread each where they are parts of a CPU
        json_file: where to write all measurements
        readme: write the table into README.md, between its two marks
    """
    from vae_zoo import cli

    if distribute and devices < 2:
        raise ValueError(f"`devices` must be at least 2. Received: {devices}")

    rows = []
    for backend in backends:
        if backend not in BACKENDS:
            raise ValueError(f"`backends` must be of {BACKENDS}. Received: {backend}")
        if not importlib.util.find_spec(backend):
            print(f"{backend} is not installed: left out")
            continue
        for model in models:
            if model not in MODELS:
                raise ValueError(f"`models` must be of {tuple(MODELS)}. Received: {model}")
            for precision in precisions:
                settings = {
                    "model": model,
                    "precision": precision,
                    "batch_size": batch_size,
                    "images": images,
                    "rounds": rounds,
                }
                print(f"{backend}, {model}, {precision} …", flush=True)
                if distribute:
                    one, many = (
                        _worker("scaling", backend, {**settings, "devices": n})
                        for n in (1, devices)
                    )
                    rows.append({"backend": backend, **settings, **one, "many": many["fit"]})
                    continue
                row = _worker("speed", backend, settings)
                for side in ("zoo", "hand"):  # fresh processes, or one would warm up the other
                    row[side] |= _worker(side, backend, settings)
                rows.append({"backend": backend, **settings, **row})
    if not rows:
        raise ValueError("None of the backends is installed")
    if distribute:
        table, name, sampling, denoising = _scaling_table(rows, devices), "scaling", [], []
        structures = []
    else:
        table, name = _table(rows), "benchmark"
        sampling = _on_each(rows, "sampling", "sampling of a PixelCNN", rounds)
        denoising = _on_each(rows, "denoising", "denoising", rounds)
        structures = _on_each(rows, "structures", "graphs and sketches", rounds)
        table += f"\n\n{_sampling_table(sampling)}\n\n{_denoising_table(denoising)}"
        table += f"\n\n{_structures_table(structures)}"
    print(f"\n{table}")
    if json_file:
        others = {"sampling": sampling, "denoising": denoising, "structures": structures}
        cli.write_json(json_file, {"models": rows, **others})
    if readme:
        cli.replace_block(ROOT / "tools" / "README.md", name, table)
    return rows


def _on_each(rows, task, what, rounds):
    found = []
    for backend in dict.fromkeys(row["backend"] for row in rows):
        print(f"{backend}, {what} …", flush=True)
        found.append({"backend": backend, **_worker(task, backend, {"rounds": rounds})})
    return found


def _worker(task, backend, settings):
    """Runs `task` in a process of its own; the last line that it prints is its result."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, "--worker", task, json.dumps(settings)]
    if task == "scaling":
        environment |= ONE_THREAD
        if backend == "torch" and settings["devices"] > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(settings["devices"])]
            command[1:1] = launcher
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        raise ValueError(f"{backend}: the measurement of {task} failed")
    return json.loads([line for line in run.stdout.splitlines() if line.startswith("{")][-1])


# In the worker.


def _zoo(settings):
    import keras

    import vae_zoo

    keras.config.set_dtype_policy(settings["precision"])
    if settings["model"] in ("dense_vae", "flow_prior_vae"):
        flow = settings["model"] == "flow_prior_vae"
        prior = vae_zoo.RealNVP((50,), couplings=8, units=64, seed=0) if flow else None
        own = {"hidden": (500, 500), "latent_dim": 50, "activation": "relu"}
        model = vae_zoo.DenseVAE(**own, prior=prior, seed=0)
    elif settings["model"] == "conv_vae":
        model = vae_zoo.ConvVAE(latent_dim=32, seed=0)
    else:
        from hand_written import Ladder

        model = vae_zoo.HierarchicalVAE(latents=Ladder.latents, widths=Ladder.widths, seed=0)
    model.compile(keras.optimizers.Adam(1e-3))
    return model


def _hand(settings, x, loop=""):
    import keras
    from hand_written import ENGINES

    engine = ENGINES[keras.backend.backend()]
    half = settings["precision"] == "mixed_bfloat16"
    return engine(settings["model"], x, settings["batch_size"], half, xla=loop == "XLA")


def _digits(n):
    from vae_zoo import data

    x, _ = data.load("digits")
    return np.resize(x, (n, *x.shape[1:]))


def _speed(settings):
    """Seconds of each task, round by round, of the zoo and of each loop written by hand."""
    import keras
    from hand_written import ENGINES

    from vae_zoo import data

    class Epoch(keras.callbacks.Callback):  # what Keras does once for all epochs is left out
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self.start

    x = _digits(settings["images"])
    few = x[:250]
    batches = data.Batches(x, batch_size=settings["batch_size"])
    model, clock = _zoo(settings), Epoch()

    def fit():
        model.fit(batches, epochs=1, verbose=0, callbacks=[clock])
        return clock.seconds

    def timed(function, *arguments, **keywords):
        def run():
            start = time.perf_counter()
            function(*arguments, **keywords)
            return time.perf_counter() - start

        return run

    def tasks(model, fit):
        return {
            "fit": fit,
            "encode": timed(model.encode, x, batch_size=256),
            "sample": timed(model.sample, len(x), batch_size=256),
            "log_likelihood": timed(model.log_likelihood, few, num_samples=100),
        }

    runners = {"zoo": tasks(model, fit)}
    for loop in ENGINES[keras.backend.backend()].loops:
        hand = _hand(settings, x, loop)
        runners[loop] = tasks(hand, timed(hand.epoch))
    measured = MODELS[settings["model"]]
    seconds = {name: {task: [] for task in measured} for name in runners}
    for task in measured:
        for runner in runners.values():
            runner[task]()  # compiles
        for round in range(settings["rounds"]):
            for name in list(runners)[:: 1 if round % 2 else -1]:
                seconds[name][task].append(runners[name][task]())
    counts = {"fit": len(x), "encode": len(x), "sample": len(x), "log_likelihood": 100 * len(few)}
    median = lambda name, task: float(np.median(seconds[name][task]))  # noqa: E731
    result = {"zoo": {}, "hand": {}, "ratio": {}, "loop": {}, "seconds": seconds}
    for task in measured:
        best = min((loop for loop in runners if loop != "zoo"), key=lambda loop: median(loop, task))
        result["zoo"][task] = counts[task] / median("zoo", task)
        result["hand"][task] = counts[task] / median(best, task)
        pairs = zip(seconds[best][task], seconds["zoo"][task])
        result["ratio"][task] = float(np.median([hand / zoo for hand, zoo in pairs]))
        result["loop"][task] = best
    return result


def _sampling(settings):
    """Seconds for 64 images of 28×28 pixels: cached, and by as many passes over whole images as
    there are pixels (784 times the time of one, which all take)."""
    import vae_zoo

    model = vae_zoo.PixelCNN(filters=32, blocks=5, seed=0)
    whole = model.compiled_function("logits", model.logits)
    x = np.zeros((64, 28, 28), "int32")
    whole(x), model.sample(64, seed=0)  # compile
    cached, naive = [], []
    for _ in range(settings["rounds"]):
        start = time.perf_counter()
        model.sample(64, seed=0)
        cached.append(time.perf_counter() - start)
        start = time.perf_counter()
        whole(x)
        naive.append(784 * (time.perf_counter() - start))
    seconds = {"cached": float(np.median(cached)), "naive": float(np.median(naive))}
    return {**seconds, "times": float(np.median(np.divide(naive, cached)))}


def _denoising(settings, height=321, width=481, sigma=25 / 255):
    """Seconds for a photograph of 321×481 pixels: exact, fast, and in plain NumPy."""
    from epll_numpy import epll
    from PIL import Image
    from sklearn.datasets import load_sample_image

    from vae_zoo import zoo
    from vae_zoo.restoration import restore

    prior = zoo.load("gmm_patches_bsds")
    grey = Image.fromarray(load_sample_image("china.jpg")).convert("L")
    clean = np.asarray(grey)[40 : 40 + height, 80 : 80 + width] / 255
    y = clean + np.random.default_rng(0).normal(0, sigma, clean.shape)
    weights, _, values, vectors = prior.spectra()
    vectors = prior.basis @ vectors
    covariances = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    ways = {
        "exact": lambda: restore(y, prior, sigma),
        "fast": lambda: restore(y, prior, sigma, fast=True),
        "numpy": lambda: epll(y, weights, covariances, sigma),
    }
    for fast in (False, True):  # compile
        restore(y[:32, :32], prior, sigma, fast=fast)
    seconds, made = {way: [] for way in ways}, {}
    for _ in range(settings["rounds"]):
        for way, denoise in ways.items():
            start = time.perf_counter()
            made[way] = denoise()
            seconds[way].append(time.perf_counter() - start)
    psnr = {way: -10 * np.log10(np.mean((x - clean) ** 2)) for way, x in made.items()}
    return {
        **{way: float(np.median(times)) for way, times in seconds.items()},
        "difference": float(np.abs(made["exact"] - made["numpy"]).max()),
        "loss": float(psnr["exact"] - psnr["fast"]),
    }


def _structures(settings):
    """Seconds of a step of a graph VAE (the generated graph of 200 nodes), and of sketches of 250
    points, 32 at a time: a step of the decoder alone with plain cells, with normalised ones, which
    run in a loop, and drawing 16 of them."""
    import keras

    import vae_zoo
    from vae_zoo import data
    from vae_zoo.strokes import Strokes

    x, y = data.load("communities")
    sketches = Strokes(250).examples(32, np.random.default_rng(0))
    models = {
        "graph": vae_zoo.GraphVAE(200, y.shape[-1], seed=0),
        "sketch": vae_zoo.SketchDecoder(seed=0),
        "normalized": vae_zoo.SketchDecoder(normalized=True, seed=0),
    }
    examples = {"graph": (x, y), "sketch": (sketches,), "normalized": (sketches,)}
    tasks = {}
    for name, model in models.items():
        model.compile(keras.optimizers.Adam(1e-3))
        tasks[name] = functools.partial(model.train_on_batch, *examples[name])
    tasks["drawing"] = functools.partial(models["sketch"].sample, 16, seed=0)
    seconds = {name: [] for name in tasks}
    for name, task in tasks.items():
        task()  # compiles
        for _ in range(settings["rounds"]):
            start = time.perf_counter()
            float(np.sum(task()))
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _scaling(settings):
    """Images per second of `fit` on so many devices."""
    from vae_zoo import data, distribute

    x, devices = _digits(settings["images"]), settings["devices"]
    spread = distribute.data_parallel(devices) if devices > 1 else contextlib.nullcontext()
    with spread:
        batches = data.Batches(x, batch_size=settings["batch_size"] * devices)
        model, seconds = _zoo(settings), []
        for _ in range(settings["rounds"] + 1):  # the first one compiles
            start = time.perf_counter()
            model.fit(batches, epochs=1, verbose=0)
            seconds.append(time.perf_counter() - start)
        main = distribute.is_main()
    return {"fit": len(x) / float(np.median(seconds[1:])), "main": main}


def _first_step(side, settings):
    """Seconds from nothing but imported packages to the end of the first step; memory later."""
    import keras

    from vae_zoo import data

    x = _digits(settings["images"])
    start = time.perf_counter()
    if side == "zoo":

        class FirstStep(keras.callbacks.Callback):
            seconds = None

            def on_train_batch_end(self, batch, logs=None):
                if self.seconds is None:
                    float(logs["loss"])
                    self.seconds = time.perf_counter() - start

        first, model = FirstStep(), _zoo(settings)
        batches = data.Batches(x, batch_size=settings["batch_size"])
        model.fit(batches, epochs=1, verbose=0, callbacks=[first])
        seconds = first.seconds
    else:
        hand = _hand(settings, x)
        hand.begin()
        hand.step(np.arange(settings["batch_size"]))
        float(hand.total)
        seconds = time.perf_counter() - start
        hand.epoch()
    return {"first_step": seconds, "memory": _peak_memory(keras.backend.backend())}


def _peak_memory(backend):
    """MiB: of the GPU where there is one, else of the process."""
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 2**20
    elif backend == "jax":
        import jax

        if statistics := jax.devices()[0].memory_stats():
            return statistics["peak_bytes_in_use"] / 2**20
    else:
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
    # Not getrusage: its maximum outlives exec, and so would be that of the process that started us.
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _machine():
    import keras

    from vae_zoo import cli

    if keras.backend.backend() == "torch":
        import torch

        gpu = torch.cuda.is_available() and torch.cuda.get_device_name()
    elif keras.backend.backend() == "jax":
        import jax

        gpu = jax.default_backend() != "cpu" and jax.devices()[0].device_kind
    else:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        gpu = gpus and tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return f"{gpu}, {cli.machine()}" if gpu else cli.machine()


# The table.


def _table(rows):
    lines = [
        f"Measured on {time.strftime('%Y-%m-%d')}, {rows[0]['machine']}, by "
        "`python tools/benchmark.py --readme`. Images per second of the zoo as a share of those of "
        "a loop written by hand for the same engine (`tools/hand_written.py`; on TensorFlow the "
        "better of graph and XLA), the median of rounds in which the two take turns; a step is of "
        f"{rows[0]['batch_size']} images. First step "
        "and peak memory: the zoo's / the hand-written loop's, each in a process of its own.",
        "",
        "| model | backend | fit, images/s | a step, ms | fit | encode | sample | log-likelihood "
        "| first step, s | memory, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        zoo, hand, ratio = row["zoo"], row["hand"], row["ratio"]
        precision = "" if row["precision"] == "float32" else f", {row['precision']}"
        loop = f" ({row['loop']['fit']})" if row["loop"]["fit"] else ""
        cells = [
            f"{row['model']}{precision}",
            row["backend"],
            f"{zoo['fit']:,.0f} / {hand['fit']:,.0f}{loop}",
            f"{1000 * row['batch_size'] / zoo['fit']:.1f}",
            *(f"{ratio[task]:.2f}" if task in ratio else "" for task in TASKS),
            f"{zoo['first_step']:.1f} / {hand['first_step']:.1f}",
            f"{zoo['memory']:,.0f} / {hand['memory']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scaling_table(rows, devices):
    lines = [
        f"Measured on {time.strftime('%Y-%m-%d')}, {rows[0]['machine']}, by "
        f"`python tools/benchmark.py --distribute --devices {devices} --readme`: images per second "
        f"of `fit` on one device with batches of {rows[0]['batch_size']}, and on {devices} with "
        f"{devices} times as many. Without an accelerator a device is one thread of the CPU, which "
        "shares its caches and memory with the others.",
        "",
        f"| model | backend | 1 device, images/s | {devices} devices, images/s | efficiency |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        share = row["many"] / row["fit"] / devices
        cells = [row["model"], row["backend"], f"{row['fit']:,.0f}", f"{row['many']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} | {share:.2f} |")
    return "\n".join(lines)


def _sampling_table(rows):
    lines = [
        "64 images of 28×28 pixels from a `PixelCNN` (32 filters, 5 blocks), with what each block "
        "remembers, against one pass over whole images a pixel.",
        "",
        "| backend | cached, s | a pass a pixel, s | times as fast |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{row['cached']:.2f}", f"{row['naive']:.0f}", f"{row['times']:.0f}"]
        lines.append(f"| {' | '.join([row['backend'], *cells])} |")
    return "\n".join(lines)


def _denoising_table(rows):
    lines = [
        "A photograph of 321×481 pixels denoised by `restore` with `gmm_patches_bsds` (sigma 25, "
        "200 components), exact and fast, against plain NumPy (`tools/epll_numpy.py`).",
        "",
        "| backend | NumPy, s | exact, s | fast, s | NumPy / exact | exact / fast | dB lost | "
        "largest difference, exact to NumPy |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [f"{row[way]:.1f}" for way in ("numpy", "exact", "fast")]
        cells += [f"{row['numpy'] / row['exact']:.1f}", f"{row['exact'] / row['fast']:.1f}"]
        cells += [f"{row['loss']:.2f}", f"{row['difference']:.1g}"]
        lines.append(f"| {' | '.join([row['backend'], *cells])} |")
    return "\n".join(lines)


def _structures_table(rows):
    ways = ("graph", "sketch", "normalized", "drawing")
    lines = [
        "Seconds: a step of a graph VAE (200 nodes); of 32 sketches of 250 points, a step of "
        "`SketchDecoder` with plain and with normalised cells, and 16 sketches drawn. On PyTorch "
        "plain cells have the engine's kernel, and all else runs row by row, not compiled.",
        "",
        "| backend | graph | sketches | normalised | drawn |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(f"| {row['backend']} | {' | '.join(f'{row[way]:.3g}' for way in ways)} |")
    return "\n".join(lines)


def _main():
    if sys.argv[1:2] != ["--worker"]:
        from vae_zoo import cli

        return cli.run(benchmark)
    task, settings = sys.argv[2], json.loads(sys.argv[3])
    if task == "speed":
        result = _speed(settings) | {"machine": _machine()}
    elif task == "sampling":
        result = _sampling(settings)
    elif task == "denoising":
        result = _denoising(settings)
    elif task == "structures":
        result = _structures(settings)
    elif task == "scaling":
        result = _scaling(settings) | {"machine": _machine()}
        if not result.pop("main"):
            return
    else:
        result = _first_step(task, settings)
    print(json.dumps(result))


if __name__ == "__main__":
    _main()
