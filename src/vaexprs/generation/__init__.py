"""Generate cells from a fitted model: gen_exprs, augment, transform and interpolate."""
