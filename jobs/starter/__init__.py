"""The starter model: open sounds into labelled clips, a training, the weights that looptagger ships."""
