"""Fault injection for the command line: kill -9, full disks, missing permissions, Ctrl-C, concurrent commands.

    python tests/nightly/faults.py [--times 100] [--only kill,disk,...] [--verbs fit,report,...]

Each command runs in a child process that is forked after the libraries are loaded, so that it is killed at its
work and not while importing. Half of the kills are uniform over the duration of the command, half over the time
from its first written file to its end. The output is then loaded and must be the complete earlier result or the
complete new one; every tenth time the command is run again to its end. Needs Linux; mounting a small tmpfs
needs root.

Prints a Markdown table of kills and one of the other faults; the exit status is 1 if any output was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import vaexprs as vx

# isort: split
import numpy as np

MANY = 2_000_000  # cells, enough for a command to be interrupted

FAILURES: list[str] = []  # wrong results


class Verb:
    """A command with its name, words and output path."""

    def __init__(self, name, words, out):
        self.name, self.words, self.out = name, words, out


def child(words, folder, log, before=None):
    """Fork a process that runs `words` like the command line (or saves a model); return its process id."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        os.chdir(folder)
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666), descriptor)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if before is not None:
            before()
        sys.argv = ["vaexprs", *map(str, words)]
        from vaexprs.cli import app, main

        if words[0] == "save":
            app.command("save")(save)
        main()
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def save(model: Path, out: Path) -> None:
    """`VAEFit.save` as a command."""
    vx.load_vae(model).save(out, overwrite=True)


def ended(number, within=600.0):
    """Wait for a child process; return its exit status (negative: signal)."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    os.waitpid(number, 0)
    return None


def run(words, folder, before=None):
    """Run a command to its end; return its status and output."""
    log = Path(tempfile.gettempdir()) / f"faults-{os.getpid()}.log"
    status = ended(child(words, folder, log, before))
    return status, log.read_text()


def digest(path):
    """Return a hash of the loaded output, None if there is none, or the error of loading it.

    It is loaded in a child process, because a process in which JAX has threads cannot be forked.
    """
    if not path.exists():
        return None
    reading, writing = os.pipe()
    number = os.fork()
    if not number:
        try:
            result = hash_of(path)
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writing, result.encode()[:4_000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        result = file.read().decode()
    os.waitpid(number, 0)
    return result


def bytes_of(path):
    """Return the bytes of the files of an output, by name."""
    found = {}
    for part in (path, path.with_suffix(".obs.csv")):
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file():
                found[str(file.relative_to(path.parent))] = file.read_bytes()
    return found


def hash_of(path):
    digest = hashlib.sha256()
    if path.suffix == ".html":
        text = path.read_text(encoding="utf-8")
        digest.update(text.encode())
        return digest.hexdigest()[:12] if text.rstrip().endswith("</html>") else "the page has no end"
    if path.suffix == "":
        fit = vx.load_vae(path)
        arrays = [*fit.model.get_weights(), *fit.density.to_arrays().values()]
        digest.update(str(fit.history).encode())
    else:
        cells = vx.read(path)
        arrays = [cells.X.toarray() if hasattr(cells.X, "toarray") else cells.X]
        names = [*cells.obs_names, *cells.var_names, *map(str, cells.obs["cell_type"])]
        digest.update("\n".join(names).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def put(kept, out):
    """Replace the output by a copy of the earlier result."""
    for path in (out, out.with_suffix(".obs.csv")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for path in kept.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, out.parent / path.name)


def keep(out, kept):
    """Copy the output to a new folder."""
    kept.mkdir()
    for path in (out, out.with_suffix(".obs.csv")):
        if path.exists():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, kept / path.name)


def unexpected(out):
    """Return names of files next to the output that are neither results nor named as temporary files."""
    names = {out.name, out.with_suffix(".obs.csv").name, f"{out.name}.checkpoint"}
    temporary = re.compile(r"\..+(\.vaexprs-[0-9a-f]{8}(-old)?.*|\.lock)")
    return [p.name for p in out.parent.iterdir() if p.name not in names and not temporary.fullmatch(p.name)]


def left(out):
    """Return names of hidden files next to the output."""
    return sorted(p.name for p in out.parent.iterdir() if p.name.startswith("."))


def writes(out):
    """Return whether the output is being written (the checkpoint of a fit is another file)."""
    own = re.compile(rf"\.{re.escape(out.stem)}\.vaexprs-[0-9a-f]{{8}}(-old)?{re.escape(out.suffix)}")
    return any(own.fullmatch(name) for name in left(out))


def one_sentence(said):
    """Return whether the output ends in one error message and has no traceback."""
    lines = [line for line in said.splitlines() if line.strip()]
    return "Traceback" not in said and bool(lines) and lines[-1].startswith("Error: ")


def kill_often(verb, folder, kept, old, new, times, rng, log):
    """Kill a command at random moments and print a row of the table."""
    out, before = verb.out, bytes_of(kept / verb.out.name)
    spans = []
    for _ in range(2):  # the first run compiles
        put(kept, out)
        start = time.monotonic()
        number = child(verb.words, folder, log)
        begun = None
        while True:
            done, _ = os.waitpid(number, os.WNOHANG)
            if begun is None and writes(out):
                begun = time.monotonic() - start
            if done:
                break
            time.sleep(0.001)
        took = time.monotonic() - start
        spans.append((took, took if begun is None else begun))
    took, begun = spans[-1]
    found, wrong, in_writing, leftovers, reruns = {"old": 0, "new": 0}, [], 0, 0, 0
    for i in range(times):
        put(kept, out)
        number = child(verb.words, folder, log)
        start = time.monotonic()
        if i % 2:  # wait until it writes
            while not writes(out) and time.monotonic() < start + 3 * took:
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, max(0.003, took - begun)))
        else:
            time.sleep(rng.uniform(0, took))
        in_writing += writes(out)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        # output with the same bytes need not be loaded again
        is_there = old if bytes_of(out) == before else digest(out)
        if is_there is None and any("-old" in name for name in left(out)):
            found["old"] += 1  # set aside; the next command restores it
        elif is_there in (old, new):
            found["old" if is_there == old else "new"] += 1
        else:
            wrong.append(f"{i}: {is_there}")
        leftovers += bool(left(out))
        wrong += [f"{i}: unexpected {name}" for name in unexpected(out)]
        if i % 10 == 9 or i == times - 1:
            words = [*verb.words, "--resume"] if verb.name == "fit" and i % 20 == 9 else verb.words
            status, said = run(words, folder)
            reruns += 1
            if status != 0 or digest(out) != new or left(out):
                wrong.append(f"{i}: rerun {status} {digest(out)} {left(out)} {said[-300:]}")
    figures = (f"{took:.1f}", times, in_writing, found["old"], found["new"], leftovers, reruns, len(wrong))
    print(f"| {verb.name} | {' | '.join(map(str, figures))} |", flush=True)
    for line in wrong:
        print("    ", line, flush=True)
    FAILURES.extend(f"{verb.name} killed, {line}" for line in wrong)


def check_fault(name, fault, out, result, old, expected=2, *, whole=True):
    status, said = result
    last = (said.strip().splitlines() or ["(nothing)"])[-1]
    good = status == expected and (expected != 2 or one_sentence(said))
    good = good and (not whole or digest(out) == old) and not left(out)
    print(f"| {name} | {fault} | {status} | {'ok' if good else 'WRONG'} | {last[:230]} |", flush=True)
    if not good:
        print("    ", left(out), digest(out), old, said[-2000:], flush=True)
        FAILURES.append(f"{name}, {fault}")


@contextlib.contextmanager
def tmpfs(folder, size):
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def moved(verb, place):
    """Return the command with its output in another folder."""
    words = [str(place / verb.out.name) if word == str(verb.out) else word for word in map(str, verb.words)]
    return Verb(verb.name, words, place / verb.out.name)


def limited(kind, size):
    return lambda: resource.setrlimit(kind, (size, size))


def without_rights():
    """Drop the capability of root to ignore file permissions (CAP_DAC_OVERRIDE)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable sets, in two words each
    assert libc.capget(header, sets) == 0
    for i in (0, 1, 2):
        sets[i] &= ~2
    assert libc.capset(header, sets) == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="kills of each command")
    parser.add_argument("--only", default="kill,disk,readonly,permission,ctrlc,rivals", help="faults")
    parser.add_argument("--verbs", default="fit,save,h5ad,zarr,mtx,csv,report", help="commands")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    only, verbs = options.only.split(","), options.verbs.split(",")
    # modules that the commands need; importing them starts no thread of JAX
    for module in ("cli", "training.fit", "generation.generate", "report.collect", "report.render"):
        importlib.import_module(f"vaexprs.{module}")

    folder = Path(tempfile.mkdtemp(prefix="vaexprs-faults-"))
    folder.chmod(0o755)
    make = folder / "make.py"
    make.write_text(MAKE)
    subprocess.run([sys.executable, make], cwd=folder, check=True)
    log = folder / "log"
    fit = ["fit", folder / "few.h5ad", "--label-key", "cell_type", "--epochs", 6, "-q", "--overwrite"]
    fit += ["--checkpoint-steps", 3]
    generate = ["generate", folder / "model", "-n", 3000, "-q", "--overwrite"]
    report = [
        "report",
        folder / "model",
        folder / "made.h5ad",
        "--real",
        folder / "held.h5ad",
        "-q",
        "--overwrite",
    ]
    known = []
    for name in verbs:
        place = folder / name
        place.mkdir()
        if name == "fit":
            known.append(Verb(name, [*fit, "--seed", 1, "--out", place / "model"], place / "model"))
        elif name == "save":
            known.append(Verb(name, ["save", folder / "model", place / "model"], place / "model"))
        elif name == "report":
            known.append(Verb(name, [*report, "--out", place / "r.html", "--seed", 1], place / "r.html"))
        else:
            out = place / f"cells.{name}"
            known.append(Verb(name, [*generate, "--seed", 1, "--out", out], out))
    digests = {}
    for verb in known:  # the earlier result is that of another seed
        words = [0 if word == 1 else word for word in verb.words]
        if verb.name == "save":
            words = ["save", folder / "other", verb.out]
        for each, end in ((words, "old"), (verb.words, "new")):
            status, said = run(each, folder)
            assert status == 0, said
            digests[verb.name, end] = digest(verb.out)
            if end == "old":
                keep(verb.out, folder / f"{verb.name}-kept")
        old, new = digests[verb.name, "old"], digests[verb.name, "new"]
        assert old != new, (verb.name, old)
        assert all(re.fullmatch("[0-9a-f]{12}", each) for each in (old, new)), (old, new)
    rng = random.Random(options.seed)
    if "kill" in only:
        print("| command | s | kills | while writing | old | new | files left | reruns | wrong |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        for verb in known:
            old, new = digests[verb.name, "old"], digests[verb.name, "new"]
            kill_often(verb, folder, folder / f"{verb.name}-kept", old, new, options.times, rng, log)
    print("\n| command | fault | status | | message |\n|---|---|---:|---|---|", flush=True)
    for verb in known:
        old, kept = digests[verb.name, "old"], folder / f"{verb.name}-kept"
        put(kept, verb.out)
        if "disk" in only:
            room = sum(p.stat().st_blocks * 512 for p in kept.rglob("*")) + 65_536
            try:
                with tmpfs(folder / "small", room) as place:
                    small = moved(verb, place)
                    put(kept, small.out)
                    check_fault(verb.name, "full tmpfs", small.out, run(small.words, folder), old)
            except subprocess.CalledProcessError:
                print(f"| {verb.name} | full tmpfs | | not run | mount is not allowed |")
            before = limited(resource.RLIMIT_FSIZE, 3_000)
            check_fault(verb.name, "RLIMIT_FSIZE 3000", verb.out, run(verb.words, folder, before), old)
        if "readonly" in only:
            with contextlib.suppress(subprocess.CalledProcessError), tmpfs(folder / "small", "64m") as place:
                small = moved(verb, place)
                put(kept, small.out)
                subprocess.run(["mount", "-o", "remount,ro", place], check=True)
                check_fault(verb.name, "read-only tmpfs", small.out, run(small.words, folder), old)
        if "permission" in only:
            verb.out.parent.chmod(0o555)
            check_fault(verb.name, "no permission", verb.out, run(verb.words, folder, without_rights), old)
            verb.out.parent.chmod(0o755)
        if "rivals" in only and verb.name != "save":  # save claims its output at the end only
            rivals(verb, folder, digests, log)
        if "ctrlc" in only and verb.name in ("fit", "h5ad", "zarr", "csv", "report"):
            put(kept, verb.out)
            ctrl_c(verb, folder, log, old)
    shutil.rmtree(folder)
    if FAILURES:
        sys.exit(f"{len(FAILURES)} wrong results: {'; '.join(FAILURES)}")


def rivals(verb, folder, digests, log):
    """Start the same command twice: one writes its output, the other reports that it is being written."""
    put(folder / f"{verb.name}-kept", verb.out)
    first = child(verb.words, folder, log)
    while not any(name.endswith(".lock") for name in left(verb.out)):
        time.sleep(0.001)
    status, said = run(verb.words, folder)
    won = ended(first)
    good = status == 2 and "being written by another process" in said and one_sentence(said) and won == 0
    good = good and digest(verb.out) == digests[verb.name, "new"] and not left(verb.out)
    last = (said.strip().splitlines() or ["(nothing)"])[-1]
    print(
        f"| {verb.name} | two at once | {won}, {status} | {'ok' if good else 'WRONG'} | {last[:230]} |",
        flush=True,
    )
    if not good:
        FAILURES.append(f"{verb.name}, two at once")


def ctrl_c(verb, folder, log, old):
    """Send SIGINT to a running command, and check its status and output."""
    words = [MANY if word == 3000 else 100_000 if word == 6 else word for word in verb.words]
    number = child(words, folder, log)
    mark = (lambda: (folder / "fit" / "model.checkpoint").exists()) if verb.name == "fit" else None
    start = time.monotonic()
    while time.monotonic() < start + 120 and not (mark() if mark else writes(verb.out)):
        if mark is None and verb.name in ("csv", "report") and time.monotonic() > start + 4:
            break
        time.sleep(0.01)
    time.sleep(3)
    os.kill(number, signal.SIGINT)
    result = ended(number), log.read_text()
    if verb.name == "fit":
        assert digest(verb.out) not in (None, old)
        assert json.loads((verb.out / "meta.json").read_text())["recipe"]["interrupted"] is True
    check_fault(verb.name, "Ctrl-C", verb.out, result, old, 130, whole=verb.name != "fit")
    partial = verb.out.with_name(f"{verb.out.stem}.partial{verb.out.suffix}")
    if partial.exists():
        cells = vx.read(partial)
        print(
            f"|  | kept cells |  | ok | {cells.n_obs:,} cells, {len(cells.obs):,} with labels |", flush=True
        )
        shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
    Path(f"{verb.out}.checkpoint").unlink(missing_ok=True)


MAKE = """
import vaexprs as vx
import numpy as np
cells = vx.demo_cells()
labels = ["CD19+ B", "CD14+ Monocyte", "CD56+ NK", "Dendritic"]
rows = np.stack([np.flatnonzero(cells.obs["cell_type"] == name)[:30] for name in labels], axis=1).ravel()
genes = np.argsort(-np.asarray(cells.X.sum(axis=0)).ravel())[:50]
few = cells[rows, genes].copy()
few.write_h5ad("few.h5ad")
few[60:].copy().write_h5ad("held.h5ad")
for name, seed in (("model", 0), ("other", 5)):
    fit = vx.fit_vae(few, label_key="cell_type", epochs=5, seed=seed, verbose=0)
    fit.save(name)
vx.gen_exprs(fit, 80, out="made.h5ad", progress=False)
"""

if __name__ == "__main__":
    main()
