"""Recognise files whose content is not what their suffix says, and say what to do with them."""

from __future__ import annotations

from pathlib import Path

from vaexprs.interface.errors import FileFormatError

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".h5ad", ".h5mu", ".h5", ".loom")
PACKED = {b"\x1f\x8b": ("gzip", "gunzip"), b"BZh": ("bzip2", "bunzip2"), b"\xfd7zXZ": ("xz", "unxz")}
LFS = b"version https://git-lfs"
WEB = (b"<!doctype html", b"<html", b"<?xml")
# advice for files of other programs, by suffix
OTHERS = {
    ".xlsx": "Save the sheet as 'CSV UTF-8'.",
    ".xls": "Save the sheet as 'CSV UTF-8'; if it is text, as many files of GEO are, rename it to .tsv.",
    ".ods": "Save the sheet as CSV.",
    ".rdata": "In R: saveRDS(object, 'cells.rds') for the object that load() returns.",
    ".rda": "In R: saveRDS(object, 'cells.rds') for the object that load() returns.",
    ".h5seurat": "In R: saveRDS(SeuratDisk::LoadH5Seurat(file), 'cells.rds').",
    ".qs": "In R: saveRDS(qs::qread(file), 'cells.rds').",
    ".zip": "Unpack it and give the file in it.",
    ".tar": "Unpack it (tar -xf) and give the file in it.",
    ".tgz": "Unpack it (tar -xzf) and give the file in it.",
    ".parquet": "Read it with pandas.read_parquet and pass the DataFrame.",
    ".feather": "Read it with pandas.read_feather and pass the DataFrame.",
    ".pkl": "Pickled objects can run code and are not read. Save the cells as .h5ad.",
    ".npz": "Pass the matrix as x_train, or as anndata.AnnData(matrix).",
    ".npy": "Pass the matrix as x_train, or as anndata.AnnData(matrix).",
    ".mat": "Read it with scipy.io.loadmat and pass the matrix as anndata.AnnData(matrix).",
    ".bam": "Give the counts that were made from it.",
    ".fastq": "Give the counts that were made from it.",
}


def advice_on(path: Path) -> str:
    """Return what to do with a file of an unsupported suffix, with a space before it; empty if unknown."""
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    if suffix in (".gz", ".bz2", ".xz", ".zst"):
        if inner == ".tar":
            return " Unpack it (tar -xf) and give the file in it."
        tool = {".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".zst": "unzstd"}[suffix]
        return f" Decompress it: {tool} {path.name!r}."
    known = {each.lower(): each for each in (".h5ad", ".zarr", ".h5mu", ".h5", ".loom", ".mtx")}
    if suffix in known and path.suffix != suffix:
        return f" Rename it to {path.stem}{suffix}."
    return f" {OTHERS[suffix]}" if suffix in OTHERS else ""


def check_content(path: Path, suffix: str) -> None:
    """Check that a file does not obviously hold something other than its suffix says.

    Raises
    ------
    FileFormatError
        If it does; the message says what it is and what to do.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(512)
    name = str(path)
    if start.startswith(LFS):
        raise FileFormatError(
            f"{name!r} is a pointer of Git LFS, not the file itself. Download it: git lfs pull (in its "
            "repository)."
        )
    if start.lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(WEB):
        raise FileFormatError(f"{name!r} is a web page or XML, not cells. Download the file itself.")
    is_hdf5 = start.startswith(HDF5)
    if suffix in HDF5_SUFFIXES and not is_hdf5:
        for mark, (how, tool) in PACKED.items():
            if start.startswith(mark):
                raise FileFormatError(
                    f"{name!r} is compressed with {how}. Decompress it: {tool} < {path.name!r} > "
                    f"{f'unpacked{suffix}'!r}."
                )
    if suffix in HDF5_SUFFIXES:
        return
    if is_hdf5:
        raise FileFormatError(f"{name!r} is an HDF5 file. Rename it to .h5ad, .h5, .h5mu or .loom, as it is.")
    if start.startswith(b"PK\x03\x04"):
        what = "an Excel workbook or a zip archive"
        raise FileFormatError(f"{name!r} is {what}, not text. Save the sheet as 'CSV UTF-8', or unpack it.")
    if start.startswith(b"\xd0\xcf\x11\xe0"):
        raise FileFormatError(f"{name!r} is an Excel workbook, not text. Save the sheet as 'CSV UTF-8'.")
    if start.startswith(b"PAR1"):
        raise FileFormatError(f"{name!r} is a Parquet file. {OTHERS['.parquet']}")
