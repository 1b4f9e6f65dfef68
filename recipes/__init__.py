"""One script a lecture application: configuration, data, model, training, evaluation, pictures."""
