"""The file. A path comes in, checked sections with their keys and tensors go out; or parts come in and a file goes out.

It knows the format and what each section must hold. It does not know llama.cpp, prompts, pictures or sound.
"""
