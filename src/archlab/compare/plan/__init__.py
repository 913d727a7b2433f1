"""`archlab plan`: what the runs of a configuration need, before any of them is started."""
