"""Statistical shape models: meshes as a mean and modes of shape, expression and colour."""
