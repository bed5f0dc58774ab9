"""Many questions in a file, answered one after another and never twice.

In: lines as OpenAI's batches have them, or a folder of files with one question. Out: a line for each answer, in a file
that a later run goes on with. Knows models as something that answers a body, in this process or over HTTP.
"""
