# Read by CMake inside llama.cpp's project, when llama-cpp-python builds it for gemma4gguf: ggml and libllama alone.
# The binding turns on the library that llama.cpp's own programs share, which takes longer to compile than the rest.
set(LLAMA_BUILD_COMMON OFF)
