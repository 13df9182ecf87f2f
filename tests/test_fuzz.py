"""Two hundred damaged files of all kinds: each is read, or refused in one line that names it."""

import collections
import pathlib

import damage


def test_two_hundred_damaged_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_ZOO_CACHE", str(tmp_path / "cache"))
    sound, found, wrong = damage.Sound(tmp_path), collections.Counter(), []
    for number in range(200):
        kind, way, path = damage.damaged(sound, number)
        said = damage.outcome(sound, kind, path)
        found[kind, said] += 1
        if said not in ("read", "refused"):
            wrong.append(f"{number} {kind} {way}: {said[:300]}")
    assert not wrong, "\n".join(wrong)
    assert not pathlib.Path(damage.MARKER).exists()
    # It is damage indeed, and not all of it: what the way left alone is read.
    for kind in damage.KINDS:
        assert found[kind, "refused"] + found[kind, "read"] in (28, 29)
    assert sum(n for (_, said), n in found.items() if said == "refused") > 100
