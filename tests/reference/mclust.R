# Log likelihoods of mclust's fourteen models with 1 to 9 components, and the partitions they start from.
#
#     Rscript mclust.R points.csv out
#
# reads points (a header, a row for each) and writes out_loglik.csv and out_hc_partition.csv. The numbers in
# mclust.npz are those of mclust 6.0.0 on R 4.2.2 with its default settings.

library(mclust)

arguments <- commandArgs(trailingOnly = TRUE)
x <- as.matrix(read.csv(arguments[1]))
most <- min(9, nrow(x))
bic <- mclustBIC(x, G = 1:most, verbose = FALSE)
models <- colnames(bic)
loglik <- sapply(models, function(model) sapply(1:most, function(g) {
  (bic[g, model] + nMclustParams(model, ncol(x), g) * log(nrow(x))) / 2
}))
write.csv(data.frame(G = 1:most, loglik), paste0(arguments[2], "_loglik.csv"), row.names = FALSE)
if (ncol(x) > 1) {
  tree <- hc(x, modelName = "VVV", use = "SVD")
  write.csv(hclass(tree, 2:most), paste0(arguments[2], "_hc_partition.csv"), row.names = FALSE)
}
