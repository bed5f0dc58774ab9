"""The model as the checkpoint states it, in plain float32 numpy: the slow twin that the fast path is held against.

A checkpoint folder or a GGUF comes in, and token ids, pixels, samples. Soft tokens, the state after every layer, logits
and drafts go out. One matrix is in memory at a time. It is written from the model's published code and shares no
arithmetic with `media`, `runtime` or llama.cpp: only the readers of files are the converter's and the bundle's.
"""
