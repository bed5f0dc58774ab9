"""Work on whole files. A bundle or its parts come in; other files, or a report about them, go out.

Each module is one command's work. It does not know the command line: it returns records and raises errors.
"""
