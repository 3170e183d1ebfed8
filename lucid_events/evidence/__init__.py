"""What lets anyone prove that nothing is missing: the chain of events, the tree of chunks."""
