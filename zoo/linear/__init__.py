"""Linear models: principal component analysis and its probabilistic form."""
