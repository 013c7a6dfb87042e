"""Prototype discriminative regularisation (PDR): its terms, and the class sums that they are made of."""
