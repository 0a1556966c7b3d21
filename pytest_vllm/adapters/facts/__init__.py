"""Looks that gather the facts of a launch."""
