"""Figures of a model on a data set, one module a family of metrics."""
