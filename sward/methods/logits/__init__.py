"""Methods that compare class logits under the labels: DKD and OFA-KD."""
