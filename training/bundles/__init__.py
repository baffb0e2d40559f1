"""From a trained model to the folder that the service loads."""
