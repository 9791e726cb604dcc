"""A model to the text of the generated package, in memory; the only folder that imports jinja2."""
