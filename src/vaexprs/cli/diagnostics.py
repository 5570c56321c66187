"""Checks of the installation for `vaexprs doctor`."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement


# what the extras enable; their packages are read from the installed distribution
ENABLES = {
    "cuda": "training on an NVIDIA GPU (Linux)",
    "dask": "generating on a Dask cluster",
    "docs": "building the documentation",
    "privacy": "fitting with differential privacy",
    "r": "reading and writing .rds files of R",
}
FOR_DEVELOPERS = ("dev", "test")
SHOWN = ("keras", "jax", "anndata", "scanpy", "numpy", "zarr", "h5py")
BACKEND = "jax"
REINSTALL = "pip install --upgrade --force-reinstall {}"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    part
        What: "packages", "keras", "devices", "machine", "cache", "graphviz", "extras" or "trial".
    state
        "good"; "fair" where something works less well or not at all that few need; "poor" where fitting and
        generating do not work; "absent" for an extra that is not installed.
    told
        What was seen, in a sentence.
    advice
        What to do, empty where nothing is.
    """

    part: str
    state: str
    told: str
    advice: str = ""


def examine() -> tuple[dict[str, str], list[Finding]]:
    """Return the versions of what matters, by name, and what was found.

    Nothing raises here: a check that fails is a finding.
    """
    findings: list[Finding] = []
    for part, check in CHECKS.items():
        if part in AFTER_OTHERS and not works(findings):
            continue  # it would say the same again
        try:
            findings += check()
        except Exception as error:  # whatever is broken is what is looked for
            findings.append(Finding(part, "poor", _sentence(error), f"Try: {REINSTALL.format('vaexprs')}"))
    return versions(), findings


def works(findings: list[Finding]) -> bool:
    """Return whether fitting and generating would work."""
    return all(finding.state != "poor" for finding in findings)


def versions() -> dict[str, str]:
    """Return the versions of vaexprs, Python and the packages that decide most, by name."""
    found = {"vaexprs": _version("vaexprs") or "not installed", "python": platform.python_version()}
    return found | {name: _version(name) or "missing" for name in SHOWN}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def requirements(extra: str = "", of: str = "vaexprs") -> list[Requirement]:
    """Return what a distribution requires on this machine, or what one of its extras adds to that.

    Read from what is installed, so that it is said once, in pyproject.toml.
    """
    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in distribution(of).requires or ()]
    always = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [r for r in declared if r not in always and r.marker and r.marker.evaluate({"extra": extra})]


def unmet(requirement: Requirement) -> str:
    """Return what is wrong with a requirement: missing or another version; empty where nothing is."""
    here = _version(requirement.name)
    if here is None:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(here, prereleases=True):
        return f"{requirement.name} is {here}, it must be {requirement.specifier}"
    inner = [r for extra in requirement.extras for r in requirements(extra, requirement.name)]
    return next((sentence for sentence in map(unmet, inner) if sentence), "")


def _packages() -> Iterator[Finding]:
    wrong = [sentence for sentence in map(unmet, requirements()) if sentence]
    for sentence in wrong:
        yield Finding("packages", "poor", f"{sentence}.", "Try: pip install --upgrade vaexprs")
    if not wrong:
        yield Finding("packages", "good", f"All {len(requirements())} packages it needs are there.")


def _keras() -> Iterator[Finding]:
    asked = os.environ.get("KERAS_BACKEND")
    try:
        import keras
    except Exception as error:
        told = f"Keras cannot start with the backend {asked!r}: {_sentence(error)}"
        command = REINSTALL.format("keras jax") if asked in (None, BACKEND) else "unset KERAS_BACKEND"
        yield Finding("keras", "poor", told, f"Try: {command}")
        return
    backend = keras.backend.backend()
    if backend == BACKEND:
        yield Finding("keras", "good", "Keras runs on JAX.")
    else:
        yield Finding(
            "keras",
            "fair",
            f"Keras runs on {backend!r}: vaexprs is made for and tested with JAX.",
            "Try: unset KERAS_BACKEND (and import vaexprs before keras)",
        )


def _devices() -> Iterator[Finding]:
    import jax

    try:
        found = [f"{device.platform} {device.id} ({device.device_kind})" for device in jax.devices()]
    except Exception as error:  # JAX has a RuntimeError for some platforms and an AssertionError for others
        asked = os.environ.get("JAX_PLATFORMS")
        told = f"JAX finds nothing to compute on with JAX_PLATFORMS={asked or ''}: {_sentence(error)}"
        command = "unset JAX_PLATFORMS" if asked else REINSTALL.format("jax")
        yield Finding("devices", "poor", told, f"Try: {command}")
        return
    yield Finding("devices", "good", f"JAX computes on {', '.join(found)}.")
    if jax.default_backend() == "cpu" and Path("/proc/driver/nvidia/version").exists():
        yield Finding(
            "devices",
            "fair",
            "There is an NVIDIA GPU that JAX does not use.",
            'Try: pip install "vaexprs[cuda]"',
        )


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    told = f"{cores} of {os.cpu_count()} cores" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    memory = _memory()
    if memory is not None:
        told += f", {memory / 2**30:.1f} GiB of memory"
    yield Finding("machine", "good", f"{platform.system()} {platform.machine()}: {told}.")


def _memory() -> int | None:
    """Return the bytes of memory that there are, or fewer where a job has a limit."""
    if not hasattr(os, "sysconf"):
        return None
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdecimal() else total


def _cache() -> Iterator[Finding]:
    import jax

    from vaexprs.nn.compilation import keep_compiled

    keep_compiled()
    config: Any = jax.config
    folder = config.jax_compilation_cache_dir
    if not config.jax_enable_compilation_cache:
        yield Finding(
            "cache", "good", "Compiled programs are not kept: JAX_ENABLE_COMPILATION_CACHE says so."
        )
    elif folder is None:
        yield Finding("cache", "fair", "There is no place for compiled programs.", CACHE_ADVICE)
    else:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            told = f"Compiled programs cannot be kept in {folder}: {error.strerror or error}."
            yield Finding("cache", "fair", told, CACHE_ADVICE)
        else:
            yield Finding("cache", "good", f"Compiled programs are kept in {folder}.")


CACHE_ADVICE = "Every fit compiles anew. Name a folder you may write to: export JAX_COMPILATION_CACHE_DIR=..."


def _graphviz() -> Iterator[Finding]:
    try:
        import pygraphviz

        drawn = bytes(pygraphviz.AGraph(string="digraph { a -> b }").draw(format="svg", prog="dot"))
    except Exception as error:
        told = f"plot_vae cannot draw: {_sentence(error)}."
        yield Finding("graphviz", "fair", told, f"Try: {REINSTALL.format('pygraphviz')}")
        return
    yield Finding("graphviz", "good", "Graphviz draws." if b"<svg" in drawn else "Graphviz answers.")


def _extras() -> Iterator[Finding]:
    offered = distribution("vaexprs").metadata.get_all("Provides-Extra") or ()
    for name in sorted(set(offered) - set(FOR_DEVELOPERS)):
        lacking = [sentence for sentence in map(unmet, requirements(name)) if sentence]
        what = ENABLES.get(name, ", ".join(r.name for r in requirements(name)))
        if lacking:
            command = f'pip install "vaexprs[{name}]"'
            yield Finding("extras", "absent", f"[{name}] {what}: {lacking[0]}.", f"If wanted: {command}")
        else:
            yield Finding("extras", "good", f"[{name}] {what}.")


def _trial() -> Iterator[Finding]:
    """Fit, save, load and generate a little."""
    import vaexprs as vx
    from vaexprs.io.write import write

    cells = vx.demo_cells()[:60, :40].copy()
    with warnings.catch_warnings(action="ignore"):  # of so few cells there is much to warn
        fit = vx.fit_vae(cells, epochs=1, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        loaded = vx.load_vae(fit.save(Path(folder) / "model"))
        made = vx.gen_exprs(loaded, 10, seed=0).adata
        write(made, Path(folder) / "cells.h5ad")
        back = vx.read(Path(folder) / "cells.h5ad")
    if (back.X != made.X).sum():
        told = "Cells that were written to .h5ad came back with other values."
        yield Finding("trial", "poor", told, f"Try: {REINSTALL.format('h5py')}")
        return
    yield Finding("trial", "good", "A small model was fitted, saved, loaded, and cells of it were written.")


AFTER_OTHERS = ("cache", "trial")
CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "packages": _packages,
    "keras": _keras,
    "devices": _devices,
    "machine": _machine,
    "cache": _cache,
    "graphviz": _graphviz,
    "extras": _extras,
    "trial": _trial,
}


def as_json(found: dict[str, str], findings: list[Finding]) -> dict[str, Any]:
    """Return what `examine` found as plain values."""
    return {
        "works": works(findings),
        "executable": sys.executable,
        "versions": found,
        "findings": [vars(finding) for finding in findings],
    }
