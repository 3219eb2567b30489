"""How much a layer, and a whole net, can stretch a perturbation: operator norms, Lipschitz bounds, measured gains."""
