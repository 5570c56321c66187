"""Text tables (.csv, .tsv, .txt, .gct, output of quantification tools): dialects, annotation, orientation."""
