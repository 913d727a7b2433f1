"""`/v1/stream`: frames in, and a text whenever the meaning has changed.

messages    what is said, in both directions
intake      frames that wait, within the credit of their sender
session     one stream: frames -> embeddings -> trigger -> texts; its end, whatever ends it
registry    the streams that are open
"""
