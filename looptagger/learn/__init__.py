"""From labelled loops to a trained model: data sets, splits, training, metrics. No Ray here."""
