# Makes the matrix of vae_seed1.npz: 300 cells x 1,000 genes, normal values cut off at zero, three groups of
# 100 cells with 100 genes of their own each, which get a second normal value added.
set.seed(1)
genes <- 1000
per_group <- 100
own <- 100
values <- matrix(rnorm(3 * per_group * genes, 5, 5), genes, 3 * per_group)
for (k in 1:3) {
    cells <- (k - 1) * per_group + 1:per_group
    rows <- (k - 1) * own + 1:own
    values[rows, cells] <- values[seq_len(own), cells] + rnorm(own, 6, 10)
}
values[values < 0] <- 0
x_train <- t(values)
cat(dim(x_train), sprintf("%.6f", c(sum(x_train), x_train[1, 1], x_train[300, 1000], x_train[150, 150])), "\n")
