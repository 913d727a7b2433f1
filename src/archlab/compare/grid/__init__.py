"""`archlab grid PROTOCOL`: a written experiment as many small cells that resume, and the report made of them.

protocol            what is asked, run and decided, read from YAML
cells, inputs       from it to runs, each under a key that says what it is made of
run, results        the cells side by side, and the file that each leaves
language            what a run was told, and how far apart its targets lie
summary, report     estimates over seeds, verdicts, pages
"""
