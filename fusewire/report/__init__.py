"""Reports: what `fusewire compare --report` knows of a model on several targets, as data and as one HTML page.

data.py says what is in a report, collect.py gathers it, match.py finds which groups of different targets stand beside
each other, accuracy.py measures errors, layout.py places the graphs, page.py writes the page, figures.py the pictures.
"""
