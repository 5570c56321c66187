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


# purpose of each extra; its packages are read from the metadata of the installed distribution
ENABLES = {
    "cuda": "training on an NVIDIA GPU (Linux)",
    "dask": "generation on a Dask cluster",
    "docs": "building the documentation",
    "power": "the test pydeseq2 of power",
    "privacy": "fits with differential privacy",
    "r": "reading and writing R .rds files",
}
DEVELOPER_EXTRAS = ("dev", "test")
SHOWN_PACKAGES = ("keras", "jax", "anndata", "scanpy", "numpy", "zarr", "h5py")
BACKEND = "jax"
REINSTALL = "pip install --upgrade --force-reinstall {}"


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Parameters
    ----------
    part
        Checked part: "packages", "keras", "devices", "machine", "cache", "graphviz", "extras" or "trial".
    state
        "good"; "fair" if something rarely needed does not work, or something works less well; "poor" if
        fitting and generating do not work; "absent" for an extra that is not installed.
    message
        Finding, in one sentence.
    advice
        Recommended action; empty if none is needed.
    """

    part: str
    state: str
    message: str
    advice: str = ""


def examine() -> tuple[dict[str, str], list[Finding]]:
    """Return the versions of the main packages by name, and the findings of all checks.

    A check that raises an exception is reported as a finding.
    """
    findings: list[Finding] = []
    for part, check in CHECKS.items():
        if part in AFTER_OTHERS and not works(findings):
            continue  # it would fail for the same reason
        try:
            findings += check()
        except Exception as error:  # a broken installation may raise any exception
            findings.append(Finding(part, "poor", _sentence(error), f"Try: {REINSTALL.format('vaexprs')}"))
    return versions(), findings


def works(findings: list[Finding]) -> bool:
    """Return whether fitting and generating are expected to work."""
    return all(finding.state != "poor" for finding in findings)


def versions() -> dict[str, str]:
    """Return the versions of vaexprs, Python and the main dependencies, by name."""
    found = {"vaexprs": _version("vaexprs") or "not installed", "python": platform.python_version()}
    return found | {name: _version(name) or "missing" for name in SHOWN_PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def requirements(extra: str = "", of: str = "vaexprs") -> list[Requirement]:
    """Return the requirements of a distribution on this machine, or those that one of its extras adds.

    They are read from the metadata of the installed distribution.
    """
    from packaging.requirements import Requirement

    declared = [Requirement(text) for text in distribution(of).requires or ()]
    always = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [r for r in declared if r not in always and r.marker and r.marker.evaluate({"extra": extra})]


def unmet(requirement: Requirement) -> str:
    """Return why a requirement is not met (missing, or another version); empty if it is met."""
    installed = _version(requirement.name)
    if installed is None:
        return f"{requirement.name} is missing"
    if not requirement.specifier.contains(installed, prereleases=True):
        return f"{requirement.name} must be {requirement.specifier}, got {installed}"
    inner = [r for extra in requirement.extras for r in requirements(extra, requirement.name)]
    return next((sentence for sentence in map(unmet, inner) if sentence), "")


def _packages() -> Iterator[Finding]:
    problems = [sentence for sentence in map(unmet, requirements()) if sentence]
    for sentence in problems:
        yield Finding("packages", "poor", f"{sentence}.", "Try: pip install --upgrade vaexprs")
    if not problems:
        yield Finding("packages", "good", f"All {len(requirements())} required packages are installed.")


def _keras() -> Iterator[Finding]:
    selected = os.environ.get("KERAS_BACKEND")
    try:
        import keras
    except Exception as error:
        message = f"Keras cannot start with the backend {selected!r}: {_sentence(error)}"
        command = REINSTALL.format("keras jax") if selected in (None, BACKEND) else "unset KERAS_BACKEND"
        yield Finding("keras", "poor", message, f"Try: {command}")
        return
    backend = keras.backend.backend()
    if backend == BACKEND:
        yield Finding("keras", "good", "Keras runs on JAX.")
    else:
        yield Finding(
            "keras",
            "fair",
            f"Keras runs on {backend!r}, but vaexprs is tested with JAX only.",
            "Try: unset KERAS_BACKEND (and import vaexprs before keras)",
        )


def _devices() -> Iterator[Finding]:
    import jax

    try:
        found = [f"{device.platform} {device.id} ({device.device_kind})" for device in jax.devices()]
    except Exception as error:  # JAX raises RuntimeError for some platforms, AssertionError for others
        selected = os.environ.get("JAX_PLATFORMS")
        message = f"JAX finds no device with JAX_PLATFORMS={selected or ''}: {_sentence(error)}"
        command = "unset JAX_PLATFORMS" if selected else REINSTALL.format("jax")
        yield Finding("devices", "poor", message, f"Try: {command}")
        return
    yield Finding("devices", "good", f"JAX runs on {', '.join(found)}.")
    if jax.default_backend() == "cpu" and Path("/proc/driver/nvidia/version").exists():
        yield Finding(
            "devices",
            "fair",
            "JAX does not use the NVIDIA GPU of this machine.",
            'Try: pip install "vaexprs[cuda]"',
        )


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    message = f"{cores} of {os.cpu_count()} cores" + (f", OMP_NUM_THREADS={threads}" if threads else "")
    memory = _memory()
    if memory is not None:
        message += f", {memory / 2**30:.1f} GiB of memory"
    yield Finding("machine", "good", f"{platform.system()} {platform.machine()}: {message}.")


def _memory() -> int | None:
    """Return the memory in bytes, or the limit of the control group if that is lower."""
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
        yield Finding("cache", "good", "The compilation cache is disabled by JAX_ENABLE_COMPILATION_CACHE.")
    elif folder is None:
        yield Finding("cache", "fair", "There is no folder for compiled programs.", CACHE_ADVICE)
    else:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            message = f"Compiled programs cannot be cached in {folder}: {error.strerror or error}."
            yield Finding("cache", "fair", message, CACHE_ADVICE)
        else:
            yield Finding("cache", "good", f"Compiled programs are cached in {folder}.")


CACHE_ADVICE = "Every fit is compiled again. Try a writable folder: export JAX_COMPILATION_CACHE_DIR=..."


def _graphviz() -> Iterator[Finding]:
    try:
        import pygraphviz

        svg = bytes(pygraphviz.AGraph(string="digraph { a -> b }").draw(format="svg", prog="dot"))
    except Exception as error:
        message = f"plot_vae does not work: {_sentence(error)}."
        yield Finding("graphviz", "fair", message, f"Try: {REINSTALL.format('pygraphviz')}")
        return
    yield Finding("graphviz", "good", "Graphviz renders SVG." if b"<svg" in svg else "Graphviz runs.")


def _extras() -> Iterator[Finding]:
    offered = distribution("vaexprs").metadata.get_all("Provides-Extra") or ()
    for name in sorted(set(offered) - set(DEVELOPER_EXTRAS)):
        missing = [sentence for sentence in map(unmet, requirements(name)) if sentence]
        purpose = ENABLES.get(name, ", ".join(r.name for r in requirements(name)))
        if missing:
            command = f'pip install "vaexprs[{name}]"'
            yield Finding("extras", "absent", f"[{name}] {purpose}: {missing[0]}.", f"If needed: {command}")
        else:
            yield Finding("extras", "good", f"[{name}] {purpose}.")


def _trial() -> Iterator[Finding]:
    """Fit a small model, save and load it, generate cells, and write and read them."""
    import vaexprs as vx
    from vaexprs.io.write import write

    cells = vx.demo_cells()[:60, :40].copy()
    with warnings.catch_warnings(action="ignore"):  # so few cells cause warnings
        fit = vx.fit_vae(cells, epochs=1, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        loaded = vx.load_vae(fit.save(Path(folder) / "model"))
        made = vx.gen_exprs(loaded, 10, seed=0).adata
        write(made, Path(folder) / "cells.h5ad")
        read = vx.read(Path(folder) / "cells.h5ad")
    if (read.X != made.X).sum():
        message = "Cells written to .h5ad are read back with other values."
        yield Finding("trial", "poor", message, f"Try: {REINSTALL.format('h5py')}")
        return
    yield Finding(
        "trial", "good", "A small model was fitted, saved and loaded; its cells were written and read."
    )


AFTER_OTHERS = ("cache", "trial")  # skipped if an earlier check found that nothing works
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
    """Return the results of `examine` as values for JSON."""
    return {
        "works": works(findings),
        "executable": sys.executable,
        "versions": found,
        "findings": [vars(finding) for finding in findings],
    }
