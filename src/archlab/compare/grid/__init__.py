"""`archlab grid PROTOCOL`: a written experiment as many small cells that resume, and the report made of them."""
