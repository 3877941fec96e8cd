"""The paper's systems, table and figures. Needs the extra `paper`: Essentia and scikit-multilearn."""
