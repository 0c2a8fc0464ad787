"""What others use of a frozen encoder: its features as files, and its network in the ONNX format."""
