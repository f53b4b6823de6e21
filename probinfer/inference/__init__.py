"""HOW IT IS ANSWERED: a method takes a target to draws. `draw` checks that the two fit and runs it."""
