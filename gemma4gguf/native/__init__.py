"""llama.cpp. Python values come in, and what C computed goes out; a failure in C becomes a NativeError.

Everything here and nothing elsewhere imports llama_cpp or ctypes. It does not know bundles, chats or pictures.
"""
