"""Stages of the tiny model's training, in the order they run:
config, tokenizer, pictures, speech, texts, batches, network, optimizer, export, drafter, scoring.
"""
