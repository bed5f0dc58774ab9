"""Hold a GGUF of the model against the checkpoint that it was made of: tensors, keys, and what the engine computes.

A file and a source come in; a `Report` goes out: what was compared, what differs and where, and a verdict in one line.
The engine is held against `reference`, layer by layer. No file is changed.
"""
