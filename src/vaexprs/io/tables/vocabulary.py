"""Names by which the columns of tables are recognised: names of rows, annotation, output of tools."""

from __future__ import annotations

import re
from functools import lru_cache

NAMES_KEPT = 2**17  # names that are looked at several times
# names of the column that names the rows, where rows are genes or cells
_GENE_INDEX = """
    gene genes geneid gene_id gene_ids gene_name gene_names gene_symbol gene_symbols genesymbol
    genename symbol symbols hgnc_symbol mgi_symbol ensembl ensembl_id ensembl_gene_id ensembl_gene
    ensg entrez entrez_id entrezid entrezgene entrez_gene_id ncbi_gene_id probe probes probe_id
    probeset id_ref feature features feature_id tracking_id target_id transcript transcript_id
    isoform name hugo_symbol locus locus_tag orf refseq_id accession
"""
GENE_INDEX = frozenset(_GENE_INDEX.split())
_CELL_INDEX = """
    cell cells cellid cell_id cell_ids cell_index cell_name cell_names cellname barcode barcodes
    cell_barcode cell_barcodes bc sample samples sample_id sample_name sampleid samplename donor_id
    patient_id subject_id observation obs_names
"""
CELL_INDEX = frozenset(_CELL_INDEX.split())
_OTHER_INDEX = """
    id ids index rownames row_names row.names x unnamed number
"""
OTHER_INDEX = frozenset(_OTHER_INDEX.split()) | {""}
# names of numeric columns about genes: each word must be one of these, and at least one of the first
_GENE_WORDS = """
    length len efflength start end stop entrez entrezid entrezgene ncbi hgnc gc exons width strand
    chr chrom chromosome pos position bp tss chromstart chromend genelength biotype txlength
"""
GENE_WORDS = frozenset(_GENE_WORDS.split())
_MORE_GENE_WORDS = """
    gene genes genome transcript tx exon exons number num n count size id content percent percentage
    pct eff effective mean median max min total kb coding region cds utr exonic seq seqname gene_id
    of the in
"""
MORE_GENE_WORDS = frozenset(_MORE_GENE_WORDS.split())
# names of numeric columns about cells
CELL_COLUMN = re.compile(
    r"(seurat_|rna_|sct_|wsnn_|leiden_|louvain_|cell_)?(leiden|louvain|clusters?)(_?(id|ids|res.*|\d.*))?|"
    r"((rna|sct|integrated|wknn|wsnn)_)?(snn_)?res[._]?\d.*|"
    r"n_?(counts?|genes?|umis?|features?|cells?|reads|transcripts?)(_.*)?|n(count|feature)_?\w*|"
    r"(total|log1p|log10|log)_(counts?|umis?|genes?|reads|features?|total|n_)\w*|"
    r"(pct|percent|perc|fraction|frac|ratio|prop)_\w+|(mito|mt|ribo|rb|hb)_(percent|pct|frac\w*|ratio)|"
    r"(percent|pct)(mt|mito|ribo|rb|hb)|(s|g2m|g1|cc|phase|doublet|scrublet|module|signature)_?scores?|"
    r"(predicted_|is_)?doublets?(_.*)?|pann.*|(size|norm)_?factors?|library_?sizes?|lib_?size|(seq_)?depth|"
    r"((x_)?(umap|tsne|pca|pc|dim|phate|dm|dc)_?\d+)|(dpt_|latent_)?pseudotime|(latent|velocity)_time|"
    r"batch(_?(id|no|number))?|donor(_?(id|no|number))?|patient(_?(id|no|number))?|subject(_?(id|no))?|"
    r"individual(_?id)?|replicates?|rep|plate(_?(id|no))?|well|lane|run|chip|sample(_?(id|no|number))?|"
    r"age(_.*)?|sex|gender|bmi|dose|time(_?point)?|(time_)?hours?|days?|weeks?|months?|stage|passage|"
    r"conditions?|treatments?|treated|groups?|labels?|class|phase|(cell|sample|tissue|tumou?r)_?types?(_.*)?|"
    r"annotations?(_.*)?|(cell_?)?barcodes?|cell_?(id|number|index)|orig_ident|ident|rin|rin_score|"
    r"post_?mortem\w*|pmi"
)
# names of text columns that group cells, and therefore do not name them
CELL_GROUPS = re.compile(
    r"(cell|sample|tissue|tumou?r)_?types?(_.*)?|labels?|class|groups?|conditions?|treatments?|phase|sex|"
    r"gender|annotations?|(seurat_)?clusters?|leiden|louvain|batch|stage|orig_ident|ident|species|tissue"
)
# names of text columns about genes whose values may repeat
GENE_GROUPS = re.compile(
    r"(gene_?|transcript_?)?(bio)?type|(gene_)?(description|symbols?|names?)|chr(om(osome)?)?(_name)?|"
    r"strand|seqname|(transcript|gene)_?ids?(\(s\))?|reference|class_code"
)
# columns of gene annotation that featureCounts writes before the counts
FEATURE_COUNTS = ("Chr", "Start", "End", "Strand", "Length")
# rows of htseq-count and STAR with numbers of reads that were not assigned to a gene
NOT_GENES = re.compile(
    "__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)|"
    "N_(unmapped|multimapping|noFeature|ambiguous)"
)
# tables of one sample: column with the counts, another column of the same tool, name of the tool
QUANTIFICATIONS = (
    ("est_counts", "tpm", "kallisto"),
    ("numreads", "tpm", "salmon"),
    ("expected_count", "tpm", "RSEM"),
    ("est_count", "tpm", "the tool"),
    ("unstranded", "tpm_unstranded", "STAR"),
    ("raw_count", "scaled_estimate", "RSEM"),
    ("raw_counts", "rpkm", "the tool"),
    *(
        (counts, measure, "the tool")
        for counts in ("counts", "count", "reads")
        for measure in ("tpm", "fpkm", "rpkm")
    ),
)
# measures of one sample that tools write beside each other
_MEASURES = """
    tpm fpkm rpkm cpm coverage fpkm_conf_lo fpkm_conf_hi fpkm_uq median_length_normalized
"""
MEASURES = frozenset(_MEASURES.split())
# columns of tximport's list written as one table: "abundance.S1", "counts.S1", "length.S1"
TXIMPORT = re.compile(r"(abundance|counts|length)\.\w.*")
# names of rows and columns that hold the sum or the mean of the others
SUMS = frozenset(["total", "totals", "sum", "sums", "grand_total", "row_sum", "column_sum"])
MEANS = frozenset(["mean", "average", "avg"])
# columns of tables of statistical tests; one that has two of them holds results, not expression
_TEST_RESULTS = """
    padj pvalue p_value log2foldchange logfc lfcse p_val p_val_adj avg_log2fc avg_logfc adj_p_val
    fdr qvalue basemean pct_1 pct_2 p.value
"""
TEST_RESULTS = frozenset(_TEST_RESULTS.split())


@lru_cache(NAMES_KEPT)
def key_of(name: object) -> str:
    """Return the name of a column in lower case with underscores: "cell_type" for "Cell.Type"."""
    text = re.sub(r"[^0-9A-Za-z]+", "_", str(name)).strip("_")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower() if text != text.upper() else text.lower()


def is_index_name(name: object) -> bool:
    """Return whether a column of this name holds the names of rows."""
    keys = {key_of(name), str(name).strip().lower(), key_of(name).replace("_", "")}
    return bool(keys & (GENE_INDEX | CELL_INDEX | OTHER_INDEX)) or is_numbering(name)


def is_numbering(name: object) -> bool:
    """Return whether pandas or R gave a column this name because it had none."""
    return (
        re.fullmatch(r"|Unnamed: \d+(_level_\d+)?|X|\.\.\.1|index|level_0|V1", str(name).strip()) is not None
    )


def names_genes(name: object) -> bool:
    """Return whether a column of this name holds the names of genes."""
    return bool({key_of(name), key_of(name).replace("_", "")} & GENE_INDEX)


def names_cells(name: object) -> bool:
    """Return whether a column of this name holds the names of cells or samples."""
    return bool({key_of(name), key_of(name).replace("_", "")} & CELL_INDEX)


@lru_cache(NAMES_KEPT)
def is_about_genes(name: object) -> bool:
    """Return whether a numeric column of this name annotates genes: a length, a position, an identifier."""
    words = key_of(name).split("_")
    joined = "".join(words)
    whole = joined in GENE_WORDS or (joined in GENE_INDEX and joined.endswith("id"))
    return whole or (set(words) <= GENE_WORDS | MORE_GENE_WORDS and bool(set(words) & GENE_WORDS))


@lru_cache(NAMES_KEPT)
def is_about_cells(name: object) -> bool:
    """Return whether a numeric column of this name annotates cells: a cluster, a quality metric, a donor."""
    return CELL_COLUMN.fullmatch(key_of(name)) is not None
