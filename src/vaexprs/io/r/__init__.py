"""R objects in .rds files: read several classes, write a SingleCellExperiment."""
