"""Write a SingleCellExperiment as .rds."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from vaexprs.data.levels import level_name, storable
from vaexprs.data.matrix import densify, stored
from vaexprs.io.atomic import written_whole
from vaexprs.io.r.tree import NO_VALUE, rdata, type_of

MAX_VALUES = 2**31 - 1  # maximum number of values in a sparse matrix, whose offsets are 32-bit integers in R


def write_rds(adata: ad.AnnData, path: Path, *, overwrite: bool) -> None:
    """Write a SingleCellExperiment for R's readRDS atomically.

    The assay is named "counts" if all values are whole numbers, else "X".
    """
    with written_whole(path, overwrite=overwrite) as file:
        _write_experiment(adata, file)


def _write_experiment(adata: ad.AnnData, path: Path) -> None:
    package = rdata()
    from rdata.conversion.to_r import DEFAULT_R_VERSION_SERIALIZED, R_MINIMUM_VERSIONS

    tree = _Tree()
    values = stored(adata.X)
    whole = bool(np.all(values == np.round(values)))
    root = tree.experiment(adata, "counts" if whole else "X")
    data = package.parser.RData(
        package.parser.RVersions(3, DEFAULT_R_VERSION_SERIALIZED, R_MINIMUM_VERSIONS[3]),
        package.parser.RExtraInfo("UTF-8"),
        root,
    )
    with gzip.open(path, "wb", compresslevel=6) as file:
        _unparser()(file).unparse_r_data(data)


def _unparser() -> type:
    """Return rdata's writer extended to S4 objects, which are stored as flags and slots."""
    from rdata.unparser._unparser import pack_r_object_info
    from rdata.unparser._xdr import UnparserXDR

    class WithS4(UnparserXDR):
        def unparse_r_object(self, obj: Any) -> None:
            if type_of(obj) != "S4":
                super().unparse_r_object(obj)
                return
            self.unparse_int(pack_r_object_info(obj.info))
            self.unparse_r_object(obj.attributes)

    return WithS4


def _is_small(array: np.ndarray) -> bool:
    """Return whether values are integers that R holds, of 32 bits."""
    return array.dtype.kind in "iu" and len(array) > 0 and bool((np.abs(array.astype(float)) < 2**31).all())


class _Tree:
    """Builder of R objects from Python objects."""

    def __init__(self) -> None:
        from rdata.conversion import to_r
        from rdata.parser import RObjectType

        self._node, self._list, self._char = to_r.build_r_object, to_r.build_r_list, to_r.build_r_char
        self._kind = RObjectType

    def symbol(self, name: str) -> Any:
        return self._node(self._kind.SYM, value=self._char(name, encoding="utf-8"))

    def attributes(self, values: Mapping[str, Any]) -> Any:
        return self._list([(self.symbol(name), value) for name, value in values.items()])

    def strings(self, values: Sequence[str | None], **attributes: Any) -> Any:
        chars = [self._char(None if value is None else str(value), encoding="utf-8") for value in values]
        return self._node(
            self._kind.STR, value=chars, attributes=self.attributes(attributes) if attributes else None
        )

    def numbers(self, values: Any, **attributes: Any) -> Any:
        array = np.ma.asarray(values) if np.ma.isMA(values) else np.asarray(values)
        if array.dtype == bool:
            kind = self._kind.LGL
        elif np.issubdtype(array.dtype, np.integer):
            kind, array = self._kind.INT, array.astype(np.int32)
        else:
            kind, array = self._kind.REAL, array.astype(np.float64)
        return self._node(
            kind,
            value=array,
            is_object="class" in attributes,
            attributes=self.attributes(attributes) if attributes else None,
        )

    def factor(self, codes: Any, levels: Sequence[str]) -> Any:
        array = np.asarray(codes, np.int32)
        return self.numbers(
            np.ma.masked_array(array, array == 0) if (array == 0).any() else array,
            levels=self.strings(levels),
            **{"class": self.strings(["factor"])},
        )

    def items(self, values: Sequence[Any], names: Sequence[str] | None = None) -> Any:
        attributes = None if names is None else self.attributes({"names": self.strings(names)})
        return self._node(self._kind.VEC, value=list(values), attributes=attributes)

    def s4(self, name: str, package: str, **slots: Any) -> Any:
        null = self.symbol(NO_VALUE)
        filled = {key: null if value is None else value for key, value in slots.items()}
        filled["class"] = self.strings([name], package=self.strings([package]))
        return self._node(self._kind.S4, is_object=True, attributes=self.attributes(filled), gp=16)

    def vector(
        self, name: str, package: str, *, element: str = "ANY", elements: Any = None, **slots: Any
    ) -> Any:
        """Return an S4 object with the slots that are common to the classes of S4Vectors."""
        return self.s4(
            name,
            package,
            **slots,
            elementType=self.strings([element]),
            elementMetadata=elements,
            metadata=self.items([]),
        )

    def frame(self, n: int, columns: Mapping[str, Any], names: Sequence[str] | None = None) -> Any:
        return self.vector(
            "DFrame",
            "S4Vectors",
            rownames=None if names is None else self.strings(names),
            nrows=self.numbers([n]),
            listData=self.items(list(columns.values()), list(columns)),
        )

    def column(self, values: pd.Series) -> Any:
        """Return a column as a factor or vector, with NA for missing values."""
        if isinstance(values.dtype, pd.CategoricalDtype):
            return self.factor(
                values.cat.codes.to_numpy() + 1, [level_name(level) for level in values.cat.categories]
            )
        missing = values.isna().to_numpy()
        if missing.any() and pd.api.types.is_bool_dtype(values.dtype.name.lower()):
            known = values.to_numpy(bool, na_value=False)
            return self.numbers(np.ma.masked_array(known, missing))
        if pd.api.types.is_extension_array_dtype(values.dtype) and pd.api.types.is_numeric_dtype(
            values.dtype
        ):
            if missing.any() and _is_small(whole := values.dropna().to_numpy()):
                array = values.to_numpy(whole.dtype, na_value=0)
                return self.numbers(np.ma.masked_array(array, missing))
            array = values.to_numpy(float, na_value=np.nan) if missing.any() else values.to_numpy()
        else:
            array = values.to_numpy()
        if array.dtype.kind in "bf" or _is_small(array):
            return self.numbers(array)
        return self.strings([None if na else level_name(v) for v, na in zip(array, missing, strict=True)])

    def matrix(self, x: Any, genes: Sequence[str], cells: Sequence[str]) -> Any:
        """Return an R matrix of shape (n_genes, n_cells): dense, or a dgCMatrix."""
        names = self.items([self.strings(genes), self.strings(cells)])
        if not sp.issparse(x):
            return self.numbers(
                np.asarray(x, np.float64).ravel(order="F"), dim=self.numbers(x.shape), dimnames=names
            )
        by_cell = sp.csc_matrix(x)
        by_cell.sort_indices()
        if by_cell.nnz > MAX_VALUES:
            raise ValueError(
                f"A sparse matrix in .rds must have at most {MAX_VALUES:,} values other than 0, got "
                f"{by_cell.nnz:,}. Write fewer cells, or .h5ad."
            )
        return self.s4(
            "dgCMatrix",
            "Matrix",
            i=self.numbers(by_cell.indices.astype(np.int32)),
            p=self.numbers(by_cell.indptr.astype(np.int32)),
            Dim=self.numbers(by_cell.shape),
            Dimnames=names,
            x=self.numbers(by_cell.data.astype(np.float64)),
            factors=self.items([]),
        )

    def rle(self, levels: Sequence[str]) -> Any:
        """Return an empty run-length encoded factor."""
        return self.s4(
            "Rle",
            "S4Vectors",
            values=self.factor(np.empty(0, int), levels),
            lengths=self.numbers(np.empty(0, np.int32)),
            elementMetadata=None,
            metadata=self.items([]),
        )

    def no_ranges(self, genes: Sequence[str]) -> Any:
        """Return empty genomic ranges for genes."""
        none = np.empty(0, np.int32)
        ranges = self.vector(
            "IRanges", "IRanges", start=self.numbers(none), width=self.numbers(none), NAMES=None
        )
        seqinfo = self.s4(
            "Seqinfo",
            "GenomeInfoDb",
            seqnames=self.strings([]),
            seqlengths=self.numbers(none),
            is_circular=self.numbers(np.empty(0, bool)),
            genome=self.strings([]),
        )
        granges = self.vector(
            "GRanges",
            "GenomicRanges",
            elements=self.frame(0, {}),
            seqnames=self.rle([]),
            ranges=ranges,
            strand=self.rle(["+", "-", "*"]),
            seqinfo=seqinfo,
        )
        parts = self.vector(
            "PartitioningByEnd",
            "IRanges",
            end=self.numbers(np.zeros(len(genes), np.int32)),
            NAMES=self.strings(genes),
        )
        return self.vector(
            "CompressedGRangesList",
            "GenomicRanges",
            element="GRanges",
            elements=self.frame(len(genes), {}),
            unlistData=granges,
            partitioning=parts,
        )

    def experiment(self, adata: ad.AnnData, assay: str) -> Any:
        genes, cells = list(map(str, adata.var_names)), list(map(str, adata.obs_names))
        n, m = len(cells), len(genes)
        x = adata.X if sp.issparse(adata.X) else densify(adata.X)
        assays = self.vector(
            "SimpleList", "S4Vectors", listData=self.items([self.matrix(x.T, genes, cells)], [assay])
        )
        version = self._node(
            self._kind.VEC,
            value=[self.numbers(np.array([1, 20, 0]))],
            is_object=True,
            attributes=self.attributes({"class": self.strings(["package_version", "numeric_version"])}),
        )
        obs = storable(adata.obs)
        columns = {str(key): self.column(obs[key]) for key in obs}
        empty = {name: self.frame(n, {}) for name in ("reducedDims", "altExps", "colPairs")}
        return self.s4(
            "SingleCellExperiment",
            "SingleCellExperiment",
            int_elementMetadata=self.frame(m, {"rowPairs": self.frame(m, {})}),
            int_colData=self.frame(n, empty),
            int_metadata=self.items([version], ["version"]),
            rowRanges=self.no_ranges(genes),
            colData=self.frame(n, columns, cells),
            assays=self.s4("SimpleAssays", "SummarizedExperiment", data=assays),
            NAMES=None,
            elementMetadata=self.frame(m, {}),
            metadata=self.items([]),
        )
