"""Topic models by collapsed Gibbs sampling: the mixtures and the word distributions integrated out."""
