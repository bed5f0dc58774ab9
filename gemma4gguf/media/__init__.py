"""Pictures and sound. A path, bytes, array or Pillow image comes in; patches, frames and soft tokens go out.

It prepares them as the reference does. It does not know prompts, token ids or llama.cpp.
"""
