"""Feed mutated files to each reader, which must return a result or raise one documented error.

    python fuzz/fuzz.py FORMAT [options of libFuzzer]

An input is the content of a file, or several parts, separated by a line, that become the files of a folder or
the members of an archive: mutations of an archive itself would only fail its checksums.
"""

import io
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

from mutations import CUT, mutated

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = Path(__file__).parent
DOCUMENTED = (ValueError, TypeError, OSError, ImportError)  # errors that the command line reports in one line
ARRAYS = "seen cells bic pooled effects models components weights means covariances".split()  # noqa: SIM905
GIB = 1 << 20  # in KiB
LIMITS = ("scaling.low", "scaling.range")
INSTRUMENTED = ["vaexprs", "rdata", "anndata"]


def as_file(suffix):
    """Return a harness that reads the input as a file with this suffix."""

    def run(data, folder):
        import vaexprs as vx

        path = folder / f"cells{suffix}"
        path.write_bytes(data)
        return lambda: vx.read(path)

    return run


def as_folder(data, folder):
    """Read matrix.mtx, features.tsv and barcodes.tsv."""
    import vaexprs as vx

    for name, part in zip(("matrix.mtx", "features.tsv", "barcodes.tsv"), data.split(CUT), strict=False):
        (folder / name).write_bytes(part)
    return lambda: vx.read(folder)


def zipped(parts):
    """Return a zip archive of parts by name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts:
            archive.writestr(name, part)
    return content.getvalue()


def as_model(data, folder):
    """Load a model from the configuration of its network, its weights, meta.json, and its arrays in order."""
    from vaexprs.model.load import load_vae

    config, weights, meta, *arrays = [*data.split(CUT), b"", b"", b""]
    members = {"config.json": config, "metadata.json": b"{}", "model.weights.h5": weights}
    (folder / "model.keras").write_bytes(zipped(members.items()))
    (folder / "meta.json").write_bytes(meta)
    names = [*(f"density.{name}.npy" for name in ARRAYS), *(f"{name}.npy" for name in LIMITS)]
    (folder / "arrays.npz").write_bytes(zipped(zip(names, arrays, strict=False)))
    return lambda: shown(load_vae(folder))


def shown(fit):
    """Return the text and the HTML representation of a fit."""
    return repr(fit), fit._repr_html_()


def as_checkpoint(data, folder):
    """Read a checkpoint from its description and the values of its variables."""
    from vaexprs.training.checkpoint import read_state

    path = folder / "fit.checkpoint"
    about, *arrays = data.split(CUT)
    names = [f"variable_{i}.npy" for i in range(len(arrays))]
    path.write_bytes(zipped([("about.npy", about), *zip(names, arrays, strict=True)]))
    return lambda: read_state(path, {"seed": 0})


def as_archive(data, folder):
    """Read the input as an .npz file."""
    from vaexprs.training.checkpoint import read_state

    path = folder / "fit.checkpoint"
    path.write_bytes(data)
    return lambda: read_state(path, {"seed": 0})


HARNESSES = {
    "mtx": as_folder,
    "csv": as_file(".csv"),
    "rds": as_file(".rds"),
    "model": as_model,
    "checkpoint": as_checkpoint,
    "npz": as_archive,
}


def once(form, data):
    """Feed one input to a reader; return the message of its documented error, or an empty string.

    Any other exception is raised, and an AssertionError if the message has several lines or does not name the
    file.
    """
    folder = Path(tempfile.mkdtemp(prefix="vaexprs-fuzz-"))
    try:
        call = HARNESSES[form](data, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call()
            except DOCUMENTED as error:
                message = str(error)
                if "\n" in message or folder.name not in message:
                    raise AssertionError(f"not one line that names the file: {message[:500]!r}") from error
                return message
        return ""
    finally:
        shutil.rmtree(folder)


def watched(form, data):
    """Feed one input to a reader; raise if it takes more memory than SECURITY.md allows.

    Only memory above the peak of all earlier inputs is seen.
    """
    import resource  # missing on Windows, where tests import this file

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = once(form, data)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if taken > 1.25 * GIB:
        raise AssertionError(f"reading took {taken >> 10} MiB: {message[:500]!r}")


def main():
    form, *options = sys.argv[1:]
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        # modules are instrumented when they are imported
        import vaexprs.io.read

        if form in ("model", "checkpoint", "npz"):
            import vaexprs.model.load
            import vaexprs.training.checkpoint  # noqa: F401
    # the first reads import further modules, which takes memory
    for path in sorted((HERE / "corpora" / form).iterdir()):
        once(form, path.read_bytes())
    atheris.Setup(
        [sys.argv[0], *options, str(HERE / "corpora" / form)],
        lambda data: watched(form, data),
        custom_mutator=lambda data, max_size, seed: mutated(data, max_size, seed, atheris.Mutate),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
