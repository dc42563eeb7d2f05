"""The universal model: its head, text embeddings, and the loss for partial labels."""
