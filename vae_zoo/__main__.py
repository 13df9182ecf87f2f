"""The recipes and the zoo on the command line, after `pip install`.

    vae-zoo list                              the zoo's trained models, and the recipes
    vae-zoo train conv_vae --epochs 5         a recipe that trains a family
    vae-zoo train conv_vae --seeds 0,1,2      the same with several seeds: mean and deviation
    vae-zoo evaluate conv_vae_mnist           any other recipe: tune, fine-tune, denoise …

`--help` after either lists its settings. `python -m vae_zoo` does the same as `vae-zoo`.
"""

import difflib
import re
import runpy
import sys

from vae_zoo import files

FOLDER = files.bundled("recipes")
# Recipes that train no family of their own, and so are commands themselves.
COMMANDS = ("classify", "denoise", "disentangle", "evaluate", "fine_tune", "priors", "tune")


def main(argv=None):
    """Runs the command `argv`, a list of str, or that of the process."""
    command, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        return print(__doc__.strip())
    if command == "--version":
        import vae_zoo

        return print(vae_zoo.__version__)
    if command == "list":
        return _list()
    others = {path.stem.replace("_", "-") for path in recipes() if path.stem in COMMANDS}
    if command == "train":
        families = {path.stem for path in recipes()} - set(COMMANDS)
        if not words or words[0] in ("-h", "--help"):
            return print(
                "\n".join(["vae-zoo train RECIPE [--setting value ...]", *sorted(families)])
            )
        recipe, *words = words
        _check(recipe, families, "a recipe that trains")
    else:
        _check(command, {"list", "train", *others}, "a command")
        recipe = command.replace("-", "_")
    script = str(FOLDER / f"{recipe}.py")
    sys.argv = [script, *words]
    return runpy.run_path(script, run_name="__main__")


def recipes():
    """Paths of the recipes, sorted."""
    return sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def _check(name, names, what):
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        print(
            f"vae-zoo: error: {name} is not {what}: {', '.join(sorted(names))}{hint}",
            file=sys.stderr,
        )
        raise SystemExit(2)


def _list():
    from vae_zoo import zoo

    print("Trained models: vae_zoo.zoo.load(name), vae-zoo evaluate name\n")
    rows = [("name", "class", "weights", "data", "terms of the data")]
    for name in zoo.names():
        card = zoo.card(name)
        rows.append(
            (name, card["class"], f"{card['parameters']:,}", card["dataset"], card["data_licence"])
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip())
    print("\nRecipes: vae-zoo train name, or vae-zoo name where it is marked *\n")
    for path in recipes():
        name = f"{path.stem.replace('_', '-')} *" if path.stem in COMMANDS else path.stem
        line = re.split(r":? `", path.read_text().partition('"""')[2].splitlines()[0])[0]
        print(f"{name:<18}{line}")


if __name__ == "__main__":
    main()
