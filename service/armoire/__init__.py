"""Armoire: variational autoencoders behind gRPC. Callers start at armoire.client."""
