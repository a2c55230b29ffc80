"""Jobs: what autolmk_run does. `workflow` says which commands a dataset needs; `dispatch` runs them as processes."""
