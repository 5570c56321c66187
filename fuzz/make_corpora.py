"""Write the inputs that fuzzing starts from: a few small valid files of each format.

    python fuzz/make_corpora.py [FOLDER]

Run it with the lowest supported Keras: an older one cannot read the model of a newer one. The default
FOLDER is fuzz/corpora.
"""

import gzip
import io
import sys
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
import rdata
import scipy.sparse as sp
from fuzz import ARRAYS, HERE, LIMITS
from mutations import CUT

from vaexprs.io.r import write_rds as rds

CORPORA = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "corpora"


def cells():
    """Return 6 cells x 4 genes with two labels."""
    x = np.random.default_rng(0).poisson(1.0, (6, 4)).astype(np.float32)
    obs = pd.DataFrame({"label": pd.Categorical(["a", "b"] * 3)}, index=[f"c{i}" for i in range(6)])
    var = pd.DataFrame(index=["MT-A", "CD4", "g3", "g4"])
    return ad.AnnData(sp.csr_matrix(x), obs=obs, var=var)


def put(form, name, content):
    """Write an input."""
    (CORPORA / form).mkdir(parents=True, exist_ok=True)
    (CORPORA / form / name).write_bytes(content)


def compact(content):
    """Return an HDF5 file without its unused space."""
    old, new = h5py.File(io.BytesIO(content), "r"), io.BytesIO()
    with h5py.File(new, "w", libver=("v110", "v110")) as file:
        for key in old:
            old.copy(key, file)
        for key, value in old.attrs.items():
            file.attrs[key] = value
    return new.getvalue()


def of_10x(folder):
    x = sp.csc_matrix(cells().X.T)
    lines = [f"{i + 1} {j + 1} {int(v)}" for i, j, v in zip(*sp.find(x), strict=True)]
    head = "%%MatrixMarket matrix coordinate integer general\n%\n"
    matrix = f"{head}4 6 {len(lines)}\n" + "\n".join(lines) + "\n"
    genes = "".join(f"ENSG0000000000{i}\tg{i}\tGene Expression\n" for i in range(4))
    barcodes = "".join(f"AAAC{i}-1\n" for i in range(6))
    put("mtx", "coordinate", CUT.join(part.encode() for part in (matrix, genes, barcodes)))
    # inputs on which SciPy's reader crashed
    found = {
        "found-zeros": f"{head}4 6 5\n" + "1 1 5\0\n" * 5,
        "found-returns": f"{head}4 6 5\n" + "1 1 5\r" * 5,
        "found-dense": "%%MatrixMarket matrix array real general\n4 6\n" + "1\0\0\0.5\n" * 24,
    }
    for name, matrix in found.items():
        put("mtx", name, CUT.join(part.encode() for part in (matrix, genes, barcodes)))


def of_text(folder):
    put("csv", "comma", b"cell,MT-A,CD4,type\nc1,1,0,B\nc2,0,2.5,T\n")
    put("csv", "semicolon", 'g;c1;"c;2"\nACTB;1,5;2\nCD4;0;1e3\n'.encode("utf-8-sig"))
    put("csv", "tab", b"c1\tc2\ng1\t1\t2\n'=g2\t3\t-4\n")
    put(
        "csv",
        "counted",
        b"# Program\nGeneid\tChr\tStart\tEnd\tStrand\tLength\ta.bam\tb.bam\ng1\t1;1\t1;3\t2;4\t+;+\t4\t0\t7\n"
        b"g2\tX\t5\t9\t-\t5\t5\t0\n__no_feature\t1\t1\t1\t+\t1\t9\t9\n",
    )
    put("csv", "quoted", b'"","g,1","g""2",g3\r\nc1,1,.5,"3"\r\n"c\n2",0,2,1e5\r\n')
    put("csv", "wide", "c,é\u0301,é\n1,2,3\n4,5,6\n".encode("utf-16"))


def of_r(folder):
    vx.write(cells(), folder / "a.rds")
    put("rds", "experiment", gzip.decompress((folder / "a.rds").read_bytes()))
    put(
        "rds",
        "text",
        b"A\n3\n262657\n197888\n5\nUTF-8\n526\n4\n1\n2\n3\n4\n1026\n1\n262153\n3\ndim\n13\n2\n2\n2\n254\n",
    )
    for name, root in objects().items():
        content = io.BytesIO()
        versions = rdata.parser.RVersions(3, 262657, 197888)
        whole = rdata.parser.RData(versions, rdata.parser.RExtraInfo("UTF-8"), root)
        rds._unparser()(content).unparse_r_data(whole)
        put("rds", name, content.getvalue())


def objects():
    """Return R objects: matrices of each class, a data frame, and Seurat objects of both versions."""
    r = rds._Tree()
    x, genes = cells().X.T, ["MT-A", "CD4", "g3", "g4"]
    names, barcodes = r.items([r.strings(genes), r.strings("uvwxyz")]), r.strings("uvwxyz")
    dim, values, kind = r.numbers(x.shape), r.numbers(x.data.astype(float)), r.strings(["a", "b"] * 3)
    i, p = r.numbers(x.tocsr().indices), r.numbers(x.tocsr().indptr)
    at, by = (r.numbers(each) for each in x.tocoo().coords)
    by_column = r.matrix(x, genes, list("uvwxyz"))
    by_row = r.s4("dgRMatrix", "Matrix", j=i, p=p, Dim=dim, Dimnames=names, x=values)
    triplets = r.s4("dgTMatrix", "Matrix", i=at, j=by, Dim=dim, Dimnames=names, x=values)
    dense = r.numbers(x.toarray().ravel(order="F").astype(int), dim=dim, dimnames=names)
    held = r.s4("dgeMatrix", "Matrix", Dim=dim, Dimnames=names, x=r.numbers(x.toarray().ravel(order="F")))
    counted = np.ma.masked_array([0, -6], [True, False])  # compact row names of R: numbers only
    about = {"names": r.strings(["size", "kind"]), "class": r.strings(["data.frame"])}

    def columns(values, names):
        attributes = r.attributes(about | {"row.names": names})
        return r._node(r._kind.VEC, value=values, is_object=True, attributes=attributes)

    frame = columns([r.numbers(np.arange(6.0)), r.factor([1, 2, 0, 1, 2, 1], "ab")], r.numbers(counted))
    table = columns([r.numbers(np.arange(4)), r.numbers(np.arange(4.0))], r.strings(genes))
    runs = r.s4("Rle", "S4Vectors", values=r.factor([1, 2], "ab"), lengths=r.numbers([4, 2]))
    assays = r.vector("SimpleList", "S4Vectors", listData=r.items([dense, held], ["logcounts", "counts"]))
    older = r.s4("Assay", "SeuratObject", counts=by_column, data=dense)
    newer = r.s4(
        "Assay5",
        "SeuratObject",
        layers=r.items([by_column, by_column], ["counts", "data"]),
        cells=r.numbers([True] * 6, dim=r.numbers([6, 1]), dimnames=r.items([barcodes, kind])),
        features=r.numbers([True] * 4, dim=r.numbers([4, 1]), dimnames=r.items([r.strings(genes), kind])),
    )

    def seurat(assay):
        return r.s4(
            "Seurat",
            "SeuratObject",
            assays=r.items([assay, assay], ["RNA", "ADT"]),
            **{
                "meta.data": frame,
                "active.assay": r.strings(["RNA"]),
                "active.ident": r.factor([1] * 6, "s"),
            },
        )

    return {
        "by-row": by_row,
        "triplets": triplets,
        "dense": dense,
        "table": table,
        "seurat": seurat(older),
        "seurat-5": seurat(newer),
        "summarized": r.s4(
            "SummarizedExperiment",
            "SummarizedExperiment",
            colData=r.frame(6, {"runs": runs, "kind": kind}, "uvwxyz"),
            assays=r.s4("SimpleAssays", "SummarizedExperiment", data=assays),
            NAMES=r.strings(genes),
        ),
    }


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
        for make in (of_10x, of_text, of_r, of_fits):
            make(Path(name))
    sizes = {path.relative_to(CORPORA): path.stat().st_size for path in sorted(CORPORA.rglob("*/*"))}
    for path, size in sizes.items():
        print(f"{size:>8,}  {path}")
    print(f"{sum(sizes.values()):>8,}  in total")


if __name__ == "__main__":
    main()
