"""llama.cpp. Python values come in, and what C computed goes out; a failure in C becomes a NativeError.

No other folder imports llama_cpp or ctypes. This one does not know bundles, chats or pictures.
"""
