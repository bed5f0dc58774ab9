"""A local server that the clients people have use unchanged: HTTP in, one kind of request, chunks, HTTP out.

`openai`, `responses`, `anthropic` and `ollama` are adapters: a body becomes a `Request`, a `Result` becomes a body.
`transcriptions` is one for speech: `form` reads it, `transcribing` answers. `listening` answers while one speaks.
`app` joins them with the model's `service`, behind `security` and `limits`. Knows the model by the public methods of
`Gemma4` alone: no templates, tokens or llama.cpp. Opens no path and no address that a request names.
"""
