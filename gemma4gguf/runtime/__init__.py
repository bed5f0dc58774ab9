"""Decoding. A prompt's segments come in; tokens, and then a whole answer with its counts and times, go out.

It owns the cache, the drafts and their pace. It does not know files' formats, templates or the command line.
"""
