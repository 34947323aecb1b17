"""The zoo: trains models with and without backdoors, the ground truth for whatever is claimed elsewhere.

recipe.py says what a specimen is made from. datasets.py loads images, architectures.py names networks, training.py
trains one, specimen.py plants, measures and writes it with its manifest, export.py in every format, branch.py puts a
backdoor into a graph. suites.py reads lists of recipes, build.py makes a list, tables.py shows it.
"""
