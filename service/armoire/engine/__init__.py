"""The engine: sessions of ONNX Runtime and the queue in front of each."""
