"""`archlab selective PROTOCOL [RUN ...]`: which frames of a stream to put into words (VL-JEPA, section 4.6).

trigger             decides frame by frame, from the past alone; for services too: it needs NumPy and no model
protocol            what is asked, swept and decided, read from YAML
recording           a stream as a trained model sees it, computed as far as somebody looks
policies            who decides when to decode: uniform, random, Ward, the trigger, and those who know the truth
tuning              the trigger's thresholds, on validation streams
scoring             what decodes are worth: paired with annotations, and frame by frame
timing              what each policy costs, from frame to text
grid_runs           what watches: runs of an experiment of the grid, trained if they are not there
cell, run           one run on one kind of streams; all of them, side by side, resumable
summary, report     curves, shares of the oracle's gain, verdicts; pages
"""
