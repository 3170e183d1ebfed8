"""The ports on a real server: everything that speaks NATS, and the only importer of `nats`."""
