"""Pictures of a trained model."""
