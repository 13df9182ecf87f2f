"""Search: vary latent size, widths, learning rate, warm-up and β, and keep the best model.

`python recipes/tune.py --help` lists the settings. A search that was killed goes on with the same
command; its finished trials are kept. Several workers search together by KerasTuner's variables,
each started with the same command and the same --output:

    KERASTUNER_TUNER_ID=chief  KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=8000 python …
    KERASTUNER_TUNER_ID=tuner0 KERASTUNER_ORACLE_IP=127.0.0.1 KERASTUNER_ORACLE_PORT=8000 python …
"""

import csv
import io
import json
import os
import pathlib
import shutil

import numpy as np

from vae_zoo import cli, plots, runs, tuning
from vae_zoo.evaluate import labels_of, measure

# isort: split
# After the package, which says in one line what is missing.
import keras


def tune(
    family="dense_vae",
    dataset="digits",
    image_size: tuple[int, ...] = None,
    objective: str = None,
    target_distortion: float = None,
    likelihood: str = None,
    tuner="bayesian",
    trials=12,
    epochs=30,
    batch_size=128,
    seed=0,
    output="output/tune",
    overwrite=False,
):
    """Search the hyperparameters of a family, and keep the best model.

    Args:
        family: autoencoder, dense_vae, conv_vae, iwae, conditional_vae, hierarchical_vae, vq_vae,
            vq_vae_2 or pixel_cnn
        dataset: digits, shapes, mnist or any image set of TensorFlow Datasets, a .npz, a folder
        image_size: height,width (or height,width,channels) that images are brought to; as they are
            if left out
        objective: val_elbo (β stays 1), val_iwae, val_loss, cnn_fid (Fréchet distance of the
            features of the zoo's classifier) or rate_at_distortion; of a data set with factors
            mig_lib, mig_chen, factor_vae_score, dci_disentanglement, dci_completeness,
            dci_informativeness or sap; the family's bound or loss if left out
        target_distortion: nats, for the objective rate_at_distortion
        likelihood: of the family's; the recipe's default if left out
        tuner: random, bayesian or hyperband
        trials: at most
        epochs: of each trial, at most
        batch_size: images in a step
        seed: of weights, noise, order of the images, and the search
        output: folder for trials, table, pictures and the best model
        overwrite: replace a search with other settings in output, instead of going on with it
    """
    settings = dict(locals())
    output = pathlib.Path(output)
    path, free = output / "search.json", ("trials", "output", "overwrite")
    same = {k: v for k, v in settings.items() if k not in free and v is not None}
    same = json.loads(json.dumps(same))
    runs.hold(output)
    if not path.exists():
        runs.claim(settings)
    elif overwrite:
        for part in ("trials", "best"):
            shutil.rmtree(output / part, ignore_errors=True)
    elif {k: v for k, v in json.loads(path.read_text()).items() if v is not None} != same:
        raise ValueError(
            f"{output} holds a search with other settings: choose another --output, or replace the "
            "search with --overwrite"
        )
    search = tuning.Search(
        family,
        dataset,
        objective,
        target_distortion,
        likelihood,
        epochs,
        batch_size,
        seed,
        image_size=image_size,
    )
    objective = search.objective
    if not search.judge.searches_beta and search.with_beta:
        cli.note(
            f"{objective} is a bound at β = 1, best where β = 1 was trained: β is not searched. "
            "--objective cnn_fid or rate_at_distortion search it."
        )

    # === The search ===
    found = search.tuner(tuner, trials, output)
    cli.write_json(path, same)
    done = sum(row["status"] == "COMPLETED" for row in _rows(found))
    if done:
        print(f"{done} finished trials were there already")
    cli.heading(f"Searching: {trials} trials at most, {epochs} epochs each")
    found.search(epochs=epochs, verbose=0)
    if os.environ.get("KERASTUNER_TUNER_ID", "chief") != "chief":
        return None  # the chief reports

    # === What came out ===
    rows = tuning.table(found)
    best = rows[0]
    if best["status"] != "COMPLETED":
        raise ValueError(f"No trial of {len(rows)} succeeded; the last message is in {output}")
    cli.heading("Training with the recipe's default settings")
    default = search.default()
    (output / "best").mkdir(exist_ok=True)
    model = found.load_model(found.oracle.get_trial(best["trial"]))
    model.save(output / "best" / "model.keras")
    x = np.asarray(search.test[0][:])
    cli.heading(f"Measuring the best trial on the test split: {len(x):,} examples")
    numbers = measure(model, x, labels_of(model, search.test[1]), num_samples=100)
    card = {
        "class": type(model).__name__,
        "command": cli.command(),
        "settings": settings,
        "objective": {"name": objective, "best": best[objective], "default": default[objective]},
        "hyperparameters": best,
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "machine": cli.machine(),
        "metrics": numbers,
    }
    cli.write_json(output / "best" / "card.json", card)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    cli.write_bytes(output / "trials.csv", text.getvalue().encode())
    drawn = rows, tuning.varied(found), objective
    pictures = [
        (plots.search(*drawn, output / "search.png"), "each setting, and the objective"),
        (plots.parallel(*drawn, output / "parallel.png"), "all settings of each trial"),
    ]
    if "rate" in best:
        path = plots.rate_distortion(rows, output / "rate_distortion.png")
        pictures.insert(0, (path, "rate and distortion of all trials, and their Pareto front"))

    better = best[objective] - default[objective]
    better = better if search.judge.direction == "max" else -better
    print(
        f"\n{len(rows)} trials, {sum(r['status'] != 'COMPLETED' for r in rows)} failed. "
        f"{objective} {best[objective]:.2f}; the recipe's default {default[objective]:.2f}: "
        + ("better" if better > 0 else "NOT better")
        + f" by {abs(better):.2f}\n"
    )
    failed = any(row["status"] != "COMPLETED" for row in rows[:10])
    cli.rows([{k: v for k, v in row.items() if failed or k != "status"} for row in rows[:10]])
    print()
    files = [
        (output / "best" / "model.keras", "the best trial's model, and beside it its card"),
        (output / "trials.csv", "all trials"),
        *pictures,
    ]
    cli.table(numbers, files)
    return numbers


def _rows(tuner):
    return tuning.table(tuner) if hasattr(tuner.oracle, "trials") else []


if __name__ == "__main__":
    cli.run(tune, distribute=True)
