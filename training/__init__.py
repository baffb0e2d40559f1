"""Train variational autoencoders and export them as bundles: ``python -m training --help``.

Run from the repository root. This package never imports ``armoire``: the two meet in the bundle's format only.
"""
