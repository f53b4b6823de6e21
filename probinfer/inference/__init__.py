"""HOW IT IS ANSWERED: a method takes a target to draws; `infer` is the verb that leads from model and data to a posterior."""
