"""The same model and the same index behind other servers, each as one writes it with that library.

They have no keys, no logs, no metrics, no limits and no deadlines: what those cost counts against ours.
"""
