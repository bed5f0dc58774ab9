"""The one boundary to C: everything here and nothing elsewhere imports llama_cpp or ctypes."""
