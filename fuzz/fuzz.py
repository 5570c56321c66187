"""Feeds mutated files to each reader: whatever comes, it gives a result or one documented error.

    python fuzz/fuzz.py FORMAT [options of libFuzzer]

What is mutated is the content of a file, or several parts with a line between them that become the files of a
folder or the members of an archive: checksums of zip and gzip would stop mutations at the door.
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
DOCUMENTED = (ValueError, TypeError, OSError, ImportError)  # what the command line turns into a sentence
ARRAYS = "seen cells bic pooled effects models components weights means covariances".split()  # noqa: SIM905
GIB = 1 << 20  # in KiB
LIMITS = ("scaling.low", "scaling.range")
INSTRUMENTED = ["vaexprs", "rdata", "anndata"]


def as_file(suffix):
    """Return what reads a file with this content."""

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
    """Return an archive of parts by name."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, part in parts:
            archive.writestr(name, part)
    return content.getvalue()


def as_model(data, folder):
    """Load the configuration of a network, its weights, meta.json, and the arrays in their order."""
    from vaexprs.model.load import load_vae

    config, weights, meta, *arrays = [*data.split(CUT), b"", b"", b""]
    members = {"config.json": config, "metadata.json": b"{}", "model.weights.h5": weights}
    (folder / "model.keras").write_bytes(zipped(members.items()))
    (folder / "meta.json").write_bytes(meta)
    names = [*(f"density.{name}.npy" for name in ARRAYS), *(f"{name}.npy" for name in LIMITS)]
    (folder / "arrays.npz").write_bytes(zipped(zip(names, arrays, strict=False)))
    return lambda: shown(load_vae(folder))


def shown(fit):
    """Return what a console and a notebook show of a fit."""
    return repr(fit), fit._repr_html_()


def as_checkpoint(data, folder):
    """Read what a fit was when it stopped, and the values of its variables."""
    from vaexprs.training.checkpoint import read_state

    path = folder / "fit.checkpoint"
    about, *arrays = data.split(CUT)
    names = [f"variable_{i}.npy" for i in range(len(arrays))]
    path.write_bytes(zipped([("about.npy", about), *zip(names, arrays, strict=True)]))
    return lambda: read_state(path, {"seed": 0})


def as_archive(data, folder):
    """Read an .npz file as it is."""
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
    """Feed one content to a reader; return the sentence of its error, or an empty one.

    Any other exception is raised, and so is one of several lines or that does not name the file.
    """
    folder = Path(tempfile.mkdtemp(prefix="vaexprs-fuzz-"))
    try:
        call = HARNESSES[form](data, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call()
            except DOCUMENTED as error:
                sentence = str(error)
                if "\n" in sentence or folder.name not in sentence:
                    raise AssertionError(f"no sentence that names the file: {sentence[:500]!r}") from error
                return sentence
        return ""
    finally:
        shutil.rmtree(folder)


def watched(form, data):
    """Feed one content to a reader; raise where it takes more memory than SECURITY.md says.

    What it takes is seen as far as it is more than any before it took.
    """
    import resource  # which Windows has not, where tests import this file

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sentence = once(form, data)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if taken > 1.25 * GIB:
        raise AssertionError(f"{taken >> 10} MiB were taken before it came to this: {sentence[:500]!r}")


def main():
    form, *options = sys.argv[1:]
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        import vaexprs as vx

        vx.read  # noqa: B018  its rooms are opened while they are instrumented
        if form in ("model", "checkpoint", "npz"):
            import vaexprs.result  # noqa: F401
    # what is run for the first time loads more
    for path in sorted((HERE / "corpora" / form).iterdir()):
        once(form, path.read_bytes())
    atheris.Setup(
        [sys.argv[0], *options, str(HERE / "corpora" / form)],
        lambda data: watched(form, data),
        custom_mutator=lambda data, room, seed: mutated(data, room, seed, atheris.Mutate),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
