"""The `ferkit` command's parts: each has `add`, which adds its subcommands, and what they run.

Everything heavy is imported by the command that needs it.
"""

import ast


def literal(text: str):
    """A value of the command line as Python would read it; what is no literal is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
