"""Read models: views folded from histories, each committed with the place it is folded up to."""
