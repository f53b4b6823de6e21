"""What was learned: the tree of draws, its diagnosis, and the posterior that holds both."""
