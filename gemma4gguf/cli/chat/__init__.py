"""`gemma4gguf chat`: a conversation in a terminal, or line by line without one.

In: what a person types. Out: answers, as they are written. Knows nothing of how answers are made.
"""
