"""Feeds mutated files to each reader: whatever comes, it gives a result or one documented error.

    python fuzz/fuzz.py FORMAT [options of libFuzzer]

What is mutated is the content of a file, or several parts with a line between them that become the files of a
folder or the members of an archive: checksums of zip and gzip would stop mutations at the door.
"""

import io
import math
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
import zlib
from pathlib import Path

from mutations import CUT, mutated

os.environ.setdefault("JAX_PLATFORMS", "cpu")
HERE = Path(__file__).parent
DOCUMENTED = (ValueError, TypeError, OSError, ImportError)  # what the command line turns into a sentence
ARRAYS = "seen cells bic pooled effects models components weights means covariances".split()  # noqa: SIM905
GIB = 1 << 20  # in KiB
LIMITS = ("scaling.low", "scaling.range")
INSTRUMENTED = ["vaexprs", "rdata", "anndata", "loompy", "scanpy.readwrite"]


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


def as_zarr(data, folder):
    """Read a store of files, each with its name in its first line."""
    import vaexprs as vx

    path = folder / "cells.zarr"
    path.mkdir()
    for part in data.split(CUT):
        name, _, content = part.partition(b"\n")
        name = name.decode("latin-1")
        # what unpacks an archive sees to names that lead out of it
        if name and len(name) < 99 and "\0" not in name and ".." not in name and not name.startswith("/"):
            try:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
            except OSError:  # a file where a folder should be
                continue
    return lambda: vx.read(path)


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


def as_tree(suffix):
    """Return what reads an HDF5 file of these parts: one that is whole to HDF5, and wrong.

    The first line of a part is `path kind shape`: the path of an attribute has its name after an "@", and the
    kind is "group", "texts" (one a line) or a NumPy dtype. What follows are the values; where there are too
    few, what there is of them is a packed chunk.
    """

    def run(data, folder):
        import h5py

        import vaexprs as vx

        path = folder / f"cells{suffix}"
        with h5py.File(path, "w", libver=("v110", "v110")) as file:
            for part in data.split(CUT):
                try:
                    put_part(file, part)
                except Exception:  # no such thing can be in a file
                    continue
        return lambda: summed(vx.read(path).X)

    return run


def summed(x):
    """Add up the values of each gene: indices that point out of a matrix crash there."""
    return x.sum(axis=0) if getattr(x, "dtype", None) is not None and x.dtype.kind in "iufb" else None


def put_part(file, part):
    """Put one part of `as_tree` into an HDF5 file."""
    import numpy as np

    head, _, content = part.partition(b"\n")
    place, kind, *shape = head.decode("utf-8").split(" ")
    shape = tuple(int(n) for n in shape)
    place, _, name = place.partition("@")
    if kind == "group":
        file.require_group(place)
        return
    if kind == "texts":
        values = np.array(content.decode("utf-8", "surrogateescape").split("\n"), object)
    else:
        dtype = np.dtype(kind)
        values = np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype)
    if len(values) < math.prod(shape) and not name and kind != "texts":
        data = file.create_dataset(place, shape, dtype, chunks=shape, compression="gzip")
        data.id.write_direct_chunk((0,) * len(shape), zlib.compress(content))
        return
    values = values[: math.prod(shape)].reshape(shape)
    if name:
        file[place].attrs[name] = values if shape else values[()]
    else:
        file[place] = values if shape else values[()]


def as_archive(data, folder):
    """Read an .npz file as it is."""
    from vaexprs.training.checkpoint import read_state

    path = folder / "fit.checkpoint"
    path.write_bytes(data)
    return lambda: read_state(path, {"seed": 0})


HARNESSES = {
    "h5ad": as_file(".h5ad"),
    "zarr": as_zarr,
    "h5mu": as_file(".h5mu"),
    "10x-h5": as_file(".h5"),
    "mtx": as_folder,
    "csv": as_file(".csv"),
    "loom": as_file(".loom"),
    "rds": as_file(".rds"),
    "model": as_model,
    "checkpoint": as_checkpoint,
    "npz": as_archive,
    "h5ad-tree": as_tree(".h5ad"),
    "h5mu-tree": as_tree(".h5mu"),
    "10x-h5-tree": as_tree(".h5"),
    "loom-tree": as_tree(".loom"),
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
    # HDF5 makes room for one text of the length that is claimed, in 32 bits
    if taken > GIB * (4.5 if form.startswith(("h5", "10x", "loom")) else 1.25):
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
