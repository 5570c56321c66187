"""Writes the files that fuzzing starts from: one or two small whole ones of each format.

python fuzz/make_corpora.py

With the lowest Keras that is allowed: an older one cannot read the model of a newer one.
"""

import io
import tempfile
import warnings
import zipfile
from pathlib import Path

import vaexprs as vx

# isort: split
import anndata as ad
import h5py
import keras
import numpy as np
import pandas as pd
import scipy.sparse as sp
from fuzz import ARRAYS, CUT, HERE, LIMITS

CORPORA = HERE / "corpora"


def cells(sparse=True):
    """Return 6 cells x 4 genes with two labels."""
    x = np.random.default_rng(0).poisson(1.0, (6, 4)).astype(np.float32)
    obs = pd.DataFrame({"label": pd.Categorical(["a", "b"] * 3)}, index=[f"c{i}" for i in range(6)])
    var = pd.DataFrame(index=["MT-A", "CD4", "g3", "g4"])
    return ad.AnnData(sp.csr_matrix(x) if sparse else x, obs=obs, var=var)


def rich():
    """Return cells with a column of each kind, a layer, raw, an embedding, a graph and notes."""
    adata = cells()
    adata.obs["n"] = pd.array([1, 2, None, 4, 5, 6], "Int64")
    adata.obs["seen"] = pd.array([True, None, False] * 2, "boolean")
    adata.obs["donor"] = [f"d{i}" for i in range(6)]
    adata.obs["size"] = np.arange(6.0)
    adata.var["mt"] = [True, False, False, False]
    adata.raw = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_pca"] = np.ones((6, 2))
    adata.obsp["distances"] = sp.eye_array(6, format="csr")
    adata.uns["notes"] = {"by": "x", "n": 3, "table": pd.DataFrame({"a": [1, 2]})}
    return adata


def put(form, name, content):
    """Keep a content."""
    (CORPORA / form).mkdir(parents=True, exist_ok=True)
    (CORPORA / form / name).write_bytes(content)


def compact(content):
    """Return an HDF5 file without the room that it keeps for more."""
    old, new = h5py.File(io.BytesIO(content), "r"), io.BytesIO()
    with h5py.File(new, "w", libver=("v110", "v110")) as file:
        for key in old:
            old.copy(key, file)
        for key, value in old.attrs.items():
            file.attrs[key] = value
    return new.getvalue()


def tree(path):
    """Return the parts of an HDF5 file (its path or content), as `fuzz.as_tree` puts them together."""
    parts = []

    def add(place, values):
        values = np.asarray(values)
        texts = values.dtype.kind in "OUS"
        kind = "texts" if texts else values.dtype.str
        content = "\n".join(map(text, values.ravel())).encode() if texts else values.tobytes()
        parts.append(f"{' '.join([place, kind, *map(str, values.shape)])}\n".encode() + content)

    def text(value):
        return value.decode() if isinstance(value, bytes) else str(value)

    def visit(name, part):
        if isinstance(part, h5py.Group):
            parts.append(f"{name} group\n".encode())
        else:
            add(name, part[()])
        for key, value in part.attrs.items():
            add(f"{name}@{key}", value)

    with h5py.File(path) as file:
        for key, value in file.attrs.items():
            add(f"/@{key}", value)
        file.visititems(visit)
    return CUT.join(parts)


def of_stores(folder):
    for kind, sparse in (("sparse", True), ("dense", False)):
        path = folder / f"{kind}.h5ad"
        cells(sparse).write_h5ad(path)
        put("h5ad", kind, compact(path.read_bytes()))
        put("h5ad-tree", kind, tree(path))
    path = folder / "rich.h5ad"
    rich().write_h5ad(path)
    put("h5ad-tree", "rich", tree(path))
    path = folder / "a.zarr"
    cells().write_zarr(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    put("zarr", "sparse", CUT.join(f"{f.relative_to(path)}\n".encode() + f.read_bytes() for f in files))
    content = io.BytesIO()
    with h5py.File(content, "w", libver=("v110", "v110")) as file:
        ad.io.write_elem(file, "mod/rna", cells())
        ad.io.write_elem(file, "obs", cells().obs)
    put("h5mu", "rna", content.getvalue())
    put("h5mu-tree", "rna", tree(content))


def of_10x(folder):
    x = sp.csc_matrix(cells().X.T)
    content = io.BytesIO()
    with h5py.File(content, "w", libver=("v110", "v110")) as file:
        group = file.create_group("matrix")
        group["data"], group["indices"] = x.data.astype(np.int32), x.indices.astype(np.int64)
        group["indptr"], group["shape"] = x.indptr.astype(np.int64), np.array(x.shape, np.int32)
        group["barcodes"] = np.array([b"AAAC-1", b"AAAG-1", b"AAAT-1", b"AACA-1", b"AACC-1", b"AACG-1"])
        features = group.create_group("features")
        features["id"] = features["name"] = np.array([b"g1", b"g2", b"g3", b"g4"])
        features["feature_type"] = np.array([b"Gene Expression"] * 3 + [b"Antibody Capture"])
        features["genome"] = np.array([b"x"] * 4)
    put("10x-h5", "v3", content.getvalue())
    put("10x-h5-tree", "v3", tree(content))
    lines = [f"{i + 1} {j + 1} {int(v)}" for i, j, v in zip(*sp.find(x), strict=True)]
    head = "%%MatrixMarket matrix coordinate integer general\n%\n"
    matrix = f"{head}4 6 {len(lines)}\n" + "\n".join(lines) + "\n"
    genes = "".join(f"ENSG0000000000{i}\tg{i}\tGene Expression\n" for i in range(4))
    barcodes = "".join(f"AAAC{i}-1\n" for i in range(6))
    put("mtx", "coordinate", CUT.join(part.encode() for part in (matrix, genes, barcodes)))
    # of which SciPy's reader crashed
    found = {
        "found-zeros": f"{head}4 6 5\n" + "1 1 5\0\n" * 5,
        "found-returns": f"{head}4 6 5\n" + "1 1 5\r" * 5,
        "found-dense": "%%MatrixMarket matrix array real general\n4 6\n" + "1\0\0\0.5\n" * 24,
    }
    for name, matrix in found.items():
        put("mtx", name, CUT.join(part.encode() for part in (matrix, genes, barcodes)))
    import loompy

    loompy.create(
        str(folder / "a.loom"),
        x.toarray(),
        {"Gene": np.array(["g1", "g2", "g3", "g4"])},
        {"CellID": np.array([f"c{i}" for i in range(6)])},
    )
    put("loom", "plain", compact((folder / "a.loom").read_bytes()))
    put("loom-tree", "plain", tree(folder / "a.loom"))
    # over damaged sequences that are not text HDF5 crashed
    with h5py.File(folder / "a.loom", "r+") as file:
        del file["col_attrs/CellID"]
        names = file.create_dataset("col_attrs/CellID", (6,), h5py.vlen_dtype(np.uint8))
        names[:] = [np.frombuffer(b"c%d" % i, np.uint8) for i in range(6)]
    put("loom", "found-sequences", compact((folder / "a.loom").read_bytes()))


def of_text(folder):
    put("csv", "comma", b"cell,MT-A,CD4,type\nc1,1,0,B\nc2,0,2.5,T\n")
    put("csv", "semicolon", 'g;c1;"c;2"\nACTB;1,5;2\nCD4;0;1e3\n'.encode("utf-8-sig"))
    put("csv", "tab", b"c1\tc2\ng1\t1\t2\n'=g2\t3\t-4\n")


def of_r(folder):
    import gzip

    vx.write(cells(), folder / "a.rds")
    put("rds", "experiment", gzip.decompress((folder / "a.rds").read_bytes()))
    put(
        "rds",
        "text",
        b"A\n3\n262657\n197888\n5\nUTF-8\n526\n4\n1\n2\n3\n4\n1026\n1\n262153\n3\ndim\n13\n2\n2\n2\n254\n",
    )


def of_fits(folder):
    dense = keras.layers.Dense
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = vx.fit_vae(
            cells(),
            label_key="label",
            encoder_layers=[dense(2)],
            decoder_layers=[dense(2)],
            latent_dim=1,
            epochs=1,
            verbose=0,
            checkpoint=folder / "state",
        )
    fit.save(folder / "model")
    with zipfile.ZipFile(folder / "model" / "model.keras") as archive:
        parts = [archive.read("config.json"), compact(archive.read("model.weights.h5"))]
    parts.append((folder / "model" / "meta.json").read_bytes())
    names = [*(f"density.{name}" for name in ARRAYS), *LIMITS]
    with zipfile.ZipFile(folder / "model" / "arrays.npz") as archive:
        parts += [archive.read(f"{name}.npy") for name in names]
    put("model", "tiny", CUT.join(parts))
    with zipfile.ZipFile(folder / "state") as archive:
        n = len(archive.namelist())
        members = ["about.npy", *(f"variable_{i}.npy" for i in range(n - 1))]
        put("checkpoint", "tiny", CUT.join(archive.read(name) for name in members))
    content = io.BytesIO()
    np.savez(content, about=np.array("{}"), variable_0=np.arange(3.0))
    put("npz", "tiny", content.getvalue())


def main():
    with tempfile.TemporaryDirectory() as name:
        for make in (of_stores, of_10x, of_text, of_r, of_fits):
            make(Path(name))
    sizes = {path.relative_to(CORPORA): path.stat().st_size for path in sorted(CORPORA.rglob("*/*"))}
    for path, size in sizes.items():
        print(f"{size:>8,}  {path}")
    print(f"{sum(sizes.values()):>8,}  in all")


if __name__ == "__main__":
    main()
