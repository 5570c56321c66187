"""Plots of models (`plot_vae`) and of cells (`plot_aug`)."""
