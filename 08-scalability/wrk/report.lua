-- Shared with `archlab bench serve`, which ships it in the package; this path is from the folder of the scripts here.
return dofile("../../src/archlab/bench/serve/wrk/report.lua")
