"""The zoo: trains models with and without backdoors, the ground truth for whatever is claimed elsewhere.

datasets.py loads images, architectures.py names networks, training.py trains one, specimen.py plants, measures
and writes it with its manifest, suites.py reads lists of specimens, build.py makes a list, tables.py shows it.
"""
