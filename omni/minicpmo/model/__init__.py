"""The modules of MiniCPM-o 4.5: tensors in, tensors out; they know no sessions or slots."""
