"""Pictures and sound. A path, bytes, array or Pillow image comes in; patches, frames and soft tokens go out.

Pictures and sound are preprocessed as in the reference. This folder does not know prompts, token ids or llama.cpp.
"""
