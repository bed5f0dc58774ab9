"""gemma4gguf: Gemma 4 12B in one GGUF file: it reads, sees, hears, and drafts ahead, on llama.cpp."""
