"""The commands of the program `pikku`, a module for each group.

Nothing here is imported before it is asked for: every heavy import stands in the function that
needs it, so that `pikku --help` stays light.
"""
