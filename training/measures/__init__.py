"""Figures of a trained model: what evaluate measures, and what it is compared with."""
