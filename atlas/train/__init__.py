"""Training of the universal model, its evaluation, and prediction of volumes."""
