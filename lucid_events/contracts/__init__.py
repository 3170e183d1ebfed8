"""The wire as documents: schemas, samples and AsyncAPI, generated from the structs."""
