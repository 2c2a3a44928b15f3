"""Language models as policies: loading them, scoring their tokens, and the tiny ones that are made here."""
