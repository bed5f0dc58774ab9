"""Conversations as text. Messages come in and a prompt's segments go out; the model's bytes come in and chunks go out.

It knows the chat template and the model's reply syntax. It does not know token ids, and it never opens a picture.
"""
